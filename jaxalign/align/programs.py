"""Work on encoders and on pairs from their moments: few programs, each for many pairs, whatever the widths.

Encoders are padded with zero columns to a few widths; one program for each padded width works on encoders alone, one
for each padded shape on pairs. Over a mesh, an encoder belongs to the devices that hold its row block, and a pair to
those of its source. The states of encoders are sent to all devices; pairs then need no communication.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.core.devices import AXES, at_once, concurrently, padded_width
from jaxalign.core.precision import double_precision
from jaxalign.moments.blocks import EncoderSpan, cross_moments, own_moments
from jaxalign.moments.scatter import Sums
from jaxalign.moments.sharded import ShardedMoments

Pair = tuple[str, str]
Item = TypeVar("Item")
DEVICES = P(AXES)  # one part of the leading axis for each device
CALL_BYTES = 2**28  # of the results of one call on each device, about


@dataclasses.dataclass(frozen=True)
class EncoderStates:
    """What the work on encoders gave, stacked by padded width, on every device."""

    states: Mapping[int, Any]
    index: Mapping[str, int]  # of each encoder in its stack


def on_encoders(
    function: Callable[..., Any], moments: tuple[Any, ...], arguments: Mapping[str, Any]
) -> EncoderStates:
    """``function(argument, *own moments in each of moments)`` of every encoder in ``arguments``.

    Programs are shared where ``function`` is the same object and the arguments are pytrees of one structure.
    """
    unnamed = tuple(part.unnamed() for part in moments)
    calls = encoder_calls(moments[0], arguments)
    found = _results(moments[0], lambda call: encoders_program(function, unnamed, *call.given), calls)
    results: dict[int, list[Any]] = {}
    index: dict[str, int] = {}
    for call, states in zip(calls, found):
        earlier = results.setdefault(call.shape, [])
        index.update({name: place + len(earlier) * call.length for place, name in call.members.items()})
        earlier.append(states)
    with double_precision():
        states = {size: jax.tree.map(_concatenated, *parts) for size, parts in results.items()}
    return EncoderStates(states, index)


def on_pairs(
    function: Callable[..., Any],
    moments: tuple[Any, ...],
    encoders: EncoderStates,
    arguments: Mapping[Pair, Any],
    *,
    both_states: bool = False,
) -> Iterator[tuple[dict[int, Pair], Any]]:
    """``function(argument, source state, target state, *cross moments in each of moments)`` of pairs in ``arguments``.

    The target's state is None unless ``both_states``. Yields pairs by index, and their results on the host, stacked.
    """
    unnamed, powers = tuple(part.unnamed() for part in moments), tuple(part.power() for part in moments)

    def run(call: Call) -> Any:
        return jax.tree.map(np.asarray, pairs_program(function, unnamed, powers, *call.given))

    calls = pair_calls(moments[0], encoders, arguments, both_states=both_states)
    for call, results in zip(calls, _results(moments[0], run, calls)):
        yield call.members, results


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a program."""

    shape: Any  # padded width of its encoders, or of both encoders of its pairs
    members: dict[int, Any]  # encoders or pairs by index in the results; other results repeat one of them
    length: int  # number of results
    given: tuple[Any, ...]  # what it takes besides the moments; the last are the items


def encoder_calls(total: Sums, arguments: Mapping[str, Any]) -> list[Call]:
    """The calls of ``encoders_program`` for these encoders."""
    calls = []
    for size, names in _alike(arguments, lambda name: padded_width(total.width(name))):
        every = EncoderSpan.stack(total, names)
        for stack, members in _stacks(total, names, names, numbers=0):
            items = every.at(stack), _stacked([arguments[names[k]] for k in stack], total)
            calls.append(Call(size, members, len(stack), (items,)))
    return calls


def pair_calls(
    total: Sums, encoders: EncoderStates, arguments: Mapping[Pair, Any], *, both_states: bool
) -> list[Call]:
    """The calls of ``pairs_program`` for these pairs."""
    sizes = {name: padded_width(width) for name, width in zip(total.names, total.widths)}
    calls = []
    for (p, q), pairs in _alike(arguments, lambda pair: (sizes[pair[0]], sizes[pair[1]])):
        sources, targets = zip(*pairs)
        sides = EncoderSpan.stack(total, sources), EncoderSpan.stack(total, targets)
        stacked = encoders.states[p], encoders.states[q] if both_states else None
        places = [np.array([encoders.index.get(name, 0) for name in side]) for side in (sources, targets)]
        for stack, members in _stacks(total, pairs, sources, numbers=p * q):
            given = [side.at(stack) for side in sides], [place[stack] for place in places]
            items = *given, _stacked([arguments[pairs[k]] for k in stack], total)
            calls.append(Call((p, q), members, len(stack), (stacked, items)))
    return calls


