"""Times the whole study on two stores of some thousand photographs, in a fresh process with nothing compiled.

  python -m experiments.benchmarks.study --store=my_store --rows=5000 --out=results/benchmark_study.json

Both are drawn from the people of the store given, whose names differ between them, so that each has as many
photographs as asked for (the second a few less, so that it has programs of its own). Prints the seconds of every
part, and of the whole: by the clock, of processor time, and the peak resident memory.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments.run import cli
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore

# The study, and its own word on its memory: what the system says of a child is at least what its parent had.
INSIDE = """
import pathlib, sys
from experiments import study
from experiments.benchmarks import memory
from experiments.run import cli
place = pathlib.Path(sys.argv.pop(1))
try:
    cli.run(study.main, values=study.FLAGS)
finally:
    place.write_text(str(memory.peak_gigabytes()))
"""
FEWER = 37  # rows of the second store
VALUES = flags.FlagValues()
flags.DEFINE_string("store", None, "Directory of embeddings to draw from.", flag_values=VALUES)
flags.DEFINE_integer("rows", 5000, "Photographs of each of the two stores.", 100, flag_values=VALUES)
flags.DEFINE_string(
    "parts", "all", "Parts of the study, as experiments.study takes them.", flag_values=VALUES
)
flags.DEFINE_string(
    "scratch", None, "Directory for stores and results, removed in the end.", flag_values=VALUES
)
flags.DEFINE_string("out", None, "File to write the figures to, as JSON.", flag_values=VALUES)


def main(_: Sequence[str]) -> None:
    """Draws both stores, runs the study, prints and writes the figures."""
    if VALUES.store is None:
        raise UserError("--store is missing: the directory of embeddings that both stores are drawn from.")
    given = EmbeddingStore.open(VALUES.store)
    if given.rows < VALUES.rows:
        raise UserError(f"--rows asks for {VALUES.rows:,} photographs; {VALUES.store} has {given.rows:,}.")
    with tempfile.TemporaryDirectory(dir=VALUES.scratch) as directory:
        place = pathlib.Path(directory)
        stores = [
            draw(given, place / name, VALUES.rows - less, less) for name, less in (("one", 0), ("two", FEWER))
        ]
        figures = study(stores, place / "study", VALUES.parts)
    for name, value in figures.items():
        print(f"  {name:44s} {value:10.4g}", flush=True)
    if VALUES.out:
        path = pathlib.Path(VALUES.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")


def draw(given: EmbeddingStore, place: pathlib.Path, rows: int, seed: int) -> EmbeddingStore:
    """A store of some people, drawn until the next one's photographs would be too many."""
    people, person, count = np.unique(given.identities, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(people), bool)
    for number in np.random.default_rng(seed).permutation(len(people)):
        chosen[number] = count[chosen].sum() + count[number] <= rows
    kept = np.flatnonzero(chosen[person])
    names = [f"{place.name} {name}" for name in given.identities[kept]]
    return EmbeddingStore.create(place, given.take(kept), names)


def study(stores: Sequence[EmbeddingStore], out: pathlib.Path, parts: str) -> dict[str, float]:
    """Runs the study in a process of its own; seconds and gigabytes by name."""
    given = [f"--stores={','.join(str(store.path) for store in stores)}", f"--out={out}", f"--parts={parts}"]
    memory = out.with_name("gigabytes.txt")
    command = [sys.executable, "-c", INSIDE, str(memory), *given]
    command += [f"--compilation_cache={out.with_name('compiled')}"]
    started = time.perf_counter()
    with open(out.with_name("printed.txt"), "w+b") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        printed.seek(0)
        if process.returncode:
            last = printed.read().decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"the study ended with status {process.returncode}: {''.join(last)}")
    figures = {f"rows of {store.dataset}": float(store.rows) for store in stores}
    for record in sorted(out.glob("*/config.json"), key=lambda path: path.stat().st_mtime):
        seconds_of = json.loads(record.read_text()).get("seconds")  # the report has none
        if seconds_of is not None:
            figures[f"{record.parent.name}: seconds"] = seconds_of
    return figures | {
        "whole process: seconds": seconds,
        "whole process: seconds of processor time": usage.ru_utime + usage.ru_stime,
        "whole process: gigabytes of memory at most": float(memory.read_text()),
    }


if __name__ == "__main__":
    cli.run(main, values=VALUES)
