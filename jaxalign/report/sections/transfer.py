"""Maps fitted on one data set and tested on another, beside those tested where they were fitted."""

import math
from collections.abc import Sequence

from jaxalign.report.figures.dots import Dot, draw_dots
from jaxalign.report.labels import percent, shown
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure, ResultTable, Row
from jaxalign.report.sections.aggregates import (
    best_setting,
    column_for,
    failures,
    leading_measures,
    mean_value,
    pairs_table,
)
from jaxalign.report.sections.blocks import Block, Folded, Section
from jaxalign.report.tables import Column, Table, Value

Way = tuple[str, str]  # where fitted, where tested


def transfer(part: Part, order: Sequence[str]) -> Section:
    """The section of results across data sets.

    Args:
      part: what ``experiments.transfer`` wrote.
      order: of encoders in tables.
    """
    ways: dict[Way, list[Row]] = {}
    for row in part.methods():
        ways.setdefault((row.dataset, row.test_dataset or row.dataset), []).append(row)
    names = {name: place for place, name in enumerate(dict.fromkeys(name for way in ways for name in way))}
    inside_first = sorted(ways, key=lambda way: (names[way[1]], way[0] != way[1], names[way[0]]))
    tables = {way: part.table(ways[way], order) for way in inside_first}
    leading = leading_measures(part.table(part.methods()))
    blocks: list[Block] = []
    for measure in leading:
        blocks.append(_table(part, tables, measure))
        blocks.append(_picture(part, tables, measure))
    for way, table in tables.items():
        title = f"Every pair, {_words(way)}"
        name = f"{part.name}-pairs-{way[0]}-{way[1]}"
        blocks.append(Folded(title, [pairs_table(table, ways[way], leading[0], name=name, title=title)]))
    problems = [sentence for table in tables.values() for sentence in failures(table)]
    return Section(
        part.name,
        "From one data set to another",
        _summary(tables, leading[0]) + list(dict.fromkeys(problems)),
        blocks,
    )


def _words(way: Way) -> str:
    fitted, tested = map(shown, way)
    return f"within {tested}" if fitted == tested else f"fitted on {fitted}, tested on {tested}"


def _table(part: Part, tables: dict[Way, ResultTable], measure: Measure) -> Table:
    """A line for each way, a column for each setting: which of them carries over is read down a column."""
    settings = list(dict.fromkeys(setting for table in tables.values() for setting in table.settings))
    template = column_for(measure)
    columns = [Column("fitted on"), Column("tested on")]
    columns += [Column(str(s), template.kind, template.digits) for s in settings]
    lines = [[*way, *(mean_value(table, s, measure) for s in settings)] for way, table in tables.items()]
    seeds = len(next(iter(tables.values())).seeds)
    spread = f", ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    caption = f"{measure.describe()}, mean over ordered pairs{spread}. People in both data sets are left out."
    return Table(
        f"{part.name}-{measure.name}",
        f"Across data sets: {measure.brief}",
        caption[0].upper() + caption[1:],
        columns,
        lines,
    )


def _picture(part: Part, tables: dict[Way, ResultTable], measure: Measure):
    dots = []
    for way, table in tables.items():
        best = best_setting(table, measure)
        for setting in table.settings:
            if best is None or setting == best[0]:
                value = mean_value(table, setting, measure) or Value(math.nan)
                factor = 100 if measure.is_rate else 1
                spread = value.deviation if value.deviation is not None else math.nan
                label = f"{_words(way)}: {setting}"
                low, high = factor * (value.mean - spread), factor * (value.mean + spread)
                dots.append(Dot(label, factor * value.mean, low, high, value.reason, way[0] != way[1]))
                break
    unit = "%" if measure.is_rate else ""
    return draw_dots(
        dots,
        name=f"{part.name}-{measure.name}",
        title=f"Across data sets: {measure.brief}",
        caption="The best method of each way; hollow: fitted elsewhere. Bars: standard deviation over seeds.",
        axis=f"{measure.describe()}{' (%)' if unit else ''}",
        unit=unit,
    )


def _summary(tables: dict[Way, ResultTable], measure: Measure) -> list[str]:
    sentences = []
    for way, table in tables.items():
        inside = tables.get((way[1], way[1]))
        best = best_setting(table, measure)
        if way[0] == way[1] or best is None:
            continue
        cell = None if inside is None else inside.mean_over_pairs(best[0], measure)
        against = (
            f", against {percent(cell.mean)} with maps fitted within {shown(way[1])}"
            if cell is not None
            else ""
        )
        sentences.append(
            f"Maps {_words(way)}: mean {measure.describe()} {percent(best[1].mean)} with {best[0]}{against}."
        )
    return sentences
