"""Numbers of a whole curve: where it flattens, the smallest rank that is enough, the best penalty."""

import math
import statistics
from collections.abc import Sequence

from jaxalign.report.labels import count, number
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure, ResultTable, Row, Setting
from jaxalign.report.sections.aggregates import column_for, pair_value, sentence_case
from jaxalign.report.sections.blocks import Block, Folded
from jaxalign.report.tables import Column, Table, Value

MOST_SENTENCES = 4
Line = tuple[
    str, str, Value | None, Value, Value, Value
]  # number, method, of the mean, median, lowest, highest


def curve_numbers(part: Part, order: Sequence[str]) -> tuple[list[str], list[Block]]:
    """Sentences and tables of the numbers that a driver drew from its curves; nothing where there are none.

    Args:
      part: its rows without an axis that are no rates.
      order: of encoders.
    """
    rows = [row for row in part.methods() if not Measure(row.measure).is_rate]
    if not rows:
        return [], []
    table = part.table(rows, order)
    means: dict[tuple[Setting, Measure], list[Row]] = {}
    for row in part.means():
        key = Setting(row.method, row.rank), Measure(row.measure, row.own_photograph)
        means.setdefault(key, []).append(row)
    found = [
        _line(table, setting, measure, means.get((setting, measure), ()))
        for measure in table.measures
        for setting in table.settings
    ]
    lines = [line for line in found if line is not None]
    heads = "of the mean over pairs", "median of pairs", "lowest", "highest"
    columns = [Column("number"), Column("method"), *(Column(head, "number") for head in heads)]
    caption = (
        "Of the curve of the mean over pairs, 95 % interval in brackets; and of the curves of single pairs."
    )
    summary = Table(f"{part.name}-numbers", "In one number", caption, columns, lines)
    sentences = [sentence for line in lines[:MOST_SENTENCES] if (sentence := _sentence(line))]
    return sentences, [summary, *_every_pair(part, table, rows)]


def _line(table: ResultTable, setting: Setting, measure: Measure, of_mean: Sequence[Row]) -> Line | None:
    means, _, measured = table.matrix(setting, measure)
    if not measured.any():
        return None
    known = [float(value) for value in means[measured] if not math.isnan(value)]
    reason = "; ".join(table.reasons(setting, measure))
    numbers = [function(known) if known else math.nan for function in (statistics.median, min, max)]
    middle, low, high = (Value(value, reason=reason) for value in numbers)
    return measure.head, str(setting), _over_seeds(of_mean), middle, low, high


def _over_seeds(rows: Sequence[Row]) -> Value | None:
    """The number of the mean over pairs: with one seed its interval, with several their deviation."""
    if len(rows) <= 1:
        return Value.of_row(rows[0]) if rows else None
    values = [row.value for row in rows]
    reason = next((row.reason for row in rows if row.reason), "")
    return Value(math.fsum(values) / len(values), statistics.pstdev(values), reason=reason)


def _sentence(line: Line) -> str:
    """One line of the table in words; "" where it has no number."""
    name, method, mean, middle, low, high = line
    words = []
    if mean is not None and not math.isnan(mean.mean):
        interval = ""
        if mean.low is not None and mean.high is not None:
            interval = f" (95 % interval {number(mean.low)} to {number(mean.high)})"
        words.append(f"{number(mean.mean)}{interval} for the mean over pairs")
    if not math.isnan(middle.mean):
        words.append(f"median of pairs {number(middle.mean)}, from {number(low.mean)} to {number(high.mean)}")
    return f"{sentence_case(name)}, with {method}: {'; '.join(words)}." if words else ""


def _every_pair(part: Part, table: ResultTable, rows: Sequence[Row]) -> list[Block]:
    """A line for each pair and setting; of numbers drawn from several measures those of the first."""
    first = next((m.name.partition(":")[0] for m in table.measures if ":" in m.name), "")
    measures = [m for m in table.measures if ":" not in m.name or m.name.partition(":")[0] == first]
    seeds = len(table.seeds)
    single = {(*row[1:5], row.measure): row for row in rows if seeds == 1}
    lines = []
    for setting in table.settings:
        for source in table.sources:
            for target in table.targets:
                entries: list[Value | None] = []
                for measure in measures:
                    cell = table.cell(setting, measure, source, target)
                    row = single.get((source, target, setting.method, setting.rank, measure.name))
                    entries.append(cell and pair_value(table, cell, setting, measure, source, target, row))
                if any(entry is not None for entry in entries):
                    lines.append([source, target, str(setting), *entries])
    spread = "95 % interval in brackets" if seeds == 1 else f"± standard deviation over {seeds} seeds"
    heads = [Column("source"), Column("target"), Column("method"), *(column_for(m) for m in measures)]
    title = "In one number, every pair"
    each = Table(f"{part.name}-numbers-pairs", title, f"Of the curve of each pair; {spread}.", heads, lines)
    return [Folded(f"Every pair ({count(len(lines), 'line')})", [each])]
