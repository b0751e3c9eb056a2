"""The one pass over all scores: strips of a matrix product, counted while they are in the cache.

No matrix of all scores is ever formed for a large test set. What is counted needs no mask: every score of a
strip is counted, and what does not belong (mated scores, whose values are known, and the exact zeros of
padding rows) is subtracted afterwards, on the host, in whole numbers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxalign.biometrics.score_axis import BINS, Bins, Intervals, bin_of, slot_of
from jaxalign.biometrics.spreading import each, on_each
from jaxalign.biometrics.tiling import MATES_AT_ONCE, MateTable
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf

COUNTED_LANES = 32  # columns counted side by side
MOST_DEEP = 32  # XLA splits deeper sums in two and stores what lies between; an 8-bit count allows 255


class Mates(NamedTuple):
    """What is known of the mates, in the mate table's places.

    Attributes:
      score: of each, shape [devices, chunks, block, MATES_AT_ONCE].
      above: for each, the scores of its probe's row so far that are ≥ it, itself included.
    """

    score: Float[Leaf, "devices chunks block four"]
    above: Int[Leaf, "devices chunks block four"]

    @classmethod
    def none(cls, table: MateTable, dtype: np.dtype, mesh: Mesh) -> "Mates":
        """Before anything was scored."""
        shape, where = table.index.shape, each(mesh)
        return cls(jnp.zeros(shape, dtype, device=where), jnp.zeros(shape, jnp.int32, device=where))


class Totals(NamedTuple):
    """Counts of many calls, 2¹⁶ high + low: more than an int32 holds. Shapes [devices, bins + slots]."""

    low: Int[Array, "devices bins"]
    high: Int[Array, "devices bins"]

    @classmethod
    def none(cls, size: int, mesh: Mesh) -> "Totals":
        """Zeros."""
        return cls(*(jnp.zeros((mesh.size, size), jnp.int32, device=each(mesh)) for _ in "ab"))

    def sum(self) -> np.ndarray:
        """Over all devices, int64, shape [bins + slots]."""
        total = np.zeros(self.low.shape[1], np.int64)
        for low, high in zip(self.low.addressable_shards, self.high.addressable_shards):
            total += np.asarray(low.data)[0]
            total += np.asarray(high.data)[0].astype(np.int64) << 16
        return total


@jax.jit
def product(
    probes: Float[Array, "rows width"], gallery: Float[Array, "gallery width"]
) -> Float[Array, "rows gallery"]:
    """All scores at once."""
    return multiply(probes, gallery.T)


@functools.partial(jax.jit, static_argnames="groups")
def sample(
    probes: Float[Array, "sample width"], gallery: Float[Array, "gallery width"], *, groups: int
) -> tuple[Float[Array, "sample gallery"], Bins, Int[Array, "groups bins"]]:
    """Scores of a sample of probes, bins over their range and a quarter more, and counts by group of probes."""
    scores = multiply(probes, gallery.T)
    low, high = scores.min(), scores.max()
    span = jnp.maximum(high - low, 2.0**-10)
    low, high = jnp.maximum(low - span / 4, -1.001), jnp.minimum(high + span / 4, 1.001)
    scale = ((BINS - 2) / (high - low)).astype(scores.dtype)
    bins = Bins(scale, jnp.floor(low * scale).astype(jnp.int32))
    grouped = scores.reshape(groups, -1, scores.shape[1])
    return (
        scores,
        bins,
        lax.map(lambda rows: _scatter(jnp.zeros(BINS, jnp.int32), bin_of(rows, bins)), grouped),
    )


def _scatter(counts: Int[Array, " bins"], place: Int[Array, "rows columns"]) -> Int[Array, " bins"]:
    return counts.at[place.reshape(-1)].add(1, mode="promise_in_bounds")


def _at_least(
    row: Float[Array, "block gallery"], least: Float[Array, "block four"]
) -> Int[Array, "block four"]:
    """For each row and each of four limits, how many scores are ≥ it: four 8-bit counts in one int32."""
    rows, columns = row.shape
    groups = columns // COUNTED_LANES
    depth = max(size for size in range(1, MOST_DEEP + 1) if groups % size == 0)
    packed = jnp.zeros_like(row, jnp.int32)
    for k in range(MATES_AT_ONCE):
        packed += (row >= least[:, k : k + 1]).astype(jnp.int32) << (8 * k)
    packed = packed.reshape(rows, groups // depth, depth, COUNTED_LANES).sum(axis=2, dtype=jnp.int32)
    return jnp.stack(
        [((packed >> (8 * k)) & 255).sum(axis=(1, 2), dtype=jnp.int32) for k in range(MATES_AT_ONCE)], 1
    )


@functools.partial(
    jax.jit,
    static_argnames=("mesh", "strip", "block", "find", "rank"),
    donate_argnames=("totals", "mates"),
)
def sweep(
    probes: Float[Array, "devices rows width"],
    gallery: Float[Array, "tile width"],
    table: MateTable,
    strips: Int[Array, " devices"],
    start: Int[Leaf, ""],
    totals: Totals | None,
    mates: Mates,
    bins: Bins,
    intervals: Intervals | None,
    *,
    mesh: Mesh,
    strip: int,
    block: int,
    find: bool,
    rank: bool,
) -> tuple[Totals | None, Mates]:
    """Scores a segment of probes on each device against one tile of the gallery.

    Args:
      probes, gallery: unit rows; padding rows are zero.
      table: the segments' mates.
      strips: strips that hold probes; the others are skipped.
      start: number of the tile's first row in the gallery.
      totals: scores counted so far, in bins and then in slots; None to count none.
      mates: what is known of the mates so far.
      bins: the bins.
      intervals: scores in these are counted in slots, which follow the bins, and in no bin.
      mesh: of the devices.
      strip, block: rows of one product, and rows that are counted at once.
      find: whether to look up the scores of the mates that lie in this tile.
      rank: whether to count the scores that are ≥ each mate's. Where there are several tiles, the scores of mates
        must be known from all of them first.

    Returns:
      Totals and mates, this tile's scores included.
    """

    def one_device(own, common):
        probes, table, strips, totals, mates = own
        gallery, start, bins, intervals = common

        def one_strip(number, carry):
            rows = lax.dynamic_slice_in_dim(probes, number * strip, strip)
            scores = multiply(rows, gallery.T)
            return _count_strip(scores, number, start, bins, intervals, table, block, find, rank, carry)

        counts = None if totals is None else jnp.zeros_like(totals.low)
        counts, mates = lax.fori_loop(0, strips, one_strip, (counts, mates))
        if totals is None or counts is None:
            return None, mates
        low = totals.low + counts
        return Totals(low & 0xFFFF, totals.high + (low >> 16)), mates

    own = probes, table, strips, totals, mates
    return on_each(one_device, mesh, own, (gallery, start, bins, intervals))


def _count_strip(scores, number, start, bins, intervals, table, block, find, rank, carry):
    """Adds one strip's counts."""
    blocks, tile = scores.shape[0] // block, scores.shape[1]

    def one_block(i, carry):
        counts, mates = carry
        rows = lax.dynamic_slice_in_dim(scores, i * block, block)
        b = number * blocks + i

        def one_chunk(c, mates):
            score, above = mates
            least = score[c]
            if find:
                place = table.index[c] - start
                found = jnp.take_along_axis(
                    rows, jnp.clip(place, 0, tile - 1), axis=1, mode="promise_in_bounds"
                )
                least = jnp.where((place >= 0) & (place < tile), found, least)
                score = score.at[c].set(least)
            if rank:
                above = above.at[c].add(_at_least(rows, least))
            return Mates(score, above)

        if find or rank:
            mates = lax.fori_loop(table.first[b], table.first[b] + table.chunks[b], one_chunk, mates)
        if counts is None:
            return counts, mates
        place = bin_of(rows, bins)
        if intervals is not None:
            place = slot_of(rows, intervals, place)
        return _scatter(counts, place), mates

    return lax.fori_loop(0, blocks, one_block, carry)


