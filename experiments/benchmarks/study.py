"""Times the whole study on two stores of some thousand photographs, in a fresh process with nothing compiled.

  python -m experiments.benchmarks.study --store=my_store --rows=5000 --out=results/benchmark_study.json

Both stores are drawn from the people of the store given, whose names differ between them, so that each has as many
photographs as asked for (the second a few less, so that it has programs of its own). Prints the seconds of every
part, and of the whole: by the clock, of processor time, and the peak resident memory.
"""

import json
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmarks import define, in_fresh_process, run_quietly, scratch_directory, show, write
from experiments.run import cli, flags
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore

FEWER = 37  # rows of the second store
VALUES = define(
    store=flags.Flag(None, "Directory of embeddings to draw from."),
    rows=flags.Flag(5000, "Photographs of each of the two stores.", least=100),
    parts=flags.Flag("all", "Parts of the study, as experiments.study takes them."),
    scratch=flags.Flag(None, "Directory in which the stores and results are made, and removed in the end."),
)


def main(_: Sequence[str]) -> None:
    """Draws both stores, runs the study, prints and writes the figures."""
    given, rows = EmbeddingStore.open(flags.required(VALUES, "store")), VALUES.rows
    if given.rows < rows:
        raise UserError(f"--rows asks for {rows:,} photographs; {VALUES.store} has {given.rows:,}.")
    with scratch_directory(VALUES.scratch, 8 * rows * sum(given.dims.values())) as directory:
        place = pathlib.Path(directory)
        drawn = [draw(given, place / "one", rows, 0), draw(given, place / "two", rows - FEWER, FEWER)]
        figures = {f"rows of {store.dataset}": float(store.rows) for store in drawn}
        stores = ",".join(str(store.path) for store in drawn)
        whole = in_fresh_process(run, stores, directory, VALUES.parts)
        for record in sorted(place.glob("study/*/config.json"), key=lambda path: path.stat().st_mtime):
            seconds_of = json.loads(record.read_text()).get("seconds")  # the report has none
            if seconds_of is not None:
                figures[f"{record.parent.name}: seconds"] = seconds_of
    names = {"seconds": "seconds", "processor": "seconds of processor time"}
    names["gigabytes"] = "gigabytes of memory at most"
    figures |= {f"whole process: {words}": whole[name] for name, words in names.items()}
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

    places = f"--out={directory}/study", f"--compilation_cache={directory}/compiled"
    run_quietly(study, f"--stores={stores}", f"--parts={parts}", *places)
    return {"seconds": time.perf_counter() - start, "processor": time.process_time()}


if __name__ == "__main__":
    cli.run(main, values=VALUES)
