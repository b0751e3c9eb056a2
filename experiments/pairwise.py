"""Aligns every ordered pair of encoders in a store and measures what crosses from one to the other.

  python -m experiments.pairwise --store=my_store --models=arcface,clip --out=results/run1

For every seed, people are split into training and test. On the training people a map is fitted from each
encoder's space to each other's, by every method; on the test people it is measured how well a photograph
under the one encoder, mapped, finds its person under the other. A table is printed; --out gets results.csv
and results.parquet (one row for each number), config.json, table.txt and heat maps.

Photographs can be given instead of a store, or beside one; they are embedded first, and kept for the next run:

  python -m experiments.pairwise --images=folder:faces --models=clip,onnx:w600k_r50.onnx --out=results/run2

To repeat the published protocol (arXiv 2604.07282):

  python -m experiments.pairwise --store=my_store --protocol=published --out=results/published
"""

import functools
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

from experiments import cli, flags, results
from experiments.config import PairwiseConfig
from experiments.controls import Controls
from experiments.inputs import Data
from experiments.measuring import Measuring, Number, TestRows
from experiments.progress import Progress, duration
from jaxalign import Fit, FoldMoments, PairwiseMaps, fit_pairs
from jaxalign.errors import UserError
from jaxalign.report import Measure, ResultTable, Row, Setting, draw_heatmaps, render_table
from jaxalign.report.controls import relative_rows, render_controls
from jaxalign.report.heatmap import require_matplotlib
from jaxalign.workers import beside, concurrently

Task = tuple[tuple[str, str], int | None, Fit]  # a pair, the rank to measure it at, and its maps

FLAGS = flags.define(
    *("store", "images", "models", "sources", "targets", "nonfinite"),
    *("crop", "bad_images", "embedding_cache"),
    *("protocol", "methods", "ranks", "l2", "normalize", "folds"),
    *("seeds", "train_fraction", "max_per_person"),
    *("measures", "rank_k", "fmr", "gallery", "own_photograph", "comparisons", "pair_list", "controls"),
    *("out", "overwrite", "save_maps", "heatmaps", "compilation_cache"),
)


def main(_: list[str]) -> None:
    """Reads the flags, runs, writes and prints."""
    started = time.monotonic()
    config = PairwiseConfig.from_flags(FLAGS)
    if config.heatmaps != ():
        require_matplotlib()
    results.check_output(config.out, config.overwrite)
    flags.set_compilation_cache(FLAGS.compilation_cache)
    run = Run(config, Data.open(config))
    with results.writer(config.out, overwrite=config.overwrite) as write, Progress(run.steps) as progress:
        progress.note(run.headline())
        run.measure(write, progress)
        controls = [*run.control_rows, *relative_rows([*run.control_rows, *run.rows])]
        write.table([*run.rows, *controls])
        write.fits(run.fits)
        table = ResultTable(run.rows, merge_ranks=config.chosen_ranks(), doubtful=run.doubtful)
        pictures = run.draw(table, write, progress)
        text = render_table(table, title=run.headline(), width=terminal_width())
        if controls:
            text += "\n" + render_controls([*run.rows, *controls], run.control_measure)
        write.text("table.txt", text)
        write.config("pairwise", config, **run.record(), seconds=round(time.monotonic() - started, 1))
    for warning in run.warnings():
        progress.note(f"warning: {warning}")
    print(text)
    took = duration(time.monotonic() - started)
    print(f"Wrote {len(run.rows):,} results and {pictures} heat maps to {config.out} in {took}.")


