"""Section `driver` of experiments.benchmarks.scale: the main job, and one evaluation, on more rows than memory.

Also a program of its own, which the section starts afresh to measure resident memory:

  python -m experiments.benchmarks.scale_driver pairwise STORE OUT PER_PERSON
  python -m experiments.benchmarks.scale_driver evaluate STORE PROBES GALLERY

prints the seconds and the peak resident memory of either.
"""

import contextlib
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

import numpy as np
from absl import flags

from experiments.benchmarks.memory import peak_gigabytes
from jaxalign import AffineMap, evaluate
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.data import EmbeddingStore

BLOCK_ROWS = 8192  # made at once
SPARE_BYTES = 2**30  # left on the disk
LATENT = 64  # dimensions that the encoders share


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this section."""
    whole = [
        ("driver_rows", 1_000_000, 100, "rows of the store"),
        ("driver_width", 512, 2, "width of its encoders"),
        ("driver_encoders", 3, 2, "encoders"),
        ("driver_people", 2_000, 4, "people"),
        ("driver_per_person", 10, 2, "test rows of a person"),
        ("driver_evaluated", 100_000, 2, "probes, and rows of the gallery, of one evaluation"),
    ]
    for name, default, least, what in whole:
        flags.DEFINE_integer(name, default, f"driver: {what}.", least, flag_values=values)


def run(values: flags.FlagValues) -> Mapping[str, float]:
    """Makes the store, runs both in fresh processes, removes the store.

    Returns:
      Seconds and gigabytes by name.

    Raises:
      UserError: the disk has no room for the store.
    """
    rows, width, encoders = values.driver_rows, values.driver_width, values.driver_encoders
    folder = pathlib.Path(values.scratch or tempfile.gettempdir())
    needed = (encoders + 1) * rows * width * 2 + SPARE_BYTES
    if not folder.is_dir() or shutil.disk_usage(folder).free < needed:
        raise UserError(
            f"{folder}: the store takes {needed / 1e9:.1f} GB; give --scratch, or fewer --driver_rows."
        )
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        store = pathlib.Path(directory) / "store"
        make(store, rows, width, encoders, values.driver_people)
        some = min(values.driver_evaluated, rows // 2)
        job = fresh("pairwise", store, pathlib.Path(directory) / "out", values.driver_per_person)
        one = fresh("evaluate", store, some, some)
    trained = int(0.7 * rows) * width * encoders * 4
    return {
        "gigabytes of the store": encoders * rows * width * 2 / 1e9,
        "gigabytes of its training rows as float32": trained / 1e9,
        "pairwise: test rows": job["test_rows"],
        "pairwise: seconds": job["seconds"],
        "pairwise: gigabytes of memory at most": job["gigabytes"],
        "evaluation: comparisons": float(some) ** 2,
        "evaluation: seconds": one["seconds"],
        "evaluation: gigabytes of memory at most": one["gigabytes"],
    }


def make(path: pathlib.Path, rows: int, width: int, encoders: int, people: int) -> None:
    """Writes a store of planted people: what encoders share is a linear image of person and photograph."""
    random = np.random.default_rng(0)
    persons = random.standard_normal((people, LATENT), np.float32)
    identities = np.arange(rows) % people
    store = None
    for number in range(encoders):
        mixing = random.standard_normal((LATENT, width), np.float32)
        scratch = path.with_name("rows.npy")
        made = np.lib.format.open_memmap(scratch, "w+", np.float16, (rows, width))
        for start in range(0, rows, BLOCK_ROWS):
            here = identities[start : start + BLOCK_ROWS]
            photograph = np.random.default_rng(start).standard_normal((len(here), LATENT), np.float32)
            block = (persons[here] + photograph) @ mixing
            made[start : start + BLOCK_ROWS] = block + random.standard_normal(block.shape, np.float32)
        if store is None:
            store = EmbeddingStore.create(path, {"encoder0": made}, identities)
        else:
            store = store.add_encoder(f"encoder{number}", made)
        scratch.unlink()


def fresh(*arguments: object) -> dict[str, float]:
    """What a fresh process prints as its last line."""
    command = [sys.executable, "-m", "experiments.benchmarks.scale_driver", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the process that measures memory failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def pairwise(store: str, out: str, per_person: str) -> dict[str, float]:
    """Runs the main job on two methods and one seed."""
    from experiments import pairwise as driver
    from experiments.run import cli

    chosen = ["--methods=orthogonal,ridge", "--l2=0.1", "--seeds=42", "--heatmaps=none", "--overwrite"]
    places = [f"--store={store}", f"--out={out}", f"--max_per_person={per_person}"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            cli.run(driver.main, ["pairwise", *places, *chosen], values=driver.FLAGS)
    except SystemExit as end:
        if end.code:
            raise
    record = json.loads((pathlib.Path(out) / "config.json").read_text())
    return {"test_rows": record["splits"][0]["test_rows"]}


def one_evaluation(store: str, probes: str, gallery: str) -> dict[str, float]:
    """Evaluates mapped rows of one encoder against rows of another; the map is the identity."""
    opened = EmbeddingStore.open(store, verify=False)
    first, second = opened.encoders[:2]
    left, right = np.arange(int(probes)), opened.rows - np.arange(int(gallery)) - 1
    width = opened.dims[first]
    map_ = AffineMap((np.eye(width),), np.zeros(width))
    people = opened.identities
    mapped = map_(LazyRows.of(opened[first], left).unit())
    evaluate(mapped, LazyRows.of(opened[second], right).unit(), people[left], people[right])
    return {}


def main(arguments: list[str]) -> None:
    """Runs in the fresh process."""
    start = time.perf_counter()
    found = {"pairwise": pairwise, "evaluate": one_evaluation}[arguments[0]](*arguments[1:])
    measured = {"seconds": time.perf_counter() - start, "gigabytes": peak_gigabytes()}
    print(json.dumps({**found, **measured}))


if __name__ == "__main__":
    main(sys.argv[1:])
