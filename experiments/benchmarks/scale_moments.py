"""Times second moments of more rows than memory holds, against reading the file and against the bare product.

  python -m experiments.benchmarks.scale_moments --out=results/benchmark_moments.json

A file of float16 rows (4 GB unless --rows or --width say less) is made on the spot and removed afterwards. Moments run
in a fresh process, compilation included; the bare product is NumPy's ZᵀZ, which knows that the result is symmetric, in
the number format of moments. Also measured: peak memory, twice the rows against once, and the error against NumPy.
"""

import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from experiments.benchmarks import define, in_fresh_process, scratch_directory, seconds, show, write
from experiments.run import cli, flags
from jaxalign import Moments
from jaxalign.core.precision import moment_dtype

BLOCK_ROWS = 8192  # made, read and checked at once
LEAST_SECONDS = 4.0  # that the product is timed
VALUES = define(
    rows=flags.Flag(1_000_000, "Rows of the file.", least=2),
    width=flags.Flag(2_048, "Their width.", least=1),
    scratch=flags.Flag(None, "Directory for the file; the system's without."),
)


def main(_: Sequence[str]) -> None:
    """Makes the file, measures, removes the file."""
    rows, width = VALUES.rows, VALUES.width
    with scratch_directory(VALUES.scratch, rows * width * 2) as directory:
        path = pathlib.Path(directory) / "rows"
        make(path, rows, width)
        figures = dict(measured(path, rows, width))
    show(figures)
    write(VALUES.out, figures)


def make(path: pathlib.Path, rows: int, width: int) -> None:
    """Writes correlated float16 rows with means as large as their spread: one block over and over, rescaled."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((64, width), np.float32) / 8
    block = rng.standard_normal((BLOCK_ROWS, 64), np.float32) @ mixing
    block += 0.3 * rng.standard_normal(block.shape, np.float32) + rng.standard_normal(width, np.float32)
    with open(path, "wb") as file:
        for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
            scale = np.float32(1 + 0.1 * np.sin(number))  # so that chunks differ
            file.write((scale * block[: rows - start]).astype(np.float16).data)


def measured(path: pathlib.Path, rows: int, width: int) -> Iterator[tuple[str, float]]:
    """Seconds, ratios and gigabytes by name."""
    reading = min(seconds(lambda: read(path)) for _ in range(2))
    before = product_seconds(rows, width)
    fresh = in_fresh_process(moments, str(path), rows, width)
    product = statistics.mean([before, product_seconds(rows, width)])  # other programs may slow one of them
    half = in_fresh_process(moments, str(path), rows // 2, width)
    yield "gigabytes", rows * width * 2 / 1e9
    yield "seconds to read the file", reading
    yield "seconds of the product", product
    yield "seconds of moments", fresh["seconds"]
    yield "moments / slower of reading and product", fresh["seconds"] / max(reading, product)
    yield "gigabytes of memory at most", fresh["gigabytes"]
    yield "twice the rows / once, seconds", fresh["seconds"] / half["seconds"]
    yield "relative error of the scatter matrix", scatter_error(path, rows, width)


def moments(path: str, rows: int, width: int) -> Mapping[str, float]:
    """Runs in the fresh process."""
    array = np.memmap(path, np.float16, "r", shape=(rows, width))
    return {"seconds": seconds(lambda: jax.block_until_ready(Moments.of({"rows": array})))}


def read(path: pathlib.Path) -> None:
    """Reads the file once."""
    buffer = bytearray(2**24)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def product_seconds(rows: int, width: int) -> float:
    """Seconds of the bare product of all rows, from the median over one block, run over and over for a while."""
    size = min(rows, BLOCK_ROWS)
    columns = np.random.default_rng(0).standard_normal((width, size)).astype(moment_dtype())
    times = [seconds(lambda: columns @ columns.T)]
    while sum(times) < LEAST_SECONDS:
        times.append(seconds(lambda: columns @ columns.T))
    return statistics.median(times) * rows / size


def scatter_error(path: pathlib.Path, rows: int, width: int) -> float:
    """Largest error of the scatter matrix of some rows in several chunks, relative to its largest element."""
    part = np.memmap(path, np.float16, "r", shape=(rows, width))[: 5 * BLOCK_ROWS]
    found = Moments.of({"rows": part}, chunk_rows=BLOCK_ROWS - 1)
    centred = np.asarray(part, np.float64)
    centred -= centred.mean(0)
    expected = centred.T @ centred
    return float(np.abs(np.asarray(found.scatter) - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    cli.run(main, values=VALUES)
