"""Scores every probe with every gallery row: all kept and sorted, or counted strip by strip."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxalign.biometrics import score_axis, spreading
from jaxalign.biometrics import sweep as kernels
from jaxalign.biometrics.brackets import (
    SAMPLE_GROUPS,
    Binning,
    Brackets,
    FineCounts,
    guessed_brackets,
)
from jaxalign.biometrics.counted_scores import CountedScores, Counts
from jaxalign.biometrics.floats import ordered
from jaxalign.biometrics.layout import EvaluationPlan
from jaxalign.biometrics.operating_points import ScoreAxis
from jaxalign.biometrics.resolving import SLOTS, Resolver
from jaxalign.biometrics.row_search import places_in_rows
from jaxalign.biometrics.rows import Side, same_width, score_dtype
from jaxalign.biometrics.sorted_scores import SortedScores
from jaxalign.biometrics.tiling import MateTable, padded
from jaxalign.core.rows import LazyRows, prefetch

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
    """Runs the passes over one pair of embeddings under one plan.

    Args:
      probes, gallery: shapes [n, d] and [m, d].
      plan: who is who.
      zero_rows: "refuse" or "keep".
      fmr: rates whose thresholds are wanted; None where only identification is.
      left_out: more genuine scores (see ``leave_one_out``).
      ranked: whether identification is wanted.
      devices: to spread probes over; None for the one that JAX computes on.
      gallery_rows: most rows of the gallery on a device at once; None for all.
    """

    def __init__(
        self,
        probes: np.ndarray | LazyRows,
        gallery: np.ndarray | LazyRows,
        plan: EvaluationPlan,
        zero_rows: str = "refuse",
        fmr: Sequence[float] | None = (),
        left_out: np.ndarray | None = None,
        ranked: bool = True,
        devices: Sequence[Any] | None = None,
        gallery_rows: int | None = None,
    ):
        left, right = LazyRows.of(probes), LazyRows.of(gallery)
        same_width(left, right)
        self.plan, self.fmr, self.ranked = plan, fmr, ranked
        self.dtype = score_dtype(left, right)
        self.left_out = np.zeros(0, self.dtype) if left_out is None else left_out.astype(self.dtype)
        self.probes = Side(left, "probes", self.dtype, zero_rows)
        self.gallery = Side(right, "gallery", self.dtype, zero_rows)
        self.kept = plan.kept(gallery_rows or plan.gallery)
        if self.kept:
            return
        self.mesh = spreading.mesh_of(devices)
        self.tiling = plan.tiling(self.mesh.size, gallery_rows or plan.gallery)
        self._whole = self._tile(0) if self.tiling.tiles == 1 else None
        self._shape = {"mesh": self.mesh, "strip": self.tiling.strip, "block": self.tiling.block}

    def run(self) -> Scored:
        """Scores every probe with every gallery row, once."""
        return self._kept() if self.kept else self._swept()

    def _tile(self, start: int) -> Float[Array, "tile width"]:
        return self.gallery.tile(start, self.tiling.tile, spreading.everywhere(self.mesh))

    def tiles(self) -> Iterator[tuple[int, Float[Array, "tile width"]]]:
        """The gallery on every device, a tile at a time, each with the number of its first row."""
        for start in range(0, self.plan.gallery, self.tiling.tile):
            yield start, self._tile(start) if self._whole is None else self._whole

    def rounds(self) -> Iterator[tuple[int, Float[Array, "devices segment width"]]]:
        """The probes in the plan's order, a segment for each device; the next ones are read meanwhile."""
        tiling = self.tiling

        def read() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
            for number in range(tiling.rounds):
                numbers = self.plan.order[tiling.positions(number)]
                buffer = self.probes.read(numbers, tiling.devices * tiling.segment)
                yield number, numbers, buffer.reshape(tiling.devices, tiling.segment, -1)

        for number, numbers, buffer in prefetch(read()) if tiling.rounds > 1 else read():
            yield number, self.probes.placed(buffer, numbers, spreading.each(self.mesh))

    def _genuine(self, mated: np.ndarray) -> np.ndarray:
        """The genuine scores that verification counts, ascending."""
        return np.sort(np.append(mated[~self.plan.genuine_own], self.left_out))

    def _kept(self) -> Scored:
        """All scores at once, sorted on the host: exact, and for so few faster than counting."""
        plan = self.plan
        probes = self.probes.unit(plan.order, padded(plan.probes))
        gallery = self.gallery.unit(np.arange(plan.gallery), padded(plan.gallery))
        scores = np.asarray(kernels.product(probes, gallery))[: plan.probes, : plan.gallery]
        mated = scores[plan.genuine_position, plan.genuine_gallery]
        above = np.empty(len(mated), np.int64)
        for first in range(0, plan.probes if self.ranked else 0, SORTED_ROWS):
            ascending = np.sort(scores[first : first + SORTED_ROWS], axis=1)
            start, stop = np.searchsorted(plan.genuine_position, (first, first + SORTED_ROWS))
            place = places_in_rows(ascending, plan.genuine_position[start:stop] - first, mated[start:stop])
            above[start:stop] = plan.gallery - place
        axis = None
        if self.fmr is not None:
            impostor = scores[plan.impostor_mask]
            impostor.sort()
            axis = SortedScores(self._genuine(mated), impostor)
        return Scored(plan, self.dtype, mated, above, axis, scores)

    def _swept(self) -> Scored:
        """Strip by strip: mated scores, what lies above them, and all scores in bins."""
        plan, tiling = self.plan, self.tiling
        bins, guess = self._guess()
        slots = 0 if guess is None else guess.slots
        totals = None if self.fmr is None else kernels.Totals.none(score_axis.BINS + slots, self.mesh)
        intervals = None if guess is None else guess.intervals(self.dtype)
        alone = tiling.tiles == 1  # else every mate's score must be known before any is compared
        mates, totals = self._pass(None, totals, bins, intervals, find=True, rank=self.ranked and alone)
        if self.ranked and not alone:
            mates, _ = self._pass(mates, None, bins, None, find=False, rank=True)
        score, above = (
            np.concatenate([np.asarray(part[k]).reshape(-1) for part in mates])[tiling.genuine_place]
            for k in (0, 1)
        )
        above = above.astype(np.int64) - np.where(score <= 0, tiling.padding_columns, 0)
        if totals is None:
            return Scored(plan, self.dtype, score, above, None, None)
        counts = totals.sum()
        fine = None
        if guess is not None:
            fine = guess.counted(counts[score_axis.BINS :], ordered(score), tiling.padding)
        binned = self._binned_counts(counts[: score_axis.BINS], Binning.of(bins), score, fine)
        resolve = Resolver(ordered(score), tiling.padding, fine, self._count_slots)
        axis = CountedScores(binned, ordered(self._genuine(score)), resolve, self.dtype)
        return Scored(plan, self.dtype, score, above, axis, None)

    def _pass(
        self,
        known: list[kernels.Mates] | None,
        totals: kernels.Totals | None,
        bins: score_axis.Bins,
        intervals: score_axis.Intervals | None,
        **what: bool,
    ) -> tuple[list[kernels.Mates], kernels.Totals | None]:
        """All tiles against all segments once."""
        tables = [MateTable(*(part[k] for part in self.tiling.table)) for k in range(self.tiling.rounds)]
        mates = known or [kernels.Mates.none(table, self.dtype, self.mesh) for table in tables]
        for start, gallery in self.tiles():
            for number, probes in self.rounds():
                jax.block_until_ready((totals, mates))  # no more than two segments are there at a time
                totals, mates[number] = kernels.sweep(
                    probes, gallery, tables[number], self.tiling.strips(number), np.int32(start), totals,
                    mates[number], bins, intervals, **what, **self._shape,
                )  # fmt: skip
        return mates, totals

    def _guess(self) -> tuple[score_axis.Bins, Brackets | None]:
        """Bins, and where the thresholds will lie, from a sample of probes spread over all numbers of mates."""
        if self.fmr is None:
            return score_axis.no_bins(self.dtype), None
        plan, groups, rows = self.plan, SAMPLE_GROUPS, self.tiling.sample
        spread = np.arange(rows) * plan.probes // rows
        sample = plan.order[spread.reshape(-1, groups).T.ravel()]
        place = np.full(plan.probes, -1)
        place[sample] = np.arange(rows)
        row = place[plan.genuine_probe]
        gallery, column = self._sampled_gallery(plan.genuine_gallery[row >= 0])
        scores, bins, counts = kernels.sample(self.probes.unit(sample, rows), gallery, groups=groups)
        bins = score_axis.Bins(*map(np.asarray, bins))
        if plan.probes < rows:
            return bins, None
        columns = column[plan.genuine_gallery]
        there = (row >= 0) & (columns >= 0)
        row, columns, own = row[there], columns[there], plan.genuine_own[there]
        group = row // (rows // groups)
        binning = Binning.of(bins)
        stretch = binning.bin_of(np.asarray(scores)[row, columns])
        impostor = np.asarray(counts, np.int64) - _by_group(group, stretch, groups)
        zero = binning.bin_of(np.zeros(1, self.dtype))
        impostor[:, zero] -= rows // groups * (self.tiling.tile - int(np.sum(column >= 0)))
        genuine = _by_group(group[~own], stretch[~own], groups)
        return bins, guessed_brackets(impostor, genuine, self.fmr, binning)

    def _sampled_gallery(self, mates: np.ndarray) -> tuple[Float[Array, "tile width"], np.ndarray]:
        """The gallery, or as much of it as a tile holds, ``mates`` first; and each row's place there, −1 for none."""
        column = np.arange(self.plan.gallery)
        if self._whole is not None:
            return self._whole, column
        tile, rows = self.tiling.tile, self.plan.gallery
        mates = np.unique(mates)[: tile // 2]
        spread = np.arange(tile - len(mates)) * rows // (tile - len(mates))
        numbers = np.union1d(mates, spread)
        column[:] = -1
        column[numbers] = np.arange(len(numbers))
        return self.gallery.unit(numbers, tile), column

    def _binned_counts(
        self, totals: np.ndarray, binning: Binning, genuine: np.ndarray, fine: FineCounts | None
    ) -> Counts:
        place = binning.bin_of(genuine)
        outside = np.ones(len(genuine), bool) if fine is None else ~fine.covers(ordered(genuine))
        impostor = totals - np.bincount(place[outside], minlength=score_axis.BINS)
        if fine is None or not fine.covers(np.zeros(1, np.int64))[0]:
            impostor[binning.bin_of(np.zeros(1, self.dtype))] -= self.tiling.padding
        if fine is not None:
            fine.add_to(impostor, binning)
        counted = np.bincount(place[~self.plan.genuine_own], minlength=score_axis.BINS)
        counted += np.bincount(binning.bin_of(self.left_out), minlength=score_axis.BINS)
        return Counts(impostor, counted, binning.first)

    def _count_slots(self, first: np.ndarray, last: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """All scores in each slot, shape [intervals, SLOTS]; the scores are computed again."""
        offset, places = np.arange(len(first)) * SLOTS, score_axis.INTERVALS
        intervals = score_axis.Intervals.of(first, last, offset, shift, places=places, dtype=self.dtype)
        slots = score_axis.INTERVALS * SLOTS
        total = np.zeros(slots + 1, np.int64)
        for _, gallery in self.tiles():
            for number, probes in self.rounds():
                found = kernels.sweep_slots(
                    probes, gallery, self.tiling.strips(number), intervals, slots=slots, **self._shape
                )
                total += np.asarray(found).sum(axis=0, dtype=np.int64)
        return total[:-1].reshape(score_axis.INTERVALS, SLOTS)[: len(first)]

    def at_least(self, scored: Scored, limits: np.ndarray) -> np.ndarray:
        """For each probe, how many gallery rows score at least its limit, shape [n]; 0 where that is NaN."""
        plan, above = self.plan, np.zeros(self.plan.probes, np.int64)
        if scored.scores is not None:
            above[plan.order] = np.sum(scored.scores >= limits[plan.order, None], axis=1)
            return above
        tiling = self.tiling
        for _, gallery in self.tiles():
            for number, probes in self.rounds():
                rows = plan.order[tiling.positions(number)]
                least = np.full(tiling.devices * tiling.segment, np.inf, self.dtype)
                least[: len(rows)] = np.where(np.isnan(limits[rows]), np.inf, limits[rows])
                least = least.reshape(tiling.devices, tiling.segment)
                found = kernels.count_at_least(probes, gallery, least, tiling.strips(number), **self._shape)
                above[rows] += np.asarray(found).reshape(-1)[: len(rows)]
        return above - np.where(limits <= 0, tiling.padding_columns, 0)


def _by_group(group: np.ndarray, stretch: np.ndarray, groups: int) -> np.ndarray:
    """Counts by group and bin, shape [groups, bins]."""
    counts = np.bincount(group * score_axis.BINS + stretch, minlength=groups * score_axis.BINS)
    return counts.reshape(groups, score_axis.BINS)
