"""Aligns every ordered pair of encoders in a store and measures how well each map works.

  python -m experiments.pairwise --store=my_store --models=arcface,clip --out=results/run1

For every seed, people are split into training and test. On the training people a map is fitted from each
encoder's space to each other's, by every method. On the test people the command measures how well a photograph
under one encoder, mapped, finds its person under the other. It prints a table; --out gets results.csv and
results.parquet (one row for each number), config.json, table.txt and heat maps.

Photographs can be given instead of a store, or beside one; they are embedded first, and cached for the next run:

  python -m experiments.pairwise --images=folder:faces --models=clip,onnx:w600k_r50.onnx --out=results/run2

To repeat the published protocol (arXiv 2604.07282):

  python -m experiments.pairwise --store=my_store --protocol=published --out=results/published

Several hosts share one run: start the same command on each, with --hosts=auto or --coordinator (docs/hosts.md).
"""

import contextlib
import functools
import shutil
import time
from collections.abc import Iterator, Sequence

from experiments.run import cli, flags, results
from experiments.run.aligning import Aligning, empty_rows
from experiments.run.analysis import Analysis, Job, describe, with_warnings
from experiments.run.comparing import control_rows, views, write_extras
from experiments.run.computing import Compiling, set_compilation_cache
from experiments.run.config import PairwiseConfig
from experiments.run.hosts import Joining, Parts, joined, open_data
from experiments.run.measuring import Measuring, TestRows
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from experiments.run.results import FitRow
from jaxalign.report import Measure, ResultTable, Row, draw_heatmaps, render_table
from jaxalign.report.figures.heatmap import require_matplotlib
from jaxalign.report.part import OWN, Part, relative_rows
from jaxalign.report.sections.aggregates import fits_table
from jaxalign.report.sections.comparison import controls_table
from jaxalign.report.tables import to_text

FLAGS = flags.define(PairwiseConfig, Protocol, Joining, Compiling)
DOUBTFUL_NAMED = 4  # pairs that a warning names


def main(_: list[str]) -> None:
    """Reads the flags, runs, writes and prints."""
    started = time.monotonic()
    config = PairwiseConfig.from_flags(FLAGS)
    if config.heatmaps != ():
        require_matplotlib()
    set_compilation_cache(FLAGS.compilation_cache)
    with joined(FLAGS, config) as hosts:
        if hosts.first:
            results.check_output(config.out, config.overwrite)
        data, parts = open_data(hosts, config), Parts.of(hosts, config)
        if not hosts.first:
            run = Aligning(config, data, hosts)
            with Progress(0) as progress:
                measure(run, run.splits(), parts, progress)
            return
        with results.writer(config.out, overwrite=config.overwrite) as write, Progress(0) as progress:
            job = Job(FLAGS, config, [data], write, progress, parts)
            text = with_warnings(job, analyse(job))
            write.text("table.txt", text)
            write.config("pairwise", config, **job.record, seconds=round(time.monotonic() - started, 1))
            progress.clear()
            print(text, flush=True)  # before anything that the disk may refuse
        parts.remove()
    print(f"Wrote {config.out} in {duration(time.monotonic() - started)}.")


def analyse(job: Job) -> str:
    """Measures, writes tables and heat maps; returns the table as text."""
    config, write, progress, hosts = job.config, job.write, job.progress, job.parts.hosts
    run = Aligning(config, job.data, hosts)
    splits = run.splits()
    progress.note(headline(run))
    if getattr(job.values, "controls", None) == "all" and "pixels" not in config.controls:
        progress.note("The control pixels is left out: it needs the photographs; give --images.")
    if job.parts:
        progress.note(f"Goes on where a run was cut short: {len(job.parts)} parts are done.")
    controls = measure(run, splits, job.parts, progress, write)
    run.rows += empty_rows(run.rows, run.without_value)
    controls += relative_rows([*controls, *run.rows])
    write.table([*run.rows, *controls])
    write.csv("fits.csv", FitRow._fields, run.fits)
    write_extras(write, run)
    table = ResultTable(run.rows, merge_ranks=config.chosen_ranks(), doubtful=run.doubtful)
    pictures = draw(run, table, write, progress)
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    text = render_table(table, title=headline(run), width=width)
    if controls:
        part = Part("pairwise", "pairwise", {}, [*run.rows, *controls])
        best = next((row for row in run.rows if row.own_photograph == "excluded"), run.rows[0])
        shown = Measure(best.measure, best.own_photograph)
        text += "\n" + to_text([controls_table(part, shown, table.left_out)], width=width)
    text += "\n" + to_text([fits_table([(fit.method, fit.r2, fit.ok) for fit in run.fits])], width=width)
    job.record["warnings"] += [*run.data.score_notes(config), *warnings(run)]
    job.record |= {
        "store": describe(run.data),
        "processes": hosts.count,
        "splits": [measuring.record(run.data) for measuring in splits],
    }
    progress.note(f"{len(run.rows):,} results, {pictures} heat maps")
    return text


