"""How many people, and how many photographs, a map needs: quality against the size of the training side.

  python -m experiments.data_efficiency --store=my_store --out=results/data_efficiency

The test people stay the same. Training people are added in the order of the split, 10 to all, every photograph of each
(axis train_people); and photographs drawn from all training people (axis train_pairs, a pair being one photograph under
two encoders). Each photograph is read once for all sizes of an axis. Where a curve flattens: the size at which it first
reaches 95 % and 99 % of its final value, for every pair and for the mean over pairs.
"""

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

from experiments.run import analysis, cli, flags
from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.comparing import curves_along, number_of_curve
from experiments.run.measuring import Measuring
from jaxalign import PairwiseMaps
from jaxalign.analysis.curves import logarithmic, size_for_share
from jaxalign.core.people import Places, Split, TrainingGrowth, distinct
from jaxalign.moments.moments import nested_moments
from jaxalign.report import Row
from jaxalign.report.part import Part
from jaxalign.report.sections.sweeps import sweep_tables
from jaxalign.report.tables import to_text

SMALLEST, SIZES = 10, 8
FRACTIONS = "0.1,0.2,0.3,0.4,0.5,0.6,0.7"  # of all people, as published
SHARES = (0.95, 0.99)
AXES = {"train_people": "training people", "train_pairs": "training photographs"}

FLAGS = analysis.define(
    train_people=flags.Flag(
        None,
        "Numbers of training people to fit on, separated by commas. Without it: from 10 to all, evenly on a "
        "logarithmic scale. Example: --train_people=10,100,1000",
    ),
    train_pairs=flags.Flag(
        None,
        "Numbers of training photographs to fit on, drawn from all training people, or `none`. Without it: from 10 to "
        "all, evenly on a logarithmic scale. Example: --train_pairs=100,1000",
    ),
    train_fractions=flags.Flag(
        None,
        "Shares of all people to fit on instead, each at most --train_fraction. Without it under "
        "--protocol=published: 0.1 to 0.7. Example: --train_fractions=0.1,0.3,0.7",
    ),
    methods="orthogonal,ridge",
    out="results/data_efficiency",
)


def analyse(job: Job) -> str:
    """Measures every method at every size of both axes."""
    job.config = analysis.without_folds(job)
    run, methods = job.aligning(), job.config.protocol.methods
    splits = run.splits()
    grown = [distinct(axes(job, run, measuring.split)) for measuring in splits]
    job.progress.total = len(methods) * len(run.pairs) * sum(len(at) for each in grown for _, at in each)
    for measuring, each in zip(splits, grown):
        test = measuring.test_rows(run.data)
        for marks, here, method, maps in run.ahead(fitted(run, measuring, each)):
            where = f"{marks[0]['at']:,.0f} {AXES[marks[0]['axis']]}"
            job.measure(run, here, test, method, maps, *marks, where=f"{where}: ")
    seeds, order = job.config.protocol.seeds, list(AXES)
    run.rows.sort(key=lambda row: (seeds.index(row.seed), order.index(row.axis), row.at))
    rows = job.finish(run, list(flat(run)))
    return to_text(sweep_tables(Part("data_efficiency", "data_efficiency", {}, rows)))


def fitted(
    run: Aligning, measuring: Measuring, grown: list[tuple[TrainingGrowth, Places]]
) -> Generator[tuple[list[dict[str, Any]], Measuring, str, PairwiseMaps], None, None]:
    """The maps of every method at every size: where they stand, on which training rows, the method, the maps."""
    everybody = len(measuring.split.train)
    for growth, at in grown:
        smaller = [size for size in at if size < everybody]
        nested = nested_moments(run.data.take(growth.rows), smaller) if smaller else iter(())
        for size, places in at.items():
            moments = next(nested) if size < everybody else run.moments(measuring)
            marks = [{"axis": axis, "at": float(place)} for axis, place in places]
            split = dataclasses.replace(measuring.split, train=growth.rows[:size])
            here = dataclasses.replace(measuring, split=split)
            for method in run.protocol.methods:
                yield marks, here, method, run.fit(moments, method, here)


def axes(job: Job, run: Aligning, split: Split) -> Iterator[tuple[str, TrainingGrowth, list[int]]]:
    """Both ways to grow, each with its sizes: as the flags say, published, or evenly on a logarithmic scale."""
    values, people = job.values, TrainingGrowth.by_people(run.data.identities, split)
    fractions = values.train_fractions
    if fractions is None and values.train_people is None and job.config.protocol.name == "published":
        fractions = FRACTIONS
    if fractions is None:
        yield "train_people", people, sizes("train_people", values.train_people, people)
    else:
        everybody = len(set(run.data.identities.tolist()))
        shares = flags.numbers("train_fractions", fractions, 0, 1)
        yield "train_people", people, sorted({int(share * everybody) for share in shares})
    if values.train_pairs != "none":
        rows = TrainingGrowth.by_rows(split)
        yield "train_pairs", rows, sizes("train_pairs", values.train_pairs, rows)


def sizes(name: str, given: str | None, growth: TrainingGrowth) -> list[int]:
    """As given, or evenly on a logarithmic scale; more than there are is for ``distinct`` to refuse."""
    if given is None:
        return logarithmic(SMALLEST, len(growth.ends), SIZES)
    return sorted(flags.whole_numbers(name, given, 1, 2**31 - 1))


def flat(run: Aligning) -> Iterator[Row]:
    """Where each curve reaches its shares of the final value."""
    for curve in curves_along(run):
        unit = curve.place.axis.removeprefix("train_")
        for share in SHARES:
            name = f"{curve.measure}:{unit}_for_{100 * share:g}%"
            yield number_of_curve(curve, name, size_for_share, share=share)


ANALYSIS = analysis.Analysis("data_efficiency", FLAGS, analyse)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
