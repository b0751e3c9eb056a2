"""How alike are the spaces of encoders before any map, and does that predict what alignment reaches?

  python -m experiments.geometry --store=my_store --out=results/geometry

On a sample of training photographs (--rows): similarities of every two encoders (linear CKA, RSA, shared neighbours,
CCA and its variants, principal angles, Procrustes distance), each beside its null (the photographs of one side
permuted) and calibrated by it; and numbers of each encoder alone. Then rank-1 on test people after alignment by each
method, or read from --results, and Spearman's correlation of every similarity with it over the pairs of encoders:
prediction.csv.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.run import alignability, analysis, cli, flags
from experiments.run.alignability import GEOMETRY, MEASURE
from experiments.run.analysis import Job
from experiments.run.earlier import Reading
from jaxalign.analysis.geometry import SIMILARITIES, GeometrySample, GeometrySettings, predict
from jaxalign.core.devices import concurrently
from jaxalign.report import Row
from jaxalign.report.geometry_text import Predicted, render_geometry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How spaces are compared."""

    rows: int = flags.field(
        2000,
        "At most so many training photographs, drawn at random, to compare spaces on; scores and their nulls are of "
        "the same ones. Example: --rows=500",
    )
    permutations: int = flags.field(
        20, "Times that the photographs of one side are permuted, for what unrelated spaces score."
    )
    neighbours: int = flags.field(
        10, "Nearest neighbours of a photograph that encoders may share, and for hubness."
    )


# Spaces are compared without maps, so that neither pairs nor rates are chosen.
WITHOUT = ("sources", "targets", "measures", "fmr", "rank_k", "own_photograph", "intervals")
METHODS = "canonical,ridge"
FLAGS = analysis.define(Sampling, Reading, without=WITHOUT, methods=METHODS, out="results/geometry")


def analyse(job: Job) -> str:
    """Measures similarities and alignability, and relates them."""
    rates = alignability.read(job) if job.values.results else None
    rows = measure(job)
    if rates is None:
        rates = alignability.measured(job)
    found = list(predictions(job.data.encoders, rows, rates))
    job.write.table(rows)
    job.write.table([row for row in rates if row.measure == MEASURE], "alignability")
    job.write.csv("prediction.csv", Predicted._fields, found)
    return render_geometry(rows, found, f"{job.data.store.dataset}: {sampled(job)}")


def sampled(job: Job) -> str:
    """What similarities rest on, in words."""
    drawn = ", ".join(f"{count:,}" for count in job.record["sampled_rows"])
    return f"similarities of spaces on {drawn} training photographs, {job.values.permutations} permutations"


def measure(job: Job) -> list[Row]:
    """The rows of every seed's sample, every check of all samples before any work."""
    values, data = job.values, job.data
    settings = GeometrySettings(permutations=values.permutations, neighbours=values.neighbours)
    samples = []
    for seed in job.config.protocol.seeds:
        train = data.split(seed, job.config.protocol.train_fraction, 0).train
        rows = np.random.default_rng(seed).permutation(train)[: values.rows]
        settings.check(len(rows), len(np.unique(data.identities[rows])))
        samples.append((seed, rows))
    job.record["sampled_rows"] = [len(rows) for _, rows in samples]
    return [row for seed, rows in samples for row in of_sample(job, seed, rows, settings)]


def of_sample(job: Job, seed: int, rows: np.ndarray, settings: GeometrySettings) -> Iterator[Row]:
    """Every number of one sample: of encoders alone, then of pairs."""
    job.progress.show(f"seed {seed}: each encoder alone")
    identities = job.data.identities[rows]
    sample = GeometrySample(job.data.take(rows), identities, settings, each=concurrently)

    def row(pair: Sequence[str], measure: str, value: float, items: int, reason: str) -> Row:
        names = {"source": pair[0], "target": pair[1], "method": GEOMETRY, "measure": measure, "value": value}
        more = {"comparisons": items, "reason": "" if np.isfinite(value) else reason}
        return Row(job.data.store.dataset, rank=None, seed=seed, own_photograph="", **names, **more)

    for name in job.data.encoders:
        for what, value in sample.describe(name).items():
            yield row((name, name), what, value, len(rows), "undefined on these rows")
    for pair, found in zip(sample.pairs, concurrently(sample.compare, sample.pairs)):
        job.progress.show(f"seed {seed}: {' and '.join(pair)}")
        for name in SIMILARITIES:
            one = found[name]
            numbers = {
                name: one.value,
                f"{name}:null_mean": one.null_mean,
                f"{name}:null_95%": one.null_quantile(),
                f"{name}:calibrated": one.calibrated,
            }
            for what, value in numbers.items():
                yield row(pair, what, value, one.items, one.reason)


def predictions(encoders: Sequence[str], rows: Sequence[Row], rates: Sequence[Row]) -> Iterator[Predicted]:
    """Every similarity, raw and calibrated, against what every method reaches; none for fewer than three encoders."""
    if len(encoders) < 3:
        return
    known = alignability.similarities(rows, encoders)
    for method, matrix in alignability.reached(rates, encoders).items():
        for name in SIMILARITIES:
            for calibrated, key in (("no", name), ("yes", f"{name}:calibrated")):
                found = predict(known[key], matrix)._asdict()
                yield Predicted(name, calibrated, alignment_method=method, measure=MEASURE, **found)


ANALYSIS = analysis.Analysis("geometry", FLAGS, analyse)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
