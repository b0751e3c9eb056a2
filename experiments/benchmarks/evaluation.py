"""How fast test sets are evaluated, as a share of this machine's float32 matrix-product rate, and in how much memory.

  python -m experiments.benchmarks.evaluation --out=results/evaluation.json

Random unit vectors with planted people; verification and identification together. Measured are:

- the rate of a plain float32 product [2048, 512] × [512, 16384], best of several runs just before and after;
- evaluation of n × n comparisons at width 512, host work included, after compilation, by cosine and by the score
  `cohort` with a cohort of 2,000 people, and the ratio of both;
- how near rows lie to that cohort, which is what the score takes beside the product;
- the peak resident memory of a 50,000 × 50,000 comparison by either score, each in a process of its own.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import define, in_fresh_process, peak_gigabytes, seconds, write
from experiments.run import cli, flags
from jaxalign import biometrics
from jaxalign.biometrics.inputs import Side, checked

VALUES = define(
    sizes=flags.Flag("1700,10000,20000", "Rows of the test sets."),
    width=flags.Flag(512, "Width of the embeddings.", least=1),
    photographs=flags.Flag(5, "Photographs of each person.", least=1),
    runs=flags.Flag(3, "Timed runs of each; the fastest counts.", least=1),
    cohort=flags.Flag(2000, "People of the cohort.", least=20),
    corrected_rows=flags.Flag(100_000, "Rows whose nearness to the cohort is timed; 0: none."),
    memory_rows=flags.Flag(50_000, "Rows of the comparison whose memory is measured; 0: none."),
)


def fastest(work: Callable[[], Any], runs: int) -> float:
    """Seconds of the fastest of several runs, after one that compiles."""
    jax.block_until_ready(work())
    return min(seconds(lambda: jax.block_until_ready(work())) for _ in range(runs))


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


def by_cohort(people: int, width: int) -> biometrics.Comparator:
    """The score of a cohort of random people."""
    rows = np.random.default_rng(2).standard_normal((people, width), np.float32)
    found = biometrics.comparator("cohort", biometrics.Cohort.of(rows, rows, -1 - np.arange(people)))
    assert found is not None
    return found


def timed(rows: int, width: int, photographs: int, runs: int) -> dict[str, float]:
    """One test set's time and its share of the product's rate, measured before and after."""
    probes, gallery, identities = planted(rows, width, photographs)
    plan = biometrics.EvaluationPlan.of(identities)
    rates = [product_rate(width, 2 * runs + 1)]
    score = by_cohort(VALUES.cohort, width)

    def measures(by: biometrics.Comparator | None) -> list[biometrics.MeasuredValue]:
        return list(biometrics.evaluate(probes, gallery, plan, score=by).measures())

    took, with_cohort = fastest(lambda: measures(None), runs), fastest(lambda: measures(score), runs)
    rates.append(product_rate(width, 2 * runs + 1))
    rate = 2 * width * rows**2 / took
    return {
        "rows": rows,
        "seconds": took,
        "nanoseconds_per_comparison": took / rows**2 * 1e9,
        "gigaflops": rate / 1e9,
        "product_gigaflops": max(rates) / 1e9,
        "share": rate / max(rates),
        "cohort_over_cosine": with_cohort / took,
    }


def corrected(rows: int, width: int, people: int, runs: int) -> float:
    """The rate of finding how near rows lie to a cohort, as a share of the product's."""
    score = by_cohort(people, width)
    side = Side(checked(planted(rows, width, 1)[0], "probes"), "probes", np.dtype(np.float32), "refuse")
    rate = product_rate(width, 2 * runs + 1)
    return 2 * width * rows * people / fastest(lambda: score.prepare(side).columns, runs) / rate


def evaluated(rows: int, width: int, photographs: int, cohort: int) -> Mapping[str, float]:
    """Evaluates once, in a fresh process, by cosine where ``cohort`` is 0; gives the memory that it had before."""
    probes, gallery, identities = planted(rows, width, photographs)
    score = by_cohort(cohort, width) if cohort else None
    before = peak_gigabytes()
    took = seconds(lambda: biometrics.evaluate(probes, gallery, identities, score=score))
    return {"rows": rows, "seconds": took, "gigabytes_before": before}


def main(_: Sequence[str]) -> None:
    """Measures, prints and writes."""
    shape = VALUES.width, VALUES.photographs
    results: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "width": VALUES.width,
        "evaluation": [],
    }
    for rows in flags.whole_numbers("sizes", VALUES.sizes, 1, 10**9):
        row = timed(rows, *shape, VALUES.runs)
        results["evaluation"].append(row)
        print(
            f"{rows:>7,} × {rows:<7,} {row['seconds']:8.3f} s  {row['nanoseconds_per_comparison']:5.2f} ns each  "
            f"{row['gigaflops']:5.0f} of {row['product_gigaflops']:4.0f} GFLOP/s: {row['share']:.0%}; "
            f"cohort / cosine {row['cohort_over_cosine']:.2f}"
        )
    if VALUES.corrected_rows:
        sizes = VALUES.corrected_rows, VALUES.width, VALUES.cohort
        results["corrected"] = corrected(*sizes, VALUES.runs)
        rows = f"{VALUES.corrected_rows:,} rows to {VALUES.cohort:,} people"
        print(f"nearness of {rows}: {results['corrected']:.0%} of the product's rate")
    if VALUES.memory_rows:
        for name, people in (("cosine", 0), ("cohort", VALUES.cohort)):
            found = in_fresh_process(evaluated, VALUES.memory_rows, *shape, people)
            results.setdefault("memory", {})[name] = found
            took, peak = found["seconds"], found["gigabytes"]
            print(f"{VALUES.memory_rows:,} rows by {name}: {took:.0f} s, peak resident memory {peak:.2f} GB")
    write(VALUES.out, results)


if __name__ == "__main__":
    cli.run(main, values=VALUES)
