"""Quality against something that is varied: people, pairs, rank, penalty."""

import math
from collections.abc import Sequence

from jaxalign.report.figures.lines import Axis
from jaxalign.report.labels import count, number, percent, shown
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure, ResultTable, Row, Setting
from jaxalign.report.sections.aggregates import (
    best_setting,
    column_for,
    failures,
    leading_measures,
    mean_value,
    pair_value,
    spread_words,
)
from jaxalign.report.sections.blocks import Block, Folded, Section, Together
from jaxalign.report.sections.curves import RATES_AXIS, mean_curve
from jaxalign.report.tables import Column, Table, Value

TITLES = {
    "data_efficiency": "How many people it takes",
    "rank_sweep": "How many dimensions it takes",
    "ridge_path": "How strong a penalty",
}
AXES = {
    "train_people": ("people to fit on", "with {} people to fit on"),
    "train_pairs": ("pairs of photographs to fit on", "with {} pairs of photographs to fit on"),
    "rank": ("rank", "at rank {}"),
    "l2": ("penalty (scikit-learn's alpha)", "at penalty {}"),
}


def sweep(part: Part, order: Sequence[str]) -> Section:
    """The section of results along one or more axes.

    Args:
      part: what ``experiments.data_efficiency``, ``rank_sweep`` or ``ridge_path`` wrote.
      order: of encoders in tables.
    """
    summary: list[str] = []
    blocks: list[Block] = []
    varied = [row for row in part.rows if row.axis]
    for axis in dict.fromkeys(row.axis for row in varied):
        along = [row for row in varied if row.axis == axis]
        sentences, found = _along(part, axis, along)
        summary += sentences
        blocks += found
    single = [row for row in part.methods() if ":" in row.measure or not Measure(row.measure).is_rate]
    if single:
        table = part.table(single, order)
        summary += _single_sentences(table)
        blocks += _single_tables(part, table, single)
    dataset = ", ".join(map(shown, part.datasets))
    return Section(part.name, f"{TITLES.get(part.driver, part.driver)}: {dataset}", summary, blocks)


def _along(part: Part, axis: str, rows: Sequence[Row]) -> tuple[list[str], list[Block]]:
    """Figures, the table of the leading measure, and sentences of one axis."""
    words = AXES.get(axis, (axis.replace("_", " "), ""))[0]
    places = sorted({row.at for row in rows if row.at is not None})
    everything = part.table(rows)
    leading = leading_measures(everything)
    settings = _without_rank(everything.settings, axis)
    rows = [row._replace(rank=None) if axis == "rank" else row for row in rows]
    pictures = [
        mean_curve(
            part,
            [row for row in rows if Measure(row.measure, row.own_photograph) == measure],
            settings,
            Axis(words, logarithmic=min(places) > 0 and max(places) > 8 * min(places)),
            RATES_AXIS if measure.is_rate else Axis(measure.describe()),
            name=f"{part.name}-{axis}-{measure.name}",
            title=f"{measure.name} against {words}",
            caption=measure.describe().capitalize() if measure.describe().islower() else measure.describe(),
            to_unit=(lambda value: 100 * value) if measure.is_rate else float,
        )
        for measure in leading
    ]
    drawn = [picture for picture in pictures if picture is not None]
    blocks: list[Block] = [Together(drawn)] if drawn else []
    tables = {at: part.table(row for row in rows if row.at == at) for at in places}
    blocks += [_axis_table(part, axis, words, measure, settings, tables) for measure in leading]
    return _along_sentences(axis, tables, leading[0]) + failures(everything), blocks


def _along_sentences(axis: str, tables: dict[float, ResultTable], measure: Measure) -> list[str]:
    """The best setting at the far end: its way there, and where it is best if that is in between."""
    places = list(tables)
    best = best_setting(tables[places[-1]], measure)
    if best is None:
        return []
    setting, _ = best
    values = {}
    for at, table in tables.items():
        cell = table.mean_over_pairs(setting, measure)
        if cell is not None and not math.isnan(cell.mean):
            values[at] = cell.mean
    show = percent if measure.is_rate else number
    at_words = AXES.get(axis, ("", f"at {axis.replace('_', ' ')} {{}}"))[1]
    points = [f"{show(values[at])} {at_words.format(number(at))}" for at in values]
    top = list(values).index((min if measure.lower_is_better else max)(values, key=lambda at: values[at]))
    ends = f"goes from {points[0]} to {points[-1]}" if len(points) > 1 else f"is {points[0]}"
    between = f", its best {points[top]}" if 0 < top < len(points) - 1 else ""
    words = measure.describe()
    return [f"{words[0].upper()}{words[1:]}, mean over pairs with {setting}, {ends}{between}."]


