"""The section of transfer: maps tested on another data set, compared with maps fitted on that data set."""

import math
from collections.abc import Sequence

from jaxalign.report.figures.dots import draw_dots
from jaxalign.report.figures.drawing import Plot
from jaxalign.report.labels import percent, shown
from jaxalign.report.part import Part
from jaxalign.report.result_table import Measure, ResultTable, Row
from jaxalign.report.sections.aggregates import (
    best_setting,
    column_for,
    dot_of,
    failures,
    leading_measures,
    main_measures,
    mean_value,
    over_seeds,
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
    ways = _ways(part)
    tables = {way: part.table(rows, order) for way, rows in ways.items()}
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


def transfer_table(part: Part) -> Table:
    """For a terminal: a line for each way and setting, the mean over pairs of each measure."""
    tables = {way: part.table(rows) for way, rows in _ways(part).items()}
    measures = main_measures(part.table(part.methods()))
    columns = [Column("fitted on"), Column("tested on"), Column("method")]
    lines = [
        [*way, str(setting), *(mean_value(table, setting, measure) for measure in measures)]
        for way, table in tables.items()
        for setting in table.settings
    ]
    seeds = max(len(table.seeds) for table in tables.values())
    caption = f"Mean over ordered pairs of encoders{over_seeds(seeds)}."
    columns += [column_for(measure, 2) for measure in measures]
    return Table("transfer", "Across data sets", caption, columns, lines)


def _ways(part: Part) -> dict[Way, list[Row]]:
    """Rows by where maps were fitted and tested; those tested on one data set together, its own maps first."""
    ways: dict[Way, list[Row]] = {}
    for row in part.methods():
        ways.setdefault((row.dataset, row.test_dataset or row.dataset), []).append(row)
    names = list(dict.fromkeys(name for way in ways for name in way))
    order = sorted(ways, key=lambda way: (names.index(way[1]), way[0] != way[1], names.index(way[0])))
    return {way: ways[way] for way in order}


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
    spread = over_seeds(len(next(iter(tables.values())).seeds))
    caption = f"{measure.describe()}, mean over ordered pairs{spread}. People in both data sets are left out."
    title = f"Across data sets: {measure.brief}"
    return Table(f"{part.name}-{measure.name}", title, caption, columns, lines)


def _picture(part: Part, tables: dict[Way, ResultTable], measure: Measure) -> Plot:
    dots = []
    for way, table in tables.items():
        best = best_setting(table, measure)
        setting = table.settings[0] if best is None else best[0]
        value = mean_value(table, setting, measure) or Value(math.nan)
        dots.append(dot_of(f"{_words(way)}: {setting}", value, measure, hollow=way[0] != way[1]))
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
