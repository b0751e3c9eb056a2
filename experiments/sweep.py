"""Aligns the pairs of many stores, methods, ranks, penalties and seeds, by as many processes as there are.

  python -m experiments.sweep --stores=lfw,cfp --methods=ridge,canonical --penalties=0.1,1,cv --out=results/sweep1

Start the same command as often as there are devices, on any machines that see --out: each takes items (a method with
its penalty and rank, on one split of one store) from that directory and does them as `experiments.pairwise` does.
Each item is done once; those of a process that was killed are done by another, and the same command goes on where a
sweep stopped. When all are done, --out holds results.csv, results.parquet and fits.csv. docs/sweep.md has scripts
for TPU slices and SLURM.

Exit status: 0, or 1 where items have failed, or 2 for a mistake in the flags or stores.
"""

import contextlib
import os
import pathlib
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments.run import cli, flags
from experiments.run.claims import CLAIMED, DONE, FAILED, Claims, State
from experiments.run.config import Compiling, PairwiseConfig, Stores
from experiments.run.data import Data, set_compilation_cache
from experiments.run.progress import Progress
from experiments.run.protocols import Protocol
from experiments.run.sweep_config import (
    FILE,
    NOT_SHARED,
    Grid,
    Item,
    Sharing,
    SweepConfig,
    agree,
    require_agreement,
)
from experiments.run.sweep_results import FOLDER, merge
from experiments.run.sweep_work import Doing, Limits, unfinished, work
from jaxalign.core.errors import UserError
from jaxalign.data.atomic import writing

ITEMS = "items"

FLAGS = flags.define(
    *(Stores, PairwiseConfig, Protocol, Grid, Sharing, Compiling), without=NOT_SHARED, out="results/sweep"
)


def main(_: list[str]) -> int:
    """Reads the flags, takes part in the sweep, merges if it is complete; returns the exit status."""
    started = time.monotonic()
    config = SweepConfig.from_flags(FLAGS)
    limits, stale = _limits(started), _stale_seconds()
    described = config.describe()
    directory = _directory(FLAGS.out)
    require_agreement(directory, described)
    items = config.items([store["dataset"] for store in described["stores"]])
    if FLAGS.merge_only:
        _require_sweep(directory)
        return _end(directory, config, items, Claims(directory / ITEMS, stale), anyway=True)
    set_compilation_cache(FLAGS.compilation_cache)
    stores = [Data.open(config.for_store(number)) for number in range(len(config.stores))]
    if FLAGS.dry_run:
        print(plan(config, items, stores))
        return 0
    with writing(directory):
        for folder in (ITEMS, FOLDER):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        agree(directory, described)
    claims = Claims(directory / ITEMS, stale)
    with Progress(0) as progress, _ended_by_scheduler(), writing(directory):
        begun = work(directory, items, claims, Doing(config, stores), limits, FLAGS.retry_failed, progress)
    print(f"This process did {begun} item{'s' * (begun != 1)}.")
    return _end(directory, config, items, claims, anyway=False)


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


def _end(
    directory: pathlib.Path, config: SweepConfig, items: Sequence[Item], claims: Claims, anyway: bool
) -> int:
    """Merges where nothing is left to do, or anyway; says how the sweep stands."""
    states = claims.states([item.id for item in items])
    counts = Counter(state.kind for state in states.values())
    left = len(unfinished(states))
    print(
        f"{counts[DONE]} of {len(items)} items are done"
        + (f", {counts[FAILED]} failed" if counts[FAILED] else "")
        + (f", {counts[CLAIMED]} in work" if counts[CLAIMED] else "")
        + (f", {left - counts[CLAIMED]} free" if left > counts[CLAIMED] else "")
        + "."
    )
    if counts[DONE] and (anyway or not left):
        with writing(directory):
            rows = merge(directory, config, items, claims, states)
        print(f"Wrote {rows:,} results to {directory / 'results.csv'} and results.parquet.")
    _list_failures(claims, states)
    return 1 if counts[FAILED] else 0


def _list_failures(claims: Claims, states: Mapping[str, State]) -> None:
    for id, state in states.items():
        if state.kind == FAILED:
            print(f"failed: {id}: {claims.failure(id, state)}")
    if any(state.kind == FAILED for state in states.values()):
        print("--retry_failed tries failed items again.")


def _directory(out: str) -> pathlib.Path:
    """The sweep's directory, absolute; it need not be there.

    Raises:
      UserError: it is a file, or holds something else.
    """
    if not out:
        raise UserError(
            "--out is empty; give a directory that all processes see, such as --out=results/sweep1."
        )
    path = pathlib.Path(os.path.abspath(os.path.expanduser(out)))
    if path.exists() and not path.is_dir():
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the sweep.")
    ours = {FILE, ITEMS, FOLDER}
    if path.exists() and not (path / FILE).exists():
        foreign = [name for name in sorted(os.listdir(path)) if name not in ours and not name.startswith(".")]
        if foreign:
            raise UserError(
                f"--out={out} holds files that are not a sweep ({foreign[0]}); choose another directory."
            )
    return path


def _require_sweep(directory: pathlib.Path) -> None:
    if not (directory / FILE).exists():
        raise UserError(f"--merge_only: there is no sweep at {directory}.")


def _limits(started: float) -> Limits:
    minutes = FLAGS.minutes
    if not minutes >= 0:
        raise UserError(f"--minutes takes a number of 0 or more, got {minutes:g}.")
    until = started + 60 * minutes if minutes else float("inf")
    return Limits(FLAGS.max_items, until, FLAGS.wait)


def _stale_seconds() -> float:
    if not FLAGS.stale_seconds >= 1:
        raise UserError(f"--stale_seconds takes a number of 1 or more, got {FLAGS.stale_seconds:g}.")
    return FLAGS.stale_seconds


@contextlib.contextmanager
def _ended_by_scheduler() -> Iterator[None]:
    """A batch system that ends a job sends SIGTERM first: it gives the claim back, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
