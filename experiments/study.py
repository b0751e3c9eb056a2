"""The whole study: every analysis of every store, one directory for each part, and a page on all of it.

  python -m experiments.study --stores=lfw,cfp --out=results/study

Without --stores: synthetic faces under five of the bundled encoders; --models=all takes all of them. Each part is
written to --out/NAME as its own command would write it, with that command's defaults (`pairwise`: one seed, five
methods, intervals; of the controls `own` alone, no heat maps) and those of the flags given here that it takes.
`pairwise` compares by every one of --scores, the others by the cosine. If a part fails for the data at hand, its reason
is printed and the others are still done. --parts names some of them. The page is --out/report/report.html.

A part that is finished with the same settings and data is kept, so the same command goes on where a study was stopped.
--overwrite replaces parts of other settings; to measure a part again, delete its directory.
"""

import importlib
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import families, report, transfer
from experiments.run import analysis, cli, flags, results
from experiments.run.analysis import Analysis, Job
from experiments.run.computing import Compiling, set_compilation_cache
from experiments.run.config import PairwiseConfig, Stores
from experiments.run.data import Data
from experiments.run.measuring import require_ranks
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from experiments.run.results_tree import read_config, read_tree
from jaxalign.core.errors import UserError
from jaxalign.data.atomic import UNFINISHED, claimed, remove_abandoned
from jaxalign.report.labels import count, file_stem
from jaxalign.report.page import PAGE, require_report_libraries
from jaxalign.report.records import COSINE
from jaxalign.version import __version__

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
        *analysis.NOT_TAKEN.difference({"comparisons", "scores"}),
    ),
    intervals=1000,
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
    given: dict[str, Any] = {name: FLAGS[name].value for name in FLAGS if FLAGS[name].present}
    if not {"stores", "images", "models"} & set(given):
        given["models"] = DEMONSTRATION
    named = PARTS if FLAGS.parts == "all" else flags.words("parts", FLAGS.parts, PARTS, "part")
    formats = report.chosen_formats(FLAGS.tables)
    require_report_libraries()
    set_compilation_cache(FLAGS.compilation_cache)
    out = check_output(FLAGS.out)
    every = flags.namespace(FLAGS, **given)
    stores = (analysis.open_one(every) if every.stores is None else analysis.open_each(every))[1]
    impossible: dict[str, str] = {}
    parts = list(planned([name for name in PARTS if name in named], stores, given, out, impossible))
    for data in stores if given.get("families") is not None else ():  # mistakes that would fail in every part
        families.read_labels(given["families"], data.encoders)
    for part in parts:
        for data in part.stores:
            require_ranks(part.config, data)
    with results.no_new_parents(out), claimed(out.absolute()):
        remove_abandoned(out)
        kept = [part.name for part in parts if is_finished(part)]
        for part in parts:
            if part.name not in kept:
                results.check_output(part.config.out, FLAGS.overwrite)
        failed = run_all(parts, kept) | impossible
        done = [part.name for part in parts if part.name not in failed]
        if not done:
            raise UserError(f"no part could be done; the first: {next(iter(failed.values()))}")
        write, seconds = results.Writer(out), round(time.monotonic() - started, 1)
        write.config("study", given, parts=done, failed=failed, seconds=seconds)
        if write.failed:
            raise results.NotWrittenError(f"{out}: {write.failed}. The parts are there.")
        page = write_report(out, formats)
    print(f"Wrote {count(len(done) - len(kept), 'part')} to {out} in {duration(time.monotonic() - started)}.")
    return 1 if failed or not page else 0


def is_finished(part: Planned) -> bool:
    """Whether the part's directory holds its results, of the same settings, data and version."""
    try:
        there = read_config(pathlib.Path(part.config.out))
    except UserError:
        return False
    given = analysis.described(part.analysis, part.values, part.config, part.stores)
    ours = {"driver": part.analysis.name, "versions": {"jaxalign": __version__}, **results.plain(given)}
    return all(_settings(there, key) == _settings(ours, key) for key in ("driver", "versions", *given))


def _settings(content: Mapping[str, Any], key: str) -> Any:
    """What ``config.json`` says of one thing, without where files were and what the numbers do not depend on."""
    value = content.get(key)
    if key == "stores" and isinstance(value, list):
        return [_without(store, ("path",)) for store in value]
    if key == "versions" and isinstance(value, dict):
        return value.get("jaxalign")
    return _without(value, ("store", "out", "overwrite", "embedding_cache", "devices", "results"))


