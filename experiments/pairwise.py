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
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence

from experiments.run import cli, flags, results
from experiments.run.aligning import Aligning, empty_rows
from experiments.run.analysis import Analysis, Job, describe
from experiments.run.comparing import views, write_extras
from experiments.run.config import Compiling, Joining, PairwiseConfig
from experiments.run.controls import control_rows
from experiments.run.data import set_compilation_cache
from experiments.run.hosts import joined, open_data, parts_of
from experiments.run.measuring import Measuring, TestRows
from experiments.run.parts import Parts
from experiments.run.progress import Progress, duration
from experiments.run.protocols import Protocol
from jaxalign import PairwiseMaps
from jaxalign.report import Measure, ResultTable, Row, draw_heatmaps, render_table
from jaxalign.report.figures.heatmap import require_matplotlib
from jaxalign.report.part import Part, relative_rows
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
        data = open_data(hosts, config)
        parts = parts_of(hosts, config)
        if not hosts.first:
            run = Aligning(config, data, hosts)
            with Progress(0) as progress:
                measure(run, splits_of(run), parts, progress)
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
    config, write, progress, hosts = job.config, job.write, job.progress, job.parts.hosts
    run = Aligning(config, job.data, hosts)
    splits = splits_of(run)
    progress.note(headline(run))
    if job.parts:
        progress.note(f"Goes on where a run was cut short: {len(job.parts)} parts are done.")
    controls = measure(
        run, splits, job.parts, progress, write.directory / "maps" if config.save_maps else None
    )
    run.rows += empty_rows(run.rows, run.without_value)
    controls += relative_rows([*controls, *run.rows])
    write.table([*run.rows, *controls])
    write.fits(run.fits)
    write_extras(write, run)
    table = ResultTable(run.rows, merge_ranks=config.chosen_ranks(), doubtful=run.doubtful)
    pictures = draw(run, table, write, progress)
    text = render_table(table, title=headline(run), width=terminal_width())
    if controls:
        part = Part("pairwise", "pairwise", {}, [*run.rows, *controls])
        text += "\n" + to_text([controls_table(part, control_measure(run.rows), table.left_out)])
    found = list(warnings(run))
    job.record |= {
        "store": describe(run.data),
        "processes": hosts.count,
        "splits": [measuring.record(run.data) for measuring in splits],
        "warnings": found,
    }
    for warning in found:
        progress.note(f"warning: {warning}")
    progress.note(f"{len(run.rows):,} results, {pictures} heat maps")
    return text


def splits_of(run: Aligning) -> list[Measuring]:
    """Every seed's split, with its checks, before any work starts."""
    return [Measuring.of(run.config, run.data, seed) for seed in run.protocol.seeds]


def measure(
    run: Aligning,
    splits: Sequence[Measuring],
    parts: Parts,
    progress: Progress,
    maps: pathlib.Path | None = None,
) -> list[Row]:
    """Measures this process's share of every split and method.

    Args:
      run: where process 0 collects what all processes found.
      splits: how to measure on each.
      parts: finished ones are not measured again.
      progress: shows what happens; its total is set here.
      maps: where to save the maps; None for nowhere.

    Returns:
      The rows of the controls.
    """
    config, methods = run.config, run.protocol.methods
    controls = Aligning(config, run.data, run.hosts)
    steps = {method: len(config.cuts(method)) * len(run.own_pairs(method)) for method in methods}
    left = [[method for method in methods if part_name(split, method) not in parts] for split in splits]
    progress.total = sum(steps[method] for missing in left for method in missing)
    here = f"process {run.hosts.index}, " if run.hosts.count > 1 else ""
    for number, (measuring, missing) in enumerate(zip(splits, left), start=1):
        label, test = f"{here}seed {number} of {len(splits)}", {}
        control_part = part_name(measuring, "controls")
        if missing or (config.controls and control_part not in parts):
            progress.show(f"{label}: second moments of {len(run.encoders)} encoders")
            run.moments(measuring)
            test = measuring.test_rows(run.data.only(measured_encoders(run)))
        fits = run.ahead(run.fit(run.moments(measuring), method, measuring) for method in missing)
        with contextlib.closing(fits):
            for method in methods:
                one = functools.partial(
                    measure_method, run, measuring, test, method, fits, progress, label, maps
                )
                parts.add(run, part_name(measuring, method), one)
        if config.controls:
            progress.show(f"{label}: controls")
            add = functools.partial(measure_controls, measuring, test)
            parts.add(controls, control_part, add)
    return controls.rows


