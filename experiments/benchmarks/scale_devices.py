"""Reads from compiled programs what each device of a mesh has to do, to send and to hold. Nothing is timed.

  python -m experiments.benchmarks.scale_devices --out=results/benchmark_devices.json

Two questions, answered on eight simulated CPU devices from shapes alone, without rows or matrices. How does the work of
a device fall on meshes of 1, 2, 4 and 8 devices? And how much memory does each of 8 devices need for a sweep of 200
encoders of width 512? The programs are those that ``Moments.of`` and ``fit_pairs`` run on a mesh.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import define, show, write
from experiments.run import cli, flags
from jaxalign import Moments, device_mesh
from jaxalign.align import programs, solve
from jaxalign.align.solvers import Canonical, Ridge, Solver
from jaxalign.core.devices import matrix_elements
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.moments.accumulate import CHUNK_ELEMENTS
from jaxalign.moments.sharded import MeshAccumulator, ShardedMoments, add_chunk, reduced

COUNTS = (1, 2, 4, 8)
FOLDS = 5
COLLECTIVE = r"= (.*?) (?:all-gather|all-reduce|reduce-scatter|all-to-all|collective-[a-z]+)(?:-start)?\("
ARRAY = r"\b(?:pred|[a-z]+([0-9]+))\[([0-9,]*)\]"  # bits of a number, if not a boolean, and the shape
Program = Callable[[], Any]  # compiles it
VALUES = define(
    encoders=flags.Flag(16, "Encoders whose work is shared.", least=8),
    width=flags.Flag(128, "Their width.", least=1),
    plan_encoders=flags.Flag(200, "Encoders of the large sweep.", least=2),
    plan_width=flags.Flag(512, "Their width.", least=1),
)


def main(_: Sequence[str]) -> None:
    """Prints and writes the figures of both questions."""
    if jax.config.jax_num_cpu_devices < COUNTS[-1]:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_num_cpu_devices", COUNTS[-1])
    record = {
        "devices": dict(work_of_devices(VALUES.encoders, VALUES.width)),
        "plan": dict(memory_of_plan(VALUES.plan_encoders, VALUES.plan_width)),
    }
    for figures in record.values():
        show(figures)
    write(VALUES.out, record)


def work_of_devices(encoders: int, width: int) -> Iterator[tuple[str, float]]:
    """The work of a device relative to one device alone, and bytes sent.

    Operations are those of matrix products and elementwise work; decompositions are library calls that XLA does not
    count, so encoders are counted instead.
    """
    alone, many = (dict(work_of_one("data", 1, number, width)) for number in (encoders, 2 * encoders))
    for axis in ("data", "pairs"):
        for count in COUNTS:
            found = alone if count == 1 else dict(work_of_one(axis, count, encoders, width))
            for name, value in found.items():
                yield f"{count} on {axis}: {name}", value / alone[name] if "/ of one" in name else value
    pairs = 2 * (2 * encoders - 1) / (encoders - 1)
    expected = {"moments": ("D²", 4.0), "ridge": ("pairs", pairs), "canonical": ("pairs", pairs)}
    for name, (what, ratio) in expected.items():
        figure = f"{name}, operations / of one"
        yield f"twice the encoders: {name} / what {what} says", many[figure] / alone[figure] / ratio


def work_of_one(axis: str, count: int, encoders: int, width: int) -> Iterator[tuple[str, float]]:
    """The work of each of ``count`` devices on one axis of a mesh."""
    mesh = device_mesh(jax.devices("cpu")[:count], pairs=count if axis == "pairs" else 1)
    shapes = moments_shape(encoders, width)
    rows = 2048 * mesh.shape["data"]  # chunks grow with the devices that share their rows
    of_moments = moment_programs(shapes, mesh, rows, np.float32)
    chunk = of_moments["chunk"]()
    operations, traffic = (number / mesh.shape["data"] for number in cost(chunk))
    yield "moments, operations / of one", operations
    yield "moments, bytes of memory traffic / of one", traffic
    yield "moments, bytes sent for a chunk", sent(chunk)
    yield "moments, bytes sent at the end", sent(of_moments["reduced"]())
    more = moment_programs(shapes, mesh, 2 * rows, np.float32)["reduced"]()
    yield "moments, bytes sent at the end, of twice the rows", sent(more)
    total = sharded_shape(shapes, mesh)
    for solver in (Ridge(0.1), Canonical()):
        name = type(solver).__name__.lower()
        factoring, solving = solve_programs(total, solver)
        operations, traffic, bytes_sent = 0.0, 0.0, 0
        for length, calls, program in solving:  # XLA counts the body of the loop over pairs once
            one, times = program(), length // mesh.size * calls
            operations, traffic = np.add((operations, traffic), np.multiply(times, cost(one)))
            bytes_sent += calls * sent(one)
        yield f"{name}, operations / of one", operations
        yield f"{name}, bytes of memory traffic / of one", traffic
        yield f"{name}, encoders factored / of one", float(-(-encoders // mesh.size))
        yield f"{name}, bytes sent of factors", float(sum(sent(program()) for program in factoring))
        yield f"{name}, bytes sent of pairs", float(bytes_sent)


def memory_of_plan(encoders: int, width: int) -> Iterator[tuple[str, float]]:
    """Gigabytes (10⁹ bytes) at most on each of 8 devices on ``pairs`` while each program runs, and its calls."""
    mesh = device_mesh(jax.devices("cpu")[:8], pairs=8)
    shapes = moments_shape(encoders, width)
    matrix = 8 * matrix_elements(shapes.widths, mesh.shape["pairs"])
    rows = max(1, CHUNK_ELEMENTS // sum(shapes.widths))
    yield "rows of a chunk", rows
    yield "GB of the matrix", matrix / 1e9
    yield f"GB of the matrices of {FOLDS}-fold cross-validation", (FOLDS + 1) * matrix / 1e9
    of_moments = moment_programs(shapes, mesh, rows, np.float16)
    waiting = rows * sum(shapes.widths) * 2  # the next chunk, on its way
    yield "GB, moments: chunk", (peak(of_moments["chunk"]()) + waiting) / 1e9
    yield "GB, moments: reduced", peak(of_moments["reduced"]()) / 1e9
    yield "ordered pairs", encoders * (encoders - 1)
    for solver in (Ridge(0.1), Canonical()):
        name = type(solver).__name__.lower()
        factoring, solving = solve_programs(sharded_shape(shapes, mesh), solver)
        yield f"{name}: calls that factor", len(factoring)
        yield f"GB, {name}: factoring", max(peak(program()) for program in factoring) / 1e9
        yield f"{name}: calls that solve", sum(calls for _, calls, _ in solving)
        yield f"{name}: pairs of a device in a call", max(length for length, _, _ in solving) // mesh.size
        compiled = [program() for _, _, program in solving]
        # The results of the call before are still there.
        most = max(peak(one) + one.memory_analysis().output_size_in_bytes for one in compiled)
        yield f"GB, {name}: solving", most / 1e9


def moments_shape(encoders: int, width: int) -> Any:
    """Moments of encoders of one width on one device, shapes alone."""
    names = [f"encoder {k:03}" for k in range(encoders)]
    with double_precision():
        return jax.eval_shape(lambda: Moments.empty(names, [width] * encoders))


def sharded_shape(shapes: Any, mesh: Mesh) -> Any:
    """The same moments over a mesh."""
    sharded = ShardedMoments.like(shapes, mesh)
    return jax.tree.map(lambda leaf, spec: placed(leaf, NamedSharding(mesh, spec)), sharded, sharded.specs())


def moment_programs(shapes: Any, mesh: Mesh, rows: int, dtype: Any) -> Mapping[str, Program]:
    """The programs that add a chunk of so many rows, and that bring the sums of devices together."""
    total = ShardedMoments.like(shapes, mesh) if mesh.shape["pairs"] > 1 else shapes
    accumulator, sharding = MeshAccumulator(total, mesh), NamedSharding(mesh, P("data"))
    share = -(-rows // accumulator.shards)

    def part(of: Any, *side: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((accumulator.shards, share, *side), of, sharding=sharding)

    chunk = tuple(part(dtype, width) for width in shapes.widths), part(moment_dtype())
    return {
        "chunk": lambda: compiled(add_chunk, accumulator.partial, *chunk),
        "reduced": lambda: compiled(reduced, accumulator.partial, mesh=mesh),
    }


def solve_programs(total: Any, solver: Solver) -> tuple[list[Program], list[tuple[int, int, Program]]]:
    """The programs that factor encoders; and those that solve pairs, each with the results of a call and its calls."""
    (work,) = solve.works(total, {(a, b): solver for a in total.names for b in total.names if a != b})
    unnamed, power = total.unnamed(), total.mean
    everywhere, shared = NamedSharding(total.mesh, P()), NamedSharding(total.mesh, programs.DEVICES)
    states, index, factoring, pairs = {}, {}, [], {}
    with double_precision():
        for call in programs.encoder_calls(total, work.factoring):
            given = work.factor, (unnamed,), placed(call.given[0], shared)
            states[call.shape] = placed(jax.eval_shape(programs.encoders_program, *given), everywhere)
            index.update({name: k for k, name in call.members.items()})
            factoring.append(lambda given=given: compiled(programs.encoders_program, *given))
        encoders = programs.EncoderStates(states, index)
        for call in programs.pair_calls(total, encoders, work.pairs, both_states=not work.first.columnwise):
            of_states, items = call.given
            given = work.function, (unnamed,), (power,), of_states, placed(items, shared)
            pairs.setdefault(call.shape, []).append((call.length, given))
    solving = [
        (calls[0][0], len(calls), lambda given=calls[0][1]: compiled(programs.pairs_program, *given))
        for calls in pairs.values()
    ]
    return factoring, solving


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """The same shapes with a sharding."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def compiled(program: Any, *given: Any, **static: Any) -> Any:
    """A program compiled for shapes."""
    with double_precision():
        return program.lower(*given, **static).compile()


def cost(program: Any) -> tuple[float, float]:
    """Floating-point operations and bytes of memory traffic on a device, the bodies of loops counted once."""
    analysis = program.cost_analysis()
    return float(analysis.get("flops", 0.0)), float(analysis.get("bytes accessed", 0.0))


def peak(program: Any) -> int:
    """Bytes of memory on a device: arguments, results and what is in between, shared ones counted once."""
    memory = program.memory_analysis()
    sizes = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return sizes - memory.alias_size_in_bytes


def sent(program: Any) -> int:
    """Bytes of the results of all collective operations on a device."""
    total = 0
    for shapes in re.findall(COLLECTIVE, program.as_text()):
        for bits, dims in re.findall(ARRAY, shapes):
            total += int(bits or 8) // 8 * math.prod(int(dim) for dim in dims.split(",") if dim)
    return total


if __name__ == "__main__":
    cli.run(main, values=VALUES)
