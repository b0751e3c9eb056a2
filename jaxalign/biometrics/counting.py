"""Scores every probe with every gallery row: all kept and sorted, or counted strip by strip."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.biometrics import rows as device_rows
from jaxalign.biometrics import sweep as kernels
from jaxalign.biometrics.brackets import SAMPLE_GROUPS, Binning, Brackets, FineCounts, guessed_brackets
from jaxalign.biometrics.counted_scores import CountedScores, Counts
from jaxalign.biometrics.floats import ordered
from jaxalign.biometrics.layout import EvaluationPlan
from jaxalign.biometrics.operating_points import ScoreAxis
from jaxalign.biometrics.resolving import SLOTS, Resolver
from jaxalign.biometrics.sorted_scores import SortedScores

SORTED_ROWS = 1024  # of kept scores that are sorted at once


@dataclasses.dataclass(frozen=True)
class Scored:
    """All that one pass over the scores leaves.

    Attributes:
      plan: who is who.
      dtype: format of the scores.
      genuine_scores: scores of the plan's genuine list, own photographs included.
      above: for each of them, the scores of its probe's row that are ≥ it, mated ones included.
      axis: genuine (own photographs not counted) and impostor scores; None where only identification is wanted.
      scores: the scores of all probes in the plan's order, padded, where they were kept; else None.
    """

    plan: EvaluationPlan
    dtype: np.dtype
    genuine_scores: np.ndarray
    above: np.ndarray
    axis: ScoreAxis | None
    scores: np.ndarray | None


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
        ranked: bool = True,
    ):
        device_rows.same_width(probes, gallery)
        self.plan, self.fmr, self.ranked = plan, fmr, ranked
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
        """Scores every probe with every gallery row, once."""
        return self._kept() if self.plan.kept else self._swept()

    def _genuine(self, mated: np.ndarray) -> np.ndarray:
        """The genuine scores that verification counts, ascending."""
        return np.sort(np.append(mated[~self.plan.genuine_own], self.left_out))

    def _kept(self) -> Scored:
        """All scores at once, sorted on the host: exact, and for so few faster than counting."""
        plan = self.plan
        scores = np.asarray(kernels.product(self.segment(0), self.gallery))[: plan.probes, : plan.gallery]
        mated = scores[plan.genuine_position, plan.genuine_gallery]
        above = np.empty(len(mated), np.int64)
        for first in range(0, plan.probes if self.ranked else 0, SORTED_ROWS):
            ascending = np.sort(scores[first : first + SORTED_ROWS], axis=1)
            start, stop = np.searchsorted(plan.genuine_position, (first, first + SORTED_ROWS))
            place = _search_rows(ascending, plan.genuine_position[start:stop] - first, mated[start:stop])
            above[start:stop] = plan.gallery - place
        axis = None
        if self.fmr is not None:
            impostor = scores[plan.impostor_mask]
            impostor.sort()
            axis = SortedScores(self._genuine(mated), impostor)
        return Scored(plan, self.dtype, mated, above, axis, scores)

    def _swept(self) -> Scored:
        """Strip by strip: mated scores, what lies above them, and all scores in bins."""
        plan = self.plan
        bins, guess = self._guess()
        slots = 0 if guess is None else guess.slots
        totals, mated, above = np.zeros(kernels.BINS + slots, np.int64), [], []
        shape = {"strip": plan.strip, "block": plan.block, "slots": slots, "axis": self.fmr is not None}
        intervals = None if guess is None else guess.intervals(self.dtype)
        for number, table in enumerate(plan.tables):
            probes, strips = self.segment(number), jnp.int32(self.strips(number))
            swept = kernels.sweep(probes, self.gallery, table, strips, bins, intervals, **shape)
            totals += np.asarray(swept.counts)
            mated.append(np.asarray(swept.mated).reshape(-1))
            above.append(np.asarray(swept.above).reshape(-1))
        genuine = np.concatenate(mated)[plan.genuine_place]
        above_row = np.concatenate(above)[plan.genuine_place].astype(np.int64)
        above_row -= np.where(genuine <= 0, plan.gallery_padded - plan.gallery, 0)
        if self.fmr is None:
            return Scored(plan, self.dtype, genuine, above_row, None, None)
        fine = (
            None if guess is None else guess.counted(totals[kernels.BINS :], ordered(genuine), self.padding())
        )
        counts = self._binned_counts(totals[: kernels.BINS], Binning.of(bins), genuine, fine)
        resolve = Resolver(ordered(genuine), self.padding(), fine, self._count_slots)
        axis = CountedScores(counts, ordered(self._genuine(genuine)), resolve, self.dtype)
        return Scored(plan, self.dtype, genuine, above_row, axis, None)

    def _guess(self) -> tuple[kernels.Bins, Brackets | None]:
        """Bins, and where the thresholds will lie, from a sample of probes spread over all numbers of mates."""
        if self.fmr is None:
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
        return Counts(impostor, counted, binning.first)

    def _count_slots(self, first: np.ndarray, last: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """All scores in each slot, shape [intervals, SLOTS]; the scores are computed again."""
        offset, places = np.arange(len(first)) * SLOTS, kernels.INTERVALS
        intervals = kernels.Intervals.of(first, last, offset, shift, places=places, dtype=self.dtype)
        slots = kernels.INTERVALS * SLOTS
        total = np.zeros(slots + 1, np.int64)
        shape = {"slots": slots, "strip": self.plan.strip, "block": self.plan.block}
        for number in range(len(self.plan.tables)):
            strips = jnp.int32(self.strips(number))
            found = kernels.sweep_slots(self.segment(number), self.gallery, strips, intervals, **shape)
            total += np.asarray(found)
        return total[:-1].reshape(kernels.INTERVALS, SLOTS)[: len(first)]


def _search_rows(ascending: np.ndarray, row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each value the entries of its row that are below it: ``numpy.searchsorted`` in many rows at once."""
    flat, width = ascending.ravel(), ascending.shape[1]
    start = row * width
    below = np.zeros(len(values), np.int64)
    step = 1 << width.bit_length() - 1
    while step:
        ahead = below + step
        reached = flat[start + np.minimum(ahead, width) - 1] < values
        below = np.where(reached & (ahead <= width), ahead, below)
        step >>= 1
    return below


def _by_group(group: np.ndarray, stretch: np.ndarray, groups: int) -> np.ndarray:
    """Counts by group and bin, shape [groups, bins]."""
    counts = np.bincount(group * kernels.BINS + stretch, minlength=groups * kernels.BINS)
    return counts.reshape(groups, kernels.BINS)