@functools.partial(jax.jit, static_argnums=0)
def encoders_program(
    function: Callable[..., Any], moments: tuple[Any, ...], items: tuple[EncoderSpan, Any]
) -> Any:
    """The work on a stack of encoders of one padded width."""

    def one(moments: tuple[Any, ...], shared: None, item: tuple[EncoderSpan, Any]) -> Any:
        encoder, argument = item
        return function(argument, *(own_moments(part, encoder) for part in moments))

    states, mesh = _one_by_one(one, moments, None, items), _mesh(moments[0])
    return states if mesh is None else jax.lax.with_sharding_constraint(states, NamedSharding(mesh, P()))


@functools.partial(jax.jit, static_argnums=0)
def pairs_program(
    function: Callable[..., Any],
    moments: tuple[Any, ...],
    powers: tuple[Any, ...],
    states: tuple[Any, Any],
    items: tuple[Any, Any, Any],
) -> Any:
    """The work on a stack of pairs of one padded shape, without communication."""

    def one(moments: tuple[Any, ...], shared: tuple[Any, Any], item: Any) -> Any:
        powers, states = shared
        (source, target), places, argument = item
        crosses = [cross_moments(part, power, source, target) for part, power in zip(moments, powers)]
        of_pair = [jax.tree.map(lambda leaf, k=k: leaf[k], state) for state, k in zip(states, places)]
        return function(argument, *of_pair, *crosses)

    return _one_by_one(one, moments, (powers, states), items)


def _one_by_one(one: Callable[..., Any], moments: tuple[Any, ...], shared: Any, items: Any) -> Any:
    """``one(moments, shared, item)`` of every item; on a mesh each device works on its own items."""

    def local(moments: tuple[Any, ...], shared: Any, items: Any) -> Any:
        # One after the other: decompositions do not batch well on GPU (jax issue 10180).
        return jax.lax.map(lambda item: one(moments, shared, item), items)

    mesh = _mesh(moments[0])
    if mesh is None:
        return local(moments, shared, items)
    specs = tuple(part.specs() for part in moments), P(), DEVICES
    over_devices = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=DEVICES, check_vma=False)
    return over_devices(moments, shared, items)


def _mesh(moments: Sums) -> Mesh | None:
    return moments.mesh if isinstance(moments, ShardedMoments) else None


def _alike(items: Iterable[Item], key: Callable[[Item], Any]) -> list[tuple[Any, list[Item]]]:
    """The items of each key, the largest key first."""
    found: dict[Any, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return sorted(found.items(), reverse=True, key=lambda entry: entry[0])


def _stacks(
    total: Sums, items: Sequence[Item], homes: Sequence[str], numbers: int
) -> Iterator[tuple[list[int], dict[int, Item]]]:
    """Divides items of one shape among calls, and those of a call among the devices of their ``homes``.

    Yields for each call indices of items, as many for each device in the order of the mesh (devices that have fewer
    repeat one), and the items that are no repeats, by place. A result has so many ``numbers``.
    """
    mesh = _mesh(total)
    shares = [list(range(len(items)))]
    if mesh is not None:
        blocks: list[list[int]] = [[] for _ in range(mesh.shape["pairs"])]
        for k, name in enumerate(homes):
            blocks[total.place(name)[0]].append(k)
        data = mesh.shape["data"]
        shares = [block[row::data] for row in range(data) for block in blocks]
    most = max(map(len, shares))
    length = _length(most, numbers, one_device=mesh is None)
    for first in range(0, most, length):
        stack: list[int] = []
        members: dict[int, Item] = {}
        for share in shares:
            part = share[first : first + length]
            members.update({len(stack) + place: items[k] for place, k in enumerate(part)})
            stack += part + [part[0] if part else 0] * (length - len(part))
        yield stack, members


def _length(most: int, numbers: int, one_device: bool) -> int:
    """Items of a call on each device: few enough for its memory and, on a CPU, for all cores to have a call."""
    length = min(most, CALL_BYTES // (16 * numbers)) if numbers else most
    workers = at_once(most) if one_device else 1
    if workers > 1:
        length = 1 if most < 4 * workers else min(length, -(-most // workers))
    calls = -(-most // max(1, length))
    return -(-most // calls)


def _results(total: Sums, run: Callable[[Call], Any], calls: list[Call]) -> Iterator[Any]:
    """The results of the calls, in order."""
    mesh = _mesh(total)

    def work(call: Call) -> Any:
        with double_precision():
            if mesh is not None:
                *fixed, items = call.given
                items = jax.device_put(items, NamedSharding(mesh, DEVICES))
                call = dataclasses.replace(call, given=(*fixed, items))
            return run(call)

    return concurrently(work, calls) if mesh is None else map(work, calls)


def _stacked(arguments: Sequence[Any], total: Sums) -> Any:
    """Arguments in the format of the moments, stacked."""
    dtype = total.mean.dtype
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, dtype) for leaf in leaves]), *arguments)


def _concatenated(*parts: Any) -> Any:
    return parts[0] if len(parts) == 1 else jax.device_put(np.concatenate(parts))
