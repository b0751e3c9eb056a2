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
from experiments.run.config import Compiling, PairwiseConfig, Stores
from experiments.run.data import Data, set_compilation_cache
from experiments.run.measuring import Measuring, TestRows
from experiments.run.parts import Parts
from experiments.run.progress import Progress, duration
from experiments.run.protocols import METHODS, Protocol
from jaxalign import PairwiseMaps
from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import ALONE
from jaxalign.report import Row

# Flags of the main command that no analysis takes unless it names them.
NOT_TAKEN = frozenset(
    {"ranks", "loss", "steps", "fit_rank", "comparisons", "pair_list", "gallery", "controls", "curves"}
    | {"save_maps", "heatmaps", "devices"}
)
# Defaults that analyses have in common: one split, identification only, intervals.
USUAL: dict[str, Any] = {"seeds": "42", "measures": "identification", "intervals": 1000}


def define(
    *options: type, taken: Collection[str] = (), without: Collection[str] = (), **defaults: Any
) -> absl_flags.FlagValues:
    """Defines the flags of an analysis.

    Args:
      options: configurations of its own.
      taken: those of ``NOT_TAKEN`` that it takes all the same.
      without: flags of other analyses that it does not take.
      defaults: by name.
    """
    left_out = {*NOT_TAKEN.difference(taken), *without}
    known = (PairwiseConfig, Protocol, Compiling, *options)
    return flags.define(*known, without=left_out, **{**USUAL, **defaults})


@dataclasses.dataclass
class Job:
    """One analysis under way.

    Attributes:
      values: every flag.
      config: read from them.
      stores: the data sets; most analyses take one.
      write: where its files go.
      progress: shows how far it is.
      parts: of a run that several processes share; of one process by default.
      record: what else ``config.json`` is to say.
    """

    values: Any
    config: PairwiseConfig
    stores: Sequence[Data]
    write: results.Writer
    progress: Progress
    parts: Parts = dataclasses.field(default_factory=lambda: Parts(ALONE, None))
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def data(self) -> Data:
        """The data set of an analysis that takes one."""
        return self.stores[0]

    def aligning(self, **changes: Any) -> Aligning:
        """Collects what is measured on the one data set."""
        return Aligning(dataclasses.replace(self.config, **changes), self.data)

    def measuring(self, run: Aligning) -> list[Measuring]:
        """Every seed's split, with its checks, before any work starts."""
        return [Measuring.of(run.config, run.data, seed) for seed in self.config.protocol.seeds]

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
        """Adds what the maps of one method reach, and shows the progress.

        Args:
          run: collects the rows.
          measuring: how to measure on the split.
          test: its rows.
          method, maps: a method's name, and its maps.
          marks: fields of every row; several where the same maps stand in several places.
          where: what the progress says before the method.
        """
        for _, pair in run.measure_maps(measuring, test, method, maps, (None,), *marks):
            self.progress.step(f"{where}{method}, {' → '.join(pair)}")

    def finish(self, run: Aligning, more: Sequence[Row] = ()) -> list[Row]:
        """Writes the rows, the statistics of fits and the differences; returns all rows."""
        rows = [*run.rows, *(empty_rows(run.rows, run.without_value) if run.without_value else ()), *more]
        self.write.table(rows)
        if run.fits:
            self.write.fits(run.fits)
        write_extras(self.write, run)
        return rows


def configure(values: Any, known: Collection[str] = METHODS, **also: Any) -> PairwiseConfig:
    """The configuration read from every flag; analyses draw no heat maps, have no controls and write no curves.

    Args:
      values: every flag.
      known: methods that the analysis has; those that are nobody else's are not fitted by ``Aligning``.
      also: flags of an analysis that does.
    """
    given = {**vars(values), "controls": "none", "heatmaps": "none", "curves": False, **also}
    methods = getattr(values, "methods", None)
    chosen = None if methods is None else flags.words("methods", methods, known, "method")
    if chosen is not None:
        given["methods"] = ",".join(name for name in chosen if name in METHODS) or "identity"
    config = PairwiseConfig.from_flags(types.SimpleNamespace(**given))
    if chosen is None:
        return config
    return dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, methods=chosen))


