"""Section `moments` of experiments.benchmarks.scale: more rows than memory.

Also a program of its own, which the section starts afresh to measure resident memory:

  python -m experiments.benchmarks.scale_moments FILE ROWS WIDTH

prints the seconds and the peak resident memory of moments over a file of float16.
"""

import functools
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks.memory import peak_gigabytes
from jaxalign import Moments
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, moment_dtype, multiply
from jaxalign.core.rows import even_size
from jaxalign.moments import scatter
from jaxalign.moments.accumulate import default_chunk_rows

BLOCK_ROWS = 8192  # made, read and checked at once
SPARE_BYTES = 2**30  # left on the disk
LEAST_SECONDS = 4.0  # that a product is timed


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this section."""
    flags.DEFINE_integer("rows", 1_000_000, "moments: rows of the store.", 2, flag_values=values)
    flags.DEFINE_integer("width", 2_048, "moments: width of the store.", 1, flag_values=values)
    flags.DEFINE_string(
        "scratch", None, "moments, driver: directory for the store; the system's without.", flag_values=values
    )


def run(values: flags.FlagValues) -> Mapping[str, float]:
    """Makes the file, measures, removes the file.

    Returns:
      Seconds, ratios and gigabytes by name.

    Raises:
      UserError: the disk has no room for the file.
    """
    rows, width = values.rows, values.width
    folder = pathlib.Path(values.scratch or tempfile.gettempdir())
    needed = rows * width * 2 + SPARE_BYTES
    if not folder.is_dir() or shutil.disk_usage(folder).free < needed:
        raise UserError(f"{folder}: the store takes {needed / 1e9:.1f} GB; give --scratch, or fewer --rows.")
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        path = pathlib.Path(directory) / "rows"
        make(path, rows, width)
        return _figures(path, rows, width)


def make(path: pathlib.Path, rows: int, width: int) -> None:
    """Writes correlated float16 rows with means as large as their spread, a block of them over and over, rescaled."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((64, width), np.float32) / 8
    block = rng.standard_normal((BLOCK_ROWS, 64), np.float32) @ mixing
    block += 0.3 * rng.standard_normal(block.shape, np.float32) + rng.standard_normal(width, np.float32)
    with open(path, "wb") as file:
        for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
            scale = np.float32(1 + 0.1 * np.sin(number))  # so that chunks differ
            file.write((scale * block[: rows - start]).astype(np.float16).data)


def _figures(path: pathlib.Path, rows: int, width: int) -> Mapping[str, float]:
    array = np.memmap(path, np.float16, "r", shape=(rows, width))
    _moments(array[: min(rows, BLOCK_ROWS)])  # starts JAX up
    read = min(_seconds(lambda: _read(path)) for _ in range(2))
    before = _product(rows, width)
    fresh = json.loads(_fresh(path, rows, width))
    after = _product(rows, width)  # other programs slow one or the other
    half = _fresh(path, rows // 2, width)
    tiles, blas = (statistics.mean(pair) for pair in zip(before, after))
    slower = max(read, min(tiles, blas))
    return {
        "gigabytes": rows * width * 2 / 1e9,
        "seconds to read the file": read,
        "seconds of the product, in tiles": tiles,
        "seconds of the product, by BLAS": blas,
        "seconds of moments": fresh["seconds"],
        "moments / slower of reading and product": fresh["seconds"] / slower,
        "gigabytes of memory at most": fresh["gigabytes"],
        "twice the rows / once, seconds": fresh["seconds"] / json.loads(half)["seconds"],
        "relative error of the scatter matrix": _error(path, array),
    }


def _moments(array: np.ndarray) -> Moments:
    return jax.block_until_ready(Moments.of({"rows": array}))


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _read(path: pathlib.Path) -> None:
    buffer = bytearray(2**24)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _product(rows: int, width: int) -> tuple[float, float]:
    """Seconds that the product of all rows would take in the format of moments, nothing else: no reading, centring.

    Measured on one slice, over and over for a few seconds, and scaled. In tiles: what moments multiply, on and above
    the diagonal, by XLA. By BLAS: NumPy's, which knows that the result is symmetric.
    """
    size = min(rows, scatter.SLICE_ROWS)
    columns = np.random.default_rng(0).standard_normal((width, size)).astype(moment_dtype())
    blocks = min(scatter.MOST_BLOCKS, -(-width // scatter.LEAST_BLOCK))
    edges = [width * k // blocks for k in range(blocks + 1)]

    @jax.jit
    def tiles(columns: jax.Array) -> list[jax.Array]:
        parts = [columns[start:stop] for start, stop in zip(edges[:-1], edges[1:])]
        return [multiply(parts[i], parts[j].T) for i in range(blocks) for j in range(i, blocks)]

    with double_precision():
        placed = jnp.asarray(columns)
        in_tiles = _median_seconds(lambda: jax.block_until_ready(tiles(placed)))
    by_blas = _median_seconds(lambda: columns @ columns.T)
    return in_tiles * rows / size, by_blas * rows / size


def _median_seconds(function: Callable[[], Any]) -> float:
    """Median time of a function that runs over and over for some seconds."""
    function()
    times: list[float] = []
    while sum(times) < LEAST_SECONDS:
        times.append(_seconds(function))
    return statistics.median(times)


def _fresh(path: pathlib.Path, rows: int, width: int) -> str:
    """What a fresh process prints: seconds of moments, compiled before, and its peak memory in gigabytes."""
    command = [sys.executable, "-m", "experiments.benchmarks.scale_moments", str(path), str(rows), str(width)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _error(path: pathlib.Path, array: np.ndarray) -> float:
    """Largest error of the scatter matrix of some rows in several chunks, relative to its largest element."""
    part = array[: 5 * BLOCK_ROWS]
    found = Moments.of({"rows": part}, chunk_rows=BLOCK_ROWS - 1)
    mean = functools.reduce(np.add, (block.sum(0) for block in _wide(part))) / len(part)
    expected = functools.reduce(np.add, ((block - mean).T @ (block - mean) for block in _wide(part)))
    return float(np.abs(np.asarray(found.scatter) - expected).max() / np.abs(expected).max())


def _wide(array: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(array[k : k + BLOCK_ROWS], np.float64) for k in range(0, len(array), BLOCK_ROWS)]


def _alone(path: str, rows: int, width: int) -> dict[str, float]:
    """Runs in the fresh process. The first chunks compile the programs; the seconds are without."""
    array = np.memmap(path, np.float16, "r", shape=(rows, width))
    _warm_up(array)
    seconds = _seconds(lambda: _moments(array))
    return {"seconds": seconds, "gigabytes": peak_gigabytes()}


def _warm_up(array: np.ndarray) -> None:
    """Compiles the programs that all rows will use: chunks are of one size, so two of them do."""
    size = even_size(len(array), min(default_chunk_rows([array], 1), len(array)))
    Moments.of({"rows": array[: 2 * size]}, chunk_rows=size)


if __name__ == "__main__":
    print(json.dumps(_alone(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
