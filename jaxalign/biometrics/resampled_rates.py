"""Error rates when people are resampled, at a ladder of thresholds, without an n × n matrix for each resample.

Let m_p be the number of times that person p is drawn. The impostor comparisons accepted at a threshold t then have the
weight Σ over p ≠ q of m_p m_q C_pq(t), where C_pq(t) counts the comparisons of p with q that reach t. This is a
quadratic form: one matrix product gives all resamples at one threshold (a sparse one where few comparisons reach it).
Rates between two thresholds are interpolated.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.biometrics.scores import Scored, Scorer
from jaxalign.core.precision import multiply

THRESHOLDS = 48  # approximate number, unless asked otherwise
NEAR = (0.4, 0.75, 1.0, 1.3, 2.2)  # thresholds lie at these multiples of each false match rate asked for
COUNTS_AT_ONCE = 1 << 26  # counts by pair of people and stretch that are in memory
BLOCKS = 4  # of people, along each side of a matrix that is filled above its diagonal
FEW = 1 / 8  # a stretch with fewer comparisons for each two people is weighed by a sparse product
BINS = 1 << 16  # of scores, to find their stretches


@dataclasses.dataclass(frozen=True)
class ResampledRates:
    """FMR and TMR at falling thresholds, for the test set as it is (first row) and for each resample.

    Attributes:
      threshold: falling; the first is infinite, the last −infinite, shape [T].
      fmr, tmr: shape [1 + resamples, T]; NaN in a resample without impostor or genuine comparisons.
    """

    threshold: np.ndarray
    fmr: np.ndarray
    tmr: np.ndarray

    def auc(self) -> np.ndarray:
        """Area under the ROC curve, comparisons between two thresholds counted as ties, shape [1 + resamples]."""
        width = np.diff(self.fmr, axis=1)
        return np.sum(width * (self.tmr[:, 1:] + self.tmr[:, :-1]) / 2, axis=1)

    def auc_error(self) -> np.ndarray:
        """Bound on the error of ``auc``, shape [1 + resamples]."""
        return np.sum(np.diff(self.fmr, axis=1) * np.diff(self.tmr, axis=1), axis=1) / 2

    def eer(self) -> np.ndarray:
        """Where FMR and FNMR cross, both interpolated between thresholds, shape [1 + resamples]."""
        return _where_positive(self.fmr - (1 - self.tmr), self.fmr)

    def tmr_at(self, rate: float) -> np.ndarray:
        """TMR where FMR is ``rate``, interpolated between the two thresholds around it, shape [1 + resamples]."""
        found = _where_positive(self.fmr - rate * (1 + 1e-6), self.tmr)
        return np.where(self.fmr[:, -1] <= rate, self.tmr[:, -1], found)

    def threshold_at(self, rate: float) -> np.ndarray:
        """Threshold where FMR is ``rate``, below 1, interpolated as by ``tmr_at``, shape [1 + resamples]."""
        finite = np.clip(self.threshold, self.threshold[-2], self.threshold[1])
        return _where_positive(self.fmr - rate * (1 + 1e-6), np.broadcast_to(finite, self.fmr.shape))


def _where_positive(rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each row's value where another one becomes positive, interpolated linearly; NaN where that has NaN."""
    after = np.argmax(rising > 0, axis=1)
    rows, before = np.arange(len(rising)), np.maximum(after - 1, 0)
    low, high = rising[rows, before], rising[rows, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > low, -low / (high - low), 0)
    found = values[rows, before] + share * (values[rows, after] - values[rows, before])
    return np.where(np.isnan(rising).any(axis=1), np.nan, found)


