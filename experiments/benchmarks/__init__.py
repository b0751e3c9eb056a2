"""Benchmarks, each run as ``python -m experiments.benchmarks.NAME``. This file holds what several of them share."""

import contextlib
import io
import json
import pathlib
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from experiments.run import cli, flags
from jaxalign.core.errors import UserError
from jaxalign.data.atomic import writing

SPARE_BYTES = 2**30  # left on the disk
STATUS = pathlib.Path("/proc/self/status")


def define(**own: flags.Flag) -> absl_flags.FlagValues:
    """Defines the flags of a benchmark: its own, and ``--out``."""
    return flags.define(**own, out=flags.Flag(None, "File to write the figures to, as JSON."))  # pyright: ignore[reportArgumentType]


def show(figures: Mapping[str, float]) -> None:
    """Prints figures, one on a line."""
    for name, value in figures.items():
        print(f"  {name:52s} {value:10.4g}", flush=True)


def write(path: str | None, record: Mapping[str, Any]) -> None:
    """Writes figures and the version of JAX as JSON; nothing where no path is given."""
    if path:
        file = pathlib.Path(path)
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({**record, "jax": jax.__version__}, indent=1) + "\n")


def synthetic(rows: int, widths: Sequence[int], seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Embeddings of people with five photographs each: float32 arrays [rows, width], and identities."""
    rng = np.random.default_rng(seed)
    identities = np.arange(rows) // 5
    vectors = rng.standard_normal((identities[-1] + 1, 200), np.float32)[identities]
    vectors += 0.5 * rng.standard_normal(vectors.shape, np.float32)

    def view(width: int) -> np.ndarray:
        mixing = rng.standard_normal((200, width), np.float32) / np.sqrt(np.float32(200))
        return vectors @ mixing + 0.3 * rng.standard_normal((rows, width), np.float32)

    return {f"encoder{k}_{width}": view(width) for k, width in enumerate(widths)}, identities


def seconds(work: Callable[[], Any]) -> float:
    """How long some work takes; it waits for its result itself."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each work after one run that compiles, one of each a round: what slows one slows all."""
    for work in works.values():
        work()
    times = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: statistics.median(found[name] for found in times) for name in works}


def peak_gigabytes() -> float:
    """Peak resident memory of this process.

    On Linux it is read from /proc, because ``getrusage`` counts the process that started this one too.
    """
    if STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+)", STATUS.read_text())):
        return int(found[1]) * 1024 / 1e9
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def in_fresh_process(function: Callable[..., Mapping[str, float]], *arguments: Any) -> dict[str, float]:
    """What a function of a benchmark's module gives in a process of its own, with "seconds" and peak "gigabytes".

    Raises:
      UserError: the process fails.
    """
    module = f"experiments.benchmarks.{pathlib.Path(function.__code__.co_filename).stem}"
    code = (
        f"import experiments.benchmarks as b, {module} as m; b.measure(m.{function.__name__}, *{arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{function.__name__} failed in its process: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(function: Callable[..., Mapping[str, float]], *arguments: Any) -> None:
    """Runs a function in the fresh process and prints what it measures; it may say "seconds" itself."""
    start = time.perf_counter()
    found = function(*arguments)
    print(json.dumps({"seconds": time.perf_counter() - start, **found, "gigabytes": peak_gigabytes()}))


def run_quietly(command: Any, *arguments: str) -> None:
    """Runs a command, given as its module, in this process and hides what it prints."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.run(command.main, [command.__name__, *arguments], values=command.FLAGS)
    except SystemExit as end:
        if end.code:
            raise


def scratch_directory(scratch: str | None, needed: int) -> tempfile.TemporaryDirectory:
    """A directory for a store of ``needed`` bytes, removed in the end.

    Raises:
      UserError: there is no such folder, or its disk has no room for the store.
    """
    folder = pathlib.Path(scratch or tempfile.gettempdir())
    if not folder.is_dir() or shutil.disk_usage(folder).free < needed + SPARE_BYTES:
        raise UserError(f"{folder}: the store takes {needed / 1e9:.1f} GB; give --scratch, or fewer --rows.")
    return tempfile.TemporaryDirectory(dir=folder)
