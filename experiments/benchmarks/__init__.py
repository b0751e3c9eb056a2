"""Benchmarks, each run as ``python -m experiments.benchmarks.NAME``. This file holds what several of them share."""

import json
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import flags

from jaxalign.core.errors import UserError
from jaxalign.data.atomic import writing

SPARE_BYTES = 2**30  # left on the disk
STATUS = pathlib.Path("/proc/self/status")


def define_out(values: flags.FlagValues) -> None:
    """Adds the flag ``--out``."""
    flags.DEFINE_string("out", None, "File to write the figures to, as JSON.", flag_values=values)


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


def seconds(work: Callable[[], Any]) -> float:
    """How long some work takes; it waits for its result itself."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each work after one run that compiles, one of each a round: what slows one slows all."""
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(found) for name, found in times.items()}


def peak_gigabytes() -> float:
    """Peak resident memory of this process.

    On Linux it is read from /proc: what ``getrusage`` says of a process that another one started is at least what that
    one had.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def in_fresh_process(
    function: Callable[..., Mapping[str, float]], *arguments: str | float
) -> dict[str, float]:
    """What a function of a benchmark gives in a process of its own, with "seconds" and peak "gigabytes" of memory.

    Args:
      function: of a module of this package; it may say "seconds" itself.
      arguments: of the function.

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
    """Runs in the fresh process and prints what it measures."""
    start = time.perf_counter()
    found = function(*arguments)
    print(json.dumps({"seconds": time.perf_counter() - start, **found, "gigabytes": peak_gigabytes()}))


def scratch_directory(scratch: str | None, needed: int) -> tempfile.TemporaryDirectory:
    """A directory for a store of ``needed`` bytes, removed in the end.

    Raises:
      UserError: the disk has no room for the store.
    """
    folder = pathlib.Path(scratch or tempfile.gettempdir())
    if not folder.is_dir() or shutil.disk_usage(folder).free < needed + SPARE_BYTES:
        raise UserError(f"{folder}: the store takes {needed / 1e9:.1f} GB; give --scratch, or fewer --rows.")
    return tempfile.TemporaryDirectory(dir=folder)
