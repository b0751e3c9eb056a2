"""The section of transfer: maps tested on another data set, compared with maps fitted on that data set."""

import math
from collections.abc import Sequence

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.labels import percent, shown
from jaxalign.report.part import Part
from jaxalign.report.records import Row
from jaxalign.report.result_table import Cell, Measure, ResultTable
from jaxalign.report.sections import aggregates
from jaxalign.report.sections.section import Block, Folded, Section
from jaxalign.report.tables import Column, Table

Way = tuple[str, str]  # where fitted, where tested


def transfer(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.transfer`` wrote; ``order`` is that of encoders in tables."""
    tables = _tables(part, order)
    leading = aggregates.leading_measures(part.table(part.methods()))
    blocks: list[Block] = []
    for measure in leading:
        blocks += [_table(part, tables, measure), _picture(part, tables, measure)]
    for way, table in tables.items():
        title = f"Every pair, {_words(way)}"
        name = f"{part.name}-pairs-{way[0]}-{way[1]}"
        blocks.append(Folded(title, [aggregates.pairs_table(table, leading[0], name=name, title=title)]))
    problems = dict.fromkeys(words for table in tables.values() for words in aggregates.failures(table))
    summary = [*_summary(tables, leading[0]), *problems]
    return Section(part.name, "From one data set to another", summary, blocks)


def transfer_table(part: Part) -> Table:
    """For a terminal: a line for each way and setting, the mean over pairs of each measure."""
    tables = _tables(part, ())
    measures = aggregates.main_measures(part.table(part.methods()))
    columns = [Column("fitted on"), Column("tested on"), Column("method")]
    columns += [Column.of(measure, digits=2) for measure in measures]
    lines = [
        [*way, str(setting), *(table.mean_over_pairs(setting, measure) for measure in measures)]
        for way, table in tables.items()
        for setting in table.settings
    ]
    most = max(tables.values(), key=lambda table: len(table.seeds))
    caption = f"Mean over ordered pairs of encoders{aggregates.over_seeds(most)}."
    return Table("transfer", "Across data sets", caption, columns, lines)


def _tables(part: Part, order: Sequence[str]) -> dict[Way, ResultTable]:
    """By where maps were fitted and tested; those tested on one data set together, its own maps first."""
    ways: dict[Way, list[Row]] = {}
    for row in part.methods():
        ways.setdefault((row.dataset, row.test_dataset or row.dataset), []).append(row)
    names = list(dict.fromkeys(name for way in ways for name in way))
    in_order = sorted(ways, key=lambda way: (names.index(way[1]), way[0] != way[1], names.index(way[0])))
    return {way: part.table(ways[way], order) for way in in_order}


def _words(way: Way) -> str:
    fitted, tested = map(shown, way)
    return f"within {tested}" if fitted == tested else f"fitted on {fitted}, tested on {tested}"


def _table(part: Part, tables: dict[Way, ResultTable], measure: Measure) -> Table:
    """A line for each way, a column for each setting: which of them carries over is read down a column."""
    settings = list(dict.fromkeys(setting for table in tables.values() for setting in table.settings))
    columns = [Column("fitted on"), Column("tested on")]
    columns += [Column.of(measure, str(setting), bold=False) for setting in settings]
    lines = [[*way, *(table.mean_over_pairs(s, measure) for s in settings)] for way, table in tables.items()]
    spread = aggregates.over_seeds(next(iter(tables.values())))
    caption = f"{measure.describe()}, mean over ordered pairs{spread}. People in both data sets are left out."
    title = f"Across data sets: {measure.brief}"
    return Table(f"{part.name}-{measure.name}", title, caption, columns, lines)


def _picture(part: Part, tables: dict[Way, ResultTable], measure: Measure) -> Plot:
    means, hollow = {}, []
    for way, table in tables.items():
        first = table.settings[0]
        missing = table.mean_over_pairs(first, measure) or Cell(math.nan)
        setting, cell = aggregates.best_setting(table, measure) or (first, missing)
        means[f"{_words(way)}: {setting}"] = cell
        hollow += [f"{_words(way)}: {setting}"] if way[0] != way[1] else []
    return aggregates.draw_means(
        means,
        measure,
        axis=measure.describe(),
        hollow=hollow,
        name=f"{part.name}-{measure.name}",
        title=f"Across data sets: {measure.brief}",
        caption="The best method of each way; hollow: fitted elsewhere. Bars: standard deviation over seeds.",
    )


def _summary(tables: dict[Way, ResultTable], measure: Measure) -> list[str]:
    sentences = []
    for way, table in tables.items():
        best = aggregates.best_setting(table, measure)
        if way[0] == way[1] or best is None:
            continue
        inside = tables.get((way[1], way[1]))
        cell = None if inside is None else inside.mean_over_pairs(best[0], measure)
        against = f", against {percent(cell.mean)} with maps fitted within {shown(way[1])}" if cell else ""
        sentences.append(
            f"Maps {_words(way)}: mean {measure.describe()} {percent(best[1].mean)} with {best[0]}{against}."
        )
    return sentences
