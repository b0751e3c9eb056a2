"""The programs on the device: scores of unit rows, and how they are counted without keeping them.

Every score of a strip is counted. Scores that do not belong (mated scores, whose values are known, and the exact
zeros of padding rows) are subtracted afterwards on the host. No program exchanges anything between devices, so several
threads may run them at the same time.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxalign.biometrics.plan import MateTable
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf

AXIS = "segments"
HALF_BINS = 1 << 17  # bins of equal width on either side of zero, which has a bin of its own
BINS = 2 * HALF_BINS + 2
CELLS = 8  # stretches of the score axis that one pass can refine
SLOTS = 1 << 14  # parts of a cell: so many that single floats near 0 are reached in one pass
SPARE = 64  # slots for scores outside all cells: additions to one and the same slot wait for each other
SUMMED_LANES, MOST_DEEP = 32, 32
PAIRS_AT_ONCE = 1024


class Mates(NamedTuple):
    """What is known of the mates, in the layout of the mate table."""

    score: Float[Leaf, "devices chunks block four"]
    above: Int[Leaf, "devices chunks block four"]  # scores of its probe so far that are ≥ it, itself included

    @classmethod
    def none(cls, table: MateTable, dtype: np.dtype, mesh: Mesh) -> "Mates":
        """Before anything was scored."""
        shape, where = table.index.shape, sharded(mesh)
        return cls(jnp.zeros(shape, dtype, device=where), jnp.zeros(shape, jnp.int32, device=where))


class Refinement(NamedTuple):
    """Disjoint cells of the score axis that are counted more finely.

    A score of order o (see ``ordered``) falls into slot (o − first) >> shift of a cell if 0 ≤ o − first < width. The
    width of a cell that is not used is 0.
    """

    first: Int[Leaf, " cells"]
    width: Int[Leaf, " cells"]
    shift: Int[Leaf, " cells"]


def scores_of_all(
    probes: Float[Array, "rows width"], gallery: Float[Array, "gallery width"]
) -> Float[Array, "rows gallery"]:
    """The score of every probe with every gallery row: the inner product of rows as ``inputs.Side`` places them."""
    return multiply(probes, gallery.T)


@jax.jit
def scores_of_pairs(
    left: Float[Array, "n d"], right: Float[Array, "m d"], index: Int[Array, "2 pairs"]
) -> Float[Array, " pairs"]:
    """The score of each listed pair of rows; the number of pairs is a multiple of ``PAIRS_AT_ONCE``."""

    def some(numbers: Int[Array, "2 some"]) -> Float[Array, " some"]:
        return jnp.einsum("pd,pd->p", left[numbers[0]], right[numbers[1]], precision=lax.Precision.HIGHEST)

    return lax.map(some, index.reshape(2, -1, PAIRS_AT_ONCE).swapaxes(0, 1)).reshape(-1)


product = jax.jit(scores_of_all)


def ordered(scores: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Integers in the order of the floating-point numbers: neighbours differ by one (two just below 0)."""
    wide = scores.dtype == jnp.float64
    bits = lax.bitcast_convert_type(scores, jnp.int64 if wide else jnp.int32)
    top = jnp.iinfo(bits.dtype)
    return jnp.where(scores == 0, 0, bits ^ ((bits >> (top.bits - 1)) & top.max))


def bin_of(scores: Float[Array, "*shape"], bound: float) -> Int[Array, "*shape"]:
    """The bin of each score from −bound to bound, a power of two, so that edges are exact on host and device."""
    number = jnp.floor(scores * (HALF_BINS / bound)).astype(jnp.int32) + HALF_BINS + (scores > 0)
    return jnp.clip(number, 0, BINS - 1)


def slot_of(scores: Float[Array, "rows columns"], refinement: Refinement) -> Int[Array, "rows columns"]:
    """The slot of each score, cells one after the other; a spare one behind them for scores outside all cells."""
    order = ordered(scores)
    unsigned = jnp.uint64 if order.dtype == jnp.int64 else jnp.uint32
    spare = CELLS * SLOTS + jnp.arange(scores.shape[1], dtype=jnp.int32) % SPARE
    slot = jnp.broadcast_to(spare, scores.shape)
    for first, width, shift, start in zip(*refinement, range(0, CELLS * SLOTS, SLOTS)):
        distance = (order - first).astype(unsigned)  # very large for orders below the cell
        inner = (distance >> shift.astype(unsigned)).astype(jnp.int32)
        slot = jnp.where(distance < width.astype(unsigned), start + inner, slot)
    return slot


