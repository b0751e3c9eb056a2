"""Scores every probe with every gallery row: small test sets are sorted, large ones counted in two passes."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxalign.biometrics import kernels
from jaxalign.biometrics.comparators import Comparator
from jaxalign.biometrics.inputs import Side, sides
from jaxalign.biometrics.pair_lists import PairList
from jaxalign.biometrics.plan import STRIP_ROWS, EvaluationPlan, MateTable, padded
from jaxalign.biometrics.thresholds import CountedScores, ScoreAxis, SortedScores, error_rates, to_orders
from jaxalign.biometrics.verification import Verification
from jaxalign.core.precision import double_precision
from jaxalign.core.rows import LazyRows

MEASURES = ("identification", "verification")
PAIRS_READ = 1 << 14  # listed pairs whose rows are on the device together
SORTED_ROWS = 1024  # probes whose scores are sorted at once
AT_ONCE = 2  # segments: one is read or counted, on one core, while another one's product is computed, on all
OUTERMOST = 2.0  # times the bound of the scores, which they exceed by rounding only


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the passes over the scores leave; no ``axis`` and no ``verification`` for identification alone."""

    plan: EvaluationPlan
    genuine_scores: np.ndarray  # of the plan's genuine list, the same image included
    above: np.ndarray  # for each of them, the scores of its probe that are ≥ it, mated ones included
    axis: ScoreAxis | None  # genuine scores (the same image left out) and impostor scores
    verification: Verification | None
    scores: np.ndarray | None = None  # all, probes in the plan's order, shape [n, m]; None where counted


