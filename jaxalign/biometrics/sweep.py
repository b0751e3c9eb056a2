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
from jaxtyping import Array, Float, Int

from jaxalign.biometrics.layout import MATES_AT_ONCE, MateTable
from jaxalign.precision import multiply

BINS = 1 << 16  # equal bins over the range of the scores
INTERVALS = 8  # stretches of the score axis that can be resolved to single floats at once
COUNTED_LANES = 32  # columns counted side by side
MOST_DEEP = 32  # XLA splits deeper sums in two and stores what lies between; an 8-bit count allows 255


class Bins(NamedTuple):
    """Equal bins: a score s lies in bin clip(⌊s · scale⌋ − base, 0, BINS − 1), computed alike everywhere."""

    scale: Float[Array, ""]
    base: Int[Array, ""]


class Intervals(NamedTuple):
    """Disjoint stretches of the score axis, ascending, in the integer order of floats (see ``ordered``).

    A score of order o with first ≤ o ≤ last falls into slot offset + ((o − first) >> shift). A place that is not
    used has the largest integer as ``first``.

    Attributes:
      first, last, offset: shape [intervals].
      shift: shape [intervals]; None where each float has its own slot.
    """

    first: Int[Array, " intervals"]
    last: Int[Array, " intervals"]
    offset: Int[Array, " intervals"]
    shift: Int[Array, " intervals"] | None = None

    @classmethod
    def of(
        cls,
        first: np.ndarray,
        last: np.ndarray,
        offset: np.ndarray,
        shift: np.ndarray | None,
        *,
        places: int,
        dtype,
    ) -> "Intervals":
        """On the device, filled up to a fixed number of places, so that programs are shared."""
        integer = np.dtype(np.int64 if dtype == np.float64 else np.int32)
        most = np.iinfo(integer).max

        def filled(values: np.ndarray, fill: int) -> Int[Array, " intervals"]:
            return jnp.asarray(np.append(values, [fill] * (places - len(values))).astype(integer))

        return cls(
            filled(first, most),
            filled(last, 0),
            filled(offset, 0),
            None if shift is None else filled(shift, 0),
        )


class Swept(NamedTuple):
    """What one segment gives.

    Attributes:
      counts: scores in each bin, then in each slot, shape [bins + slots].
      mated: scores of the mates, in the mate table's places.
      above: for each of these, the scores of the probe's whole row that are ≥ it, itself included.
    """

    counts: Int[Array, " bins"]
    mated: Float[Array, "chunks block four"]
    above: Int[Array, "chunks block four"]