def resampled_rates(
    scorer: Scorer, scored: Scored, weights: np.ndarray, thresholds: int = THRESHOLDS
) -> ResampledRates:
    """Rates of every resample at a ladder of thresholds close around the error rates of ``scored``.

    ``weights`` say how often each person is drawn, shape [resamples, people]. At least as many ``thresholds``
    (approximate number) as there are distinct scores give every rate exactly.
    """
    plan = scorer.plan
    ladder = _ladder(scored, thresholds)
    everyone = np.concatenate([np.ones((1, weights.shape[1]), weights.dtype), weights]).astype(np.float32)
    counted = ~plan.genuine_own
    people = plan.probe_codes[plan.genuine_probe[counted]]
    by_person = np.zeros((len(ladder) + 1, weights.shape[1]))
    np.add.at(by_person, (_stretch(ladder, scored.genuine_scores[counted]), people), 1)
    genuine = everyone.astype(np.float64) @ by_person.T
    impostor = _impostors(scorer, scored, ladder, everyone)
    with np.errstate(invalid="ignore", divide="ignore"):
        fmr, tmr = (np.cumsum(part, axis=1) / part.sum(axis=1, keepdims=True) for part in (impostor, genuine))
    start = np.zeros((len(everyone), 1))
    edge = np.concatenate([[np.inf], ladder, [-np.inf]])
    return ResampledRates(edge, np.concatenate([start, fmr], 1), np.concatenate([start, tmr], 1))


