"""Curves: quality against people, rank or penalty, and the curves of identification and verification."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.lines import Axis, Line, draw_lines
from jaxalign.report.labels import count, number, percent
from jaxalign.report.part import Part
from jaxalign.report.records import Row
from jaxalign.report.result_table import Cell, Measure, ResultTable, Setting
from jaxalign.report.sections import aggregates
from jaxalign.report.sections.aggregates import best_of, sentence_case
from jaxalign.report.sections.section import Block, Folded, Section, Together
from jaxalign.report.tables import Column, Table
from jaxalign.report.tables.model import Entry

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
MOST_TICKS, MOST_LINES, MOST_SENTENCES = 8, 8, 4
RATES_AXIS = Axis("hit rate (%)", unit="%", limits=(0, 100))


def sweep(part: Part, order: Sequence[str]) -> Section:
    """The section of results along one or more axes; ``order`` is that of encoders in tables."""
    axes = _axes(part)
    blocks = [block for along in axes for block in along.blocks()]
    summary = [sentence for along in axes for sentence in along.summary()]
    table = part.table(_number_rows(part), order)
    if table.measures:
        numbers = _numbers(part, table)
        blocks += [numbers, _every_number(part, table)]
        summary += filter(None, (_sentence(line) for line in numbers.rows[:MOST_SENTENCES]))
    return Section(part.name, f"{TITLES[part.driver]}: {part.dataset_words}", summary, blocks)


def sweep_tables(part: Part) -> list[Table]:
    """For a terminal: the leading measures along every axis, and the numbers of whole curves."""
    curves = [along.table_of(measure, 2) for along in _axes(part) for measure in along.leading]
    table = part.table(_number_rows(part))
    return [*curves, _numbers(part, table)] if table.measures else curves


def _axes(part: Part) -> list["_Along"]:
    axes = dict.fromkeys(row.axis for row in part.rows if row.axis and row.at is not None)
    return [_Along(part, axis) for axis in axes]


class _Along:
    """The results along one axis."""

    def __init__(self, part: Part, axis: str):
        self.part, self.axis = part, axis
        varied = [row for row in part.rows if row.axis == axis and row.at is not None]
        # Along the axis of ranks a method is one line.
        self.rows = [row._replace(rank=None) if axis == "rank" else row for row in varied]
        plain = axis.replace("_", " ")
        self.words, self.at_words = AXES.get(axis, (plain, f"at {plain} {{}}"))
        self.places = sorted({row.at for row in varied if row.at is not None})
        self.table, self.points = _along(part, self.rows)
        last = part.table(row for row in self.rows if row.at == self.places[-1] and row.source)
        self.leading = aggregates.leading_measures(last)
        self.others = [measure for measure in last.measures if not measure.is_rate]

    def blocks(self) -> Iterator[Block]:
        """Small figures in rows, then a table for each leading measure."""
        drawn = [picture for measure in (*self.leading, *self.others) if (picture := self._picture(measure))]
        if drawn:
            yield Together(drawn)
        for measure in self.leading:
            yield self.table_of(measure)

    def summary(self) -> list[str]:
        """The setting that is best at the far end: its way there, and where it is best if that is in between."""
        measure, failures = self.leading[0], aggregates.failures(self.table)
        means: dict[Setting, dict[float, float]] = {}
        for setting in self.table.settings:
            cells = {at: self._cell(setting, measure, at) for at in self.places}
            means[setting] = {
                at: cell.mean for at, cell in cells.items() if cell and not math.isnan(cell.mean)
            }
        best = best_of({s: values.get(self.places[-1], math.nan) for s, values in means.items()}, measure)
        if best is None:
            return failures
        values = means[best]
        show = percent if measure.is_rate else number
        points = {at: f"{show(value)} {self.at_words.format(number(at))}" for at, value in values.items()}
        texts, top = list(points.values()), points[best_of(values, measure)]  # pyright: ignore[reportArgumentType]
        ends = f"goes from {texts[0]} to {texts[-1]}" if len(texts) > 1 else f"is {texts[0]}"
        between = f", its best {top}" if top not in (texts[0], texts[-1]) else ""
        sentence = f"{sentence_case(measure.describe())}, mean over pairs with {best}, {ends}{between}."
        return [sentence, *failures]

    def _cell(self, setting: Setting, measure: Measure, at: float) -> Cell | None:
        point = self.points.get((measure, at))
        return point and self.table.mean_over_pairs(setting, point)

    def _picture(self, measure: Measure) -> Plot | None:
        few = len(self.places) <= MOST_TICKS
        wide = self.places[0] > 0 and self.places[-1] > 8 * self.places[0]
        rate, words = measure.is_rate, f"{measure.brief} (%)" if measure.is_rate else measure.brief
        return _mean_curve(
            self.part,
            [row for row in self.rows if Measure(row.measure, row.own_photograph) == measure],
            self.table.settings,
            Axis(self.words, logarithmic=wide, ticks=tuple(self.places) if few else ()),
            Axis(words, unit="%", limits=(0, 100)) if rate else Axis(words),
            name=f"{self.part.name}-{self.axis}-{measure.name}",
            title=f"{sentence_case(measure.brief)} against {self.words}",
            caption=sentence_case(measure.describe()),
            to_unit=(lambda value: 100 * value) if rate else float,
        )

    def table_of(self, measure: Measure, digits: int = 1) -> Table:
        """A line for each place on the axis, a column for each setting."""
        settings = self.table.settings
        columns = [Column(self.words, "number")]
        columns += [Column.of(measure, str(setting), digits=digits, bold=False) for setting in settings]
        lines = [[Cell(at), *(self._cell(s, measure, at) for s in settings)] for at in self.places]
        caption = f"{measure.describe()}, mean over pairs{aggregates.spread_words(self.table)}."
        title = f"{sentence_case(measure.brief)} against {self.words}"
        return Table(f"{self.part.name}-{self.axis}-{measure.name}", title, caption, columns, lines)


def cmc(part: Part, own_photograph: str, settings: Sequence[Setting], name: str) -> Plot | None:
    """Cumulative match characteristic: hit rate against rank."""
    rows = [row for row in part.curves if row.measure == "cmc"]
    if not any(row.own_photograph == own_photograph for row in rows):
        hits = ((row, re.fullmatch(r"rank(\d+)", row.measure)) for row in part.methods())
        rows = [row._replace(measure="cmc", axis="rank", at=float(hit[1])) for row, hit in hits if hit]
    own = f", same image {own_photograph}" if own_photograph else ""
    return _mean_curve(
        part,
        [row for row in rows if row.own_photograph == own_photograph],
        settings,
        Axis("rank", logarithmic=True),
        RATES_AXIS,
        name=name,
        title="Cumulative match characteristic",
        caption=f"Share of probes whose person is among the best k{own}",
        to_unit=lambda value: 100 * value,
    )


def det(part: Part, settings: Sequence[Setting], name: str) -> Plot | None:
    """Detection error trade-off: false non-match rate against false match rate."""
    rows = [row for row in part.curves if row.measure == "tmr" and row.axis == "fmr"]
    if not rows:
        rows = [
            row._replace(measure="tmr", axis="fmr", at=float(row.measure.partition("=")[2]))
            for row in part.methods()
            if row.measure.startswith("tmr@fmr=")
        ]
    return _mean_curve(
        part,
        rows,
        settings,
        Axis("false match rate (%)", logarithmic=True),
        Axis("false non-match rate (%)", logarithmic=True, unit="%"),
        name=name,
        title="Detection error trade-off",
        caption="Lower is better. A false match rate that too few comparisons support has no point",
        to_unit=lambda value: 100 * (1 - value) if value < 1 else math.nan,
        at_to_unit=lambda value: 100 * value,
    )


def _mean_curve(
    part: Part,
    rows: Sequence[Row],
    settings: Sequence[Setting],
    x: Axis,
    y: Axis,
    *,
    name: str,
    title: str,
    caption: str,
    to_unit: Callable[[float], float],
    at_to_unit: Callable[[float], float] = float,
) -> Plot | None:
    """A line for each setting: the mean over pairs at each point; None without two points or without numbers.

    ``rows`` are of one measure along one axis, ``to_unit`` and ``at_to_unit`` convert a row's value and its place on
    the axis to the units of the axes.
    """
    table, points = _along(part, rows)
    bands, seeds = _bands(table, rows), len(table.seeds)
    if len(points) < 2:
        return None
    lines: list[Line] = []
    for setting in [s for s in settings if s in table.settings][:MOST_LINES]:
        found = []
        for (_, at), measure in points.items():
            if cell := table.mean_over_pairs(setting, measure):
                low, high = bands.get((setting, at), (math.nan, math.nan))
                if not bands and cell.deviation is not None:
                    low, high = cell.mean - cell.deviation, cell.mean + cell.deviation
                ends = to_unit(low), to_unit(high)  # an error rate made from a hit rate has them exchanged
                found.append((at_to_unit(at), to_unit(cell.mean), np.fmin(*ends), np.fmax(*ends)))
        if found:
            lines.append(Line(str(setting), *np.array(sorted(found)).T))
    notes = "Mean over pairs of encoders."
    if bands:
        notes += " Bands: 95 % intervals of the pairs, their ends averaged."
    elif seeds > 1:
        notes += f" Bands: standard deviation over {seeds} seeds."
    if table.left_out:
        notes += f" {count(len(table.left_out), 'pair')} without any number left out."
    if len(settings) > MOST_LINES:
        notes += f" Of {len(settings)} settings, {MOST_LINES} are drawn."
    if not any(np.isfinite(line.y).any() for line in lines):  # such as the errors of maps that make none
        return None
    return draw_lines(lines, x, y, name=name, title=title, caption=f"{caption}. {notes}")


def _along(part: Part, rows: Iterable[Row]) -> tuple[ResultTable, dict[tuple[Measure, float], Measure]]:
    """One table of all points of an axis, so that a pair without any number is left out of the whole of it.

    Returns:
      The table, in which every measure at every point is a measure of its own; and which one it is.
    """
    points: dict[tuple[Measure, float], Measure] = {}
    renamed = []
    for row in rows:
        if row.at is not None and row.source:
            name = f"{row.measure} at {row.at!r}"
            points[Measure(row.measure, row.own_photograph), row.at] = Measure(name, row.own_photograph)
            renamed.append(row._replace(measure=name))
    return part.table(renamed), points


def _bands(table: ResultTable, rows: Sequence[Row]) -> dict[tuple[Setting, float], tuple[float, float]]:
    """The intervals of pairs, their ends averaged over pairs and seeds; empty where there are none."""
    ends: dict[tuple[Setting, float], list[tuple[float, float]]] = {}
    for row in rows:
        if row.low is None or row.high is None or row.at is None or row.source == row.target:
            continue
        if (row.source, row.target) not in table.left_out:
            setting = Setting.of(row)
            setting = setting if setting in table.settings else Setting.of(row, merged=(row.method,))
            ends.setdefault((setting, row.at), []).append((row.low, row.high))
    return {
        key: (statistics.fmean(low for low, _ in found), statistics.fmean(high for _, high in found))
        for key, found in ends.items()
    }


def _number_rows(part: Part) -> list[Row]:
    """Numbers that a driver drew from whole curves, such as where they flatten: no rates, and not along an axis."""
    return [row for row in part.methods() if not Measure(row.measure).is_rate]


def _numbers(part: Part, table: ResultTable) -> Table:
    """A line for each number of whole curves: of the curve of the mean over pairs, and over the curves of pairs."""
    of_mean = ResultTable(row for row in part.rows if not row.source)
    lines: list[list[Entry]] = []
    for measure in table.measures:
        for setting in table.settings:
            means, _, measured = table.matrix(setting, measure)
            if measured.any():
                known = means[np.isfinite(means)]
                ends = [float(of(known)) if known.size else math.nan for of in (np.median, np.min, np.max)]
                reason = "; ".join(table.reasons(setting, measure))
                cells = [of_mean.cell(setting, measure, "", ""), *(Cell(end, reason=reason) for end in ends)]
                lines.append([measure.head, str(setting), *cells])
    heads = "of the mean over pairs", "median of pairs", "lowest", "highest"
    columns = [Column("number"), Column("method"), *(Column(head, "number") for head in heads)]
    caption = (
        "Of the curve of the mean over pairs, 95 % interval in brackets; and of the curves of single pairs."
    )
    return Table(f"{part.name}-numbers", "In one number", caption, columns, lines)


def _sentence(line: Any) -> str:
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


def _every_number(part: Part, table: ResultTable) -> Folded:
    """A line for each pair and setting; of numbers drawn from several measures those of the first."""
    first = next((m.name.partition(":")[0] for m in table.measures if ":" in m.name), "")
    measures = [m for m in table.measures if ":" not in m.name or m.name.partition(":")[0] == first]
    lines = []
    for setting in table.settings:
        for source in table.sources:
            for target in table.targets:
                cells = [table.cell(setting, measure, source, target) for measure in measures]
                if any(cells):
                    lines.append([source, target, str(setting), *cells])
    seeds = len(table.seeds)
    spread = "95 % interval in brackets" if seeds == 1 else f"± standard deviation over {seeds} seeds"
    heads = [Column("source"), Column("target"), Column("method"), *map(Column.of, measures)]
    title = "In one number, every pair"
    each = Table(f"{part.name}-numbers-pairs", title, f"Of the curve of each pair; {spread}.", heads, lines)
    return Folded(f"Every pair ({count(len(lines), 'line')})", [each])