def _without_rank(settings: Sequence[Setting], axis: str) -> list[Setting]:
    """Along the axis of ranks a method is one line."""
    return list(dict.fromkeys(Setting(s.method) if axis == "rank" else s for s in settings))


def _axis_table(
    part: Part,
    axis: str,
    words: str,
    measure: Measure,
    settings: Sequence[Setting],
    tables: dict[float, ResultTable],
) -> Table:
    columns = [Column(words, "number"), *_columns(measure, settings)]
    lines = [
        [Value(at), *(mean_value(table, setting, measure) for setting in settings)]
        for at, table in tables.items()
    ]
    first = next(iter(tables.values()))
    caption = f"{measure.describe()}, mean over pairs{spread_words(first)}."
    title = f"{measure.name} against {words}"
    return Table(
        f"{part.name}-{axis}-{measure.name}", title, caption[0].upper() + caption[1:], columns, lines
    )


def _columns(measure: Measure, settings: Sequence[Setting]) -> list[Column]:
    template = column_for(measure)
    return [Column(str(setting), template.kind, template.digits) for setting in settings]


def _single_tables(part: Part, table: ResultTable, rows: Sequence[Row]) -> list[Block]:
    """Numbers that are one for each pair, such as where a curve flattens: the mean, and every pair folded."""
    columns = [Column("method"), *(column_for(measure) for measure in table.measures)]
    lines = [
        [str(setting), *(mean_value(table, setting, measure) for measure in table.measures)]
        for setting in table.settings
    ]
    caption = f"Mean over ordered pairs of encoders{spread_words(table)}."
    mean = Table(f"{part.name}-single", "In one number", caption, columns, lines)
    heads = [Column("source"), Column("target"), Column("method"), *columns[1:]]
    intervals = {(row.source, row.target, row.method, row.rank): {} for row in rows}
    if len(table.seeds) == 1:
        for row in rows:
            intervals[row.source, row.target, row.method, row.rank][row.measure] = row
    every = []
    for setting in table.settings:
        for source in table.sources:
            for target in table.targets:
                entries = []
                for measure in table.measures:
                    cell = table.cell(setting, measure, source, target)
                    key = source, target, setting.method, setting.rank
                    of = intervals.get(key, {}).get(measure.name)
                    with_interval = {key: of} if of is not None else {}
                    entries.append(
                        cell and pair_value(table, cell, setting, measure, source, target, with_interval)
                    )
                if any(entry is not None for entry in entries):
                    every.append([source, target, str(setting), *entries])
    spread = (
        "95 % interval in brackets"
        if len(table.seeds) == 1
        else f"± standard deviation over {len(table.seeds)} seeds"
    )
    each = Table(
        f"{part.name}-single-pairs", "In one number, every pair", f"Each pair, {spread}.", heads, every
    )
    return [mean, Folded(f"Every pair ({count(len(every), 'line')})", [each])]


def _single_sentences(table: ResultTable) -> list[str]:
    """For the first two such numbers, the mean and its range over pairs, with the setting that has most of them."""
    sentences = []
    for measure in table.measures[:2]:
        for setting in table.settings:
            means, _, _ = table.matrix(setting, measure)
            known = sorted(float(value) for value in means.ravel() if not math.isnan(value))
            if known:
                middle = (
                    known[len(known) // 2] if len(known) % 2 else sum(known[len(known) // 2 - 1 :][:2]) / 2
                )
                sentences.append(
                    f"{measure.describe()[0].upper()}{measure.describe()[1:]}, with {setting}: median over pairs "
                    f"{number(middle)}, from {number(known[0])} to {number(known[-1])}."
                )
                break
    return sentences
