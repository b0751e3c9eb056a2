"""How well two databases of the same people can be linked, from the scores of mated and non-mated pairs of templates.

D_sys is 0 where a score tells nothing about whether two templates are of one person, 1 where it always tells; maximal
linkability is the most that any attacker gains by a score, in bits. Both are estimated on equal bins of scores, and
such estimates are too high: some bins hold more mated than non-mated scores by chance alone. ``null`` is what permuted
labels give. Its whole height is bias only where nothing is linkable: the more is, the fewer bins are open to chance.
So ``corrected`` asks half of the scores which bins link, and the other half how much they do: at 100,000 scores a class
it is within 3 standard errors of the truth, linkable or not, where the value less the null is up to 45 below it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.core.checks import is_whole
from jaxalign.core.errors import UserError

BINS, PERMUTATIONS, HALVES = 100, 200, 20


class Estimate(NamedTuple):
    """One measure.

    Attributes:
      value: as published, on all scores.
      null, null_spread: mean and standard deviation of the value over permutations of the labels.
      corrected: mean over divisions of the scores into halves; below 0 by chance where nothing is linkable.
      spread: standard deviation over resampled people; NaN where they are not given.
    """

    value: float
    null: float
    null_spread: float
    corrected: float
    spread: float = np.nan

    @property
    def less_null(self) -> float:
        """The value less the null."""
        return self.value - self.null

    def interval(self, quantile: float = 1.96) -> tuple[float, float]:
        """Of 95 %, symmetric: resamples of an estimate that is too high are higher still, as quantiles show."""
        low, high = self.value - quantile * self.spread, self.value + quantile * self.spread
        return max(low, 0.0), min(high, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Linkability:
    """Of one pair of databases.

    Attributes:
      edges: of the bins, shape [bins + 1].
      mated, non_mated: share of the scores of each class in each bin, shape [bins].
      local: D↔ of each bin, shape [bins].
      d_sys, maximal: the measures over all bins.
    """

    edges: np.ndarray
    mated: np.ndarray
    non_mated: np.ndarray
    local: np.ndarray
    d_sys: Estimate
    maximal: Estimate


class People(NamedTuple):
    """Whose scores they are, for intervals.

    Attributes:
      mated, non_mated: the index of the person of each score, of a non-mated one that of the probe.
      weights: how often each person is drawn in each resample, shape [resamples, people].
    """

    mated: np.ndarray
    non_mated: np.ndarray
    weights: np.ndarray


def linkability(
    mated: ArrayLike,
    non_mated: ArrayLike,
    *,
    omega: float = 1.0,
    bins: int = BINS,
    permutations: int = PERMUTATIONS,
    people: People | None = None,
    seed: int = 0,
) -> Linkability:
    """Linkability of two databases by one score.

    With LR(s) = p(s | mated) / p(s | non-mated), D↔(s) is 0 where ω LR ≤ 1 and else 2 ω LR / (1 + ω LR) − 1; D_sys is
    its mean over mated scores. Maximal linkability is log₂ ∫ max(p(s | mated), p(s | non-mated)) ds.

    Args:
      mated, non_mated: scores of two templates of one person, and of two people; any shapes.
      omega: ω, the prior odds of mated against non-mated pairs; of D_sys alone.
      bins: equal ones, from the lowest to the highest score.
      permutations: of the labels.
      people: whose scores they are; None for no intervals.
      seed: of permutations and halves.

    Raises:
      UserError: a class without scores, scores that are not finite or all equal, ω ≤ 0.

    References:
      Gomez-Barrero, Galbally, Rathgeb, Busch, IEEE TIFS 2018. Otroshi Shahreza, Shkel, Marcel, IEEE TIFS 2023.
    """
    classes = {"mated": np.ravel(mated), "non-mated": np.ravel(non_mated)}
    for name, scores in classes.items():
        if not len(scores) or not np.isfinite(scores).all():
            what = "none" if not len(scores) else f"{int(np.sum(~np.isfinite(scores))):,} that are not finite"
            raise UserError(f"linkability: expected finite {name} scores, got {what}")
    if isinstance(omega, bool) or not isinstance(omega, (int, float, np.number)) or not 0 < omega < np.inf:
        raise UserError(f"linkability: omega, the prior odds, must be a number above 0, got {omega!r}")
    for name, value, least in (("bins", bins, 2), ("permutations", permutations, 2)):
        if not is_whole(value, least):
            raise UserError(f"linkability: {name} must be a whole number of at least {least}, got {value!r}")
    low, high = min(s.min() for s in classes.values()), max(s.max() for s in classes.values())
    if not low < high:
        raise UserError(f"linkability: all scores are {low:g}; expected different ones")
    edges = np.linspace(low, high, bins + 1)
    inside = [_inside(scores, edges) for scores in classes.values()]
    counts = np.stack([np.bincount(at, minlength=bins) for at in inside])
    random = np.random.default_rng(seed)
    value = _measures(counts[0], counts[1], omega)
    drawn = random.multivariate_hypergeometric(
        counts.sum(axis=0), counts[0].sum(), size=permutations, method="marginals"
    )
    null = _measures(drawn, counts.sum(axis=0) - drawn, omega)
    corrected = _crossed(counts, omega, random)
    spreads = np.full(2, np.nan)
    if people is not None:
        everyone = people.weights.shape[1]
        by_person = [
            np.bincount(of * bins + at, minlength=everyone * bins).reshape(everyone, bins)
            for of, at in zip(people[:2], inside, strict=True)
        ]
        weights = people.weights.astype(np.float64)
        spreads = _measures(weights @ by_person[0], weights @ by_person[1], omega).std(axis=-1)
    found = [
        Estimate(*map(float, numbers))
        for numbers in zip(value, null.mean(axis=1), null.std(axis=1), corrected, spreads, strict=True)
    ]
    mates, others = counts / counts.sum(axis=1, keepdims=True)
    return Linkability(edges, mates, others, _local(mates, others, omega), found[0], found[1])


def _inside(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each score, as ``numpy.histogram`` has it: the last bin holds its upper edge."""
    last = len(edges) - 2
    found = ((scores - edges[0]) * ((last + 1) / (edges[-1] - edges[0]))).astype(np.int32).clip(0, last)
    found -= scores < edges[found]  # where the product was rounded across an edge
    found += (scores >= edges[found + 1]) & (found < last)
    return found