def measure(
    run: Aligning,
    splits: Sequence[Measuring],
    parts: Parts,
    progress: Progress,
    write: results.Writer | None = None,
) -> list[Row]:
    """Measures this process's share of every split and method, but for finished parts; returns the rows of controls.

    Process 0 collects in ``run`` what all processes found, and is the one that has ``write``, for maps to be saved.
    """
    config, methods, controls = run.config, run.protocol.methods, Aligning(run.config, run.data, run.hosts)

    def measure_split(label: str, measuring: Measuring, missing: Sequence[str]) -> None:
        test = TestRows({})
        if missing or (config.controls and part_name(measuring, "controls") not in parts):
            progress.show(f"{label}: second moments of {len(run.encoders)} encoders")
            run.moments(measuring)
            test = measuring.test_rows(run.data.only(measured_encoders(run)))
        fits = run.ahead(run.fit(run.moments(measuring), method, measuring) for method in missing)

        def measure_method(method: str, found: Aligning) -> None:
            progress.show(f"{label}: fitting {method}")
            fitted = next(fits)
            for done, pair in found.measure_maps(measuring, test, method, fitted, config.cuts(method)):
                progress.step(f"{label}: {method}, {done}, {' → '.join(pair)}")
            if write is not None and config.save_maps:
                directory = write.directory / "maps" / f"seed{measuring.seed}" / method
                with write.trying("maps"):
                    cohorts = {pair: measuring.people_of(test, pair, fit) for pair, fit in fitted.items()}
                    more = {"normalize": run.protocol.normalize, "cohorts": cohorts}
                    fitted.save(directory, {"seed": measuring.seed}, **more)
            if config.curves and measuring.seed == run.protocol.seeds[0]:
                found.views += views(run.data, measuring, method, fitted)

        with contextlib.closing(fits):
            for method in methods:
                parts.add(run, part_name(measuring, method), functools.partial(measure_method, method))
        if config.controls:
            progress.show(f"{label}: controls")
            add = lambda found: found.rows.extend(control_rows(found, measuring, test))  # noqa: E731
            parts.add(controls, part_name(measuring, "controls"), add)

    left = [[method for method in methods if part_name(split, method) not in parts] for split in splits]
    steps = {method: len(config.cuts(method)) * len(run.own_pairs(method)) for method in methods}
    progress.total = sum(steps[method] for missing in left for method in missing)
    here = f"process {run.hosts.index}, " if run.hosts.count > 1 else ""
    for number, (measuring, missing) in enumerate(zip(splits, left), start=1):
        measure_split(f"{here}seed {number} of {len(splits)}", measuring, missing)
    return controls.rows


def part_name(measuring: Measuring, what: str) -> str:
    """The name of what is measured on one split by a method, or of the controls."""
    return f"seed{measuring.seed}-{what}"


def measured_encoders(run: Aligning) -> list[str]:
    """The encoders whose test rows this process needs."""
    pairs = [pair for method in run.protocol.methods for pair in run.own_pairs(method)]
    if "shuffled" in run.config.controls:
        pairs += run.hosts.pairs(run.pairs, "source")
    used = {name for pair in pairs for name in pair}
    if "own" in run.config.controls:
        used |= set(run.encoders[run.hosts.share(len(run.encoders))])
    return [name for name in run.encoders if name in used]


def draw(run: Aligning, table: ResultTable, write: results.Writer, progress: Progress) -> int:
    """Draws the heat maps that were asked for; returns how many."""
    wanted = run.config.heatmaps
    measures = [measure for measure in table.measures if wanted is None or measure.name in wanted]
    if not measures:
        return 0
    directory = write.directory / "heatmaps"
    show = lambda name: progress.show(f"drawing {name}")  # noqa: E731
    with write.trying("heatmaps"):
        return len(draw_heatmaps(table, directory, caption=headline(run), measures=measures, progress=show))
    return 0


def headline(run: Aligning) -> str:
    """What the run does, in one line."""
    seeds, methods = run.protocol.seeds, run.protocol.methods
    pairs = f"{run.data.store.dataset}: {len(run.pairs)} ordered pairs of {len(run.encoders)} encoders"
    how = f"{len(methods)} method{'s' * (len(methods) > 1)}, protocol {run.protocol.name}"
    return f"{pairs}, {how}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def warnings(run: Aligning) -> Iterator[str]:
    """What a reader of the results must know, beside what is known of the rows."""
    if run.without_value:
        place, reason = next(iter(run.without_value.items()))
        first = f"{place.source} → {place.target} by {place.method}, seed {place.seed}: {reason}"
        yield f"{len(run.without_value)} comparisons of spaces have no value; the first is {first}"
    for setting in sorted({mark[2] for mark in run.doubtful}, key=str):
        pairs = [f"{mark[0]} → {mark[1]}" for mark in sorted(run.doubtful, key=str) if mark[2] == setting]
        more = f" and {len(pairs) - DOUBTFUL_NAMED} more" if len(pairs) > DOUBTFUL_NAMED else ""
        named = ", ".join(pairs[:DOUBTFUL_NAMED])
        yield f"{setting}: numerically doubtful for {named}{more} (marked * in the table)"


ANALYSIS = Analysis(
    "pairwise", FLAGS, analyse, also={"curves": True, "controls": OWN}
)  # what tells weak encoders


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
