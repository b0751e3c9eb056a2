"""How fast test sets are evaluated, as a share of this machine's float32 matrix-product rate, and in how much memory.

  python -m experiments.benchmarks.evaluation --out=results/evaluation.json

Random unit vectors with planted people; verification and identification together. Three numbers:

- the rate of a plain float32 product [2048, 512] × [512, 16384], best of several runs just before and after;
- evaluation of n × n comparisons at width 512, host work included, after compilation;
- the peak resident memory of a 50,000 × 50,000 comparison, in a process of its own.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks.memory import peak_gigabytes
from experiments.run import cli
from jaxalign import biometrics
from jaxalign.core.errors import UserError

VALUES = flags.FlagValues()
SIZES = flags.DEFINE_list(
    "sizes", ["1700", "10000", "20000"], "Rows of the test sets, comma-separated.", flag_values=VALUES
)
WIDTH = flags.DEFINE_integer("width", 512, "Width of the embeddings.", lower_bound=1, flag_values=VALUES)
PHOTOGRAPHS = flags.DEFINE_integer(
    "photographs", 5, "Photographs of each person.", lower_bound=1, flag_values=VALUES
)
RUNS = flags.DEFINE_integer(
    "runs", 3, "Timed runs of each; the fastest counts.", lower_bound=1, flag_values=VALUES
)
MEMORY_ROWS = flags.DEFINE_integer(
    "memory_rows", 50_000, "Rows of the comparison whose memory is measured; 0: none.", flag_values=VALUES
)
OUT = flags.DEFINE_string("out", None, "A JSON file for the results.", flag_values=VALUES)


def fastest(work: Callable[[], Any], runs: int) -> float:
    """Seconds of the fastest of several runs, after one that compiles."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def product_rate(width: int, runs: int) -> float:
    """Multiplications and additions a second of a plain float32 matrix product."""
    left = jnp.asarray(np.random.default_rng(0).standard_normal((2048, width)), jnp.float32)
    right = jnp.asarray(np.random.default_rng(1).standard_normal((16384, width)), jnp.float32)
    product = jax.jit(lambda a, b: jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST))
    return 2 * width * 2048 * 16384 / fastest(lambda: product(left, right), runs)


def planted(rows: int, width: int, photographs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probes, gallery and identities: people as random directions, photographs as noise around them."""
    generator = np.random.default_rng(0)
    identities = np.arange(rows) // photographs
    people = generator.standard_normal((identities[-1] + 1, width), np.float32)
    sides = [people[identities] + 2 * generator.standard_normal((rows, width), np.float32) for _ in range(2)]
    return sides[0], sides[1], identities


def timed(rows: int, width: int, photographs: int, runs: int) -> dict[str, float]:
    """One test set's time and its share of the product's rate, measured before and after."""
    probes, gallery, identities = planted(rows, width, photographs)
    plan = biometrics.EvaluationPlan.of(identities)
    rates = [product_rate(width, 2 * runs + 1)]
    seconds = fastest(lambda: list(biometrics.evaluate(probes, gallery, plan).measures()), runs)
    rates.append(product_rate(width, 2 * runs + 1))
    rate = 2 * width * rows**2 / seconds
    return {
        "rows": rows,
        "seconds": seconds,
        "nanoseconds_per_comparison": seconds / rows**2 * 1e9,
        "gigaflops": rate / 1e9,
        "product_gigaflops": max(rates) / 1e9,
        "share": rate / max(rates),
    }


def peak_memory(rows: int, width: int, photographs: int) -> dict[str, float]:
    """Evaluates once in a new process and reads its peak resident memory."""
    code = f"from experiments.benchmarks import evaluation as b; b.measure_memory({rows}, {width}, {photographs})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the process that measures memory failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(rows: int, width: int, photographs: int) -> None:
    """Runs inside the new process."""
    probes, gallery, identities = planted(rows, width, photographs)
    before = peak_gigabytes()
    start = time.perf_counter()
    result = biometrics.evaluate(probes, gallery, identities)
    seconds = time.perf_counter() - start
    assert result.verification is not None
    figures = {
        "rows": rows,
        "seconds_with_compilation": seconds,
        "peak_gigabytes": peak_gigabytes(),
        "before_evaluation_gigabytes": before,
    }
    print(json.dumps(figures))


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    sizes = [int(size) for size in SIZES.value if size.isdigit()]
    if len(sizes) != len(SIZES.value) or not all(sizes):
        raise UserError(f"--sizes: expected numbers of rows, comma-separated, got {','.join(SIZES.value)!r}")
    results: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "width": WIDTH.value,
        "evaluation": [],
    }
    for rows in sizes:
        row = timed(rows, WIDTH.value, PHOTOGRAPHS.value, RUNS.value)
        results["evaluation"].append(row)
        print(
            f"{rows:>7,} × {rows:<7,} {row['seconds']:8.3f} s  {row['nanoseconds_per_comparison']:5.2f} ns each  "
            f"{row['gigaflops']:5.0f} of {row['product_gigaflops']:4.0f} GFLOP/s: {row['share']:.0%}"
        )
    if MEMORY_ROWS.value:
        results["memory"] = peak_memory(MEMORY_ROWS.value, WIDTH.value, PHOTOGRAPHS.value)
        print(
            f"{MEMORY_ROWS.value:,} rows: peak resident memory {results['memory']['peak_gigabytes']:.2f} GB"
        )
    if OUT.value:
        path = pathlib.Path(OUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main, values=VALUES)
