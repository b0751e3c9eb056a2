"""The verdict of a migration: whether mapped rows may take the place of a new enrolment.

"Hits" are the TMR at the operator's false match rate, or 1 − FNIR at the operator's FPIR; differences are of the same
resamples of people, and "beyond chance" means an interval of 95 % that does not hold 0. The rule, in this order:

1. ``stay``: new against new reaches less than old against old, beyond chance.
2. ``reenrol``: mapped against new reaches less than ``KEPT`` of what new against new reaches, beyond chance.
3. ``map``: mapped against new loses at most ``max_tmr_loss`` of old against old, at the lower end of the interval and
   after what choosing the map may have gained.
4. ``map_and_reenrol``: the same holds once a share of the gallery, ``MOST`` at most, is enrolled again with the new
   network, in the order of expected loss.
5. ``reenrol``: none of these.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxalign.biometrics import Sampled

KEPT = 0.5  # a map that finds fewer than half of whom the new network finds keeps little of anybody
MOST = 0.5  # of a gallery; whoever enrols more of it again had better enrol all of it
WRITTEN = ("map", "map_and_reenrol")  # verdicts after which a gallery is moved


class Backfill(NamedTuple):
    """Hits once a share of the gallery is enrolled again: in the order of expected loss, and at random."""

    share: float
    hits: Sampled
    at_random: float


class Evidence(NamedTuple):
    """Hits at the operator's point, of people whom no map was fitted on, on the same resamples.

    Attributes:
      old, new: each network against itself.
      mapped: old rows, mapped, against new probes.
      optimism: what choosing the map may have gained.
      backfills: with rising shares.
    """

    old: Sampled
    new: Sampled
    mapped: Sampled
    optimism: float = 0.0
    backfills: Sequence[Backfill] = ()

    def margin(self, hits: Sampled, max_loss: float) -> float:
        """By how much the gate holds: the lower end of the gain on the old system, and the allowed loss."""
        return (hits - self.old).interval()[0] - self.optimism + max_loss

    def keeps(self, hits: Sampled) -> bool:
        """Whether enough of what the new network reaches may be kept: it is not less beyond chance."""
        return float(np.quantile(hits.samples - KEPT * self.new.samples, 0.975)) >= 0


class Verdict(NamedTuple):
    """The verdict.

    Attributes:
      name: "map", "map_and_reenrol", "reenrol" or "stay".
      reason: a sentence.
      share: of the gallery that is to be enrolled again first; 0 for "map", 1 for "reenrol".
      margin: by how much the gate holds for mapped rows; negative where it fails.
    """

    name: str
    reason: str
    share: float
    margin: float


def decide(evidence: Evidence, max_loss: float) -> Verdict:
    """Applies the rule above; ``max_loss`` is a difference of shares, such as 0.02."""
    old, new, mapped = evidence.old, evidence.new, evidence.mapped
    margin = evidence.margin(mapped, max_loss)
    reached = (
        f"mapped rows reach {_percent(mapped)}, the old network {_percent(old)}, the new one {_percent(new)}"
    )
    if (new - old).interval()[1] < 0:
        why = f"the new network reaches less than the old one even for itself, {_percent(new)} after {_percent(old)}"
        return Verdict("stay", f"{why}.", 0.0, margin)
    if not evidence.keeps(mapped):
        why = f"The old rows hold too little of who is who: {reached}"
        return Verdict("reenrol", f"{why}, of which a map must keep {100 * KEPT:g} %.", 1.0, margin)
    if margin >= 0:
        return Verdict("map", f"The gate holds: {reached}.", 0.0, margin)
    for step in evidence.backfills:
        if step.share <= MOST and evidence.margin(step.hits, max_loss) >= 0:
            then = (
                f"with {100 * step.share:g} % of the gallery enrolled again they reach {_percent(step.hits)}"
            )
            why = f"The gate holds once a part is enrolled again: {reached}; {then}."
            return Verdict("map_and_reenrol", why, step.share, margin)
    low = margin - max_loss
    why = (
        f"The gate fails: {reached}; the loss may be {-100 * low:.1f} points, {100 * max_loss:g} are allowed."
    )
    return Verdict("reenrol", why, 1.0, margin)


def _percent(value: Sampled) -> str:
    low, high = value.interval()
    return f"{100 * value.estimate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
