"""Settings of one run compared: more capacity, halves of the training people, and detours by a third encoder."""

import math
import statistics
from collections.abc import Iterator, Sequence

from jaxalign.report.figures.dots import draw_dots
from jaxalign.report.figures.drawing import Plot
from jaxalign.report.labels import count, number, percent_cell, with_minus
from jaxalign.report.part import Part
from jaxalign.report.result_table import Cell, Measure, ResultTable, ThreeWay
from jaxalign.report.sections.aggregates import (
    best_setting,
    differences_table,
    dot_of,
    every_pair,
    failures,
    leading_measures,
    mean_value,
    methods_table,
    sentence_case,
)
from jaxalign.report.sections.blocks import Block, Folded, Section
from jaxalign.report.tables import Column, Table, Value

TITLES = {"capacity": "Is more capacity worth it?", "stability": "Do the same people give the same maps?"}
MOST_MEASURES = 10
DIGITS = 3


def run_details(part: Part, order: Sequence[str]) -> Section:
    """The section of a driver whose settings are to be compared.

    Args:
      part: what ``experiments.capacity`` or ``stability`` wrote.
      order: of encoders in tables.
    """
    rows = part.methods()
    table = part.table(rows, order)
    leading = leading_measures(table) if any(m.is_rate for m in table.measures) else table.measures[:2]
    blocks: list[Block] = [
        methods_table(
            table, table.measures[:MOST_MEASURES], name=f"{part.name}-methods", title="Side by side"
        )
    ]
    for measure in leading:
        blocks += [_picture(part, table, measure), *differences_table(part, measure)]
    blocks += _three_way(part)
    blocks += every_pair(part, table, rows, leading)
    title = TITLES.get(part.driver, part.driver.replace("_", " ").capitalize())
    summary = _summary(part, table, leading) + failures(table)
    return Section(
        part.name, f"{title}{'' if title.endswith('?') else ':'} {part.dataset_words}", summary, blocks
    )


def _picture(part: Part, table: ResultTable, measure: Measure) -> Plot:
    values = {setting: mean_value(table, setting, measure) for setting in table.settings}
    unit = "%" if measure.is_rate else ""
    bars = " Bars: standard deviation over seeds." if len(table.seeds) > 1 else ""
    return draw_dots(
        [dot_of(str(setting), value, measure) for setting, value in values.items() if value is not None],
        name=f"{part.name}-{measure.name}",
        title=measure.brief,
        caption=f"{sentence_case(measure.describe())}, mean over pairs.{bars}",
        axis=f"{measure.brief}{' (%)' if unit else ''}",
        unit=unit,
    )


def _summary(part: Part, table: ResultTable, leading: Sequence[Measure]) -> list[str]:
    sentences = []
    for measure in leading:
        best = best_setting(table, measure)
        if best is None:
            continue
        sign = -1 if measure.lower_is_better else 1
        found = [(setting, table.mean_over_pairs(setting, measure)) for setting in table.settings]
        known = [(s, c) for s, c in found if c is not None and not math.isnan(c.mean)]
        worst = min(known, key=lambda item: sign * item[1].mean)
        rest = f", the lowest {_number(measure, worst[1])} with {worst[0]}" if len(known) > 1 else ""
        sentences.append(
            f"On {part.dataset_words}, mean {measure.describe()} is {_number(measure, best[1])} with {best[0]}"
            f"{', the best' if rest else ''}{rest}."
        )
    return sentences


def _number(measure: Measure, cell: Cell) -> str:
    if measure.is_rate:
        return percent_cell(cell)
    spread = f" ± {cell.deviation:.3f}" if cell.seeds > 1 else ""
    return with_minus(f"{cell.mean:.3f}") + spread if abs(cell.mean) < 10 else number(cell.mean)


def _three_way(part: Part) -> Iterator[Block]:
    """By the encoder between, and every way; nothing where there is no third encoder."""
    if not part.three_way:
        return
    methods = list(dict.fromkeys(way.method for way in part.three_way))
    yield _by_encoder_between(part, methods)
    each = _every_way(part, methods)
    yield Folded(f"Every way by a third encoder ({count(len(each.rows), 'line')})", [each])


def _by_encoder_between(part: Part, methods: Sequence[str]) -> Table:
    names = dict.fromkeys(way.via for way in part.three_way)
    lines = [
        [via, *(_mean_of_ways([w for w in part.three_way if (w.via, w.method) == (via, m)]) for m in methods)]
        for via in names
    ]
    return Table(
        f"{part.name}-three-way",
        "By way of a third encoder",
        "Agreement of A → B → C with A → C by the encoder B between, mean over A and C; 1 is the same.",
        [Column("encoder between"), *_columns(methods)],
        lines,
    )


def _every_way(part: Part, methods: Sequence[str]) -> Table:
    ways: dict[tuple[str, str, str], dict[str, list[ThreeWay]]] = {}
    for way in part.three_way:
        found = ways.setdefault((way.source, way.via, way.target), {})
        found.setdefault(way.method, []).append(way)
    lines = [
        [*names, *(_mean_of_ways(found.get(method, [])) for method in methods)]
        for names, found in ways.items()
    ]
    return Table(
        f"{part.name}-three-way-each",
        "Every way by a third encoder",
        "Agreement of A → B → C with A → C; 95 % interval over people in brackets, or ± over seeds.",
        [*(Column(name) for name in ("A", "B", "C")), *_columns(methods)],
        lines,
    )


def _columns(methods: Sequence[str]) -> list[Column]:
    return [Column(method, "number", DIGITS, "high") for method in methods]


def _mean_of_ways(ways: Sequence[ThreeWay]) -> Value | None:
    """The mean over ways within each seed; of a single way with its interval, of several seeds with their deviation."""
    if len(ways) == 1:
        return Value(ways[0].value, None, ways[0].low, ways[0].high)
    by_seed: dict[int, list[float]] = {}
    for way in ways:
        by_seed.setdefault(way.seed, []).append(way.value)
    means = [statistics.fmean(values) for values in by_seed.values()]
    return (
        Value(statistics.fmean(means), statistics.pstdev(means) if len(means) > 1 else None)
        if means
        else None
    )
