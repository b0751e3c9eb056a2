"""The whole study: every analysis of every store, one directory for each part.

  python -m experiments.study --stores=lfw,cfp --out=results/study

Without --stores: made photographs under the bundled encoders, as `experiments.pairwise` does. Each part is written to
--out/NAME as its own driver would write it, with that driver's defaults and the flags given here; one that fails for
the data at hand is told with its reason, and the others go on. --parts names some of them.
"""

import dataclasses
import importlib
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments import analysis, caches, cli, flags, results
from experiments.analysis import Analysis, Job
from experiments.config import PairwiseConfig
from experiments.inputs import Data
from experiments.labels import read_labels
from experiments.progress import Progress, duration
from jaxalign import FoldMoments
from jaxalign.errors import UserError

# Modules of ``experiments`` with an ANALYSIS, in the order in which they run: of each store, or of all together.
OF_EACH = (
    *("pairwise", "geometry", "families"),
    *("rank_sweep", "ridge_path", "capacity", "data_efficiency", "stability"),
)
OF_ALL = ("transfer",)
# Parts of the same store that an analysis reads where they are there, instead of measuring again.
READS = {"geometry": ("pairwise",), "families": ("pairwise", "geometry")}
# Where a part of the study differs from its driver's defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "pairwise": {"methods": "identity,orthogonal,ridge,canonical,shared", "seeds": "42", "intervals": 1000},
}
FLAGS = flags.define(
    *("stores", "images", "models", "nonfinite", "crop", "bad_images", "embedding_cache", "same_names"),
    *("protocol", "normalize", "seeds", "train_fraction", "max_per_person"),
    *("fmr", "rank_k", "own_photograph", "intervals", "parts", "families"),
    *("overwrite", "compilation_cache"),
    out="results/study",
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One directory of the study: an analysis of one store or of all, with its flags."""

    name: str
    analysis: Analysis
    stores: tuple[Data, ...]
    values: Any
    config: PairwiseConfig


def main(_: list[str]) -> int:
    """Reads the flags, opens the stores, runs every part; the exit status is 1 where one has failed."""
    started = time.monotonic()
    given = {name: FLAGS[name].value for name in FLAGS if FLAGS[name].present}
    out, names = pathlib.Path(FLAGS.out), chosen_parts(FLAGS.parts)
    caches.set_compilation_cache(FLAGS.compilation_cache)
    old = check_output(out, FLAGS.overwrite)
    stores = open_all()
    if FLAGS.families is not None:
        for data in stores:
            read_labels(FLAGS.families, data.encoders)
    parts = list(planned(names, stores, given, out))
    if not parts:
        raise UserError(f"--parts={FLAGS.parts} takes at least two stores.")
    for entry in old:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    failed: dict[str, str] = {}
    kept: dict[Any, FoldMoments] = {}
    for number, part in enumerate(parts, start=1):
        try:
            took = run(part, kept, f"{number} of {len(parts)}: {part.name}")
            print(f"{part.name}: {duration(took)}", flush=True)
        except UserError as error:
            failed[part.name] = str(error)
            print(f"{part.name}: failed: {error}", flush=True)
    if len(failed) == len(parts):
        raise UserError(f"no part could be done; the first: {next(iter(failed.values()))}")
    seconds = round(time.monotonic() - started, 1)
    done = [part.name for part in parts if part.name not in failed]
    results.Writer(out).config("study", given, parts=done, failed=failed, seconds=seconds)
    print(f"Wrote {len(done)} parts to {out} in {duration(seconds)}.")
    return 1 if failed else 0


def chosen_parts(text: str) -> tuple[str, ...]:
    """The modules of the parts to run."""
    return (*OF_EACH, *OF_ALL) if text == "all" else flags.words("parts", text, (*OF_EACH, *OF_ALL), "part")


def of(name: str) -> Analysis:
    """The analysis of a driver, imported when it is needed."""
    return importlib.import_module(f"experiments.{name}").ANALYSIS


def open_all() -> list[Data]:
    """The stores of the study, or one of made photographs."""
    values = flags.complete(FLAGS)
    if values.stores is None:
        return [Data.open(analysis.configure(values))]
    return analysis.open_stores(values, least=1)[1]


def planned(
    names: Sequence[str], stores: Sequence[Data], given: Mapping[str, Any], out: pathlib.Path
) -> Iterator[Part]:
    """Every part: store by store, so that analyses of one store share its moments, then those of all stores."""
    for data in stores:
        for name in names:
            if name in OF_EACH:
                yield planned_part(f"{name}-{data.store.dataset}", name, (data,), given, out)
    for name in names:
        if name in OF_ALL and len(stores) > 1:
            yield planned_part(name, name, tuple(stores), given, out)


def planned_part(
    directory: str, name: str, stores: tuple[Data, ...], given: Mapping[str, Any], out: pathlib.Path
) -> Part:
    """A part with its flags: those given to the study, else its own defaults."""
    part, here = of(name), {"out": str(out / directory)}
    if "stores" in given:
        here["store"] = str(stores[0].store.path)
    values = flags.complete(part.flags, **{**DEFAULTS.get(name, {}), **given, **here})
    return Part(directory, part, stores, values, analysis.configure(values, part.methods, **part.also))


def run(part: Part, kept: dict[Any, FoldMoments], label: str) -> float:
    """Runs one part and writes its directory; returns how long it took."""
    started = time.monotonic()
    out, dataset = pathlib.Path(part.config.out), part.stores[0].store.dataset
    earlier = [out.with_name(f"{name}-{dataset}") for name in READS.get(part.analysis.name, ())]
    if earlier := [str(path) for path in earlier if (path / "config.json").exists()]:
        part.values.results = ",".join(earlier)
    with results.writer(out) as write, Progress(0) as progress:
        progress.note(label)
        analysis.run(part.analysis, Job(part.values, part.config, part.stores, write, progress, kept=kept))
    return time.monotonic() - started


def check_output(out: pathlib.Path, overwrite: bool) -> list[pathlib.Path]:
    """Says before any work starts whether the study may be written; returns what of an old one to remove.

    Raises:
      UserError: ``out`` is a file, or holds something that is not a study, or one that may not be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the study.")
    entries = sorted(out.iterdir()) if out.exists() else []
    for entry in entries:
        if entry.name.partition("-")[0] in (*OF_EACH, *OF_ALL, "report"):
            results.check_output(entry, overwrite)
        elif entry.name != "config.json":
            raise UserError(
                f"--out={out} holds files that are not a study ({entry.name}); choose another directory."
            )
    return entries


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