def _local(mated: np.ndarray, non_mated: np.ndarray, omega: float) -> np.ndarray:
    """D↔ of each bin, from shares of both classes; 2 r / (1 + r) − 1 = (r − 1) / (r + 1) with r = ω LR."""
    both = omega * mated + non_mated
    return np.maximum(omega * mated - non_mated, 0) / np.where(both > 0, both, 1)


def _measures(mated: np.ndarray, non_mated: np.ndarray, omega: float) -> np.ndarray:
    """D_sys and maximal linkability from counts, shape [..., bins] each; shape [2, ...]."""
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (mated, non_mated))
    return np.stack([(_local(p, q, omega) * p).sum(axis=-1), np.log2(np.maximum(p, q).sum(axis=-1))])


def _crossed(counts: np.ndarray, omega: float, random: np.random.Generator) -> np.ndarray:
    """Both measures where one half of the scores says which bins link and the other one how much, shape [2]."""
    halves = [
        random.multivariate_hypergeometric(of, max(of.sum() // 2, 1), size=HALVES, method="marginals")
        for of in counts
    ]
    rest = [of - half for of, half in zip(counts, halves, strict=True)]
    found = []
    for choosing, measuring in ((halves, rest), (rest, halves)):
        (p, q), (r, s) = (
            [part / np.maximum(part.sum(axis=-1, keepdims=True), 1) for part in sides]
            for sides in (choosing, measuring)
        )
        both = omega * r + s
        signed = (omega * r - s) / np.where(both > 0, both, 1)
        gained = 1 + ((r - s) * (p > q)).sum(axis=-1)
        found.append([(p * (omega * p > q) * signed).sum(axis=-1), np.log2(gained)])
    return np.mean(found, axis=(0, 2))
