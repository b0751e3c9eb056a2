"""Times the whole study on two stores of some thousand photographs, in a fresh process with nothing compiled.

  python -m experiments.benchmarks.study --store=my_store --rows=5000 --out=results/benchmark_study.json

Both stores are drawn from the people of the store given, whose names differ between them, so that each has as many
photographs as asked for (the second a few less, so that it has programs of its own). Prints the seconds of every
part, and of the whole: by the clock, of processor time, and the peak resident memory.
"""

import contextlib
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags

from experiments.benchmarks import define_out, in_fresh_process, show, write
from experiments.run import cli
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore

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
define_out(VALUES)


def main(_: Sequence[str]) -> None:
    """Draws both stores, runs the study, prints and writes the figures."""
    if VALUES.store is None:
        raise UserError("--store is missing: the directory of embeddings that both stores are drawn from.")
    given = EmbeddingStore.open(VALUES.store)
    if given.rows < VALUES.rows:
        raise UserError(f"--rows asks for {VALUES.rows:,} photographs; {VALUES.store} has {given.rows:,}.")
    with tempfile.TemporaryDirectory(dir=VALUES.scratch) as directory:
        place = pathlib.Path(directory)
        drawn = [
            draw(given, place / name, VALUES.rows - less, less) for name, less in (("one", 0), ("two", FEWER))
        ]
        figures = {f"rows of {store.dataset}": float(store.rows) for store in drawn}
        stores = ",".join(str(store.path) for store in drawn)
        whole = in_fresh_process(run, stores, directory, VALUES.parts)
        for record in sorted(place.glob("study/*/config.json"), key=lambda path: path.stat().st_mtime):
            seconds_of = json.loads(record.read_text()).get("seconds")  # the report has none
            if seconds_of is not None:
                figures[f"{record.parent.name}: seconds"] = seconds_of
    figures["whole process: seconds"] = whole["seconds"]
    figures["whole process: seconds of processor time"] = whole["processor"]
    figures["whole process: gigabytes of memory at most"] = whole["gigabytes"]
    show(figures)
    write(VALUES.out, figures)


def draw(given: EmbeddingStore, place: pathlib.Path, rows: int, seed: int) -> EmbeddingStore:
    """Makes a store of people at random, each of whom is taken if the store has room for all photographs of them."""
    people, person, count = np.unique(given.identities, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(people), bool)
    for number in np.random.default_rng(seed).permutation(len(people)):
        chosen[number] = count[chosen].sum() + count[number] <= rows
    members = np.flatnonzero(chosen[person])
    names = [f"{place.name} {name}" for name in given.identities[members]]
    return EmbeddingStore.create(place, given.take(members), names)


def run(stores: str, directory: str, parts: str) -> Mapping[str, float]:
    """Runs the study, in a fresh process."""
    start = time.perf_counter()
    from experiments import study  # its imports are timed too

    given = [f"--stores={stores}", f"--out={directory}/study", f"--parts={parts}"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.run(
                study.main, ["study", *given, f"--compilation_cache={directory}/compiled"], values=study.FLAGS
            )
    except SystemExit as end:
        if end.code:
            raise
    return {"seconds": time.perf_counter() - start, "processor": time.process_time()}


if __name__ == "__main__":
    cli.run(main, values=VALUES)
