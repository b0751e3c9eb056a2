"""Work on spread moments, dealt to the devices of a mesh: each encoder, and each pair, once.

A device works on what it holds: on the encoders of its block of columns, which are dealt over ``data``, and on the
pairs whose block of the matrix is among its tiles. What the work on encoders gives is sent to all devices, K matrices
of d × d; pairs then need no communication. Devices that have less to do than others repeat an item, which is left out
of the results.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from jaxalign.blocks import Columns, CrossMoments, OwnMoments, padded_width, transposed
from jaxalign.mesh import AXES, Layout
from jaxalign.precision import double_precision
from jaxalign.pytree import Leaf, pytree
from jaxalign.spread import DEVICE, SpreadMoments, on_devices

Pair = tuple[str, str]
Assigned = tuple[str, str, Any]  # the encoder among the rows, the one among the columns, what else is given
Item = TypeVar("Item")
Matrices = tuple[SpreadMoments, ...]
ACCELERATOR_BATCH = 8  # items that an accelerator works on at once; a CPU takes one after the other
CALL_BYTES = 2**27  # of results on each device, which are fetched before the next but one are computed


@pytree
class States:
    """What the work on encoders gave, on every device.

    Attributes:
      of: for each padded width the states side by side, along a leading axis; each with the power of the encoder's
        columns in each of the matrices.
    """

    of: Mapping[int, tuple[Any, tuple[Array, ...]]]


@dataclasses.dataclass(frozen=True)
class Dealt:
    """Encoders that were worked on.

    Attributes:
      states: on the devices.
      place: of each encoder among the states of its padded width.
      matrices: moments with one layout on one mesh.
    """

    states: States
    place: Mapping[str, int]
    matrices: Matrices


@pytree
class Side:
    """Encoders of one padded width, as their columns are found on a device.

    Attributes:
      start: first column among those of the device's tiles.
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
    """A pair, or a stack of them: the encoder among the rows of the matrix, the other, and what else is given."""

    row: Side
    column: Side
    argument: Any


def work_on_encoders(function: Callable[..., Any], matrices: Matrices, arguments: Mapping[str, Any]) -> Dealt:
    """``function(argument, *own moments in each of the matrices)`` of every encoder.

    Args:
      function: the same object in every call, so that programs are shared.
      matrices: with one layout on one mesh.
      arguments: for each encoder to work on, pytrees of one structure.
    """
    layout, mesh = matrices[0].layout, matrices[0].mesh
    alike: dict[int, list[str]] = {}
    for name in arguments:
        alike.setdefault(padded_width(matrices[0].width(name)), []).append(name)
    states, place = {}, {}
    for size, names in alike.items():
        blocks = [[name for name in names if layout.block_of(name) == p] for p in range(layout.blocks)]
        stack, places = _stacked(_shares(blocks, mesh.shape["data"]), names[0])
        place.update({name: k for k, name in places.items()})
        side = _side(layout, stack, [layout.start_of(name) for name in stack], {})
        states[size] = encoders_program(
            function, size, matrices, *_sent((side, _stack([arguments[name] for name in stack])), mesh)
        )
    return Dealt(States(states), place, matrices)


def work_on_pairs(
    function: Callable[..., Any],
    dealt: Dealt,
    arguments: Mapping[Pair, Any],
    *,
    either_way: bool = False,
) -> Iterator[tuple[list[Pair], Any]]:
    """``function(argument, source state, target state, *cross moments in each of the matrices)`` of every pair.

    Args:
      function: the same object in every call.
      dealt: the encoders.
      arguments: for each ordered pair, pytrees of one structure in each padded shape.
      either_way: whether a pair may be turned round; arguments then hold one direction of each.

    Yields:
      Pairs, as they were worked on, and the results on the host, stacked in that order.
    """
    layout = dealt.matrices[0].layout
    groups: dict[tuple[int, int, bool], list[list[Assigned]]] = {}
    for (source, target), argument in arguments.items():
        device, row, column = layout.holder(source, target)
        turned = row != source and not either_way
        sizes = padded_width(layout.width_of(row)), padded_width(layout.width_of(column))
        blocks = groups.setdefault((*sizes, turned), [[] for _ in range(layout.blocks)])
        blocks[device].append((row, column, argument))
    for (p, q, turned), blocks in groups.items():
        yield from _work_on_group(function, dealt, blocks, (p, q), turned)


