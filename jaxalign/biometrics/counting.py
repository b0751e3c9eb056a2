"""Exact numbers from counted scores: which float a threshold is, and how many comparisons lie above it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.biometrics import rows as device_rows
from jaxalign.biometrics import sweep as kernels
from jaxalign.biometrics.brackets import SAMPLE_GROUPS, Binning, Brackets, FineCounts, guessed_brackets
from jaxalign.biometrics.floats import ordered
from jaxalign.biometrics.layout import EvaluationPlan
from jaxalign.biometrics.resolving import SLOTS, Resolver

SORTED_SCORES = 1 << 20  # up to so many scores are sorted instead of binned: everything is then exact


@dataclasses.dataclass(frozen=True)
class Counts:
    """How many comparisons of each kind lie in each of many stretches of the score axis, in ascending order.

    Attributes:
      impostor, genuine: comparisons in each stretch, int64.
      first: order of the first float of some stretches, given by number.
      single: every stretch holds one distinct score only, so that ties are known exactly.
    """

    impostor: np.ndarray
    genuine: np.ndarray
    first: Callable[[np.ndarray], np.ndarray]
    single: bool


@dataclasses.dataclass(frozen=True)
class Scored:
    """All that one pass over the scores leaves.

    Attributes:
      plan: who is who.
      dtype: format of the scores.
      genuine_scores: scores of the plan's genuine list, own photographs included.
      above: for each of them, the scores of its probe's row that are ≥ it, mated ones included.
      counts: genuine (own photographs not counted) and impostor comparisons along the score axis; None where
        only identification is wanted.
      resolve: counts the impostors between two orders more finely.
      left_out: further genuine scores, of templates without the probe's own photograph.
      scores: the scores of all probes in the plan's order, padded, where they were kept; else None.
    """

    plan: EvaluationPlan
    dtype: np.dtype
    genuine_scores: np.ndarray
    above: np.ndarray
    counts: Counts | None
    resolve: Resolver
    scores: Float[Array, "padded_probes padded_gallery"] | None
    left_out: np.ndarray

    @property
    def genuine(self) -> np.ndarray:
        """Orders of the genuine scores that verification counts, ascending."""
        return np.sort(ordered(np.append(self.genuine_scores[~self.plan.genuine_own], self.left_out)))


class Counter:
    """Runs the passes over one pair of embeddings under one plan."""

    def __init__(
        self,
        probes: np.ndarray,
        gallery: np.ndarray,
        plan: EvaluationPlan,
        zero_rows: str = "refuse",
        fmr: Sequence[float] | None = (),
        left_out: np.ndarray | None = None,
    ):
        device_rows.same_width(probes, gallery)
        self.plan, self.fmr = plan, fmr
        self.dtype = device_rows.score_dtype(probes, gallery)
        self.left_out = np.zeros(0, self.dtype) if left_out is None else left_out.astype(self.dtype)
        options = {"dtype": self.dtype, "zero_rows": zero_rows}
        self.gallery = device_rows.unit_rows(gallery, "gallery", padded_rows=plan.gallery_padded, **options)
        self._rows = lambda order, padded_rows: device_rows.unit_rows(
            probes, "probes", padded_rows=padded_rows, order=order, **options
        )

    def segment(self, number: int) -> Float[Array, "segment width"]:
        """A segment's probes in the plan's order, of unit length, padded."""
        rows = slice(number * self.plan.segment, (number + 1) * self.plan.segment)
        return self._rows(self.plan.order[rows], self.plan.segment)

    def strips(self, number: int) -> int:
        """Strips of a segment that hold probes."""
        rows = min(self.plan.segment, self.plan.probes - number * self.plan.segment)
        return -(-rows // self.plan.strip)

    def padding(self) -> int:
        """Scores that are counted but belong to padding rows: all are 0 exactly."""
        rows = sum(self.strips(s) for s in range(len(self.plan.tables))) * self.plan.strip
        return rows * self.plan.gallery_padded - self.plan.probes * self.plan.gallery

    def run(self) -> Scored:
        """The first pass: mated scores, what lies above them, and all scores in bins."""
        plan = self.plan
        bins, guess = self._guess()
        slots = 0 if guess is None else guess.slots
        totals, mated, above, scores = np.zeros(kernels.BINS + slots, np.int64), [], [], None
        shape = {"strip": plan.strip, "block": plan.block, "keep": plan.kept, "slots": slots}
        shape["axis"] = self.fmr is not None
        intervals = None if guess is None else guess.intervals(self.dtype)
        for number, table in enumerate(plan.tables):
            probes, strips = self.segment(number), jnp.int32(self.strips(number))
            swept = kernels.sweep(probes, self.gallery, table, strips, bins, intervals, **shape)
            totals += np.asarray(swept.counts)
            mated.append(np.asarray(swept.mated).reshape(-1))
            above.append(np.asarray(swept.above).reshape(-1))
            bins, scores = swept.bins, swept.scores if plan.kept else None
        genuine = np.concatenate(mated)[plan.genuine_place]
        above_row = np.concatenate(above)[plan.genuine_place].astype(np.int64)
        above_row -= np.where(genuine <= 0, plan.gallery_padded - plan.gallery, 0)
        fine = (
            None if guess is None else guess.counted(totals[kernels.BINS :], ordered(genuine), self.padding())
        )
        count = functools.partial(self._count_slots, scores)
        resolve = Resolver(ordered(genuine), self.padding(), fine, count)
        if self.fmr is None:
            return Scored(plan, self.dtype, genuine, above_row, None, resolve, scores, self.left_out)
        counts = self._binned_counts(totals[: kernels.BINS], Binning.of(bins), genuine, fine)
        scored = Scored(plan, self.dtype, genuine, above_row, counts, resolve, scores, self.left_out)
        if scores is not None and plan.probes * plan.gallery <= SORTED_SCORES:
            return dataclasses.replace(scored, counts=sorted_counts(scored))
        return scored

    def _guess(self) -> tuple[kernels.Bins, Brackets | None]:
        """Bins, and where the thresholds will lie, from a sample of probes spread over all numbers of mates."""
        if self.plan.kept or self.fmr is None:
            return kernels.no_bins(self.dtype), None
        plan, groups, rows = self.plan, SAMPLE_GROUPS, self.plan.sample
        spread = np.arange(rows) * plan.probes // rows
        sample = plan.order[spread.reshape(-1, groups).T.ravel()]
        scores, bins, counts = kernels.sample(self._rows(sample, rows), self.gallery, groups=groups)
        if plan.probes < rows:
            return bins, None
        place = np.full(plan.probes, -1)
        place[sample] = np.arange(rows)
        row = place[plan.genuine_probe]
        row, column, own = row[row >= 0], plan.genuine_gallery[row >= 0], plan.genuine_own[row >= 0]
        group = row // (rows // groups)
        binning = Binning.of(bins)
        stretch = binning.bin_of(np.asarray(scores)[row, column])
        impostor = np.asarray(counts, np.int64) - _by_group(group, stretch, groups)
        zero = binning.bin_of(np.zeros(1, self.dtype))
        impostor[:, zero] -= rows // groups * (plan.gallery_padded - plan.gallery)
        genuine = _by_group(group[~own], stretch[~own], groups)
        return bins, guessed_brackets(impostor, genuine, self.fmr, binning)

    def _binned_counts(
        self, totals: np.ndarray, binning: Binning, genuine: np.ndarray, fine: FineCounts | None
    ) -> Counts:
        place = binning.bin_of(genuine)
        outside = np.ones(len(genuine), bool) if fine is None else ~fine.covers(ordered(genuine))
        impostor = totals - np.bincount(place[outside], minlength=kernels.BINS)
        if fine is None or not fine.covers(np.zeros(1, np.int64))[0]:
            impostor[binning.bin_of(np.zeros(1, self.dtype))] -= self.padding()
        if fine is not None:
            fine.add_to(impostor, binning)
        counted = np.bincount(place[~self.plan.genuine_own], minlength=kernels.BINS)
        counted += np.bincount(binning.bin_of(self.left_out), minlength=kernels.BINS)
        return Counts(impostor, counted, binning.first, single=False)

    def _count_slots(self, scores, first, last, shift) -> np.ndarray:
        """All scores in each slot, shape [intervals, SLOTS]."""
        offset, places = np.arange(len(first)) * SLOTS, kernels.INTERVALS
        intervals = kernels.Intervals.of(first, last, offset, shift, places=places, dtype=self.dtype)
        slots = kernels.INTERVALS * SLOTS
        if scores is not None:
            total = np.asarray(
                kernels.count_slots(scores, intervals, slots=slots, block=self.plan.block), np.int64
            )
        else:
            total = np.zeros(slots + 1, np.int64)
            shape = {"slots": slots, "strip": self.plan.strip, "block": self.plan.block}
            for number in range(len(self.plan.tables)):
                strips = jnp.int32(self.strips(number))
                total += np.asarray(
                    kernels.sweep_slots(self.segment(number), self.gallery, strips, intervals, **shape)
                )
        return total[:-1].reshape(kernels.INTERVALS, SLOTS)[: len(first)]


def sorted_counts(scored: Scored) -> Counts:
    """Counts at every distinct score, from all scores sorted; they must have been kept."""
    plan = scored.plan
    assert scored.scores is not None
    every = ordered(np.asarray(scored.scores)[: plan.probes, : plan.gallery]).ravel()
    start, total = _distinct(np.append(every, ordered(scored.left_out)))
    mated = np.append(ordered(scored.genuine_scores), ordered(scored.left_out))
    impostor = total - np.bincount(np.searchsorted(start, mated), minlength=len(start))
    counted = np.bincount(np.searchsorted(start, scored.genuine), minlength=len(start))
    return Counts(impostor, counted, lambda numbers: start[numbers], single=True)


def _distinct(orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, ascending, and how often each occurs; as ``numpy.unique`` but by the faster sort."""
    orders = np.sort(orders)
    last = np.flatnonzero(np.append(orders[1:] != orders[:-1], True))
    return orders[last], np.diff(last, prepend=-1)


def _by_group(group: np.ndarray, stretch: np.ndarray, groups: int) -> np.ndarray:
    """Counts by group and bin, shape [groups, bins]."""
    counts = np.bincount(group * kernels.BINS + stretch, minlength=groups * kernels.BINS)
    return counts.reshape(groups, kernels.BINS)
