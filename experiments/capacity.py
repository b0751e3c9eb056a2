"""Is more capacity than an affine map worth it? Ridge, ridge on quadratic features, and a small network.

  python -m experiments.capacity --store=my_store --out=results/capacity

The same splits and the same evaluation for all: linear_features (ridge on the rows themselves), random_fourier and
polynomial (ridge on the rows with that many columns appended), mlp (the sum of an affine map
and a hidden layer, trained on squared error, stopped on a tenth of the training people who are held out).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.run import analysis, cli, flags
from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.comparing import numbers_of
from experiments.run.measuring import Compared, Measuring, TestRows, padded_rows
from jaxalign import Fit, FoldMoments, Moments, fit_pairs
from jaxalign.analysis.capacity import features_of, fit_network
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.people import identity_folds
from jaxalign.report import ResultTable, render_table

METHODS = ("linear_features", "random_fourier", "polynomial", "mlp")
HELD_OUT = 10  # one fold of so many stops the network

FLAGS = analysis.define(
    features=flags.Flag(
        512, "Number of random Fourier features, and at most so many products of principal components."
    ),
    hidden=flags.Flag(128, "Width of the hidden layer of the small network."),
    taken=("steps",),
    measures="identification,verification",
    methods=",".join(METHODS),
    out="results/capacity",
)
Pair = tuple[str, str]
Found = Iterator[tuple[Pair, Fit, dict[str, Compared] | str]]


def analyse(job: Job) -> str:
    """Measures every method on the same splits."""
    job.config = analysis.without_folds(job)
    for name in ("features", "hidden", "steps"):
        if getattr(job.values, name) < 1:
            raise UserError(f"--{name} takes a whole number of 1 or more, got {getattr(job.values, name)}.")
    run = job.aligning()
    splits, methods = run.splits(), job.config.protocol.methods
    job.progress.total = len(run.pairs) * len(methods) * len(splits)
    for measuring in splits:
        test = measuring.test_rows(run.data)
        for method in methods:
            how = {"linear_features": linear, "mlp": network}.get(method, curved)
            for pair, fit, found in how(job, run, measuring, test, method):
                run.keep(measuring.seed, method, (pair, None, fit), found)
                job.progress.step(f"{method}, {' → '.join(pair)}")
    rows = job.finish(run)
    return render_table(ResultTable(rows), title=f"{run.data.store.dataset}: capacity")


def linear(job: Job, run: Aligning, measuring: Measuring, test: TestRows, method: str) -> Found:
    """Ridge on the rows."""
    maps = run.fit(run.moments(measuring), "ridge", measuring)
    yield from compared(run, measuring, maps, test)


def curved(job: Job, run: Aligning, measuring: Measuring, test: TestRows, method: str) -> Found:
    """Ridge on features of each source: to the solver they are just another encoder."""
    train, tested = (run.data.take(rows) for rows in (measuring.split.train, measuring.split.test))
    sources = list(dict.fromkeys(source for source, _ in run.pairs))

    settle = lambda source: features_of(method, train[source], job.values.features, measuring.seed)  # noqa: E731
    for source, features in zip(sources, list(concurrently(settle, sources))):
        pairs = [pair for pair in run.pairs if pair[0] == source]
        moments = FoldMoments(Moments.of({**train, source: np.asarray(features(train[source]))}), ())
        maps = fit_pairs(moments, "ridge", pairs=pairs, l2=job.config.protocol.l2)
        rows = TestRows({**test, source: padded_rows(np.asarray(features(tested[source])))})
        yield from compared(run, measuring, maps, rows)


def compared(run: Aligning, measuring: Measuring, maps: Mapping[Pair, Fit], rows: TestRows) -> Found:
    """Measures maps concurrently."""
    fits = dict(maps)
    compare = lambda pair: run.compare(measuring, rows, (pair, None, fits[pair]))  # noqa: E731
    for pair, found in zip(fits, measuring.concurrently(compare, list(fits), run.data)):
        yield pair, fits[pair], found


def network(job: Job, run: Aligning, measuring: Measuring, test: TestRows, method: str) -> Found:
    """For each pair, a hidden layer whose output is added to that of ridge."""
    train = run.data.take(measuring.split.train)
    out = identity_folds(run.data.identities[measuring.split.train], HELD_OUT, measuring.seed) == 0
    moments = FoldMoments(Moments.of({name: rows[~out] for name, rows in train.items()}), ())
    maps = fit_pairs(moments, "ridge", pairs=run.pairs, l2=job.config.protocol.l2)
    wide = {name: np.asarray(padded_rows(rows))[: len(rows)] for name, rows in train.items()}
    options: dict[str, Any] = {"hidden": job.values.hidden, "steps": job.values.steps, "seed": measuring.seed}

    def compare(pair: Pair) -> dict[str, Compared] | str:
        source, target = pair
        fit = maps[pair].padded()
        y = np.asarray(fit.target(wide[target]))
        trained = fit_network(wide[source], y, out, jax.tree.map(np.asarray, fit.source), **options)
        mapped = trained.network(np.asarray(test[source])), fit.target(test[target])
        return numbers_of(measuring, mapped)

    for pair, found in zip(maps, concurrently(compare, list(maps))):
        yield pair, maps[pair], found


ANALYSIS = analysis.Analysis("capacity", FLAGS, analyse, METHODS)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