class Run:
    """One run over every seed, method, pair and rank; no more than one method's maps are held at a time.

    Attributes:
      rows: what was measured so far; ``control_rows`` of the controls.
      fits: the statistics of the fits so far.
      doubtful: (source, target, setting) of fits that were not numerically sound.
    """

    def __init__(self, config: PairwiseConfig, data: Data):
        self.config, self.data, self.protocol = config, data, config.protocol
        self.encoders = data.encoders
        self.pairs = config.pairs(self.encoders)
        # Every split, with its checks, before any work starts.
        self.measuring = [Measuring.of(config, data, seed) for seed in self.protocol.seeds]
        self.rows: list[Row] = []
        self.control_rows: list[Row] = []
        self.fits: list[results.FitRow] = []
        self.doubtful: set[tuple[str, str, Setting]] = set()
        self._without_value: dict[tuple[str, str, str, str, int | None, int], str] = {}

    @property
    def steps(self) -> int:
        """How many evaluations there are to do."""
        cuts = sum(len(self.config.cuts(method)) for method in self.protocol.methods)
        return cuts * len(self.pairs) * len(self.protocol.seeds)

    def measure(self, write: results.Writer, progress: Progress) -> None:
        """Fills ``rows`` and ``doubtful``; keeps the maps if asked to."""
        config = self.config
        for number, measuring in enumerate(self.measuring):
            seed, where = measuring.seed, f"seed {number + 1} of {len(self.measuring)}"
            progress.show(f"{where}: second moments of {len(self.encoders)} encoders")
            moments = self._moments(measuring)
            test = measuring.test_rows(self.data)
            controls = Controls(config, self.data, self.pairs).measure(measuring, test)
            with beside(controls) as control_rows:
                for method in self.protocol.methods:
                    progress.show(f"{where}: fitting {method}")
                    maps = self._fit(moments, method)
                    label = f"{where}: {method}"
                    for done, (source, target) in self._measure_maps(measuring, test, method, maps):
                        progress.step(f"{label}, {done}, {source} → {target}")
                    if config.save_maps:
                        maps.save(write.directory / "maps" / f"seed{seed}" / method, {"seed": seed})
                progress.show(f"{where}: controls")
                self.control_rows += control_rows.result()
        self._fill_in()

    def _measure_maps(
        self, measuring: Measuring, test: TestRows, method: str, maps: PairwiseMaps
    ) -> Iterator[tuple[str, tuple[str, str]]]:
        """Adds what the maps of one method reach; tells how far it is and the pair that was measured."""
        tasks: list[Task] = []
        for pair, fit in maps.items():
            self.fits.append(self._statistics(measuring.seed, method, pair, fit, maps.settings[pair]))
            tasks += [(pair, rank, cut) for rank, cut in self._cuts(method, fit, maps.settings[pair])]
        compare = functools.partial(self._compare, measuring, test)
        for done, (task, numbers) in enumerate(zip(tasks, concurrently(compare, tasks)), start=1):
            self._keep(measuring.seed, method, task, numbers)
            yield f"{done} of {len(tasks)}", task[0]

    def _moments(self, measuring: Measuring) -> FoldMoments:
        """One pass over the training rows, which serves every method."""
        return FoldMoments.of(self.data.take(measuring.split.train), fold=measuring.fold)

    def _fit(self, moments: FoldMoments, method: str) -> PairwiseMaps:
        options = self.config.fit_options(method, max(self.data.store.dims[name] for name in self.encoders))
        return fit_pairs(moments, self.protocol.fitted_as(method), pairs=self.pairs, **options)

    def _statistics(
        self, seed: int, method: str, pair: tuple[str, str], fit: Fit, chosen: Mapping[str, Any]
    ) -> results.FitRow:
        """What was chosen for a fit, and how well it fits the training rows."""
        numbers = (float(fit.r2), float(fit.effective_rank), float(fit.condition))
        here = (self.data.store.dataset, *pair, method, seed)
        return results.FitRow(*here, chosen.get("l2"), chosen.get("rank"), *numbers, bool(fit.ok))

    def _cuts(self, method: str, fit: Fit, chosen: Mapping[str, Any]) -> Iterator[tuple[int | None, Fit]]:
        """The pair's fit at every rank to measure, each with what to write as its rank.

        A rank is an upper limit: a pair whose narrower side has fewer dimensions keeps all of them.
        """
        for rank in self.config.cuts(method):
            if rank is not None:
                yield rank, fit.at_rank(rank)
            else:
                yield chosen["rank"] if self.config.rank_as_fitted(method) else None, fit

    def _compare(self, measuring: Measuring, test: TestRows, task: Task) -> list[Number] | str:
        """The numbers of one pair at one rank, or why it has none."""
        (source, target), _, fit = task
        try:
            return measuring.evaluate(fit, test[source], test[target])
        except UserError as error:
            return str(error)

    def _keep(self, seed: int, method: str, task: Task, numbers: list[Number] | str) -> None:
        """Adds the rows of one evaluation. A pair that cannot be compared never stops a sweep."""
        pair, rank, fit = task
        here = (self.data.store.dataset, *pair, method, rank, seed)
        if isinstance(numbers, str):
            self._without_value[here] = numbers
        else:
            self.rows.extend(Row(*here, *number) for number in numbers)
        if isinstance(numbers, str) or not bool(fit.ok):
            merged = method in self.config.chosen_ranks()
            self.doubtful.add((*pair, Setting(method) if merged else Setting(method, rank)))

    def _fill_in(self) -> None:
        """Pairs that could not be compared get their rows too, without a value."""
        if not self.rows:
            raise UserError(
                f"no pair could be measured; the first: {next(iter(self._without_value.values()))}"
            )
        kinds = dict.fromkeys((row.own_photograph, row.measure) for row in self.rows)
        for here, reason in self._without_value.items():
            self.rows.extend(Row(*here, *kind, math.nan, reason=reason) for kind in kinds)

    def draw(self, table: ResultTable, write: results.Writer, progress: Progress) -> int:
        """Draws the heat maps that were asked for; returns how many."""
        wanted = self.config.heatmaps
        measures = [measure for measure in table.measures if wanted is None or measure.name in wanted]
        if not measures:
            return 0
        directory = write.directory / "heatmaps"
        show = lambda name: progress.show(f"drawing {name}")  # noqa: E731
        return len(draw_heatmaps(table, directory, caption=self.headline(), measures=measures, progress=show))

    @property
    def control_measure(self) -> Measure:
        """The one that controls are printed for: the first rank, or what else there is."""
        rows = self.rows
        best = next((row for row in rows if row.own_photograph == "excluded"), rows[0])
        return Measure(best.measure, best.own_photograph)

    def headline(self) -> str:
        """What the run does, in one line."""
        seeds, methods = self.protocol.seeds, self.protocol.methods
        parts = [
            f"{self.data.store.dataset}: {len(self.pairs)} ordered pairs of {len(self.encoders)} encoders",
            f"{len(methods)} method{'s' * (len(methods) > 1)}",
            f"protocol {self.protocol.name}",
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        ]
        return ", ".join(parts)

    def warnings(self) -> list[str]:
        """What a reader of the results must know."""
        found = []
        if self.data.dropped:
            found.append(self.data.describe_dropped())
        if self._without_value:
            (_, source, target, method, _, seed), reason = next(iter(self._without_value.items()))
            found.append(
                f"{len(self._without_value)} comparisons of spaces have no value; the first is {source} → "
                f"{target} by {method}, seed {seed}: {reason}"
            )
        for setting in sorted({mark[2] for mark in self.doubtful}, key=str):
            pairs = [
                f"{source} → {target}"
                for source, target, of in sorted(self.doubtful, key=str)
                if of == setting
            ]
            more = f" and {len(pairs) - 4} more" if len(pairs) > 4 else ""
            found.append(
                f"{setting}: numerically doubtful for {', '.join(pairs[:4])}{more} (marked * in the table)"
            )
        return found

    def record(self) -> dict[str, Any]:
        """What ``config.json`` says beside the configuration."""
        store = self.data.store
        return {
            "store": {
                "path": store.path,
                "dataset": store.dataset,
                "rows": store.rows,
                "rows_used": len(self.data.rows),
                "dims": {name: store.dims[name] for name in self.encoders},
                "checksums": {name: store.checksums[name] for name in self.encoders},
            },
            "splits": [measuring.record(self.data) for measuring in self.measuring],
            "warnings": self.warnings(),
        }


def terminal_width() -> int:
    """Columns to write the table for."""
    return max(60, shutil.get_terminal_size((100, 24)).columns)


if __name__ == "__main__":
    cli.run(main)
