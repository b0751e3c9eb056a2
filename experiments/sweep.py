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
import os
import pathlib
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.run import cli, flags, grid, ray_workers
from experiments.run.computing import Compiling, set_compilation_cache
from experiments.run.config import PairwiseConfig, Stores
from experiments.run.data import Data
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from experiments.run.results_tree import SWEEP, read_tree
from experiments.run.units import Units, digest
from jaxalign.core.errors import UserError
from jaxalign.data.atomic import remove_abandoned
from jaxalign.report.labels import count
from jaxalign.report.sections.aggregates import main_measures, methods_table
from jaxalign.report.sections.sweeps import sweep_tables
from jaxalign.report.tables import to_text

FLAGS = flags.define(
    *(Stores, PairwiseConfig, Protocol, Compiling),
    penalties=flags.Flag(
        None,
        "Penalties of ridge and reduced_rank, each measured on its own, separated by commas: numbers, and cv or gcv "
        "beside them. Without it: that of --l2. Example: --penalties=0.01,0.1,1,cv",
    ),
    workers=flags.Flag(
        None,
        "Share the items among so many Ray workers, each with one accelerator where there are any: processes of this "
        "machine, or with --cluster of a cluster. Needs jaxalign[cluster]. Without it, this process computes one item "
        "after another. Example: --workers=4",
        kind=int,
    ),
    cluster=flags.Flag(
        None,
        "With --workers: address of a Ray cluster, or `auto` on one of its nodes. Example: --cluster=10.0.0.1:6379",
    ),
    part=flags.Flag(
        None,
        "Compute the K-th of N equal shares of the items, K from 1; for arrays of jobs that see one --out. Example: "
        "--part=2/16",
    ),
    retry_failed=flags.Flag(False, "Try items again that have failed."),
    max_items=flags.Flag(0, "End after so many items; 0 sets no limit."),
    minutes=flags.Flag(0.0, "Begin no item after so many minutes; 0 sets no limit."),
    merge_only=flags.Flag(
        False, "Write results.csv and results.parquet from the items done so far, and end."
    ),
    dry_run=flags.Flag(False, "Print how much there is to do, and end; writes nothing."),
    without=grid.NOT_SHARED,
    out="results/sweep",
)


