"""The whole study: every analysis of every store, one directory for each part, and a page on all of it.

  python -m experiments.study --stores=lfw,cfp --out=results/study

Without --stores: synthetic faces under five of the bundled encoders; --models=all takes all of them. Each part is
written to --out/NAME as its own command would write it, with that command's defaults (`pairwise`: one seed, five
methods, intervals; no controls, no heat maps) and the flags given here. If a part fails for the data at hand, its
reason is printed and the others are still done. --parts names some of them. The page is --out/report/report.html.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import families, report, transfer
from experiments.run import analysis, cli, flags, results
from experiments.run.analysis import Job
from experiments.run.config import Compiling, PairwiseConfig, Stores
from experiments.run.data import Data, set_compilation_cache
from experiments.run.earlier import read_tree
from experiments.run.measuring import require_ranks
from experiments.run.plan import (
    REPORT,
    Part,
    asked,
    check_output,
    chosen_parts,
    open_all,
    planned,
    remove_stale,
)
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from jaxalign.core.errors import UserError
from jaxalign.report.page import PAGE, require_report_libraries
from jaxalign.report.tables import FORMATS


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyParts:
    """Which analyses to run."""

    parts: str = flags.field(
        "all", "Analyses to run, separated by commas, or `all`. Example: --parts=pairwise,transfer"
    )


FLAGS = flags.define(
    *(Stores, PairwiseConfig, Protocol, Compiling),
    *(transfer.SameNames, families.KnownFamilies, StudyParts, report.Tables),
    without=(
        *("store", "sources", "targets", "methods", "l2", "comparisons", "folds", "measures"),
        *analysis.NOT_TAKEN.difference({"comparisons"}),
    ),
    out="results/study",
)


def main(_: list[str]) -> int:
    """Reads the flags, opens the stores, runs every part, writes the page; the exit status is 1 where one failed."""
    started = time.monotonic()
    given = asked(FLAGS)
    out, names = pathlib.Path(FLAGS.out).expanduser(), chosen_parts(FLAGS.parts)
    formats = flags.words("tables", FLAGS.tables, FORMATS, "format") if FLAGS.tables else ()
    require_report_libraries()
    set_compilation_cache(FLAGS.compilation_cache)
    check_output(out, FLAGS.overwrite)
    stores = open_all(FLAGS, given)
    parts = list(planned(names, stores, given, out))
    check(parts, stores, given)
    failed = run_all(parts)
    if len(failed) == len(parts):
        raise UserError(f"no part could be done; the first: {next(iter(failed.values()))}")
    done, seconds = [part.name for part in parts if part.name not in failed], time.monotonic() - started
    results.Writer(out).config("study", given, parts=done, failed=failed, seconds=round(seconds, 1))
    remove_stale(out, done)
    page = write_report(out, formats)
    print(f"Wrote {len(done)} parts to {out} in {duration(time.monotonic() - started)}.")
    return 1 if failed or not page else 0


def check(parts: Sequence[Part], stores: Sequence[Data], given: Mapping[str, Any]) -> None:
    """What of the flags would fail in every part, before any of them.

    Raises:
      UserError: families name encoders that are not there, or ranks are larger than the gallery.
    """
    for data in stores:
        if given.get("families") is not None:
            families.read_labels(given["families"], data.encoders)
    for part in parts:
        for data in part.stores:
            require_ranks(part.config, data)


def run_all(parts: Sequence[Part]) -> dict[str, str]:
    """Runs every part; returns the reasons of those that failed, by name."""
    failed: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        try:
            part.values.results = (
                ",".join(str(path) for path in part.earlier if path.name not in failed) or None
            )
            took = run(part, f"{number} of {len(parts)}: {part.name}")
            print(f"{part.name}: {duration(took)}", flush=True)
        except UserError as error:
            failed[part.name] = str(error)
            print(f"{part.name}: failed: {error}", flush=True)
    return failed


def run(part: Part, label: str) -> float:
    """Runs one part; its directory replaces that of an older study when it is complete. Returns how long it took."""
    started = time.monotonic()
    with results.writer(part.config.out, overwrite=True) as write, Progress(0) as progress:
        progress.note(label)
        analysis.run(part.analysis, Job(part.values, part.config, part.stores, write, progress))
    return time.monotonic() - started


def write_report(out: pathlib.Path, formats: tuple[str, ...]) -> bool:
    """Writes the page on all parts and returns whether it is there; a failure is printed and costs no results."""
    started = time.monotonic()
    try:
        tree = read_tree(out)
        with Progress(len(tree.parts)) as progress:
            report.write(tree, out / REPORT, formats, overwrite=True, progress=progress)
    except Exception as error:  # nothing that goes wrong with a page may cost the results
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"report: failed: {' '.join(reason.split())}", flush=True)
        return False
    print(f"report: {duration(time.monotonic() - started)}, {out / REPORT / PAGE}", flush=True)
    return True


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