class Scorer:
    """Scores one pair of embeddings under one plan.

    Args:
      probes, gallery: shapes [n, d] and [m, d].
      plan: who is who.
      comparator: the score; None for the cosine.
      zero_rows: "refuse" or "keep".
      measures: those of ``MEASURES`` that are wanted.
      fmr, least_false_matches: see ``error_rates``.
      left_out: more genuine scores (see ``templates.SearchedGallery.leave_one_out_scores``), NaN for none.
      devices: that share the probes; None for the one that JAX computes on.
      gallery_rows: most rows of the gallery on a device at once; None for all.
    """

    def __init__(
        self,
        probes: np.ndarray | LazyRows,
        gallery: np.ndarray | LazyRows,
        plan: EvaluationPlan,
        *,
        comparator: Comparator | None = None,
        zero_rows: str = "refuse",
        measures: Sequence[str] = MEASURES,
        fmr: Sequence[float] = (),
        least_false_matches: float = 0.0,
        left_out: np.ndarray | None = None,
        devices: Sequence[Any] | None = None,
        gallery_rows: int | None = None,
    ):
        self.plan, self.left_out = plan, left_out
        self.fmr, self.least_false_matches = fmr, least_false_matches
        self.ranked, self.verified = (name in measures for name in MEASURES)
        both = sides(LazyRows.of(probes), LazyRows.of(gallery), zero_rows)
        self.placed = comparator.prepare if comparator is not None else lambda side: side
        self.probes, self.gallery = map(self.placed, both)
        self.dtype = self.probes.dtype
        self.bound = 2.0 ** math.ceil(math.log2(self.probes.reach @ self.gallery.reach))
        self.is_sorted = plan.is_sorted(gallery_rows or plan.gallery)
        if not self.is_sorted:
            self.mesh = kernels.mesh_of(devices)
            self.tiling = plan.tiling(self.mesh.size, gallery_rows or plan.gallery)
            self._shape = {"mesh": self.mesh, "strip": self.tiling.strip, "block": self.tiling.block}
            self._shape["bound"] = self.bound

    def run(self) -> Scored:
        """Scores every probe with every gallery row."""
        return self._sorted() if self.is_sorted else self._counted()

    def _sorted(self) -> Scored:
        """All scores at once, sorted on the host: for so few this is faster than counting."""
        plan = self.plan
        probes = self.probes.unit(plan.order, padded(plan.probes))
        gallery = self.gallery.unit(np.arange(plan.gallery), padded(plan.gallery))
        scores = np.asarray(kernels.product(probes, gallery))[: plan.probes, : plan.gallery]
        mated = scores[plan.genuine_position, plan.genuine_gallery]
        above = np.empty(len(mated), np.int64)
        edges = np.searchsorted(plan.genuine_position, np.arange(plan.probes + 1))
        for first in range(0, plan.probes if self.ranked else 0, SORTED_ROWS):
            ascending = np.sort(scores[first : first + SORTED_ROWS], axis=1)
            for row, start, stop in zip(ascending, edges[first:], edges[first + 1 :]):
                above[start:stop] = plan.gallery - row.searchsorted(mated[start:stop])
        axis = None
        if self.verified:
            impostor = scores[plan.impostor_mask]
            impostor.sort()
            axis = SortedScores(self._genuine(mated), impostor)
        return Scored(plan, mated, above, axis, self._verification(axis), scores)

    def _genuine(self, mated: np.ndarray) -> np.ndarray:
        """The genuine scores that verification counts, ascending."""
        found = mated[~self.plan.genuine_own]
        if self.left_out is not None:
            found = np.append(found, self.left_out[~np.isnan(self.left_out)].astype(self.dtype))
        return np.sort(found)

    def _verification(self, axis: ScoreAxis | None) -> Verification | None:
        if axis is None:
            return None
        rates = error_rates(axis, self.fmr, self.least_false_matches)
        return Verification(rates, len(axis.genuine), self.plan.impostor)

    def _counted(self) -> Scored:
        """Counts all scores in bins, then those in the few bins that hold a threshold more finely.

        With several tiles the mates' scores are known after the first pass only; ranks are counted in the second.
        """
        tables = [MateTable(*(part[k] for part in self.tiling.table)) for k in range(self.tiling.rounds)]
        mates = [kernels.Mates.none(table, self.dtype, self.mesh) for table in tables]
        rank_later = self.ranked and self.tiling.tiles > 1
        rank_now = self.ranked and not rank_later
        bins = self._pass(tables, mates, None, find=True, rank=rank_now, count=self.verified)
        mated = self._of_genuine([part.score for part in mates])
        orders = np.sort(to_orders(mated))

        def refine(first: np.ndarray, after: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
            nonlocal rank_later
            refinement, shift = self._refinement(first, after)
            counts = self._pass(tables, mates, refinement, rank=rank_later, count=True)
            rank_later = False
            return list(_without_mates(counts, first, after, shift, orders))

        axis = None
        if self.verified:
            edges = _bin_edges(self.dtype, self.bound)
            bin_of_mates = np.searchsorted(edges, orders, "right") - 1
            impostor = bins - np.bincount(bin_of_mates, minlength=kernels.BINS)
            impostor[kernels.HALF_BINS] -= self.tiling.padding
            axis = CountedScores(self._genuine(mated), edges, impostor, refine, kernels.CELLS)
        verification = self._verification(axis)
        if rank_later:
            self._pass(tables, mates, None, rank=True)
        above = self._of_genuine([part.above for part in mates]).astype(np.int64)
        above -= np.where(mated <= 0, self.tiling.padding_columns, 0)
        return Scored(self.plan, mated, above, axis, verification)

    def _of_genuine(self, parts: Sequence[Any]) -> np.ndarray:
        """Values of the mates, in the order of the plan's genuine list."""
        return np.concatenate([np.asarray(part).reshape(-1) for part in parts])[self.tiling.genuine_index]

    def _pass(
        self,
        tables: list[MateTable],
        mates: list[kernels.Mates],
        refinement: kernels.Refinement | None,
        *,
        find: bool = False,
        rank: bool = False,
        count: bool = False,
    ) -> np.ndarray:
        """Scores everything once: brings ``mates`` up to date and returns the counts, int64, [0] without ``count``."""
        what = {"find": find, "rank": rank, "count": count, **self._shape}
        total = np.zeros(0, np.int64)
        for start, gallery in self._tiles():

            def segment(number: int, start: int = start, gallery: jax.Array = gallery) -> np.ndarray:
                known = mates[number] if find or rank else None
                with double_precision(self.dtype == np.float64):  # JAX's setting of the caller's thread
                    probes, strips = self._segment(number), self.tiling.strips(number)
                    arguments = probes, gallery, strips, tables[number], np.int32(start), known, refinement
                    found, counts = kernels.sweep(*arguments, **what)
                    mates[number] = jax.block_until_ready(found) or mates[number]
                return np.zeros(0, np.int64) if counts is None else np.asarray(counts).sum(0, np.int64)

            with ThreadPoolExecutor(AT_ONCE) as pool:
                for counts in pool.map(segment, range(self.tiling.rounds)):
                    total = total + counts if len(total) else counts
        return total

    def _refinement(self, first: np.ndarray, after: np.ndarray) -> tuple[kernels.Refinement, np.ndarray]:
        """For the device: cells that begin and end at these orders, in parts of 2^shift floats; and the shifts."""
        slots = kernels.SLOTS.bit_length() - 1
        shift = np.array([max(0, int(width - 1).bit_length() - slots) for width in after - first])
        integer = np.int64 if self.dtype == np.float64 else np.int32
        cells = np.zeros((3, kernels.CELLS), integer)
        cells[:, : len(first)] = first, after - first, shift
        return kernels.Refinement(*cells), shift

    @functools.cached_property
    def _first_tile(self) -> Float[Array, "tile width"]:
        return self.gallery.tile(0, self.tiling.tile, kernels.replicated(self.mesh))

    def _tiles(self) -> Iterator[tuple[int, Float[Array, "tile width"]]]:
        """The gallery on every device, a tile at a time, each with the index of its first row; one tile is kept."""
        if self.tiling.tiles == 1:
            yield 0, self._first_tile
            return
        for start in range(0, self.plan.gallery, self.tiling.tile):
            yield start, self.gallery.tile(start, self.tiling.tile, kernels.replicated(self.mesh))

    def _segment(self, number: int) -> Float[Array, "devices segment width"]:
        """The probes of a round in the plan's order, a segment for each device."""
        rows, tiling = self.plan.order[self.tiling.positions(number)], self.tiling
        buffer = self.probes.read(rows, tiling.devices * tiling.segment)
        buffer = buffer.reshape(tiling.devices, tiling.segment, -1)
        return self.probes.placed(buffer, rows, kernels.sharded(self.mesh))

    def strips(self, scored: Scored) -> Iterator[tuple[np.ndarray, slice, np.ndarray]]:
        """Strips of probes with each tile of the gallery: the probes, the gallery rows and their scores on the host.

        Scores that were not kept are computed again.
        """
        plan = self.plan
        if scored.scores is not None:
            yield plan.order, slice(0, plan.gallery), scored.scores
            return
        for column, gallery in self._tiles():
            columns = slice(column, min(column + len(gallery), plan.gallery))
            for start in range(0, plan.probes, STRIP_ROWS):
                rows = plan.order[start : start + STRIP_ROWS]
                scores = np.asarray(kernels.product(self.probes.unit(rows, STRIP_ROWS), gallery))
                yield rows, columns, scores[: len(rows), : columns.stop - column]


def scores_of_pairs(probes: Side, gallery: Side, pairs: PairList, scored: Scored | None = None) -> np.ndarray:
    """The score of each listed pair of a probe and a gallery row, shape [pairs]; some thousand rows are read at a time.

    If all scores of these rows are at hand in ``scored``, they are looked up.
    """
    if scored is not None and scored.scores is not None:
        return scored.scores[scored.plan.position[pairs.left], pairs.right]
    found = []
    for start in range(0, len(pairs), PAIRS_READ):
        some, units, places = slice(start, start + PAIRS_READ), [], []
        for side, numbers in ((probes, pairs.left[some]), (gallery, pairs.right[some])):
            needed, place = np.unique(numbers, return_inverse=True)
            units.append(side.unit(needed, padded(len(needed))))
            places.append(place)
        count = len(places[0])
        index = np.zeros((2, padded(count, kernels.PAIRS_AT_ONCE)), np.int32)
        index[:, :count] = places
        found.append(np.asarray(kernels.scores_of_pairs(*units, index))[:count])
    return np.concatenate(found)


def _bin_edges(dtype: np.dtype, bound: float) -> np.ndarray:
    """Orders of the first floats of all bins of ``kernels.bin_of``, and of the float after the last."""
    half = kernels.HALF_BINS
    edges = to_orders((np.arange(-half, half + 1) / half * bound).astype(dtype))
    outermost = to_orders(np.array([-OUTERMOST, OUTERMOST], dtype) * dtype.type(bound))
    return np.concatenate([outermost[:1], edges[1 : half + 1], [1], edges[half + 1 :], outermost[1:]])


def _without_mates(
    counts: np.ndarray, first: np.ndarray, after: np.ndarray, shift: np.ndarray, mates: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each cell the orders of its parts and the impostors in each, from all scores in each slot."""
    for k, slots in enumerate(counts[: -kernels.SPARE].reshape(-1, kernels.SLOTS)[: len(first)]):
        parts = int((after[k] - 1 - first[k]) >> shift[k]) + 1
        inside = mates[(mates >= first[k]) & (mates < after[k])]
        found = slots[:parts] - np.bincount((inside - first[k]) >> shift[k], minlength=parts)
        yield first[k] + (np.arange(parts) << shift[k]), found