def main(_: list[str]) -> int:
    """Reads the flags, computes missing items, merges when all are done; returns the exit status."""
    started = time.monotonic()
    config = grid.SweepConfig.from_flags(FLAGS)
    part, parts = _part()
    deadline = started + 60 * FLAGS.minutes if FLAGS.minutes else float("inf")
    described, directory = config.describe(), _directory(FLAGS.out)
    grid.require_same_sweep(directory, described)
    items = config.items([store["dataset"] for store in described["stores"]])
    units = Units(directory / "items", digest(described))
    if FLAGS.merge_only:
        if not (directory / SWEEP).exists():
            raise UserError(f"--merge_only: there is no sweep at {directory}.")
        return _end(directory, items, units, described)
    stores = [Data.open(config.for_store(number)) for number in range(len(config.stores))]
    for number, data in enumerate(stores):
        config.for_store(number).pairs(
            data.dims
        )  # flags that do not suit a store are refused before any item
    if FLAGS.dry_run:
        print(plan(config, items, stores))
        return 0
    grid.write_description(directory, described)
    for place in (directory, units.directory):
        remove_abandoned(place)
    share = items[len(items) * (part - 1) // parts : len(items) * part // parts]
    standing = grid.Standing.of(share, units)
    left = [*standing.missing, *(standing.failed if FLAGS.retry_failed else ())][: FLAGS.max_items or None]
    done = 0
    with Progress(0) as progress, contextlib.ExitStack() as stack:
        if FLAGS.workers and left:
            ray = stack.enter_context(ray_workers.started(FLAGS.workers, FLAGS.cluster))
            opening = config, described, FLAGS.compilation_cache
            computed = ray_workers.computed(ray, FLAGS.workers, left, opening, deadline)
        else:
            set_compilation_cache(FLAGS.compilation_cache)
            computed = grid.Computing(config, stores).contents(left, deadline, progress.show)
        for item, content in computed:
            units.write(item.id, content)
            done += 1
            results = len(content.get("rows", ()))
            took = f"{results:,} results in {duration(content.get('seconds', 0))}"
            progress.note(f"{item.id}: {'failed' if 'failed' in content else took}")
    print(f"This process did {done} item{'s' * (done != 1)}.")
    return _end(directory, items, units, described)


def plan(config: grid.SweepConfig, items: Sequence[grid.Item], stores: Sequence[Data]) -> str:
    """What there is to do, in text."""
    lines = [count(len(items), "item")]
    for number, data in enumerate(stores):
        own = sum(item.store == number for item in items)
        pairwise = config.for_store(number)
        pairs, protocol = len(pairwise.pairs(data.dims)), pairwise.protocol
        splits = [
            data.split(seed, protocol.train_fraction, pairwise.max_per_person)
            for seed in sorted(protocol.seeds)
        ]
        train = int(np.mean([len(split.train) for split in splits]))
        test = int(np.mean([len(split.test) for split in splits]))
        lines.append(
            f"{data.store.dataset}: {count(own, 'item')} on {count(len(splits), 'split')}, {pairs:,} ordered pairs of "
            f"{len(data.encoders)} encoders; a split reads {train:,} training rows of each encoder once; an item "
            f"measures {test:,} test rows × {pairs:,} pairs = {test * pairs:,}, all items {test * pairs * own:,}"
        )
    return "\n".join(lines)


def _end(
    directory: pathlib.Path, items: Sequence[grid.Item], units: Units, described: Mapping[str, Any]
) -> int:
    """Says how the sweep stands, and merges if nothing is left to do or --merge_only asks for it."""
    standing = grid.Standing.of(items, units)
    counts = [f"{len(standing.done)} of {len(items)} items are done"]
    counts += [f"{len(standing.failed)} failed"] if standing.failed else []
    counts += [f"{len(standing.missing)} left"] if standing.missing else []
    print(f"{', '.join(counts)}.")
    if standing.done and (FLAGS.merge_only or not standing.missing):
        rows = grid.merge(directory, standing.done, units, described)
        print(text_of(directory), flush=True)
        print(f"Wrote {len(rows):,} results to {directory / 'results.csv'} and results.parquet.")
    for item, reason in standing.failed.items():
        print(f"failed: {item.id}: {reason}")
    if standing.failed:
        print("--retry_failed tries failed items again.")
    return 1 if standing.failed else 0


def text_of(directory: pathlib.Path) -> str:
    """The means of a merged sweep as text: methods, and the leading measures against the penalty."""
    tables = []
    for part in read_tree(directory).parts:
        if part.driver == "pairwise":
            table = part.table(part.rows)
            title = f"Methods on {part.dataset_words}"
            tables.append(methods_table(table, main_measures(table), name=part.name, title=title))
        else:
            tables += sweep_tables(part)
    return to_text(tables, width=max(60, shutil.get_terminal_size((100, 24)).columns))


def _directory(out: str) -> pathlib.Path:
    """The sweep's directory, absolute; it may be missing, but ``UserError`` if it is a file or holds something else."""
    if not out:
        raise UserError("--out is empty; give a directory for the sweep, such as --out=results/sweep1.")
    path = pathlib.Path(os.path.abspath(os.path.expanduser(out)))
    if path.exists() and not path.is_dir():
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the sweep.")
    if path.exists() and not (path / SWEEP).exists():
        foreign = [name for name in sorted(os.listdir(path)) if not name.startswith(".")]
        if foreign:
            what = f"files that are not a sweep ({foreign[0]})"
            raise UserError(f"--out={out} holds {what}; choose another directory.")
    return path


def _part() -> tuple[int, int]:
    """The numbers of --part, 1 of 1 without it; ``UserError`` where the flags that share items do not go together."""
    if not FLAGS.minutes >= 0:
        raise UserError(f"--minutes takes a number of 0 or more, got {FLAGS.minutes:g}.")
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