def _ladder(scored: Scored, thresholds: int) -> np.ndarray:
    """Thresholds, falling: close around the rates asked for, the others spread over both kinds of scores."""
    axis = scored.axis
    assert axis is not None and scored.verification is not None
    rates, impostors, genuine = scored.verification.rates, axis.impostors, axis.genuine
    if thresholds >= impostors + len(genuine):
        ranks, chosen = np.arange(1, impostors + 1), genuine
    else:
        spread = max(2, thresholds // 6)
        around = [rate for rate in (*(point.fmr for point in rates.points), rates.eer) if np.isfinite(rate)]
        shares = [np.multiply.outer(around, NEAR).ravel(), np.geomspace(1 / impostors, 1, spread)]
        shares = np.concatenate([*shares, np.linspace(0, 1, spread)])
        ranks = np.unique(np.clip(np.round(shares * impostors), 1, impostors).astype(np.int64))
        chosen = genuine[np.linspace(0, len(genuine) - 1, spread).astype(np.int64)]
    return np.unique(np.concatenate([axis.reached_by(ranks), chosen]))[::-1]


def _stretch(ladder: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each score the number of thresholds above it: 0 reaches the highest, T reaches none.

    Equivalent: ``len(ladder) - numpy.searchsorted(ladder[::-1], scores, "right")``. A table of bins answers for nearly
    all scores; those that share a bin with a threshold are searched.
    """
    thresholds = np.bincount(_bin_of(ladder), minlength=BINS)
    unknown = len(ladder) + 1
    table = (thresholds[::-1].cumsum()[::-1] - thresholds).astype(np.min_scalar_type(unknown))
    table[thresholds > 0] = unknown
    found = table[_bin_of(scores)]
    unsure = np.flatnonzero(found == unknown)
    found[unsure] = len(ladder) - np.searchsorted(ladder[::-1], scores[unsure], "right")
    return found


def _bin_of(scores: np.ndarray) -> np.ndarray:
    """Bins of cosines, which never fall as scores rise."""
    place = scores + 1
    place *= (BINS - 1) / 2
    return np.clip(place, 0, BINS - 1, out=place).astype(np.uint16)


def _impostors(scorer: Scorer, scored: Scored, ladder: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weight of the impostor comparisons in each stretch, shape [resamples, T + 1].

    Counts by pair of people are made for as many stretches at once as memory allows; scores that were not kept are
    computed again for each group of stretches.
    """
    people, stretches = weights.shape[1], len(ladder) + 1
    group = max(1, min(stretches, COUNTS_AT_ONCE // people**2))
    by_person = np.ascontiguousarray(weights.T)
    on_device = jnp.asarray(by_person)
    found: list[np.ndarray] = []
    for first in range(0, stretches, group):
        counts = [_PairCounts(people) for _ in range(min(group, stretches - first))]
        for stretch, pairs in _comparisons(scorer, scored, ladder):
            for count, part in zip(counts, _by_stretch(stretch, pairs, people, first, len(counts))):
                count.add(part)
        found += [count.weights(by_person, on_device) for count in counts]
    return np.stack(found, axis=1).astype(np.float64)


def _comparisons(
    scorer: Scorer, scored: Scored, ladder: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The stretches of impostor scores, and for the two people of each the number smaller code · people + larger."""
    plan = scorer.plan
    number = np.min_scalar_type(max(plan.people**2, 1 << 16))
    for rows, columns, scores in scorer.strips(scored):
        probes = plan.probe_codes[rows].astype(number)[:, None]
        gallery = plan.gallery_codes[columns].astype(number)
        impostor = probes != gallery
        pairs = np.minimum(probes, gallery) * number.type(plan.people) + np.maximum(probes, gallery)
        yield _stretch(ladder, scores[impostor]), pairs[impostor]


def _by_stretch(
    stretch: np.ndarray, pairs: np.ndarray, people: int, first: int, number: int
) -> Iterator[np.ndarray]:
    """Numbers of two people in each of ``number`` stretches from ``first`` on, ascending."""
    if number <= stretch.max(initial=0):  # not all stretches at once
        here = (stretch >= first) & (stretch < first + number)
        stretch, pairs = stretch[here], pairs[here]
    # Sorting whole numbers is several times faster than an order of stretches and then the pairs in it.
    key = stretch.astype(np.uint32 if (first + number) * people**2 < 1 << 32 else np.uint64)
    key *= key.dtype.type(people**2)
    key += pairs
    key.sort()
    starts = (first + np.arange(number + 1)) * people**2
    ends = np.searchsorted(key, starts.astype(key.dtype))
    for offset, begin, end in zip(starts, ends, ends[1:]):
        yield np.subtract(key[begin:end], key.dtype.type(offset), dtype=np.int64, casting="unsafe")


class _PairCounts:
    """How many comparisons of one stretch each pair of people has: a list while they are few, then a matrix."""

    def __init__(self, people: int):
        self.people, self.number = people, 0
        self.listed: list[np.ndarray] = []
        self.matrix: np.ndarray | None = None

    def add(self, pairs: np.ndarray) -> None:
        self.number += len(pairs)
        self.listed.append(pairs)
        if self.number > FEW * self.people**2:
            counted = np.zeros(self.people**2, np.float32) if self.matrix is None else self.matrix
            for part in self.listed:
                counted += np.bincount(part, minlength=self.people**2)
            self.matrix, self.listed = counted, []

    def weights(self, by_person: np.ndarray, on_device: Array) -> Float[np.ndarray, " resamples"]:
        """Σ m_p m_q C_pq over p < q; ``by_person`` [people, resamples] on the host and on the device."""
        from scipy.sparse import csr_array

        if self.matrix is not None:
            return np.asarray(_quadratic(on_device, self.matrix.reshape(2 * (self.people,))))
        pairs, counts = np.unique(np.concatenate(self.listed), return_counts=True)
        one, other = np.divmod(pairs, self.people)
        used, row = np.unique(one, return_inverse=True)
        shape = len(used), self.people
        sparse = csr_array((counts.astype(np.float32), (row, other)), shape=shape)
        return np.einsum("pr,pr->r", sparse @ by_person, by_person[used]).astype(np.float64)


@jax.jit
def _quadratic(
    by_person: Float[Array, "people resamples"], count: Float[Array, "people people"]
) -> Float[Array, " resamples"]:
    """Σ m_p m_q C_pq over p < q for every resample, by blocks on and above the diagonal."""
    people = len(by_person)
    block = -(-people // BLOCKS)
    total = jnp.zeros(by_person.shape[1], by_person.dtype)
    for first in range(0, people, block):
        rows = slice(first, first + block)
        total += jnp.sum(multiply(count[rows, first:], by_person[first:]) * by_person[rows], axis=0)
    return total