def _without(value: Any, names: Sequence[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if key not in names}


def run_all(parts: Sequence[Planned], kept: Sequence[str]) -> dict[str, str]:
    """Runs every part that is not ``kept``; returns the reasons of those that failed, by name.

    Raises:
      NotWrittenError: the disk refused the results of a part, whose table is printed.
    """
    failed: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        if part.name in kept:
            print(f"{part.name}: is there already", flush=True)
            continue
        started = time.monotonic()
        earlier = [str(path) for path in part.earlier if path.name not in failed]
        part.values.results = ",".join(earlier) or None
        try:
            out = part.config.out
            with results.writer(out, overwrite=FLAGS.overwrite) as write, Progress(0) as progress:
                progress.note(f"{number} of {len(parts)}: {part.name}")
                job = Job(part.values, part.config, part.stores, write, progress)
                text = analysis.run(part.analysis, job)
                known = {warning for data in part.stores for warning in data.warnings}  # and told
                for warning in job.record["warnings"]:
                    if warning not in known:
                        progress.note(f"warning: {warning}")
                if write.failed:
                    print(text, flush=True)
            print(f"{part.name}: {duration(time.monotonic() - started)}", flush=True)
        except results.NotWrittenError:
            raise
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
    except results.NotWrittenError:
        raise
    except Exception as error:  # nothing that goes wrong with a page may cost the results
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"report: failed: {' '.join(reason.split())}", flush=True)
        return False
    print(f"report: {duration(time.monotonic() - started)}, {out / REPORT / PAGE}", flush=True)
    return True


def planned(
    names: Sequence[str],
    stores: Sequence[Data],
    given: Mapping[str, Any],
    out: pathlib.Path,
    impossible: dict[str, str],
) -> Iterator[Planned]:
    """Every part: store by store, then those of all stores; ``impossible`` gets parts that no store allows, and why."""
    each = [name for name in names if name in OF_EACH]
    of_all = [name for name in names if name in OF_ALL and len(stores) > 1]
    if not each and not of_all:
        raise UserError(f"--parts={','.join(names)} takes at least two stores.")

    def directory(name: str, data: Data) -> pathlib.Path:
        return out / f"{name}-{file_stem(data.store.dataset)}"  # a file's name must not have every letter

    parts = [(directory(name, data), name, (data,)) for data in stores for name in each]
    for name in of_all:
        try:
            parts.append((out / name, name, tuple(analysis.with_shared_encoders(stores))))  # pyright: ignore[reportArgumentType]
        except UserError as error:
            if not each:
                raise
            impossible[name] = str(error)
            print(f"{name}: failed: {error}", flush=True)
    by_cosine = COSINE in (given.get("scores") or COSINE).split(",")  # what other parts can read
    for place, name, of in parts:
        part, own = importlib.import_module(f"experiments.{name}").ANALYSIS, {"out": str(place)}
        if "stores" in given:
            own["store"] = str(of[0].store.path)
        known = {flag: value for flag, value in given.items() if flag in part.flags}
        values = flags.namespace(part.flags, only_defaults=True, **{**DEFAULTS.get(name, {}), **known, **own})
        read = [
            other for other in READS.get(name, ()) if other in each and (other != "pairwise" or by_cosine)
        ]
        earlier = tuple(directory(other, data) for data in of for other in read)
        config = analysis.configure(values, part.methods, **part.also)
        yield Planned(place.name, part, of, values, config, earlier)


def check_output(given: str) -> pathlib.Path:
    """The directory; ``UserError`` if it is a file, cannot be made, or holds something that is not a study."""
    out = pathlib.Path(given).expanduser()
    if not given or not out.exists():
        results.check_output(given, overwrite=False)
        return out
    if not out.is_dir():
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the study.")
    for entry in sorted(out.iterdir()):
        hidden = entry.name.startswith(".") and entry.name.endswith((UNFINISHED, ".lock"))  # of a killed run
        ours = entry.name == "config.json" or hidden or entry.name.endswith(results.INCOMPLETE)
        if entry.name.partition("-")[0] in (*PARTS, REPORT):
            results.check_output(entry, overwrite=True)
        elif not ours:
            foreign = f"files that are not a study ({entry.name})"
            raise UserError(f"--out={out} holds {foreign}; choose another directory.")
    return out


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
