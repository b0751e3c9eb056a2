"""What a practitioner reads first: which map and score serve these encoders, and the thresholds to use."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalign.report.labels import percent, percent_cell, shown
from jaxalign.report.records import COSINE, Row
from jaxalign.report.result_table import Cell, Measure, Pair, ResultTable
from jaxalign.report.sections.aggregates import best_setting, means_of
from jaxalign.report.tables import Column, Table

PREFIX = "tmr@fmr="
USUAL_FMR = 1e-3  # of access control
THRESHOLD = Column("threshold", "number", 4)


def operating_measure(table: ResultTable) -> Measure | None:
    """The true match rate at the FMR nearest to the usual one that some setting has a mean for; None without any."""
    known = [
        measure
        for measure in table.measures
        if measure.name.startswith(PREFIX)
        and any(not math.isnan(cell.mean) for cell in means_of(table, measure).values())
    ]
    return min(known, key=lambda measure: abs(math.log(_fmr(measure) / USUAL_FMR)), default=None)


def advice(table: ResultTable) -> list[str]:
    """The best map and score at the operating point, what they reach, and the threshold of the pair with least."""
    measure = operating_measure(table)
    best = None if measure is None else best_setting(table, measure)
    if measure is None or best is None:
        return []
    setting, cell = best
    score = "the cosine" if setting.score == COSINE else f"the score {setting.score}"
    found = table.rows_of(setting, measure)
    means = {
        pair: statistics.fmean(row.value for row in rows)
        for pair, rows in found.items()
        if pair[0] != pair[1] and pair not in table.left_out
    }
    least = min(means, key=lambda pair: means[pair])
    words = f"To compare these encoders with each other, {setting.fit} and {score} did best on these test people: "
    words += f"at FMR {percent(_fmr(measure))}, {percent_cell(cell)} of comparisons of one person match"
    if len(means) > 1:
        words += (
            f" on average, and {percent(means[least])} from {shown(least[0])} to {shown(least[1])}, the least"
        )
    return [words + ".", *_accept(found[least], least, len(means) > 1)]


def _accept(rows: Sequence[Row], pair: Pair, several: bool) -> list[str]:
    """A sentence with the threshold of a pair, where it has one."""
    at = _threshold(rows)
    if math.isnan(at.mean):
        return []
    threshold, low, high = (THRESHOLD.written(each) for each in (at.mean, at.low or 0.0, at.high or 0.0))
    ends = "" if at.low is None else f" (95 % interval {low} to {high})"
    more = "; the table below has every pair's threshold" if several else ""
    return [f"From {shown(pair[0])} to {shown(pair[1])}, accept scores of {threshold}{ends} or more{more}."]


def thresholds(table: ResultTable, *, name: str) -> Table | None:
    """A line for each ordered pair under the best map and score: the threshold to use, and what to expect of it."""
    measure = operating_measure(table)
    best = None if measure is None else best_setting(table, measure)
    if measure is None or best is None:
        return None
    setting = best[0]
    found, one_seed = table.rows_of(setting, measure), len(table.seeds) == 1
    lines = []
    for source in table.sources:
        for target in table.targets:
            rows = found.get((source, target), [])
            if source != target and rows:
                cell = table.cell(setting, measure, source, target)
                lines.append(
                    [
                        shown(source),
                        shown(target),
                        _threshold(rows),
                        _number(rows, "achieved"),
                        cell,
                    ]
                )
    columns = [
        Column("source"),
        Column("target"),
        THRESHOLD,
        Column("achieved FMR", "percent", 3),
        Column.of(measure, bold=False),
    ]
    seeds = "" if one_seed else ", mean over seeds"
    caption = (
        f"{setting}: two photographs match where their score reaches the threshold{seeds}, the smallest whose FMR on "
        f"these test people does not exceed {percent(_fmr(measure))}. The map and the score were chosen on the same "
        "people, and other people, photographs and cameras have other error rates: check a threshold on your own."
        + (_intervals(found) if one_seed else "")
    )
    return Table(name, "Thresholds", caption, columns, lines)


def _intervals(found: Mapping[Any, Sequence[Row]]) -> str:
    """What the intervals are, or how to have some."""
    if any(row.threshold_low is not None for rows in found.values() for row in rows):
        return " Intervals of 95 % are over people; each resample has the threshold of its own FMR."
    return " --intervals=1000 gives intervals of thresholds and rates."


def _fmr(measure: Measure) -> float:
    return float(measure.name.removeprefix(PREFIX))


def _threshold(rows: Sequence[Row]) -> Cell:
    """The mean over seeds or, of a single one, the threshold with its interval."""
    cell, (first, *others) = _number(rows, "threshold"), rows
    return cell if others else dataclasses.replace(cell, low=first.threshold_low, high=first.threshold_high)


def _number(rows: Sequence[Row], name: str) -> Cell:
    """The mean over seeds of a field; without a number where a seed has none."""
    values = [getattr(row, name) for row in rows]
    known = all(value is not None and math.isfinite(value) for value in values)
    return Cell(
        statistics.fmean(values) if known else math.nan,
        reason=next((row.reason for row in rows if row.reason), ""),
    )