def part_name(measuring: Measuring, what: str) -> str:
    """The name of what is measured on one split by a method, or of the controls."""
    return f"seed{measuring.seed}-{what}"


def measured_encoders(run: Aligning) -> list[str]:
    """The encoders whose test rows this process needs."""
    pairs = [pair for method in run.protocol.methods for pair in run.own_pairs(method)]
    used = {name for pair in pairs for name in pair}
    if "own" in run.config.controls:
        used |= set(run.encoders[run.hosts.share(len(run.encoders))])
    if "shuffled" in run.config.controls:
        used |= {name for pair in run.hosts.pairs(run.pairs, "source") for name in pair}
    return [name for name in run.encoders if name in used]


def measure_method(
    run: Aligning,
    measuring: Measuring,
    test: TestRows,
    method: str,
    fits: Iterator[PairwiseMaps],
    progress: Progress,
    label: str,
    maps: pathlib.Path | None,
    found: Aligning,
) -> None:
    """Measures the maps of one method on one split, the next of ``fits``, and adds what they reach to ``found``."""
    progress.show(f"{label}: fitting {method}")
    fitted = next(fits)
    cuts = run.config.cuts(method)
    for done, (source, target) in found.measure_maps(measuring, test, method, fitted, cuts):
        progress.step(f"{label}: {method}, {done}, {source} → {target}")
    if maps is not None:
        fitted.save(maps / f"seed{measuring.seed}" / method, {"seed": measuring.seed})
    if run.config.curves and measuring.seed == run.protocol.seeds[0]:
        found.views += views(run.data, measuring, method, fitted)


def measure_controls(measuring: Measuring, test: TestRows, found: Aligning) -> None:
    """Adds the rows of the controls on one split."""
    found.rows += control_rows(found, measuring, test)


def draw(run: Aligning, table: ResultTable, write: results.Writer, progress: Progress) -> int:
    """Draws the heat maps that were asked for; returns how many."""
    wanted = run.config.heatmaps
    measures = [measure for measure in table.measures if wanted is None or measure.name in wanted]
    if not measures:
        return 0
    directory = write.directory / "heatmaps"
    show = lambda name: progress.show(f"drawing {name}")  # noqa: E731
    return len(draw_heatmaps(table, directory, caption=headline(run), measures=measures, progress=show))


def control_measure(rows: Sequence[Row]) -> Measure:
    """The measure that controls are printed for: the first without the same image, or what else there is."""
    best = next((row for row in rows if row.own_photograph == "excluded"), rows[0])
    return Measure(best.measure, best.own_photograph)


def headline(run: Aligning) -> str:
    """What the run does, in one line."""
    seeds, methods = run.protocol.seeds, run.protocol.methods
    parts = [
        f"{run.data.store.dataset}: {len(run.pairs)} ordered pairs of {len(run.encoders)} encoders",
        f"{len(methods)} method{'s' * (len(methods) > 1)}",
        f"protocol {run.protocol.name}",
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
    ]
    return ", ".join(parts)


def warnings(run: Aligning) -> Iterator[str]:
    """What a reader of the results must know."""
    if run.data.dropped:
        yield run.data.describe_dropped()
    if run.without_value:
        place, reason = next(iter(run.without_value.items()))
        yield (
            f"{len(run.without_value)} comparisons of spaces have no value; the first is {place.source} → "
            f"{place.target} by {place.method}, seed {place.seed}: {reason}"
        )
    for setting in sorted({mark[2] for mark in run.doubtful}, key=str):
        pairs = [
            f"{source} → {target}" for source, target, of in sorted(run.doubtful, key=str) if of == setting
        ]
        more = f" and {len(pairs) - DOUBTFUL_NAMED} more" if len(pairs) > DOUBTFUL_NAMED else ""
        yield (
            f"{setting}: numerically doubtful for {', '.join(pairs[:DOUBTFUL_NAMED])}{more} (marked * in the table)"
        )


def terminal_width() -> int:
    """Columns to write the table for."""
    return max(60, shutil.get_terminal_size((100, 24)).columns)


ANALYSIS = Analysis("pairwise", FLAGS, analyse, also={"curves": True})


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
