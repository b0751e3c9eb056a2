"""Does a map depend on whom it was fitted on, and do maps fit together?

  python -m experiments.stability --store=my_store --out=results/stability

The training people are divided into two halves and every method is fitted on each. On the test people, between the two:
map_agreement (of images of rows: 1 − relative Frobenius distance in their second moment), score_agreement and
ranking_agreement (Pearson's and Spearman's correlation of each probe's scores with the gallery, mean over probes).
Of maps fitted on all training people: round_trip (A → B → A against the rows themselves) and three_way (A → B → C
against A → C, mean over B; three_way.csv has each B), as map_agreement.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from experiments.run import analysis, cli
from experiments.run.analysis import Job
from experiments.run.measuring import Measuring
from jaxalign import FoldMoments
from jaxalign.analysis.stability import MEASURES, Apart, around, between
from jaxalign.biometrics import Sampled, mean_of
from jaxalign.core.people import identity_folds
from jaxalign.report import Measure, ResultTable, Row
from jaxalign.report.records import ThreeWay
from jaxalign.report.sections.aggregates import methods_table
from jaxalign.report.tables import to_text

FLAGS = analysis.define(methods="orthogonal,ridge,canonical", out="results/stability")
# Of a pair and a measure: its numbers, by the encoder between.
Places = dict[tuple[tuple[str, str], str], dict[str, Sampled]]


def analyse(job: Job) -> str:
    """Measures every method's agreement with itself."""
    job.config = analysis.without_folds(job)
    run = job.aligning()
    splits, methods = run.splits(), job.config.protocol.methods
    job.progress.total = len(methods) * len(splits)
    ways: list[ThreeWay] = []
    for measuring in splits:
        train = measuring.split.train
        half = identity_folds(run.data.identities[train], 2, measuring.seed)
        halves = FoldMoments.of(run.data.take(train), fold=half).folds
        tested = run.data.take(measuring.split.test)
        parts = [*(FoldMoments(part, ()) for part in halves), run.moments(measuring)]
        sides = [
            dataclasses.replace(measuring, split=dataclasses.replace(measuring.split, train=rows))
            for rows in (train[half == 0], train[half == 1], train)
        ]
        for method in methods:
            one, other, whole = (run.fit(part, method, side) for part, side in zip(parts, sides))
            places = sampled(measuring, (*between(one, other, tested), *around(whole, tested)))
            for (pair, measure), found in places.items():
                here = (run.data.store.dataset, *pair, method, None, measuring.seed)
                mean = mean_of(list(found.values()))
                low, high = mean.interval()
                known = {} if np.isnan(low) else {"low": low, "high": high}
                reason = "" if np.isfinite(mean.estimate) else "the rows do not vary"
                run.rows.append(Row(*here, "", measure, mean.estimate, reason=reason, **known))  # pyright: ignore[reportArgumentType]
                for via, number in found.items():
                    if via:
                        way = (here[0], pair[0], via, pair[1], method, measuring.seed)
                        ways.append(ThreeWay(*way, number.estimate, *number.interval()))
            job.progress.step(f"{method}, seed {measuring.seed}")
    job.write.csv("three_way.csv", ThreeWay._fields, ways)
    table = ResultTable(job.finish(run))
    measures = [measure for measure in map(Measure, MEASURES) if measure in table.measures]
    title = "Agreement; 1 is perfect"
    return to_text([methods_table(table, measures, name="stability", title=title)])


def sampled(measuring: Measuring, numbers: Iterable[Apart]) -> Places:
    """Each number with its resamples: a function of weighted sums over people."""
    places: Places = {}
    for pair, measure, via, rows in numbers:
        function, resampling = MEASURES[measure], measuring.resampling
        if resampling is None:
            number = Sampled(float(function(rows.sum(axis=0))), np.full(1, np.nan))
        else:
            total, samples = resampling.sums(resampling.plan.probe_codes, rows)
            number = Sampled(float(function(total)), function(samples))
        places.setdefault((pair, measure), {})[via] = number
    return places


ANALYSIS = analysis.Analysis("stability", FLAGS, analyse)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
