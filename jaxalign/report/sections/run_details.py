"""Settings of one run compared: more capacity, halves of the training people, and detours by a third encoder."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.labels import count, number, percent_cell, with_minus
from jaxalign.report.part import Part
from jaxalign.report.records import ThreeWay
from jaxalign.report.result_table import Cell, Measure, ResultTable
from jaxalign.report.sections import aggregates
from jaxalign.report.sections.aggregates import best_of, means_of, sentence_case
from jaxalign.report.sections.section import Block, Folded, Section
from jaxalign.report.tables import Column, Table

TITLES = {"capacity": "Is more capacity worth it?", "stability": "Do the same people give the same maps?"}
MOST_MEASURES = 10


def run_details(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.capacity`` or ``stability`` wrote; ``order`` is that of encoders in tables."""
    table = part.table(part.methods(), order)
    measures, name = table.measures[:MOST_MEASURES], f"{part.name}-methods"
    rates = any(measure.is_rate for measure in table.measures)
    leading = aggregates.leading_measures(table) if rates else table.measures[:2]
    blocks: list[Block] = [aggregates.methods_table(table, measures, name=name, title="Side by side")]
    for measure in leading:
        blocks += [_picture(part, table, measure), *aggregates.differences_table(part, measure)]
    blocks += [*_three_way(part), *aggregates.every_pair(part, table, leading)]
    summary = [*_summary(part, table, leading), *aggregates.failures(table)]
    return Section(part.name, f"{TITLES[part.driver]} {part.dataset_words}", summary, blocks)


def _picture(part: Part, table: ResultTable, measure: Measure) -> Plot:
    bars = " Bars: standard deviation over seeds." if len(table.seeds) > 1 else ""
    return aggregates.draw_means(
        {str(setting): cell for setting, cell in means_of(table, measure).items()},
        measure,
        axis=measure.brief,
        name=f"{part.name}-{measure.name}",
        title=measure.brief,
        caption=f"{sentence_case(measure.describe())}, mean over pairs.{bars}",
    )


def _summary(part: Part, table: ResultTable, leading: Sequence[Measure]) -> Iterator[str]:
    for measure in leading:
        cells = {s: cell for s, cell in means_of(table, measure).items() if not math.isnan(cell.mean)}
        best = best_of({setting: cell.mean for setting, cell in cells.items()}, measure)
        worst = best_of({setting: -cell.mean for setting, cell in cells.items()}, measure)
        if best is not None:
            words = f"{_number(measure, cells[best])} with {best}"
            if len(cells) > 1:
                words += f", the best, the lowest {_number(measure, cells[worst])} with {worst}"  # pyright: ignore[reportArgumentType]
            yield f"On {part.dataset_words}, mean {measure.describe()} is {words}."


def _number(measure: Measure, cell: Cell) -> str:
    if measure.is_rate:
        return percent_cell(cell)
    spread = "" if cell.deviation is None else f" ± {cell.deviation:.3f}"
    return with_minus(f"{cell.mean:.3f}") + spread if abs(cell.mean) < 10 else number(cell.mean)


def _three_way(part: Part) -> Iterator[Block]:
    """By the encoder between, and every way; nothing where there is no third encoder."""
    if part.three_way:
        yield _ways_table(
            part,
            {"via": "encoder between"},
            f"{part.name}-three-way",
            "By way of a third encoder",
            "Agreement of A → B → C with A → C by the encoder B between, mean over A and C; 1 is the same.",
        )
        each = _ways_table(
            part,
            {"source": "A", "via": "B", "target": "C"},
            f"{part.name}-three-way-each",
            "Every way by a third encoder",
            "Agreement of A → B → C with A → C; 95 % interval over people in brackets, or ± over seeds.",
        )
        yield Folded(f"Every way by a third encoder ({count(len(each.rows), 'line')})", [each])


def _ways_table(part: Part, heads: Mapping[str, str], name: str, title: str, caption: str) -> Table:
    """A line for all ways that agree in some fields, each with the head of its column; a column for each method."""
    groups: dict[tuple[str, ...], dict[str, list[ThreeWay]]] = {}
    for way in part.three_way:
        of_group = groups.setdefault(tuple(getattr(way, field) for field in heads), {})
        of_group.setdefault(way.method, []).append(way)
    methods = dict.fromkeys(way.method for way in part.three_way)
    columns = [Column(head) for head in heads.values()]
    columns += [Column(method, "number", 3, "high") for method in methods]
    lines = [
        [*key, *(_mean_of(found.get(method, [])) for method in methods)] for key, found in groups.items()
    ]
    return Table(name, title, caption, columns, lines)


def _mean_of(ways: Sequence[ThreeWay]) -> Cell | None:
    """The mean over ways within each seed; of a single way with its interval, of several seeds with their deviation."""
    if len(ways) <= 1:
        return Cell(ways[0].value, None, ways[0].low, ways[0].high) if ways else None
    by_seed: dict[int, list[float]] = {}
    for way in ways:
        by_seed.setdefault(way.seed, []).append(way.value)
    means = [statistics.fmean(values) for values in by_seed.values()]
    return Cell(statistics.fmean(means), statistics.pstdev(means) if len(means) > 1 else None)
