"""How an analysis runs: its flags, its stores, its results directory. Each command says only what it measures.

A command has an ``ANALYSIS``; ``main_of`` makes its ``main``, and ``experiments.study`` runs the same one as a part.
"""

import dataclasses
import time
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from experiments.run import flags, results
from experiments.run.aligning import Aligning, empty_rows
from experiments.run.comparing import write_extras
from experiments.run.computing import Compiling, set_compilation_cache
from experiments.run.config import PairwiseConfig, Stores
from experiments.run.data import Data
from experiments.run.hosts import Parts
from experiments.run.measuring import Measuring, TestRows
from experiments.run.progress import Progress, duration
from experiments.run.protocols import METHODS, Protocol
from experiments.run.results import FitRow
from jaxalign import PairwiseMaps
from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import ALONE
from jaxalign.report import Row

# Flags of the main command that no analysis takes unless it names them.
NOT_TAKEN = frozenset(
    {"ranks", "loss", "steps", "fit_rank", "comparisons", "pair_list", "gallery", "controls", "curves"}
    | {"save_maps", "heatmaps", "devices", "scores", "open_set", "fpir", "draws"}
)
# Defaults that analyses have in common: one split, identification only, intervals.
USUAL: dict[str, Any] = {"seeds": "42", "measures": "identification", "intervals": 1000}


def define(
    *options: type, taken: Collection[str] = (), without: Collection[str] = (), **own: Any
) -> absl_flags.FlagValues:
    """Defines the flags of an analysis: those of the main command and of ``options``, and its own.

    Of the main command's it takes none that are named in ``without``, or in ``NOT_TAKEN`` but not in ``taken``.
    """
    known = (PairwiseConfig, Protocol, Compiling, *options)
    return flags.define(*known, without={*NOT_TAKEN.difference(taken), *without}, **{**USUAL, **own})


@dataclasses.dataclass
class Job:
    """One analysis under way.

    Attributes:
      values, config: every flag, and what was read from them.
      stores: the data sets; most analyses take one.
      write, progress: where its files go, and how far it is.
      parts: of a run that several processes share; of one process by default.
      record: what else ``config.json`` is to say; its ``warnings`` begin with those of the data sets.
    """

    values: Any
    config: PairwiseConfig
    stores: Sequence[Data]
    write: results.Writer
    progress: Progress
    parts: Parts = dataclasses.field(default_factory=lambda: Parts(ALONE, None))
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.record["warnings"] = [warning for data in self.stores for warning in data.warnings]

    @property
    def data(self) -> Data:
        """The data set of an analysis that takes one."""
        return self.stores[0]

    def aligning(self, **changes: Any) -> Aligning:
        """Collects what is measured on the one data set."""
        return Aligning(dataclasses.replace(self.config, **changes), self.data)

    def measure(
        self,
        run: Aligning,
        measuring: Measuring,
        test: TestRows,
        method: str,
        maps: PairwiseMaps,
        *marks: Mapping[str, Any],
        where: str = "",
    ) -> None:
        """As ``run.measure_maps`` at the rank as fitted; shows the progress, ``where`` before the method."""
        for _, pair in run.measure_maps(measuring, test, method, maps, (None,), *marks):
            self.progress.step(f"{where}{method}, {' → '.join(pair)}")

    def finish(self, run: Aligning, more: Sequence[Row] = ()) -> list[Row]:
        """Writes the rows, the statistics of fits and the differences; returns all rows."""
        rows = [*run.rows, *empty_rows(run.rows, run.without_value), *more]
        self.write.table(rows)
        if run.fits:
            self.write.csv("fits.csv", FitRow._fields, run.fits)
        write_extras(self.write, run)
        return rows


def configure(values: Any, known: Collection[str] = METHODS, **also: Any) -> PairwiseConfig:
    """The configuration read from every flag; analyses draw no heat maps, have no controls and write no curves.

    They compare by the cosine unless they take --scores. ``Aligning`` may not fit all of the ``known`` methods;
    ``also`` are flags of an analysis that differs.
    """
    quiet = {"controls": "none", "heatmaps": "none", "curves": False}
    given = {"scores": "cosine", **vars(values), **quiet, **also}
    if given.get("methods") is None:
        return PairwiseConfig.from_flags(types.SimpleNamespace(**given))
    chosen = flags.words("methods", given["methods"], known, "method")
    given["methods"] = ",".join(name for name in chosen if name in METHODS) or "identity"
    return PairwiseConfig.from_flags(types.SimpleNamespace(**given)).with_protocol(methods=chosen)


def open_one(values: Any, known: Collection[str] = METHODS) -> tuple[PairwiseConfig, list[Data]]:
    """The configuration and the one data set of most analyses."""
    config = configure(values, known)
    return config, [Data.open(config)]


