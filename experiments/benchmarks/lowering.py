"""The programs of moments and solves over a mesh, compiled for shapes alone: no rows and no matrix are made."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxalign.moments.sharded import MeshAccumulator, ShardedMoments, add_chunk, reduced

from jaxalign.align import programs, solve
from jaxalign.align.solvers import Solver
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.moments.moments import Moments

Pair = tuple[str, str]
Program = Callable[[], Any]  # compiles it


def moments_shape(encoders: int, width: int) -> Any:
    """Moments of encoders of one width on one device, shapes alone."""
    names = [f"encoder {k:03}" for k in range(encoders)]
    with double_precision():
        return jax.eval_shape(lambda: Moments.empty(names, [width] * encoders))


def sharded_shape(shapes: Any, mesh: Mesh) -> Any:
    """The same over a mesh."""
    sharded = ShardedMoments.like(shapes, mesh)
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)),
        sharded,
        sharded.specs(),
    )


def moment_programs(shapes: Any, mesh: Mesh, rows: int, format_: Any) -> Mapping[str, Program]:
    """The programs that add a chunk of so many rows, and that bring the sums of devices together."""
    of_total = ShardedMoments.like(shapes, mesh) if mesh.shape["pairs"] > 1 else shapes
    accumulator = MeshAccumulator(of_total, mesh)
    share = -(-rows // accumulator.shards)
    sharding = NamedSharding(mesh, P("data"))

    def part(of: Any, *side: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((accumulator.shards, share, *side), of, sharding=sharding)

    chunk = tuple(part(format_, width) for width in shapes.widths), part(moment_dtype())
    partial = accumulator.partial
    return {
        "chunk": lambda: _compiled(add_chunk, partial, *chunk),
        "reduced": lambda: _compiled(reduced, partial, mesh=mesh),
    }


def solve_programs(
    total: Any, solvers: Mapping[Pair, Solver]
) -> tuple[list[Program], list[tuple[int, int, Program]]]:
    """The programs that factor encoders; and those that solve pairs, each with its results in a call and its calls."""
    (work,) = solve.works(total, solvers)
    unnamed, power = total.unnamed(), total.mean
    everywhere, shared = NamedSharding(total.mesh, P()), NamedSharding(total.mesh, programs.DEVICES)

    def placed(tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    states, index, factoring, pairs = {}, {}, [], {}
    with double_precision():
        for call in programs.encoder_calls(total, work.factoring):
            given = work.factor, (unnamed,), placed(call.given[0], shared)
            states[call.shape] = placed(jax.eval_shape(programs.encoders_program, *given), everywhere)
            index.update({name: k for k, name in call.members.items()})
            factoring.append(lambda given=given: _compiled(programs.encoders_program, *given))
        encoders = programs.EncoderStates(states, index)
        for call in programs.pair_calls(total, encoders, work.pairs, both_states=not work.first.columnwise):
            of_states, items = call.given
            given = work.function, (unnamed,), (power,), of_states, placed(items, shared)
            pairs.setdefault(call.shape, []).append((call.length, given))
    solving = [
        (calls[0][0], len(calls), lambda given=calls[0][1]: _compiled(programs.pairs_program, *given))
        for calls in pairs.values()
    ]
    return factoring, solving


def _compiled(program: Any, *given: Any, **static: Any) -> Any:
    with double_precision():
        return program.lower(*given, **static).compile()
