"""Section `devices` of experiments.benchmarks.scale: what each of 1, 2, 4 and 8 simulated devices has to do and send.

Nothing is timed: devices simulated on one CPU share its cores. The figures are read from the compiled programs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.benchmarks import compiled
from experiments.benchmarks.lowering import moment_programs, moments_shape, sharded_shape, solve_programs
from jaxalign import device_mesh
from jaxalign.align.solvers import Canonical, Ridge, Solver

COUNTS = (1, 2, 4, 8)


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this section."""
    flags.DEFINE_integer("device_encoders", 16, "devices: encoders.", 8, flag_values=values)
    flags.DEFINE_integer("device_width", 128, "devices: their width.", 1, flag_values=values)


def run(values: flags.FlagValues) -> Mapping[str, float]:
    """Per-device work on meshes of 1 to 8 devices, relative to one, and what is sent.

    Returns:
      Ratios and bytes by name. Operations are the floating-point operations of matrix products and elementwise work;
      decompositions are library calls that XLA does not count, so encoders are counted instead.
    """
    encoders, width = values.device_encoders, values.device_width
    figures: dict[str, float] = {}
    for axis in ("data", "pairs"):
        figures.update(_on(axis, encoders, width))
    figures.update(_twice_the_encoders(encoders, width))
    return figures


def _on(axis: str, encoders: int, width: int) -> Iterator[tuple[str, float]]:
    """All devices on one axis of the mesh."""
    alone: dict[str, float] = {}
    for count in COUNTS:
        found = dict(_work(axis, count, encoders, width))
        alone = alone or found
        for name, value in found.items():
            yield f"{count} on {axis}: {name}", value / alone[name] if "/ of one" in name else value


def _work(axis: str, count: int, encoders: int, width: int) -> Iterator[tuple[str, float]]:
    mesh = _mesh(axis, count)
    shapes = moments_shape(encoders, width)
    rows = 2048 * mesh.shape["data"]  # chunks grow with the devices that share their rows
    programs = moment_programs(shapes, mesh, rows, np.float32)
    chunk = programs["chunk"]()
    operations, traffic = (number / mesh.shape["data"] for number in compiled.cost(chunk))
    yield "moments, operations / of one", operations
    yield "moments, bytes of memory traffic / of one", traffic
    yield "moments, bytes sent for a chunk", compiled.sent(chunk)
    sent = compiled.sent(programs["reduced"]())
    more = compiled.sent(moment_programs(shapes, mesh, 2 * rows, np.float32)["reduced"]())
    yield "moments, bytes sent at the end", sent
    yield "moments, bytes sent at the end, of twice the rows", more
    for solver in (Ridge(0.1), Canonical()):
        yield from _solving(axis, count, encoders, width, solver)


def _solving(axis: str, count: int, encoders: int, width: int, solver: Solver) -> Iterator[tuple[str, float]]:
    """Operations of all of a device's pairs; the body of the loop over pairs is counted once by XLA."""
    mesh, name = _mesh(axis, count), type(solver).__name__.lower()
    total = sharded_shape(moments_shape(encoders, width), mesh)
    pairs = [(a, b) for a in total.names for b in total.names if a != b]
    factoring, solving = solve_programs(total, dict.fromkeys(pairs, solver))
    operations, traffic, sent = 0.0, 0.0, 0
    for length, calls, program in solving:
        one = program()
        each = compiled.cost(one)
        times = length // mesh.size * calls
        operations, traffic, sent = (
            operations + times * each[0],
            traffic + times * each[1],
            sent + calls * compiled.sent(one),
        )
    yield f"{name}, operations on pairs / of one", operations
    yield f"{name}, bytes of memory traffic on pairs / of one", traffic
    yield f"{name}, encoders factored / of one", float(-(-encoders // mesh.size))
    yield f"{name}, bytes sent of factors", float(sum(compiled.sent(program()) for program in factoring))
    yield f"{name}, bytes sent of pairs", float(sent)


def _twice_the_encoders(encoders: int, width: int) -> Iterator[tuple[str, float]]:
    """Operations of one device, relative to what D² and the number of pairs say."""
    few, many = (dict(_work("data", 1, count, width)) for count in (encoders, 2 * encoders))
    pairs = 2 * (2 * encoders - 1) / (encoders - 1)
    for name, says in (("moments, operations", 4.0), ("ridge, operations on pairs", pairs),
                       ("canonical, operations on pairs", pairs)):  # fmt: skip
        ratio = many[f"{name} / of one"] / few[f"{name} / of one"]
        yield f"twice the encoders: {name} / what {'D²' if says == 4 else 'pairs'} says", ratio / says


def _mesh(axis: str, count: int) -> Any:
    devices = jax.devices("cpu")[:count]
    return device_mesh(devices, pairs=count if axis == "pairs" else 1)
