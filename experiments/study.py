"""The whole study: every analysis of every store, one directory for each part, and a page on all of it.

  python -m experiments.study --stores=lfw,cfp --out=results/study

Without --stores: synthetic faces under five of the bundled encoders; --models=all takes all of them. Each part is
written to --out/NAME as its own command would write it, with that command's defaults (`pairwise`: one seed, five
methods, intervals; no controls, no heat maps) and the flags given here. If a part fails for the data at hand, its
reason is printed and the others are still done. --parts names some of them. The page is --out/report/report.html.
"""

import importlib
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import families, report, transfer
from experiments.run import analysis, cli, flags, results
from experiments.run.analysis import Analysis, Job
from experiments.run.config import Compiling, PairwiseConfig, Stores
from experiments.run.data import Data, set_compilation_cache
from experiments.run.earlier import read_tree
from experiments.run.measuring import require_ranks
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from jaxalign.core.errors import UserError
from jaxalign.report.labels import file_stem
from jaxalign.report.page import PAGE, require_report_libraries

# Modules of ``experiments`` with an ANALYSIS, in the order in which they run: of each store, or of all together.
OF_EACH = tuple("pairwise geometry families rank_sweep ridge_path capacity data_efficiency stability".split())
OF_ALL = ("transfer",)
PARTS = (*OF_EACH, *OF_ALL)
# Parts of the same stores that an analysis reads where they are there, instead of measuring again.
READS = {"geometry": ("pairwise",), "families": ("pairwise", "geometry"), "transfer": ("pairwise",)}
# Where a part of the study differs from its command's defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "pairwise": {"methods": "identity,orthogonal,ridge,canonical,shared", "seeds": "42", "intervals": 1000},
}
# Without stores and models: as many encoders as a study of three minutes has time for, one of each kind.
DEMONSTRATION = (
    "zoo:arcface_plain,zoo:cosface_residual,zoo:vit_cosface,zoo:masked_autoencoder,zoo:attributes_plain"
)
REPORT = "report"

FLAGS = flags.define(
    *(Stores, PairwiseConfig, Protocol, Compiling),
    parts=flags.Flag(
        "all", "Analyses to run, separated by commas, or `all`. Example: --parts=pairwise,transfer"
    ),
    **transfer.SAME_NAMES,
    **families.KNOWN_FAMILIES,
    **report.TABLES,
    without=(
        *("store", "sources", "targets", "methods", "l2", "comparisons", "folds", "measures"),
        *analysis.NOT_TAKEN.difference({"comparisons"}),
    ),
    out="results/study",
)


class Planned(NamedTuple):
    """One part: an analysis of one store or of all, and the directories of earlier parts that it reads results from."""

    name: str
    analysis: Analysis
    stores: tuple[Data, ...]
    values: Any
    config: PairwiseConfig
    earlier: tuple[pathlib.Path, ...]


def main(_: list[str]) -> int:
    """Reads the flags, opens the stores, runs every part, writes the page; the exit status is 1 where one failed."""
    started = time.monotonic()
    out = pathlib.Path(FLAGS.out).expanduser()
    given = {name: FLAGS[name].value for name in FLAGS if FLAGS[name].present}
    if not {"stores", "images", "models"} & set(given):
        given["models"] = DEMONSTRATION
    named = PARTS if FLAGS.parts == "all" else flags.words("parts", FLAGS.parts, PARTS, "part")
    formats = report.chosen_formats(FLAGS.tables)
    require_report_libraries()
    set_compilation_cache(FLAGS.compilation_cache)
    check_output(out, FLAGS.overwrite)
    every = flags.namespace(FLAGS, **given)
    _, stores = analysis.open_one(every) if every.stores is None else analysis.open_stores(every, least=1)
    parts = list(planned([name for name in PARTS if name in named], stores, given, out))
    for data in stores if given.get("families") is not None else ():  # mistakes that would fail in every part
        families.read_labels(given["families"], data.encoders)
    for part in parts:
        for data in part.stores:
            require_ranks(part.config, data)
    failed = run_all(parts)
    if len(failed) == len(parts):
        raise UserError(f"no part could be done; the first: {next(iter(failed.values()))}")
    done, seconds = [part.name for part in parts if part.name not in failed], time.monotonic() - started
    results.Writer(out).config("study", given, parts=done, failed=failed, seconds=round(seconds, 1))
    for entry in out.iterdir():  # of an older study; the report is replaced below
        if entry.is_dir() and entry.name not in done:
            shutil.rmtree(entry)
    page = write_report(out, formats)
    print(f"Wrote {len(done)} parts to {out} in {duration(time.monotonic() - started)}.")
    return 1 if failed or not page else 0


def run_all(parts: Sequence[Planned]) -> dict[str, str]:
    """Runs every part; returns the reasons of those that failed, by name."""
    failed: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        started = time.monotonic()
        earlier = [str(path) for path in part.earlier if path.name not in failed]
        part.values.results = ",".join(earlier) or None
        try:
            # The directory replaces that of an older study when it is complete.
            with results.writer(part.config.out, overwrite=True) as write, Progress(0) as progress:
                progress.note(f"{number} of {len(parts)}: {part.name}")
                analysis.run(part.analysis, Job(part.values, part.config, part.stores, write, progress))
            print(f"{part.name}: {duration(time.monotonic() - started)}", flush=True)
        except UserError as error:
            failed[part.name] = str(error)
            print(f"{part.name}: failed: {error}", flush=True)
    return failed


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


def planned(
    names: Sequence[str], stores: Sequence[Data], given: Mapping[str, Any], out: pathlib.Path
) -> Iterator[Planned]:
    """Every part: store by store, then those of all stores."""
    each = [name for name in names if name in OF_EACH]
    of_all = [name for name in names if name in OF_ALL and len(stores) > 1]
    if not each and not of_all:
        raise UserError(f"--parts={','.join(names)} takes at least two stores.")

    def directory(name: str, data: Data) -> pathlib.Path:
        return out / f"{name}-{file_stem(data.store.dataset)}"  # a file's name must not have every letter

    parts = [(directory(name, data), name, (data,)) for data in stores for name in each]
    for place, name, of in [*parts, *((out / name, name, tuple(stores)) for name in of_all)]:
        part, own = importlib.import_module(f"experiments.{name}").ANALYSIS, {"out": str(place)}
        if "stores" in given:
            own["store"] = str(of[0].store.path)
        values = flags.namespace(part.flags, only_defaults=True, **{**DEFAULTS.get(name, {}), **given, **own})
        read = [other for other in READS.get(name, ()) if other in each]
        earlier = tuple(directory(other, data) for data in of for other in read)
        config = analysis.configure(values, part.methods, **part.also)
        yield Planned(place.name, part, of, values, config, earlier)


def check_output(out: pathlib.Path, overwrite: bool) -> None:
    """Raises ``UserError`` if ``out`` is a file, or holds something that is not a study or may not be replaced."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the study.")
    for entry in sorted(out.iterdir()) if out.exists() else ():
        if entry.name.partition("-")[0] in (*PARTS, REPORT):
            results.check_output(entry, overwrite)
        elif entry.name != "config.json" and not entry.name.endswith(
            ".unfinished"
        ):  # left by a run that was killed
            foreign = f"files that are not a study ({entry.name})"
            raise UserError(f"--out={out} holds {foreign}; choose another directory.")
    if not out.exists():
        results.check_output(out, overwrite)


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