def mesh_of(devices: Sequence[Any] | None) -> Mesh:
    """A mesh of these devices; without any, of the one that JAX computes on."""
    chosen = list(jnp.zeros(()).devices()) if devices is None else list(devices)
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def sharded(mesh: Mesh) -> NamedSharding:
    """Of arrays with a leading axis [devices], a part on each."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


@functools.partial(
    jax.jit,
    static_argnames=("mesh", "strip", "block", "bound", "find", "rank", "count"),
    donate_argnames=("mates",),
)
def sweep(
    probes: Float[Array, "devices rows width"],
    gallery: Float[Array, "tile width"],
    strips: Int[Array, " devices"],
    table: MateTable,
    start: Int[Leaf, ""],
    mates: Mates | None,
    refinement: Refinement | None,
    *,
    mesh: Mesh,
    strip: int,
    block: int,
    bound: float,
    find: bool,
    rank: bool,
    count: bool,
) -> tuple[Mates | None, Int[Array, "devices counts"] | None]:
    """Scores a segment of probes on each device with one tile of the gallery.

    Args:
      probes, gallery: rows as ``inputs.Side`` places them; padding rows are zero.
      strips: strips that hold probes; the others are skipped.
      table: the segments' mates.
      start: index of the tile's first row in the gallery.
      mates: what is known of the mates so far; None where neither ``find`` nor ``rank``.
      refinement: counts scores in its slots; None to count them in bins.
      mesh: of the devices.
      strip, block: probes of one product, and probes that are counted in one step.
      bound: a power of two that no score exceeds by more than rounding.
      find: whether to look up the scores of the mates that are in this tile.
      rank: whether to count the scores that are ≥ each mate's, which must be known from all tiles.
      count: whether to count scores along the axis.

    Returns:
      Mates, this tile's scores included, and counts of this call, [devices, BINS] or [devices, CELLS * SLOTS + SPARE].
    """

    def one_device(own: Any, common: Any) -> Any:
        probes, strips, table, mates = own
        gallery, start, refinement = common

        def visit(rows: Float[Array, "block tile"], number: Array, carry: Any) -> Any:
            mates, counts = carry
            if find or rank:
                mates = _mates_of_block(rows, number, table, start, mates, find, rank)
            if count:
                place = bin_of(rows, bound) if refinement is None else slot_of(rows, refinement)
                counts = counts.at[place.reshape(-1)].add(1, mode="promise_in_bounds")
            return mates, counts

        def one_strip(number: Array, carry: Any) -> Any:
            scores = scores_of_all(lax.dynamic_slice_in_dim(probes, number * strip, strip), gallery)

            def one_block(i: Array, carry: Any) -> Any:
                rows = lax.dynamic_slice_in_dim(scores, i * block, block)
                return visit(rows, number * (strip // block) + i, carry)

            return lax.fori_loop(0, strip // block, one_block, carry)

        size = BINS if refinement is None else CELLS * SLOTS + SPARE
        carry = mates, jnp.zeros(size, jnp.int32) if count else None
        return lax.fori_loop(0, strips, one_strip, carry)

    return _on_each(one_device, mesh, (probes, strips, table, mates), (gallery, start, refinement))


def _mates_of_block(
    rows: Float[Array, "block tile"],
    number: Array,
    table: MateTable,
    start: Array,
    mates: Mates,
    find: bool,
    rank: bool,
) -> Mates:
    """The mates of a block of probes, with their scores looked up and ranked; see ``sweep``."""

    def chunk(c: Array, mates: Mates) -> Mates:
        score, above = mates
        least = score[c]
        if find:
            place = table.index[c] - start
            inside = jnp.clip(place, 0, rows.shape[1] - 1)
            found = jnp.take_along_axis(rows, inside, axis=1, mode="promise_in_bounds")
            least = jnp.where(place == inside, found, least)
            score = jnp.asarray(score).at[c].set(least)
        if rank:
            above = jnp.asarray(above).at[c].add(at_least(rows, least))
        return Mates(score, above)

    first = table.first[number]
    return lax.fori_loop(first, first + table.chunks[number], chunk, mates)


def at_least(rows: Float[Array, "block tile"], least: Float[Array, "block some"]) -> Int[Array, "block some"]:
    """For each row and each of its limits, how many scores are ≥ it.

    Sums run over a short axis that is not the last one: on CPU, XLA does not vectorise other sums of comparisons, and
    they take seven times as long.
    """
    groups = rows.shape[1] // SUMMED_LANES
    depth = max(size for size in range(1, MOST_DEEP + 1) if groups % size == 0)
    split = rows.reshape(len(rows), 1, groups // depth, depth, SUMMED_LANES)
    return (split >= least[:, :, None, None, None]).sum(axis=3, dtype=jnp.int32).sum((2, 3), dtype=jnp.int32)


def _on_each(function: Callable[[Any, Any], Any], mesh: Mesh, own: Any, common: Any) -> Any:
    """``function(own part, common)`` on every device; ``own`` and the result have a leading axis [devices]."""

    def local(own: Any, common: Any) -> Any:
        mine = function(jax.tree.map(lambda leaf: leaf[0], own), common)
        return jax.tree.map(lambda leaf: leaf[None], mine)

    parts, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(parts, whole), out_specs=parts, check_vma=False)
    return mapped(own, common)
