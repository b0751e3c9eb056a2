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
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxalign.core.mesh import Layout
from jaxalign.core.precision import double_precision
from jaxalign.moments.blocks import padded_width
from jaxalign.moments.spread import DEVICE
from jaxalign.moments.tile_programs import (
    Matrices,
    Side,
    States,
    Task,
    encoders_program,
    pairs_program,
)

Pair = tuple[str, str]
Assigned = tuple[str, str, Any]  # the encoder among the rows, the one among the columns, what else is given
Item = TypeVar("Item")
CALL_BYTES = 2**27  # of results on each device, which are fetched before the next but one are computed


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


def work_on_encoders(function: Callable[..., Any], matrices: Matrices, arguments: Mapping[str, Any]) -> Dealt:
    """``function(argument, *own moments in each of the matrices)`` of every encoder.

    Args:
      function: the same object in every call, so that programs are shared.
      matrices: with one layout on one mesh.
      arguments: for each encoder to work on, pytrees of one structure.
    """
    states, place = {}, {}
    for size, call, places in encoder_calls(function, matrices, arguments):
        states[size] = encoders_program(*call)
        place.update({name: k for k, name in places.items()})
    return Dealt(States(states), place, matrices)


def encoder_calls(
    function: Callable[..., Any], matrices: Matrices, arguments: Mapping[str, Any]
) -> Iterator[tuple[int, tuple[Any, ...], dict[int, str]]]:
    """For each padded width, what ``encoders_program`` is called with, and which encoder is where in its results."""
    layout, mesh = matrices[0].layout, matrices[0].mesh
    alike: dict[int, list[str]] = {}
    for name in arguments:
        alike.setdefault(padded_width(layout.width_of(name)), []).append(name)
    for size, names in alike.items():
        blocks = [[name for name in names if layout.block_of(name) == p] for p in range(layout.blocks)]
        stack, places = _stacked(_shares(blocks, mesh.shape["data"]), names[0])
        side = _side(layout, stack, {})
        given = _sent((side, _stack([arguments[name] for name in stack])), mesh)
        yield size, (function, size, matrices, *given), places


def work_on_pairs(
    function: Callable[..., Any], dealt: Dealt, arguments: Mapping[Pair, Any], *, either_way: bool = False
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
    for group in pair_groups(function, dealt, arguments, either_way=either_way):
        yield from group.work()


def pair_groups(
    function: Callable[..., Any], dealt: Dealt, arguments: Mapping[Pair, Any], *, either_way: bool = False
) -> list[Group]:
    """The groups of ``work_on_pairs``."""
    matrix = dealt.matrices[0]
    layout, found = matrix.layout, {}
    for (source, target), argument in arguments.items():
        device, row, column = layout.holder(source, target)
        sizes = padded_width(layout.width_of(row)), padded_width(layout.width_of(column))
        kind = sizes, row != source and not either_way
        found.setdefault(kind, [[] for _ in range(layout.blocks)])[device].append((row, column, argument))
    return [
        Group(function, dealt, kind[0], kind[1], _shares(blocks, matrix.mesh.shape["data"]))
        for kind, blocks in found.items()
    ]


@dataclasses.dataclass(frozen=True)
class Group:
    """Pairs of one padded shape.

    Attributes:
      function: of each pair.
      dealt: the encoders.
      sizes: padded widths of the encoders among the rows and the columns.
      turned: whether the source is the one among the columns.
      shares: the pairs of each device, in the order of the mesh.
    """

    function: Callable[..., Any]
    dealt: Dealt
    sizes: tuple[int, int]
    turned: bool
    shares: list[list[Assigned]]

    @functools.cached_property
    def most(self) -> int:
        """Pairs of the device that has most."""
        return max(map(len, self.shares))

    @functools.cached_property
    def length(self) -> int:
        """Pairs of each device in one call."""
        with double_precision():
            each = _bytes(jax.eval_shape(pairs_program, *self.call(0, 1)[0])) // len(self.shares)
        calls = -(-self.most // min(self.most, max(1, CALL_BYTES // each)))
        return -(-self.most // calls)

    @property
    def firsts(self) -> range:
        """For each call the first of each device's pairs."""
        return range(0, self.most, self.length)

    def call(self, first: int, length: int) -> tuple[tuple[Any, ...], dict[int, Assigned]]:
        """What ``pairs_program`` is called with, and which pair is where in its results."""
        some = next(share[0] for share in self.shares if share)
        stack, places = _stacked([share[first : first + length] for share in self.shares], some, length)
        tasks = _tasks(self.dealt, stack)
        return (self.function, self.sizes, self.turned, self.dealt.matrices, self.dealt.states, tasks), places

    def work(self) -> Iterator[tuple[list[Pair], Any]]:
        """Calls the program; the next results are computed while some are fetched."""
        waiting: list[tuple[dict[int, Assigned], Any]] = []
        for first in self.firsts:
            with double_precision():
                call, places = self.call(first, self.length)
                waiting.append((places, pairs_program(*call)))
            if len(waiting) == 2:
                yield self._fetched(*waiting.pop(0))
        for part in waiting:
            yield self._fetched(*part)

    def _fetched(self, places: dict[int, Assigned], results: Any) -> tuple[list[Pair], Any]:
        pairs = [(column, row) if self.turned else (row, column) for row, column, _ in places.values()]
        index = list(places)
        return pairs, jax.tree.map(lambda leaf: np.asarray(leaf)[index], results)


def _tasks(dealt: Dealt, stack: Sequence[Assigned]) -> Task:
    layout = dealt.matrices[0].layout
    rows, columns, arguments = zip(*stack)
    tile = [(layout.block_of(c) - layout.block_of(r)) % layout.blocks for r, c in zip(rows, columns)]
    task = Task(
        _side(layout, rows, dealt.place),
        _side(layout, columns, dealt.place),
        np.array(tile),
        _stack(arguments),
    )
    return _sent(task, dealt.matrices[0].mesh)


def _side(layout: Layout, names: Sequence[str], place: Mapping[str, int]) -> Side:
    return Side(
        np.array(list(map(layout.start_of, names))),
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
