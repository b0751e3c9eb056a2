"""Settings side by side: more capacity, halves of the training people, and whatever has no section of its own."""

import math
from collections.abc import Sequence

from jaxalign.report.figures.dots import Dot, draw_dots
from jaxalign.report.labels import count, number, percent_cell, shown, with_minus
from jaxalign.report.parts import Part
from jaxalign.report.rows import Cell, Measure, ResultTable
from jaxalign.report.sections.aggregates import (
    best_setting,
    differences_table,
    failures,
    leading_measures,
    mean_value,
    methods_table,
    pairs_table,
)
from jaxalign.report.sections.blocks import Block, Folded, Section
from jaxalign.report.sections.three_way import three_way

TITLES = {"capacity": "Is more capacity worth it?", "stability": "Do the same people give the same maps?"}
MOST_MEASURES = 10


def side_by_side(part: Part, order: Sequence[str]) -> Section:
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
        name = f"{part.name}-differences-{measure.name}"
        blocks += [_picture(part, table, measure), *differences_table(part, measure, name=name)]
    blocks += three_way(part)
    for measure in leading:
        title = f"Every pair: {measure.describe()}"
        each = pairs_table(table, rows, measure, name=f"{part.name}-pairs-{measure.name}", title=title)
        blocks.append(Folded(f"{title} ({count(len(each.rows), 'pair')})", [each]))
    dataset = ", ".join(map(shown, part.datasets))
    title = TITLES.get(part.driver, part.driver.replace("_", " ").capitalize())
    summary = _summary(table, leading, dataset) + failures(table)
    return Section(
        part.name, f"{title} {dataset}" if title.endswith("?") else f"{title}: {dataset}", summary, blocks
    )


def _picture(part: Part, table: ResultTable, measure: Measure):
    factor, unit = (100, "%") if measure.is_rate else (1, "")
    dots = []
    for setting in table.settings:
        value = mean_value(table, setting, measure)
        if value is not None:
            spread = math.nan if value.deviation is None else value.deviation
            ends = factor * (value.mean - spread), factor * (value.mean + spread)
            dots.append(Dot(str(setting), factor * value.mean, *ends, value.reason))
    bars = "Bars: standard deviation over seeds. " if len(table.seeds) > 1 else ""
    return draw_dots(
        dots,
        name=f"{part.name}-{measure.name}",
        title=measure.brief,
        caption=f"{measure.describe()[0].upper()}{measure.describe()[1:]}, mean over pairs. {bars}".strip(),
        axis=f"{measure.brief}{' (%)' if unit else ''}",
        unit=unit,
    )


def _summary(table: ResultTable, leading: Sequence[Measure], dataset: str) -> list[str]:
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
            f"On {dataset}, mean {measure.describe()} is {_number(measure, best[1])} with {best[0]}"
            f"{', the best' if rest else ''}{rest}."
        )
    return sentences


def _number(measure: Measure, cell: Cell) -> str:
    if measure.is_rate:
        return percent_cell(cell)
    spread = f" ± {cell.deviation:.3f}" if cell.seeds > 1 else ""
    return with_minus(f"{cell.mean:.3f}") + spread if abs(cell.mean) < 10 else number(cell.mean)