@functools.partial(jax.jit, static_argnames=("mesh", "slots", "strip", "block"))
def sweep_slots(
    probes: Float[Array, "devices rows width"],
    gallery: Float[Array, "tile width"],
    strips: Int[Array, " devices"],
    intervals: Intervals,
    *,
    mesh: Mesh,
    slots: int,
    strip: int,
    block: int,
) -> Int[Array, "devices slots_and_one"]:
    """How many scores fall into each slot of the intervals (and, last, into none), computed again strip by strip."""

    def one_device(own, common):
        probes, strips = own
        gallery, intervals = common

        def one_strip(number, counts):
            scores = multiply(lax.dynamic_slice_in_dim(probes, number * strip, strip), gallery.T)

            def one_block(i, counts):
                rows = lax.dynamic_slice_in_dim(scores, i * block, block)
                return _scatter(counts, slot_of(rows, intervals, slots))

            return lax.fori_loop(0, strip // block, one_block, counts)

        return lax.fori_loop(0, strips, one_strip, jnp.zeros(slots + 1, jnp.int32))

    return on_each(one_device, mesh, (probes, strips), (gallery, intervals))


@functools.partial(jax.jit, static_argnames=("mesh", "strip", "block"))
def count_at_least(
    probes: Float[Array, "devices rows width"],
    gallery: Float[Array, "tile width"],
    least: Float[Array, "devices rows"],
    strips: Int[Array, " devices"],
    *,
    mesh: Mesh,
    strip: int,
    block: int,
) -> Int[Array, "devices rows"]:
    """For each probe, how many rows of the tile score at least its limit; products as in ``sweep``."""

    def one_device(own, gallery):
        probes, least, strips = own
        limits = jnp.broadcast_to(least[:, None], (len(least), MATES_AT_ONCE))

        def one_strip(number, above):
            scores = multiply(lax.dynamic_slice_in_dim(probes, number * strip, strip), gallery.T)

            def one_block(i, above):
                rows = lax.dynamic_slice_in_dim(scores, i * block, block)
                first = number * strip + i * block
                found = _at_least(rows, lax.dynamic_slice_in_dim(limits, first, block))[:, 0]
                return lax.dynamic_update_slice_in_dim(above, found, first, 0)

            return lax.fori_loop(0, strip // block, one_block, above)

        return lax.fori_loop(0, strips, one_strip, jnp.zeros(len(least), jnp.int32))

    return on_each(one_device, mesh, (probes, least, strips), gallery)
