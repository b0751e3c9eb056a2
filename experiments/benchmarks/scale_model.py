"""Section `model` of experiments.benchmarks.scale: what the cost model of docs/scale.md predicts.

Operations and bytes follow from the algorithms and are checked against compiled programs by the sections `devices` and
`plan`. Rates of machines that are not here come from data sheets, times the shares below, which are assumptions.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from absl import flags

from jaxalign.core.mesh import MATRIX_SHARE, Layout

FOLDS = 5
PEAK = 0.6  # of a data sheet's rate that large products reach
MOMENTS = 1 / 1.3  # of the products' rate that moments reach: the bound that section `moments` is held to
EVALUATION = 0.5  # of the products' rate that evaluation reaches: experiments.benchmarks.evaluation
DECOMPOSITIONS = 0.02  # of a product's rate: small ones, one after another


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a machine can do; all rates a second.

    Attributes:
      hosts: that read.
      devices: of each host.
      moments: operations of a device in the format of moments.
      single: operations of a device in full float32.
      memory: of a device, bytes.
      link: bytes that a device sends to others.
      disk: bytes that a host reads.
    """

    hosts: int
    devices: int
    moments: float
    single: float
    memory: float
    link: float
    disk: float = 2e9

    @property
    def all(self) -> int:
        """Devices of all hosts."""
        return self.hosts * self.devices


# H100 SXM: 67 TFLOP/s in float64 on tensor cores and in float32 off them, NVLink 450 GB/s each way. v5e: 197 TFLOP/s
# in bfloat16, of which full float32 takes six passes; 1,600 Gbit/s between chips; no float64. Four chips a host.
MACHINES = {
    "8 H100": Machine(1, 8, 67e12, 67e12, 80e9, 450e9),
    "v5e-16": Machine(4, 4, 197e12 / 6, 197e12 / 6, 16e9, 200e9),
}


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this section."""
    flags.DEFINE_integer("model_rows", 10_000_000, "model: training rows.", 1, flag_values=values)
    flags.DEFINE_integer("model_test_rows", 100_000, "model: test rows.", 1, flag_values=values)
    flags.DEFINE_integer("model_encoders", 40, "model: encoders.", 2, flag_values=values)
    flags.DEFINE_integer("model_width", 512, "model: their width.", 1, flag_values=values)


def run(values: flags.FlagValues) -> Mapping[str, float]:
    """Seconds of each step, and gigabytes of the matrices on a device, on each machine of ``MACHINES``."""
    sizes = values.model_rows, values.model_test_rows, values.model_encoders, values.model_width
    return {
        f"{name}: {figure}": value
        for name, machine in MACHINES.items()
        for figure, value in predicted(machine, *sizes)
    }


def predicted(
    machine: Machine, rows: int, test: int, encoders: int, width: int
) -> Iterator[tuple[str, float]]:
    """The model: each step alone, as if nothing overlapped.

    Args:
      machine: that does it.
      rows: to fit on, in float16.
      test: rows to measure on.
      encoders: how many.
      width: of each.
    """
    columns, pairs = encoders * width, encoders * (encoders - 1)
    blocks = _blocks(machine, encoders, width)
    products, single = (PEAK * machine.all * rate for rate in (machine.moments, machine.single))
    yield "devices that hold a matrix together", blocks
    matrices = 8 * Layout.of([str(k) for k in range(encoders)], [width] * encoders, blocks).elements
    yield f"GB of the matrices of {FOLDS} folds on a device", (FOLDS + 1) * matrices / 1e9
    yield "s to read the training rows once", rows * columns * 2 / (machine.hosts * machine.disk)
    yield "s of moments", moments_operations(rows, columns, blocks) / (MOMENTS * products)
    sent = 2 * matrices * (FOLDS + 1)  # a ring sends every number about twice
    yield "s to add moments up", sent / machine.link
    decompositions = DECOMPOSITIONS * products
    yield "s of ridge, one penalty, all pairs", ridge_operations(encoders, width) / decompositions
    yield "s of canonical, all pairs", canonical_operations(encoders, width) / decompositions
    yield "s of one evaluation of all pairs", 2 * pairs * test**2 * width / (EVALUATION * single)


def moments_operations(rows: int, columns: int, blocks: int) -> float:
    """Half of the full product's, and the tiles on the diagonal whole; one device cuts its matrix into 12 a side."""
    tiles = blocks if blocks > 1 else 12
    return rows * columns**2 * (1 + 1 / tiles)


def ridge_operations(encoders: int, width: int) -> float:
    """An inverse of each source by Cholesky, and its product with every target's cross moments."""
    return encoders * (7 / 3) * width**3 + encoders * (encoders - 1) * 2 * width**3


def canonical_operations(encoders: int, width: int) -> float:
    """An eigendecomposition of each encoder; of each unordered pair two products, a decomposition and five products."""
    return encoders * 9 * width**3 + encoders * (encoders - 1) / 2 * (22 + 14) * width**3


def _blocks(machine: Machine, encoders: int, width: int) -> int:
    """As ``device_mesh`` chooses them for folds."""
    names, widths = [str(k) for k in range(encoders)], [width] * encoders
    for count in (count for count in range(1, machine.devices + 1) if machine.devices % count == 0):
        if 8 * Layout.of(names, widths, count).elements * (FOLDS + 1) <= MATRIX_SHARE * machine.memory:
            return count
    return machine.devices