def ordered(scores: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Integers in the order of the floating-point numbers: neighbours differ by one."""
    wide = scores.dtype == jnp.float64
    bits = lax.bitcast_convert_type(scores, jnp.int64 if wide else jnp.int32)
    top = jnp.iinfo(bits.dtype)
    return bits ^ ((bits >> (top.bits - 1)) & top.max)


def bin_of(scores: Float[Array, "*shape"], bins: Bins) -> Int[Array, "*shape"]:
    """The bin of each score; one multiplication, so that host and device round alike."""
    return jnp.clip(jnp.floor(scores * bins.scale).astype(jnp.int32) - bins.base, 0, BINS - 1)


def slot_of(
    scores: Float[Array, "*shape"], intervals: Intervals, elsewhere: Array | int
) -> Int[Array, "*shape"]:
    """The slot of each score that lies in an interval, ``elsewhere`` for the others."""
    order = jnp.where(scores == 0, 0, ordered(scores))
    last = jnp.full_like(order, jnp.iinfo(order.dtype).min)
    first, shift, offset = (jnp.zeros_like(order) for _ in range(3))
    for k in range(len(intervals.first)):
        reached = order >= intervals.first[k]
        last = jnp.where(reached, intervals.last[k], last)
        if intervals.shift is None:
            offset = jnp.where(reached, intervals.offset[k] - intervals.first[k], offset)
        else:
            first = jnp.where(reached, intervals.first[k], first)
            shift = jnp.where(reached, intervals.shift[k], shift)
            offset = jnp.where(reached, intervals.offset[k], offset)
    slot = offset + (order if intervals.shift is None else (order - first) >> shift)
    return jnp.where(order <= last, slot.astype(jnp.int32), elsewhere)


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


@functools.partial(jax.jit, static_argnames=("strip", "block", "slots", "axis"))
def sweep(
    probes: Float[Array, "rows width"],
    gallery: Float[Array, "gallery width"],
    table: MateTable,
    strips: Int[Array, ""],
    bins: Bins,
    intervals: Intervals | None = None,
    *,
    strip: int,
    block: int,
    slots: int = 0,
    axis: bool = True,
) -> Swept:
    """Scores a segment of probes against the gallery; counts scores per bin and scores above each mate.

    Args:
      probes, gallery: unit rows; padding rows are zero.
      table: the segment's mates.
      strips: strips that hold probes; the others are skipped.
      bins: the bins.
      intervals: scores in these are counted in slots, which follow the bins, and in no bin.
      strip, block: rows of one product, and rows that are counted at once.
      slots: slots of all intervals together.
      axis: whether scores are counted along the axis at all; without, bins are not counted (identification).
    """

    def one_strip(number, carry):
        rows = lax.dynamic_slice_in_dim(probes, number * strip, strip)
        return _count_strip(
            multiply(rows, gallery.T), number, bins if axis else None, intervals, table, block, carry
        )

    start = (
        jnp.zeros(BINS + slots, jnp.int32),
        jnp.zeros(table.index.shape, probes.dtype),
        jnp.zeros_like(table.index),
    )
    return Swept(*lax.fori_loop(0, strips, one_strip, start))


def _count_strip(scores, number, bins, intervals, table, block, carry):
    """Adds one strip's counts."""
    blocks = scores.shape[0] // block

    def one_block(i, carry):
        counts, mated, above = carry
        rows = lax.dynamic_slice_in_dim(scores, i * block, block)
        b = number * blocks + i

        def one_chunk(c, carry):
            mated, above = carry
            least = jnp.take_along_axis(rows, table.index[c], axis=1, mode="promise_in_bounds")
            return mated.at[c].set(least), above.at[c].set(_at_least(rows, least))

        mated, above = lax.fori_loop(
            table.first[b], table.first[b] + table.chunks[b], one_chunk, (mated, above)
        )
        if bins is None:
            return counts, mated, above
        place = bin_of(rows, bins)
        if intervals is not None:
            place = slot_of(rows, intervals, place)
        return _scatter(counts, place), mated, above

    return lax.fori_loop(0, blocks, one_block, carry)


def _count_slots(
    scores: Float[Array, "rows gallery"], intervals: Intervals, slots: int, block: int
) -> Int[Array, " slots_and_one"]:

    def one_block(i, counts):
        rows = lax.dynamic_slice_in_dim(scores, i * block, block)
        return _scatter(counts, slot_of(rows, intervals, slots))

    return lax.fori_loop(0, scores.shape[0] // block, one_block, jnp.zeros(slots + 1, jnp.int32))


@functools.partial(jax.jit, static_argnames=("slots", "strip", "block"))
def sweep_slots(
    probes: Float[Array, "rows width"],
    gallery: Float[Array, "gallery width"],
    strips: Int[Array, ""],
    intervals: Intervals,
    *,
    slots: int,
    strip: int,
    block: int,
) -> Int[Array, " slots_and_one"]:
    """How many scores fall into each slot of the intervals (and, last, into none), computed again strip by strip."""

    def one_strip(number, counts):
        rows = lax.dynamic_slice_in_dim(probes, number * strip, strip)
        return counts + _count_slots(multiply(rows, gallery.T), intervals, slots, block)

    return lax.fori_loop(0, strips, one_strip, jnp.zeros(slots + 1, jnp.int32))


def no_bins(dtype: np.dtype) -> Bins:
    """A placeholder where nothing is counted along the axis."""
    return Bins(jnp.ones((), dtype), jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnames=("strip", "block"))
def count_at_least(
    probes: Float[Array, "rows width"],
    gallery: Float[Array, "gallery width"],
    least: Float[Array, " rows"],
    strips: Int[Array, ""],
    *,
    strip: int,
    block: int,
) -> Int[Array, " rows"]:
    """For each probe, how many gallery rows score at least its limit."""
    limits = jnp.broadcast_to(least[:, None], (len(least), MATES_AT_ONCE))

    def one_block(i, above):
        rows = lax.dynamic_slice_in_dim(probes, i * block, block)
        limit = lax.dynamic_slice_in_dim(limits, i * block, block)
        found = _at_least(multiply(rows, gallery.T), limit)[:, 0]
        return lax.dynamic_update_slice_in_dim(above, found, i * block, 0)

    return lax.fori_loop(0, strips * (strip // block), one_block, jnp.zeros(len(least), jnp.int32))
