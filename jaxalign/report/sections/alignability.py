"""What alignment reaches between every two encoders, beside how alike their spaces are: what predictions rest on."""

import math
from collections.abc import Iterator

from jaxalign.report.labels import count
from jaxalign.report.parts import Part
from jaxalign.report.rows import Cell, Measure, ResultTable
from jaxalign.report.sections.aggregates import sentence_case
from jaxalign.report.sections.blocks import Block, Folded
from jaxalign.report.tables import Column, Table, Value
from jaxalign.report.tables.model import Entry

BASELINES = ("identity", "translation")


def alignability(part: Part, similar: ResultTable, words: dict[str, str]) -> Iterator[Block]:
    """A line for each two encoders, the best first: what every method reaches, and their calibrated similarities.

    Args:
      part: what ``experiments.geometry`` wrote.
      similar: its similarities, of both orders of a pair.
      words: names of similarities to show, by name.
    """
    reached = [row for row in part.alignability if row.method not in BASELINES and row.source != row.target]
    if not reached:
        return
    table = part.table(reached, similar.encoders)
    measure = _hardest(table)
    known = {m.name: m for m in similar.measures}
    shown = {name: known[f"{name}:calibrated"] for name in words if f"{name}:calibrated" in known}
    lines: list[tuple[float, list[Entry]]] = []
    for place, one in enumerate(table.encoders):
        for other in table.encoders[place + 1 :]:
            rates = [
                _both_ways([table.cell(setting, measure, *pair) for pair in ((one, other), (other, one))])
                for setting in table.settings
            ]
            cells = [similar.cell(similar.settings[0], m, one, other) for m in shown.values()]
            numbers = [None if cell is None else Value.of(cell) for cell in cells]
            first = rates[0].mean if rates and rates[0] is not None else math.nan
            lines.append((first, [one, other, *rates, *numbers]))
    lines.sort(key=lambda line: -math.inf if math.isnan(line[0]) else line[0], reverse=True)
    columns = [Column("encoder"), Column("other"), *(Column.rate(str(setting)) for setting in table.settings)]
    columns += [Column(words[name], "number", 2) for name in shown]
    caption = (
        f"{measure.describe()}, mean of both directions, by each method; then the calibrated similarity of the two "
        "spaces before any map: 0 as between rows that do not belong together, 1 where spaces agree."
    )
    title = "What is predicted, and by what"
    each = Table(
        f"{part.name}-alignability", title, sentence_case(caption), columns, [line for _, line in lines]
    )
    yield Folded(f"Every two encoders ({count(len(lines), 'pair')})", [each])


def _hardest(table: ResultTable) -> Measure:
    """Without the own photograph where there is such."""
    return min(table.measures, key=lambda measure: measure.own_photograph != "excluded")


def _both_ways(cells: list[Cell | None]) -> Value | None:
    there = [cell.mean for cell in cells if cell is not None]
    return Value(math.fsum(there) / len(there)) if there else None
