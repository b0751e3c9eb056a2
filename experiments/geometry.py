"""How alike are the spaces of encoders before any map, and does that predict what alignment reaches?

  python -m experiments.geometry --store=my_store --out=results/geometry

On a sample of training photographs (--rows): similarities of every two encoders (linear CKA, RSA, shared neighbours,
CCA and its variants, principal angles, Procrustes distance), each with its null (the photographs of one side
permuted) and calibrated by it; and numbers of each encoder alone. Then rank-1 on test people after alignment by each
method, or read from --results, and Spearman's correlation of every similarity with it over the pairs of encoders:
prediction.csv.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.run import analysis, cli, flags
from experiments.run.aligning import empty_rows
from experiments.run.analysis import Job
from experiments.run.earlier import READING, Earlier
from experiments.run.protocols import METHODS
from jaxalign.analysis.geometry import SIMILARITIES, GeometrySample, GeometrySettings, predict
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.report import Measure, ResultTable, Row
from jaxalign.report.part import Part
from jaxalign.report.records import Predicted
from jaxalign.report.sections.geometry import geometry_tables
from jaxalign.report.tables import to_text

MEASURE = "rank1"  # the rate that similarities are compared with
GEOMETRY = "geometry"  # the method of rows that need no map
ALIGNING = tuple(name for name in METHODS if name not in ("identity", "translation"))
SAMPLING: flags.Group = dict(
    rows=flags.Flag(
        2000,
        "At most so many training photographs, drawn at random, to compare spaces on; scores and their nulls are of "
        "the same ones. Example: --rows=500",
    ),
    permutations=flags.Flag(
        20, "Times that the photographs of one side are permuted, for what unrelated spaces score."
    ),
    neighbours=flags.Flag(10, "Nearest neighbours of a photograph that encoders may share, and for hubness."),
)

# Spaces are compared without maps, so that neither pairs nor rates are chosen.
WITHOUT = ("sources", "targets", "measures", "fmr", "rank_k", "own_photograph", "intervals")
USUAL_METHODS = "canonical,ridge"
FLAGS = analysis.define(**SAMPLING, **READING, without=WITHOUT, methods=USUAL_METHODS, out="results/geometry")


def analyse(job: Job) -> str:
    """Measures similarities and alignability, and relates them."""
    rates = read_rates(job) if job.values.results else []
    rows = measure(job)
    rates = rates or measured_rates(job)
    found = list(predictions(job.data.encoders, rows, rates))
    job.write.table(rows)
    rates = [row for row in rates if row.measure == MEASURE]
    job.write.table(rates, "alignability")
    job.write.csv("prediction.csv", Predicted._fields, found)
    part = Part("geometry", "geometry", {}, rows, alignability=rates, predictions=found)
    drawn = ", ".join(f"{count:,}" for count in job.record["sampled_rows"])
    on = f"on {drawn} training photographs, {job.values.permutations} permutations"
    return to_text(geometry_tables(part), title=f"{job.data.store.dataset}: similarities of spaces {on}")


def measure(job: Job) -> list[Row]:
    """The rows of every seed's sample, every check of all samples before any work."""
    values, data = job.values, job.data
    settings = GeometrySettings(permutations=values.permutations, neighbours=values.neighbours)
    samples: dict[int, np.ndarray] = {}
    for seed in job.config.protocol.seeds:
        train = data.split(seed, job.config.protocol.train_fraction, 0).train
        samples[seed] = rows = np.random.default_rng(seed).permutation(train)[: values.rows]
        settings.check(len(rows), len(np.unique(data.identities[rows])))
    job.record["sampled_rows"] = [len(rows) for rows in samples.values()]
    return [row for seed, rows in samples.items() for row in of_sample(job, seed, rows, settings)]


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
            numbers = {"": one.value, ":null_mean": one.null_mean, ":null_95%": one.null_quantile()}
            for suffix, value in {**numbers, ":calibrated": one.calibrated}.items():
                yield row(pair, name + suffix, value, one.items, one.reason)


