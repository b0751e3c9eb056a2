"""Section `plan` of experiments.benchmarks.scale: does a sweep of 200 encoders fit 8 devices?

The programs are those that ``Moments.of`` and ``fit_pairs`` run on a mesh with all devices on ``pairs``, called as they
call them, but compiled for shapes alone: no rows, no matrix.
"""

from collections.abc import Iterator, Mapping

import jax
import numpy as np
from absl import flags
from jaxalign.moments.accumulate import CHUNK_ELEMENTS

from experiments.benchmarks import compiled
from experiments.benchmarks.lowering import moment_programs, moments_shape, sharded_shape, solve_programs
from jaxalign import device_mesh
from jaxalign.align.solvers import Canonical, Ridge
from jaxalign.core.devices import matrix_elements

FOLDS = 5


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this section."""
    flags.DEFINE_integer("plan_encoders", 200, "plan: encoders.", 2, flag_values=values)
    flags.DEFINE_integer("plan_width", 512, "plan: their width.", 1, flag_values=values)


def run(values: flags.FlagValues) -> Mapping[str, float]:
    """The schedule, and gigabytes (10⁹ bytes) of memory on each device.

    Returns:
      Numbers of chunk rows, blocks and calls, and gigabytes at most while each program runs.
    """
    return dict(_figures(values.plan_encoders, values.plan_width))


def _figures(encoders: int, width: int) -> Iterator[tuple[str, float]]:
    mesh = device_mesh(jax.devices("cpu")[:8], pairs=8)
    shapes = moments_shape(encoders, width)
    matrix = 8 * matrix_elements(shapes.widths, mesh.shape["pairs"])
    rows = max(1, CHUNK_ELEMENTS // sum(shapes.widths))
    yield "rows of a chunk", rows
    yield "GB of the matrix", matrix / 1e9
    waiting = rows * sum(shapes.widths) * 2  # the next chunk, on its way
    for name, program in moment_programs(shapes, mesh, rows, np.float16).items():
        more = waiting if name != "reduced" else 0
        yield f"GB, moments: {name}", (compiled.peak(program()) + more) / 1e9
    total = sharded_shape(shapes, mesh)
    pairs = [(a, b) for a in total.names for b in total.names if a != b]
    yield "ordered pairs", len(pairs)
    for solver in (Ridge(0.1), Canonical()):
        name = type(solver).__name__.lower()
        factoring, solving = solve_programs(total, dict.fromkeys(pairs, solver))
        yield f"{name}: calls that factor", len(factoring)
        yield f"GB, {name}: factoring", max(compiled.peak(program()) for program in factoring) / 1e9
        yield f"{name}: calls that solve", sum(calls for _, calls, _ in solving)
        yield f"{name}: pairs of a device in a call", max(length for length, _, _ in solving) // mesh.size
        programs = [program() for _, _, program in solving]
        # The results of the call before are still there.
        most = max(compiled.peak(one) + one.memory_analysis().output_size_in_bytes for one in programs)
        yield f"GB, {name}: solving", most / 1e9
    yield f"GB of the matrices of {FOLDS}-fold cross-validation", (FOLDS + 1) * matrix / 1e9
