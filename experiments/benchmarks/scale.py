"""Runs the main command, and one evaluation, on a store whose training rows would not fit into memory as float32.

  python -m experiments.benchmarks.scale --out=results/benchmark_scale.json

The store (3 GB unless --rows, --width or --encoders say less) is made on the spot and removed afterwards. Both runs are
processes of their own; the figures are their seconds and peak resident memory.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import pairwise
from experiments.benchmarks import define, in_fresh_process, run_quietly, scratch_directory, show, write
from experiments.run import cli, flags
from jaxalign import AffineMap, evaluate
from jaxalign.core.rows import LazyRows
from jaxalign.data import EmbeddingStore

BLOCK_ROWS = 8192  # made at once
LATENT = 64  # dimensions that the encoders share
VALUES = define(
    rows=flags.Flag(1_000_000, "Rows of the store.", least=100),
    width=flags.Flag(512, "Width of its encoders.", least=2),
    encoders=flags.Flag(3, "Encoders.", least=2),
    people=flags.Flag(2_000, "People.", least=4),
    per_person=flags.Flag(10, "Test rows of a person.", least=2),
    evaluated=flags.Flag(100_000, "Probes, and rows of the gallery, of the evaluation.", least=2),
    scratch=flags.Flag(None, "Directory for the store; the system's without."),
)


def main(_: Sequence[str]) -> None:
    """Makes the store, runs both in fresh processes, removes the store."""
    rows, width, encoders = VALUES.rows, VALUES.width, VALUES.encoders
    with scratch_directory(VALUES.scratch, (encoders + 1) * rows * width * 2) as directory:
        store = pathlib.Path(directory) / "store"
        make(store, rows, width, encoders, VALUES.people)
        some = min(VALUES.evaluated, rows // 2)
        job = in_fresh_process(align, str(store), f"{directory}/out", VALUES.per_person)
        one = in_fresh_process(one_evaluation, str(store), some)
    figures = {
        "gigabytes of the store": encoders * rows * width * 2 / 1e9,
        "gigabytes of its training rows as float32": int(0.7 * rows) * width * encoders * 4 / 1e9,
        "pairwise: test rows": job["test_rows"],
        "pairwise: seconds": job["seconds"],
        "pairwise: gigabytes of memory at most": job["gigabytes"],
        "evaluation: comparisons": float(some) ** 2,
        "evaluation: seconds": one["seconds"],
        "evaluation: gigabytes of memory at most": one["gigabytes"],
    }
    show(figures)
    write(VALUES.out, figures)


def make(path: pathlib.Path, rows: int, width: int, encoders: int, people: int) -> None:
    """Writes a store of synthetic people: what encoders share is a linear image of person and photograph."""
    random = np.random.default_rng(0)
    persons = random.standard_normal((people, LATENT), np.float32)
    identities = np.arange(rows) % people
    for number in range(encoders):
        mixing = random.standard_normal((LATENT, width), np.float32)
        scratch = path.with_name("rows.npy")
        made = np.lib.format.open_memmap(scratch, "w+", np.float16, (rows, width))
        for start in range(0, rows, BLOCK_ROWS):
            here = identities[start : start + BLOCK_ROWS]
            photograph = np.random.default_rng(start).standard_normal((len(here), LATENT), np.float32)
            block = (persons[here] + photograph) @ mixing
            made[start : start + BLOCK_ROWS] = block + random.standard_normal(block.shape, np.float32)
        if number == 0:
            EmbeddingStore.create(path, {"encoder0": made}, identities)
        else:
            EmbeddingStore.open(path, verify=False).add_encoder(f"encoder{number}", made)
        scratch.unlink()


def align(store: str, out: str, per_person: int) -> Mapping[str, float]:
    """Runs the main command with two methods and one seed."""
    chosen = ["--methods=orthogonal,ridge", "--l2=0.1", "--seeds=42", "--heatmaps=none", "--overwrite"]
    run_quietly(pairwise, f"--store={store}", f"--out={out}", f"--max_per_person={per_person}", *chosen)
    record = json.loads((pathlib.Path(out) / "config.json").read_text())
    return {"test_rows": record["splits"][0]["test_rows"]}


def one_evaluation(store: str, count: int) -> Mapping[str, float]:
    """Evaluates mapped rows of one encoder against rows of another; the map is the identity."""
    opened = EmbeddingStore.open(store, verify=False)
    first, second = opened.encoders[:2]
    left, right = np.arange(count), opened.rows - np.arange(count) - 1
    people, width = opened.identities, opened.dims[first]
    mapped = AffineMap((np.eye(width),), np.zeros(width))(LazyRows.of(opened[first], left).unit())
    evaluate(mapped, LazyRows.of(opened[second], right).unit(), people[left], people[right])
    return {}


if __name__ == "__main__":
    cli.run(main, values=VALUES)
