"""Programs that work on encoders and pairs of spread moments, on every device of a mesh those it holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from jaxalign.core.mesh import AXES
from jaxalign.core.pytree import Leaf, pytree
from jaxalign.moments.blocks import Columns, CrossMoments, OwnMoments, transposed
from jaxalign.moments.spread import DEVICE, SpreadMoments, on_devices

Matrices = tuple[SpreadMoments, ...]
ACCELERATOR_BATCH = 8  # items that an accelerator works on at once; a CPU takes one after the other


@pytree
class States:
    """What the work on encoders gave, on every device.

    Attributes:
      of: for each padded width the states side by side, along a leading axis; each with the power of the encoder's
        columns in each of the matrices.
    """

    of: Mapping[int, tuple[Any, tuple[Array, ...]]]


@pytree
class Side:
    """Encoders of one padded width, as their columns are found on a device.

    Attributes:
      start: first column within its block.
      column: first column when all blocks are side by side.
      width: number of columns.
      state: number of its state.
    """

    start: Int[Leaf, "*n"]
    column: Int[Leaf, "*n"]
    width: Int[Leaf, "*n"]
    state: Int[Leaf, "*n"]

    def among(self, first: Leaf, size: int) -> Columns:
        """The columns of one encoder, from a first one on."""
        return Columns(jnp.asarray(first)[None], (jnp.asarray(self.width),), (size,))


@pytree
class Task:
    """A pair, or a stack of them.

    Attributes:
      row, column: the encoder among the rows of the matrix, and the other.
      tile: number of the tile, among those of a device.
      argument: what else is given.
    """

    row: Side
    column: Side
    tile: Int[Leaf, "*n"]
    argument: Any


@functools.partial(jax.jit, static_argnums=(0, 1))
def encoders_program(
    function: Callable[..., Any], size: int, matrices: Matrices, side: Side, arguments: Any
) -> tuple[Any, tuple[Array, ...]]:
    """The work on encoders of one padded width; the states are sent to all devices."""

    def local(matrices: Matrices, side: Side, arguments: Any) -> Any:
        def one(task: tuple[Side, Any]) -> Any:
            owns = [_own(matrix, task[0], size) for matrix in matrices]
            return function(task[1], *owns), tuple(own.scatter.diagonal() for own in owns)

        # One after the other: eigendecompositions do not batch well on GPU (jax issue 10180).
        states = jax.lax.map(one, (side, arguments))
        return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXES, tiled=True), states)

    specs = tuple(matrix.specs for matrix in matrices), DEVICE, DEVICE
    return on_devices(matrices[0].mesh, local, specs, P())(matrices, side, arguments)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def pairs_program(
    function: Callable[..., Any],
    sizes: tuple[int, int],
    turned: bool,
    matrices: Matrices,
    states: States,
    tasks: Task,
) -> Any:
    """The work on pairs of one padded shape, without any communication."""

    def local(matrices: Matrices, states: States, tasks: Task) -> Any:
        def one(task: Task) -> Any:
            sides = [
                jax.tree.map(lambda leaf, side=side: leaf[side.state], states.of[size])
                for side, size in zip((task.row, task.column), sizes)
            ]
            (row, row_power), (column, column_power) = sides
            crosses = [_cross(matrix, task, sizes, column_power[k]) for k, matrix in enumerate(matrices)]
            if turned:
                crosses = [transposed(cross, row_power[k]) for k, cross in enumerate(crosses)]
                row, column = column, row
            return function(task.argument, row, column, *crosses)

        return map_in_batches(one, tasks)

    specs = tuple(matrix.specs for matrix in matrices), P(), DEVICE
    return on_devices(matrices[0].mesh, local, specs, DEVICE)(matrices, states, tasks)


def _own(matrix: SpreadMoments, side: Side, size: int) -> OwnMoments:
    """Moments of one encoder of the block of this device."""
    here, everywhere = side.among(side.start, size), side.among(side.column, size)
    scatter = here.take(here.take(matrix.scatter[0][0], 0), 1)
    return OwnMoments(scatter, everywhere.take(matrix.mean, 0), matrix.weight, matrix.count, here.width)


def _cross(matrix: SpreadMoments, task: Task, sizes: tuple[int, int], power: Array) -> CrossMoments:
    """Moments of one pair whose block is among the tiles of this device."""
    (row, column), (p, q) = (task.row, task.column), sizes
    rows, columns = row.among(row.start, p), column.among(column.start, q)
    means = [side.among(side.column, size).take(matrix.mean, 0) for side, size in ((row, p), (column, q))]
    xy = jax.lax.switch(
        task.tile,
        [lambda tile=tile: columns.take(rows.take(tile[0], 0), 1) for tile in matrix.scatter],
    )
    return CrossMoments(xy, power, means[0], means[1], matrix.weight, rows.width, columns.width)


def map_in_batches(function: Callable[[Any], Any], items: Any) -> Any:
    """``function`` of every item, several at a time where that helps; the last batch is filled up with item 0."""
    count = jax.tree.leaves(items)[0].shape[0]
    size = 1 if jax.default_backend() == "cpu" else min(ACCELERATOR_BATCH, count)
    if size == 1:
        return jax.lax.map(function, items)
    filled = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[:1], -count % size, axis=0)]).reshape(
            -1, size, *leaf.shape[1:]
        ),
        items,
    )
    out = jax.lax.map(jax.vmap(function), filled)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], out)
