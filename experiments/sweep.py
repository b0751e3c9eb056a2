"""Aligns the pairs of many stores, methods, ranks, penalties and seeds; goes on where it was stopped.

  python -m experiments.sweep --stores=lfw,cfp --methods=ridge,canonical --penalties=0.1,1,cv --out=results/sweep1

An item is a method with its penalty and rank on one split of one store, computed as `experiments.pairwise` does it.
Each finished item is a file in --out. Items whose file is there are skipped, so the same command goes on after a crash.
When all items are done, --out holds results.csv, results.parquet and fits.csv.

By default this process computes one item after another. --workers=N shares the items among N processes of this machine,
or with --cluster of a Ray cluster. --part=K/N computes one of N equal shares, for arrays of jobs. See docs/sweep.md.

Exit status: 0, or 1 where items have failed, or 2 for a mistake in the flags or stores.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.run import cli, flags, ray_workers
from experiments.run.config import Compiling, PairwiseConfig, Stores
from experiments.run.data import Data, set_compilation_cache
from experiments.run.grid import (
    FILE,
    NOT_SHARED,
    Computing,
    Grid,
    Item,
    Standing,
    SweepConfig,
    merge,
    require_same_sweep,
    write_description,
)
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from experiments.run.units import Units, digest
from jaxalign.core.errors import UserError

ITEMS = "items"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who computes which items, and for how long."""

    workers: int | None = flags.field(
        None,
        "Share the items among so many Ray workers, each with one accelerator where there are any: processes of this "
        "machine, or with --cluster of a cluster. Needs jaxalign[cluster]. Without it, this process computes one item "
        "after another. Example: --workers=4",
        kind=int,
    )
    cluster: str | None = flags.field(
        None,
        "With --workers: address of a Ray cluster, or `auto` on one of its nodes. Example: --cluster=10.0.0.1:6379",
    )
    part: str | None = flags.field(
        None,
        "Compute the K-th of N equal shares of the items, K from 1; for arrays of jobs that see one --out. Example: "
        "--part=2/16",
    )
    retry_failed: bool = flags.field(False, "Try items again that have failed.")
    max_items: int = flags.field(0, "End after so many items; 0 sets no limit.")
    minutes: float = flags.field(0.0, "Begin no item after so many minutes; 0 sets no limit.")
    merge_only: bool = flags.field(
        False, "Write results.csv and results.parquet from the items done so far, and end."
    )
    dry_run: bool = flags.field(False, "Print how much there is to do, and end; writes nothing.")


FLAGS = flags.define(
    *(Stores, PairwiseConfig, Protocol, Grid, Sharing, Compiling), without=NOT_SHARED, out="results/sweep"
)