def predictions(encoders: Sequence[str], rows: Sequence[Row], rates: Sequence[Row]) -> Iterator[Predicted]:
    """Every similarity, raw and calibrated, against what every method reaches; none for fewer than three encoders."""
    if len(encoders) < 3:
        return
    known = similarities(rows, encoders)
    for method, matrix in reached(rates, encoders).items():
        for name in SIMILARITIES:
            for calibrated, key in (("no", name), ("yes", f"{name}:calibrated")):
                found = predict(known[key], matrix)._asdict()
                yield Predicted(name, calibrated, alignment_method=method, measure=MEASURE, **found)


def measured_rates(job: Job) -> list[Row]:
    """Rank-1 of every ordered pair by every method of the run, on test people."""
    run = job.aligning(measures=("identification",), rank_k=(1,), intervals=0)
    splits, methods = run.splits(), job.config.protocol.methods
    job.progress.total = len(splits) * len(methods) * len(run.pairs)
    for measuring in splits:
        moments, test = run.moments(measuring), measuring.test_rows(run.data)
        for method in methods:
            maps = run.fit(moments, method, measuring)
            job.measure(run, measuring, test, method, maps, where=f"seed {measuring.seed}: ")
    rows = [*run.rows, *empty_rows(run.rows, run.without_value)]
    return [row for row in rows if row.measure == MEASURE]


def read_rates(job: Job) -> list[Row]:
    """The rows of ``--results``, which must be of this data set and have all of its encoders, that vary nothing."""
    dataset, encoders = job.data.store.dataset, job.data.encoders
    found: list[Row] = []
    for text in job.values.results.split(","):
        earlier = Earlier.open(text)
        if earlier.datasets != [dataset]:
            got = f"{earlier.content.get('driver')} of {', '.join(map(repr, earlier.datasets)) or 'none'}"
            raise UserError(
                f"--results={text}: expected results of the data set {dataset!r}, got results of {got}."
            )
        earlier.require_same_embeddings(job.data, job.config)
        found += earlier.own_rows
    there = {name for row in found for name in (row.source, row.target)}
    for name in encoders:
        if name not in there:
            known = f"there are {', '.join(sorted(there))}"
            raise UserError(f"--results={job.values.results}: there is no encoder {name!r}; {known}.")
    return [row for row in found if row.source in encoders and row.target in encoders]


def reached(rows: Sequence[Row], encoders: Sequence[str]) -> dict[str, np.ndarray]:
    """Rank-1 of source by target for each method, mean over seeds, shape [K, K]; NaN where there is none.

    Rates without the same image in the gallery are used, unless the results have only those with it.
    """
    rates = [row for row in rows if row.measure == MEASURE and row.method in ALIGNING]
    own = "excluded" if any(row.own_photograph == "excluded" for row in rates) else "included"
    rates = [row for row in rates if row.own_photograph == own and row.source != row.target]
    if not rates:
        raise UserError(f"the results hold no {MEASURE} between encoders; similarities are compared with it.")
    table = ResultTable(rates, merge_ranks={row.method for row in rates})
    return {
        setting.method: over(table, setting, Measure(MEASURE, own), encoders) for setting in table.settings
    }


def over(table: ResultTable, setting, measure: Measure, encoders: Sequence[str]) -> np.ndarray:
    """One measure of source by target in the order of the encoders; NaN where there is none."""
    cells = [[table.cell(setting, measure, s, t) for t in encoders] for s in encoders]
    return np.array([[np.nan if cell is None else cell.mean for cell in line] for line in cells])


def similarities(rows: Sequence[Row], encoders: Sequence[str]) -> dict[str, np.ndarray]:
    """Every similarity of spaces, raw and derived, as symmetric matrices by name; none where rows have none."""
    own = [row for row in rows if row.method == GEOMETRY and row.source != row.target]
    both = [*own, *(row._replace(source=row.target, target=row.source) for row in own)]
    table = ResultTable(both)
    return {
        measure.name: over(table, setting, measure, encoders)
        for setting in table.settings
        for measure in table.measures
    }


ANALYSIS = analysis.Analysis("geometry", FLAGS, analyse)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
