"""Times a sweep of 24 items as a loop and by two Ray workers, each in fresh processes.

  python -m experiments.benchmarks.sweep --store=my_store --out=results/benchmark_sweep.json

Each runs twice: with no program compiled, and with all of them in the compilation cache. Start-up is what a run takes
besides the items of its busiest process. A loop uses all cores, as the workers do together; so it runs on one worker's
share of them, too. The ratio compares the busiest worker with half of that loop's items; 1 is ideal.
"""

import csv
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.benchmarks import define, show, write
from experiments.run import cli, flags
from jaxalign.core.errors import UserError

WORKERS = 2
GRID = ("--methods=identity,orthogonal,ridge,canonical", "--penalties=0.1,1", "--ranks=64,full")
GRID += ("--seeds=42,123,217,7",)
VALUES = define(store=flags.Flag(None, "Directory of the embeddings that the sweep is of."))


def main(_: Sequence[str]) -> None:
    """Runs the sweeps, prints and writes the figures."""
    flags.required(VALUES, "store")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        for compiled in ("nothing compiled", "all compiled"):
            sweep(place, f"loop, {compiled}", figures)
            alone = sweep(place, f"loop on a share of the cores, {compiled}", figures, cores=share())
            workers = sweep(place, f"workers, {compiled}", figures, f"--workers={WORKERS}")
            figures[f"ratio, {compiled}"] = workers * WORKERS / alone
        tables = [place / f"{how}, all compiled" / "results.csv" for how in ("loop", "workers")]
        figures["largest difference of a value"] = largest_difference(*tables)
    show(figures)
    write(VALUES.out, figures)


def share() -> set[int]:
    """The cores of one worker, where all workers have as many."""
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[: max(1, len(cores) // WORKERS)])


def sweep(
    place: pathlib.Path, name: str, figures: dict[str, float], *more: str, cores: set[int] | None = None
) -> float:
    """Runs one sweep; adds its figures and returns the seconds of its busiest process."""
    out, cache = place / name, place / f"compiled by {name.partition(',')[0]}"
    command = [sys.executable, "-m", "experiments.sweep", f"--stores={VALUES.store}", f"--out={out}", *GRID]
    started = time.perf_counter()
    pin = None if cores is None else functools.partial(os.sched_setaffinity, 0, cores)
    options: dict[str, Any] = {"capture_output": True, "text": True, "preexec_fn": pin}
    done = subprocess.run([*command, f"--compilation_cache={cache}", *more], **options)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"the sweep ended with status {done.returncode}: {done.stderr[-500:]}")
    of_process: Counter[int] = Counter()
    for file in (out / "items").glob("*.json"):
        content = json.loads(file.read_text())["content"]
        of_process[content["process"]] += content["seconds"]
    busiest = max(of_process.values())
    figures |= {f"{name}: seconds": seconds, f"{name}: seconds of start-up": seconds - busiest}
    return busiest


def largest_difference(*tables: pathlib.Path) -> float:
    """Between the values of two tables, row by row."""
    values = []
    for table in tables:
        with table.open(newline="", encoding="utf-8") as file:
            values.append([float(row["value"] or "nan") for row in csv.DictReader(file)])
    return max(abs(one - other) for one, other in zip(*values, strict=True) if one == one)


if __name__ == "__main__":
    cli.run(main, values=VALUES)
