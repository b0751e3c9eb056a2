"""Does a map depend on whom it was fitted on, and do maps fit together?

  python -m experiments.stability --store=my_store --out=results/stability

The training people are dealt into two halves and every method is fitted on either. On the test people, between the two:
map_agreement (of images of rows: 1 − relative Frobenius distance in their second moment), score_agreement and
ranking_agreement (Pearson's and Spearman's correlation of each probe's scores with the gallery, mean over probes).
Of maps fitted on all training people: round_trip (A → B → A against the rows themselves) and three_way (A → B → C
against A → C, mean over B; three_way.csv has each B), as map_agreement.
"""

from collections.abc import Iterator

import numpy as np

from experiments import analysis, cli, flags
from experiments.analysis import Job
from experiments.measuring import Measuring
from jaxalign import FoldMoments, PairwiseMaps
from jaxalign.agreement import agreement_of_sums, compare_scores, row_differences
from jaxalign.biometrics import Sampled, mean_of
from jaxalign.report import ResultTable, Row
from jaxalign.splits import identity_folds
from jaxalign.workers import concurrently

MEASURES = ("map_agreement", "score_agreement", "ranking_agreement", "round_trip", "three_way")
COLUMNS = ("dataset", "source", "via", "target", "method", "seed", "value")
FLAGS = flags.define_own(
    *analysis.COMMON,
    **{**analysis.USUAL, "methods": "orthogonal,ridge,canonical", "out": "results/stability"},
)
Pair = tuple[str, str]
Number = tuple[Pair, str, Sampled]


def analyse(job: Job) -> str:
    """Measures every method's agreement with itself."""
    job.config = analysis.without_folds(job)
    run = job.aligning()
    splits, methods = job.measuring(run), job.config.protocol.methods
    job.progress.total = 2 * len(run.pairs) * len(methods) * len(splits)
    ways: list[tuple] = []
    for measuring in splits:
        train = measuring.split.train
        half = identity_folds(run.data.identities[train], 2, measuring.seed)
        moments = FoldMoments.of(run.data.take(train), fold=half)
        tested = run.data.take(measuring.split.test)
        for method in methods:
            job.progress.show(f"fitting {method}")
            halves = [run.fit(FoldMoments(part, ()), method, measuring) for part in moments.folds]
            whole = run.fit(FoldMoments(moments.total, ()), method, measuring)
            numbers = [
                *between_halves(measuring, tested, halves),
                *around(measuring, tested, whole, method, ways),
            ]
            for pair, measure, sampled in numbers:
                here = (run.data.store.dataset, *pair, method, None, measuring.seed)
                between = sampled.interval() if len(sampled.samples) else (None, None)
                reason = "" if np.isfinite(sampled.estimate) else "the rows do not vary"
                run.rows.append(
                    Row(*here, "", measure, sampled.estimate, low=between[0], high=between[1], reason=reason)
                )
            job.progress.step(f"{method}, seed {measuring.seed}", 2 * len(run.pairs))
    job.write.csv("three_way.csv", COLUMNS, [(run.data.store.dataset, *way) for way in ways])
    return text(job.finish(run))


def between_halves(
    measuring: Measuring, tested: dict[str, np.ndarray], halves: list[PairwiseMaps]
) -> list[Number]:
    """Agreement of maps, scores and rankings of two halves."""

    def compare(pair: Pair) -> list[Number]:
        fits = [half[pair] for half in halves]
        rows, gallery = (tested[name] for name in pair)
        images = [np.asarray(fit.to_target()(rows)) for fit in fits]
        apart = row_differences(images[0], images[1], (images[0].mean(axis=0) + images[1].mean(axis=0)) / 2)
        sides = [(fit.source(rows), fit.target(gallery)) for fit in fits]
        scores, rankings = compare_scores(*sides)
        return [
            (pair, "map_agreement", agreement(measuring, apart)),
            (pair, "score_agreement", mean(measuring, scores)),
            (pair, "ranking_agreement", mean(measuring, rankings)),
        ]

    pairs = list(halves[0])
    return [number for numbers in concurrently(compare, pairs) for number in numbers]


def around(
    measuring: Measuring, tested: dict[str, np.ndarray], maps: PairwiseMaps, method: str, ways: list[tuple]
) -> Iterator[Number]:
    """Round trips, and three-way consistency where there is a third encoder; fills ``ways``."""
    to = {pair: maps[pair].to_target() for pair in maps}
    image = {pair: np.asarray(to[pair](tested[pair[0]])) for pair in maps}
    for source, target in maps:
        if (target, source) in to:
            back = np.asarray(to[target, source](image[source, target]))
            center = tested[source].mean(axis=0)
            yield (
                (source, target),
                "round_trip",
                agreement(measuring, row_differences(tested[source], back, center)),
            )
        found = []
        for via in dict.fromkeys(name for pair in maps for name in pair):
            if (source, via) in to and (via, target) in to:
                there = np.asarray(to[via, target](image[source, via]))
                direct = image[source, target]
                found.append(agreement(measuring, row_differences(there, direct, direct.mean(axis=0))))
                ways.append((source, via, target, method, measuring.seed, found[-1].estimate))
        if found:
            yield (source, target), "three_way", mean_of(found)


def agreement(measuring: Measuring, differences: np.ndarray) -> Sampled:
    """1 − relative distance of two images of the test rows, with its resamples."""
    total, samples = sums(measuring, differences)
    return Sampled(float(agreement_of_sums(total)), agreement_of_sums(samples))


def mean(measuring: Measuring, values: np.ndarray) -> Sampled:
    """Mean over test rows, with its resamples."""
    total, samples = sums(measuring, np.stack([values, np.ones(len(values))], axis=1))
    return Sampled(float(total[0] / total[1]), samples[:, 0] / samples[:, 1])


def sums(measuring: Measuring, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if measuring.resampling is None:
        return values.sum(axis=0), np.empty((0, values.shape[1]))
    return measuring.resampling.sums(measuring.resampling.plan.probe_codes, values)


def text(rows: list[Row]) -> str:
    """A line for each method, a column for each measure."""
    table = ResultTable(rows)
    lines = ["Mean over the ordered pairs; 1 is perfect agreement", "", "method".ljust(12)]
    lines[-1] += "".join(name.rjust(20) for name in MEASURES)
    for setting in table.settings:
        cells = {m.name: table.mean_over_pairs(setting, m) for m in table.measures}
        shown = [cells.get(name) for name in MEASURES]
        lines.append(
            str(setting).ljust(12) + "".join(("" if c is None else f"{c.mean:.3f}").rjust(20) for c in shown)
        )
    return "\n".join(lines) + "\n"


ANALYSIS = analysis.Analysis("stability", FLAGS, analyse)


def main(_: list[str]) -> None:
    """Reads the flags, runs, writes and prints."""
    analysis.main(ANALYSIS)


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
