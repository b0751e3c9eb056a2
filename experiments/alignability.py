"""What alignment reaches between every two encoders, beside which similarities are judged: measured, or read."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments import results
from experiments.aligning import empty_rows
from experiments.analysis import Job
from experiments.protocols import METHODS
from jaxalign.errors import UserError
from jaxalign.report import Measure, ResultTable, Row

MEASURE = "rank1"
GEOMETRY = "geometry"  # the method of rows that need no map
ALIGNING = tuple(name for name in METHODS if name not in ("identity", "translation"))
FILES = ("results.parquet", "alignability.parquet")


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
        path = pathlib.Path(text.strip()).expanduser()
        content = _config(path)
        rows = [row for name in FILES if (path / name).exists() for row in results.read_parquet(path / name)]
        of = sorted({row.dataset for row in rows})
        if not rows or of != [dataset]:
            raise UserError(
                f"--results={text}: expected results of the data set {dataset!r}, got results of "
                f"{content.get('driver')} of {', '.join(map(repr, of)) or 'none'}."
            )
        _require_same(content, job, path)
        found += [row for row in rows if not row.axis and row.test_dataset in ("", dataset)]
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


def _config(path: pathlib.Path) -> dict:
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--results={path} holds no results: its config.json cannot be read.") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (
        results.FORMAT,
        1,
    ):
        raise UserError(f"--results={path}: its config.json is not of results of this version.")
    return content


def _require_same(content: dict, job: Job, path: pathlib.Path) -> None:
    """Refuses results of other embeddings, or of embeddings prepared or split otherwise."""
    of = content.get("store") or next(iter(content.get("stores") or ({},)))
    theirs, ours = of.get("checksums", {}), job.data.store.checksums
    for name in job.data.encoders:
        if name in theirs and theirs[name] != ours[name]:
            raise UserError(f"--results={path} is of other embeddings of encoder {name!r} than this store's.")
    protocol = content.get("config", {}).get("protocol", {})
    for name in ("normalize", "train_fraction"):
        own = getattr(job.config.protocol, name)
        if protocol.get(name, own) != own:
            raise UserError(f"--results={path} was made with --{name}={protocol[name]}, this run has {own}.")