def main(_: list[str]) -> int:
    """Reads the flags, computes missing items, merges when all are done; returns the exit status."""
    started = time.monotonic()
    config = SweepConfig.from_flags(FLAGS)
    deadline, (part, parts) = _deadline(started), _part()
    described = config.describe()
    directory = _directory(FLAGS.out)
    require_same_sweep(directory, described)
    items = config.items([store["dataset"] for store in described["stores"]])
    units = Units(directory / ITEMS, digest(described))
    if FLAGS.merge_only:
        if not (directory / FILE).exists():
            raise UserError(f"--merge_only: there is no sweep at {directory}.")
        return _end(directory, items, units)
    stores = [Data.open(config.for_store(number)) for number in range(len(config.stores))]
    if FLAGS.dry_run:
        print(plan(config, items, stores))
        return 0
    write_description(directory, described)
    share = items[len(items) * (part - 1) // parts : len(items) * part // parts]
    standing = Standing.of(share, units)
    left = standing.missing + (list(standing.failed) if FLAGS.retry_failed else [])
    left = left[: FLAGS.max_items or None]
    done = 0
    with Progress(0) as progress, contextlib.ExitStack() as stack:
        if FLAGS.workers and left:
            ray = stack.enter_context(ray_workers.started(FLAGS.workers, FLAGS.cluster))
            opening = config, described, FLAGS.compilation_cache
            computed = ray_workers.computed(ray, FLAGS.workers, left, opening, deadline)
        else:
            set_compilation_cache(FLAGS.compilation_cache)
            computed = _one_by_one(config, stores, left, deadline, progress)
        for item, content in computed:
            units.write(item.id, content)
            done += 1
            progress.note(f"{item.id}: {_outcome(content)}")
    print(f"This process did {done} item{'s' * (done != 1)}.")
    return _end(directory, items, units)


def plan(config: SweepConfig, items: Sequence[Item], stores: Sequence[Data]) -> str:
    """What there is to do, in text."""
    lines = [f"{len(items):,} items"]
    for number, data in enumerate(stores):
        own = [item for item in items if item.store == number]
        pairwise = config.for_store(number)
        pairs = len(pairwise.pairs(data.encoders))
        seeds, protocol = sorted({item.seed for item in own}), pairwise.protocol
        splits = [data.split(seed, protocol.train_fraction, pairwise.max_per_person) for seed in seeds]
        train, test = (
            int(np.mean([len(rows) for rows in side])) for side in zip(*((s.train, s.test) for s in splits))
        )
        lines.append(
            f"{data.store.dataset}: {len(own):,} items on {len(seeds)} splits, {pairs:,} ordered pairs of "
            f"{len(data.encoders)} encoders; a split reads {train:,} training rows of each encoder once; an item "
            f"measures {test:,} test rows × {pairs:,} pairs = {test * pairs:,}, all items "
            f"{test * pairs * len(own):,}"
        )
    return "\n".join(lines)


def _one_by_one(
    config: SweepConfig, stores: Sequence[Data], items: Sequence[Item], deadline: float, progress: Progress
) -> Iterator[tuple[Item, dict[str, Any]]]:
    computing = Computing(config, stores)
    for item in items:
        if time.monotonic() > deadline:
            return
        yield item, computing.content(item, progress.show)


def _outcome(content: dict[str, Any]) -> str:
    if "failed" in content:
        return "failed"
    return f"{len(content['rows']):,} results in {duration(content['seconds'])}"


def _end(directory: pathlib.Path, items: Sequence[Item], units: Units) -> int:
    """Says how the sweep stands, and merges if nothing is left to do or --merge_only asks for it."""
    standing = Standing.of(items, units)
    print(
        f"{len(standing.done)} of {len(items)} items are done"
        + (f", {len(standing.failed)} failed" if standing.failed else "")
        + (f", {len(standing.missing)} left" if standing.missing else "")
        + "."
    )
    if standing.done and (FLAGS.merge_only or not standing.missing):
        rows = merge(directory, standing.done, units)
        print(f"Wrote {rows:,} results to {directory / 'results.csv'} and results.parquet.")
    for item, reason in standing.failed.items():
        print(f"failed: {item.id}: {reason}")
    if standing.failed:
        print("--retry_failed tries failed items again.")
    return 1 if standing.failed else 0


def _directory(out: str) -> pathlib.Path:
    """The sweep's directory, absolute; it may be missing.

    Raises:
      UserError: it is a file, or holds something else.
    """
    if not out:
        raise UserError("--out is empty; give a directory for the sweep, such as --out=results/sweep1.")
    path = pathlib.Path(os.path.abspath(os.path.expanduser(out)))
    if path.exists() and not path.is_dir():
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the sweep.")
    if path.exists() and not (path / FILE).exists():
        foreign = [name for name in sorted(os.listdir(path)) if not name.startswith(".")]
        if foreign:
            raise UserError(
                f"--out={out} holds files that are not a sweep ({foreign[0]}); choose another directory."
            )
    return path


def _deadline(started: float) -> float:
    minutes = FLAGS.minutes
    if not minutes >= 0:
        raise UserError(f"--minutes takes a number of 0 or more, got {minutes:g}.")
    return started + 60 * minutes if minutes else float("inf")


def _part() -> tuple[int, int]:
    """The numbers of --part, 1 of 1 without it; and whether the flags that share items go together."""
    if FLAGS.cluster is not None and FLAGS.workers is None:
        raise UserError("--cluster needs --workers, the number of workers to start there.")
    if FLAGS.workers == 0:
        raise UserError("--workers takes a whole number of 1 or more, got 0; leave it out for no workers.")
    if FLAGS.part is None:
        return 1, 1
    if FLAGS.workers is not None:
        raise UserError("--part and --workers exclude each other; leave one out.")
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", FLAGS.part)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part takes K/N with K from 1 to N, such as 2/16; got '{FLAGS.part}'.")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
