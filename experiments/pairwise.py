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

Several hosts share one run: start the same command on each, with --hosts=auto or --coordinator (docs/hosts.md).
"""

import contextlib
import pathlib
import shutil
import time
from typing import Any

from experiments.run import cli, flags, processes, results
from experiments.run.aligning import Aligning, empty_rows
from experiments.run.analysis import Analysis, Job
from experiments.run.comparing import write_extras
from experiments.run.config import Compiling, Joining, PairwiseConfig
from experiments.run.data import Data, set_compilation_cache
from experiments.run.kept import Kept
from experiments.run.measuring import Measuring
from experiments.run.parts import Parts, add_content, views_of
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from experiments.run.split_run import SplitRun, part_name
from jaxalign.report import Measure, ResultTable, Row, draw_heatmaps, render_table
from jaxalign.report.figures.heatmap import require_matplotlib
from jaxalign.report.part import Part, relative_rows
from jaxalign.report.result_table import Point
from jaxalign.report.sections.comparison import controls_table
from jaxalign.report.tables import to_text

FLAGS = flags.define(PairwiseConfig, Protocol, Joining, Compiling)


def main(_: list[str]) -> None:
    """Reads the flags, runs, writes and prints."""
    started = time.monotonic()
    config = PairwiseConfig.from_flags(FLAGS)
    if config.heatmaps != ():
        require_matplotlib()
    set_compilation_cache(FLAGS.compilation_cache)
    with processes.joined(FLAGS, config) as hosts:
        if hosts.first:
            results.check_output(config.out, config.overwrite)
        data = processes.open_data(hosts, config)
        parts = processes.parts_of(hosts, config)
        if not hosts.first:
            run = Run(config, data, parts)
            with Progress(run.steps) as progress:
                run.measure(progress)
            return
        with results.writer(config.out, overwrite=config.overwrite) as write, Progress(0) as progress:
            job = Job(FLAGS, config, [data], write, progress, parts)
            text = analyse(job)
            write.text("table.txt", text)
            write.config("pairwise", config, **job.record, seconds=round(time.monotonic() - started, 1))
        parts.remove()
    print(text)
    print(f"Wrote {config.out} in {duration(time.monotonic() - started)}.")


def analyse(job: Job) -> str:
    """Measures, writes tables and heat maps; returns the table as text."""
    config, write, progress = job.config, job.write, job.progress
    run = Run(config, job.data, job.parts, job.kept)
    run.hosts.remove_if_lost(write.directory)
    progress.total = run.steps
    for sentence in (run.headline(), *run.goes_on()):
        progress.note(sentence)
    run.measure(progress, write.directory / "maps" if config.save_maps else None)
    controls = [*run.control_rows, *relative_rows([*run.control_rows, *run.rows])]
    write.table([*run.rows, *controls])
    write.fits(run.fits)
    write_extras(write, run, run.views)
    table = ResultTable(run.rows, merge_ranks=config.chosen_ranks(), doubtful=run.doubtful)
    pictures = run.draw(table, write, progress)
    text = render_table(table, title=run.headline(), width=terminal_width())
    if controls:
        part = Part("pairwise", "pairwise", {}, [*run.rows, *controls])
        text += "\n" + to_text([controls_table(part, run.control_measure, table.left_out)])
    job.record |= run.record()
    for warning in run.warnings():
        progress.note(f"warning: {warning}")
    progress.note(f"{len(run.rows):,} results, {pictures} heat maps")
    return text


class Run(Aligning):
    """One run over every seed, method, pair and rank; no more than one method's maps, or two small ones, are held.

    Attributes:
      parts: what was measured, by seed and method; process 0 collects it.
      control_rows: what was measured so far of the controls.
      views: a few test people of the first seed in two dimensions.
    """

    def __init__(
        self,
        config: PairwiseConfig,
        data: Data,
        parts: Parts,
        kept: Kept | None = None,
    ):
        super().__init__(config, data, parts.hosts, kept)
        # Every split, with its checks, before any work starts.
        self.measuring = [Measuring.of(config, data, seed) for seed in self.protocol.seeds]
        self.parts = parts
        self.control_rows: list[Row] = []
        self.views: list[Point] = []

    @property
    def steps(self) -> int:
        """How many evaluations this process has to do."""
        left = [
            method
            for measuring in self.measuring
            for method in self.protocol.methods
            if part_name(measuring, method) not in self.parts
        ]
        return sum(len(self.config.cuts(method)) * len(self.own_pairs(method)) for method in left)

    def measure(self, progress: Progress, maps: pathlib.Path | None = None) -> None:
        """Does this process's share; at process 0 fills ``rows``, ``fits`` and ``doubtful`` with what all found.

        Args:
          progress: shows what happens.
          maps: where to keep the maps; None for nowhere.
        """
        for number, measuring in enumerate(self.measuring):
            here = f"process {self.hosts.index}, " if self.hosts.count > 1 else ""
            where = f"{here}seed {number + 1} of {len(self.measuring)}"
            split = SplitRun(self, measuring, self.parts, progress, where, maps, seen=number == 0)
            with contextlib.closing(split), split.controls() as control_rows:
                for method in self.protocol.methods:
                    part = split.part(method)
                    if part is not None:
                        add_content(self, part)
                        self.views += views_of(part)
                self.control_rows += control_rows()
        if self.hosts.first:
            self.rows += empty_rows(self.rows, self.without_value)

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

    def goes_on(self) -> list[str]:
        """What is there already of a run that was cut short, in a sentence."""
        there = len(self.parts)
        return [f"Goes on where a run was cut short: {there} parts are done."] if there else []

    def warnings(self) -> list[str]:
        """What a reader of the results must know."""
        found = []
        if self.data.dropped:
            found.append(self.data.describe_dropped())
        if self.without_value:
            place, reason = next(iter(self.without_value.items()))
            found.append(
                f"{len(self.without_value)} comparisons of spaces have no value; the first is {place.source} → "
                f"{place.target} by {place.method}, seed {place.seed}: {reason}"
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
            "processes": self.hosts.count,
            "splits": [measuring.record(self.data) for measuring in self.measuring],
            "warnings": self.warnings(),
        }


def terminal_width() -> int:
    """Columns to write the table for."""
    return max(60, shutil.get_terminal_size((100, 24)).columns)


ANALYSIS = Analysis("pairwise", FLAGS, analyse, also={"curves": True})


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
