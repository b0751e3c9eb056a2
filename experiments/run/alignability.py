"""What alignment reaches between every two encoders, beside which similarities are judged: measured, or read."""

from collections.abc import Sequence

import numpy as np

from experiments.run.aligning import empty_rows
from experiments.run.analysis import Job
from experiments.run.earlier import Earlier
from experiments.run.protocols import METHODS
from jaxalign.core.errors import UserError
from jaxalign.report import Measure, ResultTable, Row

MEASURE = "rank1"
GEOMETRY = "geometry"  # the method of rows that need no map
ALIGNING = tuple(name for name in METHODS if name not in ("identity", "translation"))


def measured(job: Job) -> list[Row]:
    """Rank-1 of every ordered pair by every method of the run, on test people."""
    run = job.aligning(measures=("identification",), rank_k=(1,), intervals=0)
    for measuring in job.measuring(run):
        moments, test = run.moments(measuring), measuring.test_rows(run.data)
        for method in job.config.protocol.methods:
            job.progress.show(f"seed {measuring.seed}: aligning by {method}")
            maps = run.fit(moments, method, measuring)
            for done, _ in run.measure_maps(measuring, test, method, maps, (None,)):
                job.progress.show(f"seed {measuring.seed}: {method}, {done}")
    rows = [*run.rows, *(empty_rows(run.rows, run.without_value) if run.without_value else ())]
    return [row for row in rows if row.measure == MEASURE]


def read(job: Job) -> list[Row]:
    """The rows of ``--results`` that are of this data set and vary nothing.

    Raises:
      UserError: a directory holds no results, of another version, of another data set, or without one of the encoders.
    """
    dataset, encoders = job.data.store.dataset, job.data.encoders
    found: list[Row] = []
    for text in job.values.results.split(","):
        earlier = Earlier.open(text)
        if earlier.datasets != [dataset]:
            of = ", ".join(map(repr, earlier.datasets)) or "none"
            raise UserError(
                f"--results={text}: expected results of the data set {dataset!r}, got results of "
                f"{earlier.content.get('driver')} of {of}."
            )
        earlier.require_same_embeddings(job.data, job.config)
        found += earlier.own_rows
    there = {name for row in found for name in (row.source, row.target)}
    lacking = [name for name in encoders if name not in there]
    if lacking:
        raise UserError(
            f"--results={job.values.results}: there is no encoder {lacking[0]!r}; there are {', '.join(sorted(there))}."
        )
    return [row for row in found if row.source in encoders and row.target in encoders]


def reached(rows: Sequence[Row], encoders: Sequence[str]) -> dict[str, np.ndarray]:
    """Rank-1 of source by target for each method, mean over seeds, shape [K, K]; NaN where there is none.

    The probe's own photograph is not in the gallery, but where results have it only so.

    Raises:
      UserError: there is no rank-1.
    """
    rates = [row for row in rows if row.measure == MEASURE and row.method in ALIGNING]
    own = "excluded" if any(row.own_photograph == "excluded" for row in rates) else "included"
    rates = [row for row in rates if row.own_photograph == own and row.source != row.target]
    if not rates:
        raise UserError(
            f"the results hold no {MEASURE} between encoders; it is what similarities are judged by."
        )
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
