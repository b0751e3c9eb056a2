"""Closed-set identification: where each probe's mates stand in the list of all gallery rows.

A probe's rank is 1 + the number of non-mated gallery scores ≥ its best mated score: ties count against us.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxalign.biometrics.scores import Scored, Scorer

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
    """Identification from counted or sorted scores, with or without the same image as a mate.

    ``scored.above`` counts all rows of the gallery ≥ a mate's score, so it rises as the score falls.
    """
    plan = scored.plan
    by_probe_best_first = np.sort((plan.genuine_probe << 33) | (scored.above << 1) | plan.genuine_own)
    score_key, same_image = by_probe_best_first >> 1, (by_probe_best_first & 1) == 1
    probe = score_key >> 32
    # Mates of equal score share a count, which includes all of them.
    last_tied = np.searchsorted(score_key, score_key, "right")
    beaten = (score_key & 0xFFFFFFFF) - (last_tied - np.searchsorted(probe, probe))
    if not own_included:
        probe, beaten = probe[~same_image], beaten[~same_image]
    first = np.flatnonzero(np.diff(probe, prepend=-1))
    mates = np.diff(first, append=len(probe))
    number = np.arange(1, len(probe) + 1) - np.repeat(first, mates)
    precision = number / (number + beaten)
    within = number + beaten <= CUT
    per_mate = np.stack([precision, np.where(within, precision, 0), within])
    hits, hits_50, mates_50 = np.add.reduceat(per_mate, first, axis=1) if len(first) else np.zeros((3, 0))
    rank = 1 + beaten[first]
    with np.errstate(invalid="ignore", divide="ignore"):
        cut = hits_50 / mates_50
    return Identification(probe[first], rank, hits / mates, cut, *shares(rank, ranks, cmc))


def identification_without_own(
    scorer: Scorer, scored: Scored, scores: np.ndarray, *, ranks: Sequence[int], cmc: int
) -> Identification:
    """Each probe's rank where the same image is left out of its template; the other templates stay as they are.

    ``scores`` are those of ``SearchedGallery.leave_one_out_scores``. Probes without a score are left out if their image
    is the whole template, and keep their rank if it is not in the template.
    """
    plan = scorer.plan
    above = np.full(plan.probes, -1)
    strangers = plan.genuine_probe[~plan.genuine_own]
    above[strangers] = scored.above[~plan.genuine_own] - 1  # without the person's template
    without = ~np.isnan(scores)
    above[without] = 0
    limits = scores.astype(scored.genuine_scores.dtype)
    for rows, columns, found in scorer.strips(scored):
        impostor = plan.probe_codes[rows][:, None] != plan.gallery_codes[columns]
        above[rows] += np.sum((found >= limits[rows, None]) & impostor, axis=1)
    probe = np.flatnonzero(above >= 0)
    rank = 1 + above[probe]
    precision = 1 / rank
    cut = np.where(rank <= CUT, precision, np.nan)
    return Identification(probe, rank, precision, cut, *shares(rank, ranks, cmc))


def shares(rank: np.ndarray, ranks: Sequence[int], cmc: int) -> tuple[dict[int, float], np.ndarray]:
    """Rank-k for some k, and the CMC from 1 to its length; NaN without probes."""
    if not len(rank):
        return {int(k): float("nan") for k in ranks}, np.full(cmc, np.nan)
    counts = np.bincount(np.minimum(rank, cmc + 1), minlength=cmc + 2)[1:-1].cumsum()
    return {int(k): float(np.mean(rank <= k)) for k in ranks}, counts / len(rank)
