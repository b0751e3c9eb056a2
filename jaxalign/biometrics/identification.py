"""Closed-set identification: where each probe's mates stand in the list of all gallery rows.

A probe's rank is 1 + the number of non-mated gallery scores ≥ its best mated score: ties count against us.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxalign.biometrics.plan import EvaluationPlan
from jaxalign.biometrics.scores import Scored

CUT = 50  # the published mean average precision looks at so many retrieved rows


@dataclasses.dataclass(frozen=True)
class Identification:
    """Ranks and retrieval precision over all probes that have a mate in the gallery.

    Attributes:
      probe: the probes' row numbers, shape [probes].
      rank: rank of each probe's best mate, from 1, shape [probes].
      average_precision: of each probe over the whole gallery, shape [probes].
      average_precision_50: of each probe over the first 50 rows retrieved, divided by the mates among
        them; NaN where there is none, shape [probes].
      rank_k: share of probes of rank ≤ k, for the k asked for.
      cmc: the same for k = 1 ... the length asked for.
    """

    probe: np.ndarray
    rank: np.ndarray
    average_precision: np.ndarray
    average_precision_50: np.ndarray
    rank_k: dict[int, float]
    cmc: np.ndarray

    @property
    def probes(self) -> int:
        """Probes that have a mate."""
        return len(self.probe)

    @property
    def map(self) -> float:
        """Mean average precision."""
        return _mean(self.average_precision)

    @property
    def map50(self) -> float:
        """As published: the mean over the probes with a mate among the first 50; NaN if there is none."""
        return _mean(self.average_precision_50[~np.isnan(self.average_precision_50)])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def identification(scored: Scored, *, own_included: bool, ranks: Sequence[int], cmc: int) -> Identification:
    """Identification from the counts of one pass, with or without the same image as a mate."""
    plan = scored.plan
    mates = plan.mates if own_included else plan.other_mates
    beaten = _beaten(plan, scored.above, own_included)
    retrieved = mates.number + beaten
    precision = mates.number / retrieved
    hits = np.add.reduceat(precision, mates.first) if len(mates.first) else np.zeros(0)
    within = retrieved <= CUT
    hits_50 = np.add.reduceat(np.where(within, precision, 0), mates.first) if len(mates.first) else hits
    mates_50 = np.add.reduceat(within.astype(np.int64), mates.first) if len(mates.first) else mates.counts
    rank = 1 + beaten[mates.first]
    with np.errstate(invalid="ignore", divide="ignore"):
        cut = hits_50 / mates_50
    return Identification(mates.probe[mates.first], rank, hits / mates.counts, cut, *shares(rank, ranks, cmc))


def shares(rank: np.ndarray, ranks: Sequence[int], cmc: int) -> tuple[dict[int, float], np.ndarray]:
    """Rank-k for some k, and the CMC from 1 to its length; NaN without probes."""
    if not len(rank):
        return {int(k): float("nan") for k in ranks}, np.full(cmc, np.nan)
    counts = np.bincount(np.minimum(rank, cmc + 1), minlength=cmc + 2)[1:-1].cumsum()
    return {int(k): float(np.mean(rank <= k)) for k in ranks}, counts / len(rank)


def _beaten(plan: EvaluationPlan, above: np.ndarray, own_included: bool) -> np.ndarray:
    """Of every mate, by probe and best first (``plan.mates``), the non-mated rows ranked above it.

    ``above`` counts all rows of the gallery ≥ a mate's score, so it rises as the score falls, and mates of
    equal score share it; the last of equal mates tells how many mates it includes.
    """
    key = np.sort((plan.genuine_probe << 33) | (above << 1) | plan.genuine_own)
    tied = key >> 1
    mates_at_least = plan.mates.number
    if (tied[1:] == tied[:-1]).any():
        last_tied = np.flatnonzero(np.diff(tied, append=-1))
        mates_at_least = mates_at_least[np.repeat(last_tied, np.diff(last_tied, prepend=-1))]
    beaten = (tied & 0xFFFFFFFF) - mates_at_least
    return beaten if own_included else beaten[(key & 1) == 0]