def _work_on_group(
    function: Callable[..., Any],
    dealt: Dealt,
    blocks: list[list[Assigned]],
    sizes: tuple[int, int],
    turned: bool,
) -> Iterator[tuple[list[Pair], Any]]:
    """Pairs of one padded shape, some for every device at a time, the next computed while some are fetched."""
    shares = _shares(blocks, dealt.matrices[0].mesh.shape["data"])
    most = max(map(len, shares))
    some = next(block[0] for block in blocks if block)
    program = functools.partial(pairs_program, function, sizes, turned, dealt.matrices, dealt.states)
    with double_precision():
        each = _bytes(jax.eval_shape(program, _tasks(dealt, [some] * len(shares)))) // len(shares)
    calls = -(-most // min(most, max(1, CALL_BYTES // each)))
    length = -(-most // calls)
    waiting: list[tuple[dict[int, Assigned], Any]] = []
    for first in range(0, most, length):
        stack, places = _stacked([share[first : first + length] for share in shares], some, length)
        with double_precision():
            waiting.append((places, program(_tasks(dealt, stack))))
        if len(waiting) == 2:
            yield _fetched(*waiting.pop(0), turned)
    for part in waiting:
        yield _fetched(*part, turned)


def _fetched(places: dict[int, Assigned], results: Any, turned: bool) -> tuple[list[Pair], Any]:
    pairs = [(column, row) if turned else (row, column) for row, column, _ in places.values()]
    index = list(places)
    whole = index == list(range(len(jax.tree.leaves(results)[0])))
    return pairs, jax.tree.map(lambda leaf: np.asarray(leaf) if whole else np.asarray(leaf)[index], results)


def _tasks(dealt: Dealt, stack: Sequence[Assigned]) -> Task:
    layout = dealt.matrices[0].layout
    rows, columns, arguments = zip(*stack)
    ahead = [(layout.block_of(c) - layout.block_of(r)) % layout.blocks for r, c in zip(rows, columns)]
    starts = [k * layout.width + layout.start_of(column) for k, column in zip(ahead, columns)]
    task = Task(
        _side(layout, rows, list(map(layout.start_of, rows)), dealt.place),
        _side(layout, columns, starts, dealt.place),
        _stack(arguments),
    )
    return _sent(task, dealt.matrices[0].mesh)


def _side(layout: Layout, names: Sequence[str], starts: Sequence[int], place: Mapping[str, int]) -> Side:
    return Side(
        np.array(starts),
        np.array(list(map(layout.column, names))),
        np.array(list(map(layout.width_of, names))),
        np.array([place.get(name, 0) for name in names]),
    )


def _stack(arguments: Sequence[Any]) -> Any:
    return jax.tree.map(
        lambda *leaves: np.stack([np.asarray(leaf, np.float64) for leaf in leaves]), *arguments
    )


def _shares(blocks: list[list[Item]], data: int) -> list[list[Item]]:
    """What is in each block dealt over ``data``: a list for each device, in the order of the mesh."""
    return [block[r::data] for r in range(data) for block in blocks]


def _stacked(shares: list[list[Item]], filling: Item, length: int = 1) -> tuple[list[Item], dict[int, Item]]:
    """The items of all devices one after the other, as many for each; and those that are no repeats, by number.

    Args:
      shares: of each device.
      filling: for devices that have none.
      length: of each device's part, at least.
    """
    length = max(length, *map(len, shares))
    stack: list[Item] = []
    real: dict[int, Item] = {}
    for items in shares:
        real.update(enumerate(items, start=len(stack)))
        stack += [*items, *[items[0] if items else filling] * (length - len(items))]
    return stack, real


def _sent(tree: Any, mesh: Mesh) -> Any:
    with double_precision():
        return jax.device_put(tree, NamedSharding(mesh, DEVICE))


def _bytes(shapes: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


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
    scatter = here.take(here.take(matrix.scatter[0], 0), 1)
    return OwnMoments(scatter, everywhere.take(matrix.mean, 0), matrix.weight, matrix.count, here.width)


def _cross(matrix: SpreadMoments, task: Task, sizes: tuple[int, int], power: Array) -> CrossMoments:
    """Moments of one pair whose block is among the tiles of this device."""
    (row, column), (p, q) = (task.row, task.column), sizes
    rows, columns = row.among(row.start, p), column.among(column.start, q)
    means = [side.among(side.column, size).take(matrix.mean, 0) for side, size in ((row, p), (column, q))]
    xy = columns.take(rows.take(matrix.scatter[0], 0), 1)
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