def open_each(
    values: Any, known: Collection[str] = METHODS, least: int = 1
) -> tuple[PairwiseConfig, list[Data]]:
    """The configuration of at least so many stores, and these, each with all of its encoders."""
    paths = flags.words("stores", values.stores, None, "store") if values.stores else ()
    if len(paths) < least:
        number = "one directory" if least == 1 else "two directories"
        raise UserError(f"--stores takes at least {number} of embeddings; several are separated by commas.")
    configs = [configure(types.SimpleNamespace(**{**vars(values), "store": path}), known) for path in paths]
    opened = [Data.open(config) for config in configs]
    names = [data.store.dataset for data in opened]
    if len(set(names)) < len(names):
        raise UserError(
            f"--stores: several data sets are called {names[0]!r}; results could not tell them apart."
        )
    return configs[-1], opened


def with_shared_encoders(opened: Sequence[Data]) -> list[Data]:
    """Stores with the encoders that all of them have; ``UserError`` if these are fewer than two, or differ."""
    shared = [name for name in opened[0].encoders if all(name in data.encoders for data in opened)]
    for name in shared:
        if len({data.dims[name] for data in opened}) > 1:
            each = ", ".join(f"{data.dims[name]} in {data.store.dataset!r}" for data in opened)
            raise UserError(f"encoder {name!r} is not the same in all of --stores: its width is {each}.")
    if len(shared) < 2:
        have = "; ".join(f"{data.store.dataset!r} has {', '.join(data.encoders)}" for data in opened)
        raise UserError(f"maps cross between stores by at least two encoders that all of them have: {have}.")
    return [dataclasses.replace(data, encoders=tuple(shared)) for data in opened]


def open_stores(values: Any, known: Collection[str] = METHODS) -> tuple[PairwiseConfig, list[Data]]:
    """The configuration of at least two stores, and these with the encoders that all of them have."""
    config, opened = open_each(values, known, least=2)
    return config, with_shared_encoders(opened)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A command that analyses: ``analyse`` measures, writes its rows and returns its text.

    ``methods`` are those that --methods may name, ``also`` are flags that ``configure`` would set otherwise, ``page``
    writes a page beside the results, when these are complete.
    """

    name: str
    flags: absl_flags.FlagValues
    analyse: Callable[[Job], str]
    methods: tuple[str, ...] = METHODS
    opening: Callable[[Any, Collection[str]], tuple[PairwiseConfig, list[Data]]] = open_one
    also: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    page: Callable[[Job], None] | None = None


def main_of(analysis: Analysis, module: str) -> Callable[[list[str]], None]:
    """The main function of a command, whose ``--help`` is the docstring of its module."""

    def main(_: list[str]) -> None:
        """Reads the flags, runs, writes and prints."""
        started = time.monotonic()
        values = flags.namespace(analysis.flags)
        set_compilation_cache(values.compilation_cache)
        results.check_output(values.out, values.overwrite)
        config, stores = analysis.opening(values, analysis.methods)
        with results.writer(config.out, overwrite=config.overwrite) as write, Progress(0) as progress:
            job = Job(values, config, stores, write, progress)
            text = run(analysis, job)
            if analysis.page is not None:
                with write.trying("the page with its figures and tables"):
                    analysis.page(job)
            progress.clear()
            print(text, flush=True)  # before anything that the disk may refuse
        print(f"Wrote {config.out} in {duration(time.monotonic() - started)}.")

    main.__module__ = module
    return main


def run(analysis: Analysis, job: Job) -> str:
    """Runs one analysis and writes what it was; returns its text."""
    started = time.monotonic()
    text = with_warnings(job, analysis.analyse(job))
    job.write.text("table.txt", text)
    seconds = round(time.monotonic() - started, 1)
    given = described(analysis, job.values, job.config, job.stores)
    job.write.config(analysis.name, given.pop("config"), **given, seconds=seconds, **job.record)
    return text


def with_warnings(job: Job, text: str) -> str:
    """The text of an analysis and, below it, its warnings."""
    return text + "".join(f"\nwarning: {warning}\n" for warning in job.record["warnings"])


def described(
    analysis: Analysis, values: Any, config: PairwiseConfig, stores: Sequence[Data]
) -> dict[str, Any]:
    """What ``config.json`` says of the settings and stores of an analysis."""
    shared = flags.of(PairwiseConfig, Protocol, Compiling, Stores).keys() - NOT_TAKEN
    options = {name: getattr(values, name) for name in analysis.flags if name not in shared}
    return {"config": config, "options": options, "stores": [describe(data) for data in stores]}


def without_folds(job: Job) -> PairwiseConfig:
    """The configuration with penalties that need no folds, for analyses that fit on parts of the training people."""
    config = job.config
    if job.values.l2 is None and config.protocol.l2 == "cv":
        config = config.with_protocol(l2="gcv")
    if config.needs_folds() or not (isinstance(config.protocol.l2, float) or config.protocol.l2 == "gcv"):
        takes = "--l2 takes one number or gcv, and reduced_rank is not among its methods"
        raise UserError(f"this analysis has no folds to choose by: {takes}.")
    return config


def describe(data: Data) -> dict[str, Any]:
    """What ``config.json`` says of a store."""
    store = data.store
    return {
        "path": store.path,
        "dataset": store.dataset,
        "rows": store.rows,
        "rows_used": len(data.rows),
        "copies": data.copies,
        "dims": data.dims,
        "checksums": {name: store.checksums[name] for name in data.encoders},
    }
