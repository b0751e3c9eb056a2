"""What do several encoders reach together? Fusion of sets of encoders, greedy choices, and galleries of mixed encoders.

  python -m experiments.ensemble --store=my_store --out=results/ensemble

Every set of up to --largest encoders is measured as one system, whose name joins theirs by "+" (source and target). All
rows are mapped into one shared space. Of scores there: mean, znorm, minmax, logistic (weights by logistic regression);
tanh, which is no weighted sum of scores and so not the cosine of any rows, is in code alone (biometrics.Fusion).
Of rows: mean_template (their mean, as short as one row) and concatenation (rows that no map moved, as long as all of
them). heterogeneous: each person is enrolled under one encoder of the set, drawn at random, each probe photograph comes
from another draw, and one gallery and one threshold serve all. Single encoders have `mean`, which is the encoder in the
shared space, and `concatenation`, the encoder without a map.

What fusion learns and the greedy choice of --budget encoders (rows with the axis `budget`) come from a third of the
training people, mapped by a space that is fitted without them. `shared` rows are one encoder's probes in the gallery of
another; prediction.csv says whether they predict what fusion by mean gains over the better one of the two.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.run import analysis, cli, flags
from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.measuring import Compared, Measuring
from jaxalign import AffineMap, FoldMoments
from jaxalign.align.solvers.shared import SharedSpace, fit_shared_space
from jaxalign.analysis.geometry import predict
from jaxalign.biometrics import Fusion, fused_rows, mean_rows, mixed_rows
from jaxalign.biometrics.thresholds import SortedScores, error_rates
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES
from jaxalign.core.errors import UserError
from jaxalign.core.people import identity_folds
from jaxalign.core.rows import unit_rows
from jaxalign.report import Measure, ResultTable
from jaxalign.report.part import Part
from jaxalign.report.records import COSINE, Predicted
from jaxalign.report.result_table import Setting
from jaxalign.report.sections.ensemble import CROSSING, ensemble_measures, ensemble_tables
from jaxalign.report.tables import to_text

SCORES = ("mean", "znorm", "minmax", "logistic")
METHODS = (*SCORES, "mean_template", "concatenation", "heterogeneous")
ALONE = ("mean", "concatenation")  # what a single encoder has
HELD_OUT, MOST_HELD_OUT = 3, 1000  # one part of the training people of so many; at most so many of their rows

FLAGS = analysis.define(
    largest=flags.Flag(3, "Fuse every set of at most so many encoders.", least=1),
    budget=flags.Flag(4, "Choose at most so many encoders greedily.", least=1),
    without=("sources", "targets", "l2", "folds"),
    measures="identification,verification",
    methods=flags.Flag(
        ",".join(METHODS),
        "Ways to fuse encoders, separated by commas, of scores, of rows, or of enrolment as said above: "
        f"{', '.join(METHODS)}. All but `concatenation` map rows by `shared`. Example: --methods=mean,logistic",
    ),
    out="results/ensemble",
)
Members = tuple[str, ...]


class TrainingScores(NamedTuple):
    """Comparisons of training people that no map was fitted on."""

    scores: dict[str, np.ndarray]  # by encoder, in the shared space, shape [n] each
    genuine: np.ndarray  # shape [n]

    def of(self, members: Members) -> np.ndarray:
        """The scores by some of the encoders, shape [n, K]."""
        return np.stack([self.scores[name] for name in members], axis=1)


def analyse(job: Job) -> str:
    """Measures every set of encoders by every fusion."""
    run = job.aligning()
    splits, chosen = run.splits(), {}
    sizes = range(1, min(job.values.largest, len(run.encoders)) + 1)
    sets = [members for size in sizes for members in itertools.combinations(run.encoders, size)]
    job.progress.total = len(splits) * (len(sets) * len(job.config.protocol.methods) + len(run.pairs))
    systems = dict.fromkeys(sets)
    for measuring in splits:
        space, training = fitted(run, measuring)
        order = greedy(job, training, run.encoders)
        measure(job, run, measuring, space, training, [*sets, *order[len(sizes) :]])
        chosen[measuring.seed] = order
        systems |= dict.fromkeys(order)
    budget = [
        row._replace(axis="budget", at=float(size))
        for row in run.rows
        for size, members in enumerate(chosen[row.seed], start=1)
        if (row.method, row.source) == ("mean", joined(members))
    ]
    rows = job.finish(run, budget)
    table = ResultTable(row for row in rows if not row.axis)
    measures = ensemble_measures(table)
    predictions = [found for kind in measures for found in predicted(table, run.encoders, kind)]
    job.write.csv("prediction.csv", Predicted._fields, predictions)
    job.record["ensembles"] = {joined(members): list(members) for members in systems}
    tables = ensemble_tables(Part("ensemble", "ensemble", job.record, rows))
    return to_text(tables, title=f"{job.data.store.dataset}: ensembles")


def joined(members: Members) -> str:
    """The name of a set of encoders."""
    return "+".join(members)


def fitted(run: Aligning, measuring: Measuring) -> tuple[SharedSpace, TrainingScores]:
    """The shared space of all training people; comparisons of a part of them in the space of the others."""
    train = measuring.split.train
    people = run.data.identities[train]
    out = identity_folds(people, HELD_OUT, measuring.seed) == 0
    moments = FoldMoments.of(run.data.select(train), fold=out.astype(np.int64))
    others = fit_shared_space(moments.folds[0]).on_host()
    held = np.flatnonzero(out)[:MOST_HELD_OUT]
    left, right = np.triu_indices(len(held), 1)
    if run.data.images is not None:  # copies of one image are no comparison
        differ = (run.data.images[train[held]][:, None] != run.data.images[train[held]])[left, right]
        left, right = left[differ], right[differ]
    scores = {}
    for name, rows in run.data.select(train[held]).items():
        unit = unit_rows(np.asarray(others[name](rows)))
        scores[name] = (unit @ unit.T)[left, right]
    genuine = people[held][left] == people[held][right]
    return fit_shared_space(moments).on_host(), TrainingScores(scores, genuine)


def greedy(job: Job, training: TrainingScores, encoders: Sequence[str]) -> list[Members]:
    """The best encoder, then always the one that helps those chosen most, by the mean of training scores."""
    mates, impostors = int(training.genuine.sum()), int(np.sum(~training.genuine))
    if not mates or not impostors:
        raise UserError(
            f"ensemble: a third of the training people has {mates:,} genuine and {impostors:,} impostor comparisons; "
            "some of either kind are needed to learn from."
        )
    supported = (rate for rate in job.config.fmr if rate * impostors >= LEAST_FALSE_MATCHES)
    rate = next(supported, job.config.fmr[-1])

    def reached(members: Members) -> float:
        fused = training.of(members).mean(axis=1)
        both = SortedScores(*(np.sort(fused[kind]) for kind in (training.genuine, ~training.genuine)))
        return error_rates(both, [rate], 0).points[0].tmr

    order: list[Members] = [()]
    while len(order) <= min(job.values.budget, len(encoders)):
        left = [name for name in encoders if name not in order[-1]]
        order.append(max(((*order[-1], name) for name in left), key=reached))
    return [tuple(name for name in encoders if name in members) for members in order[1:]]


def measure(
    job: Job,
    run: Aligning,
    measuring: Measuring,
    space: SharedSpace,
    training: TrainingScores,
    sets: Sequence[Members],
) -> None:
    """Adds the rows of every set by every method, and those of every encoder in every other's gallery."""
    raw = run.data.select(measuring.split.test)
    mapped = {name: np.asarray(space[name](rows)) for name, rows in raw.items()}
    unmapped = {of: AffineMap((), np.zeros(rows.width), space[of].center)(rows) for of, rows in raw.items()}
    _, person = np.unique(measuring.identities, return_inverse=True)

    def sides(members: Members, method: str) -> tuple[Any, Any]:
        own = [mapped[name] for name in members]
        if method == CROSSING:
            return own[0], own[1]
        if method == "heterogeneous":
            random = np.random.default_rng(measuring.seed)
            enrolled = random.integers(len(members), size=len(person))[person]
            return mixed_rows(own, random.integers(len(members), size=len(person))), mixed_rows(own, enrolled)
        if method in SCORES:
            fusion = Fusion.fit(training.of(members), training.genuine, kind=method)
            return fused_rows(own, fusion.weights), fused_rows(own)
        if method == "concatenation":
            own = [unmapped[name] for name in members]
        rows = mean_rows(own) if method == "mean_template" else fused_rows(own)
        return rows, rows

    def compare(task: tuple[Members, str]) -> dict[str, Compared] | str:
        try:
            return {COSINE: measuring.compare(*sides(*task))}
        except UserError as error:
            return str(error)

    methods = dict.fromkeys(["mean", *job.config.protocol.methods])
    every = itertools.product(sets, methods)
    tasks: list[tuple[Members, str]] = [
        (members, method) for members, method in every if len(members) > 1 or method in ALONE
    ]
    tasks += [(pair, CROSSING) for pair in run.pairs]
    for (members, method), found in zip(tasks, measuring.concurrently(compare, tasks, run.data)):
        pair = (members[0], members[-1]) if method == CROSSING else (joined(members), joined(members))
        fit = space.fit(members[0], members[-1])
        run.keep(measuring.seed, method, (pair, None, fit), found)
        job.progress.step(f"{method}, {joined(members)}")


def predicted(table: ResultTable, names: Sequence[str], kind: Measure) -> Iterator[Predicted]:
    """Whether what crosses between two encoders predicts what fusing them gains over the better one of them."""
    if len(names) < 3:
        return

    def value(method: str, source: str, target: str) -> float:
        cell = table.cell(Setting(method), kind, source, target)
        return math.nan if cell is None else cell.mean

    crossing, gains = np.full((2, len(names), len(names)), np.nan)
    for (i, one), (j, other) in itertools.combinations(enumerate(names), 2):
        ways, both = ((one, other), (other, one)), joined((one, other))
        crossing[i, j] = crossing[j, i] = np.mean([value(CROSSING, *way) for way in ways])
        best = max(value("mean", name, name) for name in (one, other))
        gains[i, j] = gains[j, i] = value("mean", both, both) - best
    found = predict(crossing, gains)
    numbers = found.spearman, found.low, found.high, found.pairs, found.p
    yield Predicted("alignability", "no", "mean", str(kind), *numbers)


ANALYSIS = analysis.Analysis("ensemble", FLAGS, analyse, METHODS)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