def open_one(values: Any, known: Collection[str] = METHODS) -> tuple[PairwiseConfig, list[Data]]:
    """The configuration and the one data set of most analyses."""
    config = configure(values, known)
    return config, [Data.open(config)]


def open_stores(
    values: Any, known: Collection[str] = METHODS, least: int = 2
) -> tuple[PairwiseConfig, list[Data]]:
    """The configuration of several stores, and these with the encoders that all of them have.

    Raises:
      UserError: fewer than ``least`` stores, two of one name, fewer than two common encoders, or widths that differ.
    """
    paths = [part.strip() for part in (values.stores or "").split(",") if part.strip()]
    if len(paths) < least:
        raise UserError("--stores takes at least two directories of embeddings, separated by a comma.")
    flags.words("stores", values.stores, paths, "store")
    config, opened = None, []
    for path in paths:
        values.store = path
        config = configure(values, known)
        opened.append(Data.open(config))
    assert config is not None
    names = [data.store.dataset for data in opened]
    if len(set(names)) < len(names):
        raise UserError(
            f"--stores: several data sets are called {names[0]!r}; results could not tell them apart."
        )
    shared = [name for name in opened[0].encoders if all(name in data.encoders for data in opened)]
    for name in shared:
        widths = {data.store.dataset: data.store.dims[name] for data in opened}
        if len(set(widths.values())) > 1:
            each = ", ".join(f"{width} in {dataset!r}" for dataset, width in widths.items())
            raise UserError(f"encoder {name!r} is not the same in all of --stores: its width is {each}.")
    if len(shared) < 2:
        have = "; ".join(f"{data.store.dataset!r} has {', '.join(data.encoders)}" for data in opened)
        raise UserError(f"maps cross between stores by at least two encoders that all of them have: {have}.")
    return config, [dataclasses.replace(data, encoders=tuple(shared)) for data in opened]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a command that analyses is.

    Attributes:
      name: of the command.
      flags: that it takes, with its defaults.
      analyse: measures, writes its rows and returns its text.
      methods: that --methods may name.
      opening: opens its store or stores.
      also: flags that ``configure`` would set otherwise.
    """

    name: str
    flags: absl_flags.FlagValues
    analyse: Callable[[Job], str]
    methods: tuple[str, ...] = METHODS
    opening: Callable[[Any, Collection[str]], tuple[PairwiseConfig, list[Data]]] = open_one
    also: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
            text = run(analysis, Job(values, config, stores, write, progress))
        print(text)
        print(f"Wrote {config.out} in {duration(time.monotonic() - started)}.")

    main.__module__ = module
    return main


def run(analysis: Analysis, job: Job) -> str:
    """Runs one analysis and writes what it was; returns its text."""
    started = time.monotonic()
    text = analysis.analyse(job)
    job.write.text("table.txt", text)
    stores = [describe(data) for data in job.stores]
    seconds = round(time.monotonic() - started, 1)
    shared = flags.of(PairwiseConfig, Protocol, Compiling, Stores).keys() - NOT_TAKEN
    options = {name: getattr(job.values, name) for name in analysis.flags if name not in shared}
    job.write.config(analysis.name, job.config, options=options, stores=stores, seconds=seconds, **job.record)
    return text


def without_folds(job: Job) -> PairwiseConfig:
    """The configuration with penalties that need no folds, for analyses that fit on parts of the training people.

    Raises:
      UserError: folds are asked for.
    """
    config, protocol = job.config, job.config.protocol
    if job.values.l2 is None and protocol.l2 == "cv":
        config = dataclasses.replace(config, protocol=dataclasses.replace(protocol, l2="gcv"))
    if config.needs_folds() or not (isinstance(config.protocol.l2, float) or config.protocol.l2 == "gcv"):
        raise UserError(
            "this analysis has no folds to choose by: --l2 takes one number or gcv, and reduced_rank is not among its "
            "methods."
        )
    return config


def describe(data: Data) -> dict[str, Any]:
    """What ``config.json`` says of a store."""
    store = data.store
    return {
        "path": store.path,
        "dataset": store.dataset,
        "rows": store.rows,
        "rows_used": len(data.rows),
        "dims": {name: store.dims[name] for name in data.encoders},
        "checksums": {name: store.checksums[name] for name in data.encoders},
    }
