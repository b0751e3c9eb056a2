"""Curves: quality against people, rank or penalty, and the curves of identification and verification."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.lines import Axis, Line, draw_lines, line_of
from jaxalign.report.labels import count, number, percent
from jaxalign.report.part import Part
from jaxalign.report.result_table import Measure, ResultTable, Row, Setting
from jaxalign.report.sections.aggregates import (
    best_of,
    column_for,
    failures,
    leading_measures,
    mean_value,
    pair_value,
    sentence_case,
    single_rows,
    spread_words,
)
from jaxalign.report.sections.blocks import Block, Folded, Section, Together
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
MOST_TICKS, MOST_LINES, MOST_SENTENCES = 8, 8, 4
RATES_AXIS = Axis("hit rate (%)", unit="%", limits=(0, 100))
# What number, method, of the mean over pairs, median, lowest, highest.
NumberLine = tuple[str, str, Value | None, Value, Value, Value]


def sweep(part: Part, order: Sequence[str]) -> Section:
    """The section of results along one or more axes.

    Args:
      part: what ``experiments.data_efficiency``, ``rank_sweep`` or ``ridge_path`` wrote.
      order: of encoders in tables.
    """
    summary: list[str] = []
    blocks: list[Block] = []
    for results in _axes(part):
        summary += results.summary()
        blocks += results.blocks()
    numbers = _numbers(part, order)
    for table in numbers:
        summary += filter(None, map(_sentence, table.rows[:MOST_SENTENCES]))
    title = f"{TITLES.get(part.driver, part.driver)}: {part.dataset_words}"
    return Section(part.name, title, summary, [*blocks, *numbers, *_every_number(part, order)])


def sweep_tables(part: Part) -> list[Table]:
    """For a terminal: the leading measures along every axis, and the numbers of whole curves."""
    curves = [results.table_of(measure, 2) for results in _axes(part) for measure in results.leading]
    return [*curves, *_numbers(part, ())]


def _axes(part: Part) -> Iterator["_Along"]:
    varied = [row for row in part.rows if row.axis and row.at is not None]
    for axis in dict.fromkeys(row.axis for row in varied):
        yield _Along(part, axis, [row for row in varied if row.axis == axis])


class _Along:
    """The results along one axis."""

    def __init__(self, part: Part, axis: str, rows: Sequence[Row]):
        self.part, self.axis = part, axis
        # Along the axis of ranks a method is one line.
        self.rows = [row._replace(rank=None) if axis == "rank" else row for row in rows]
        plain = axis.replace("_", " ")
        self.words, self.at_words = AXES.get(axis, (plain, f"at {plain} {{}}"))
        self.places = sorted({row.at for row in rows if row.at is not None})
        self.table, self.points = _along(part, self.rows)
        last = part.table(row for row in self.rows if row.at == self.places[-1] and row.source)
        self.leading = leading_measures(last)
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
        measure, settings = self.leading[0], self.table.settings
        best = best_of(
            {s: self._values(s, measure).get(self.places[-1], math.nan) for s in settings}, measure
        )
        if best is None:
            return failures(self.table)
        values = self._values(best, measure)
        show = percent if measure.is_rate else number
        points = [f"{show(value)} {self.at_words.format(number(at))}" for at, value in values.items()]
        top = list(values).index((min if measure.lower_is_better else max)(values, key=lambda at: values[at]))
        ends = f"goes from {points[0]} to {points[-1]}" if len(points) > 1 else f"is {points[0]}"
        between = f", its best {points[top]}" if 0 < top < len(points) - 1 else ""
        sentence = f"{sentence_case(measure.describe())}, mean over pairs with {best}, {ends}{between}."
        return [sentence, *failures(self.table)]

    def _values(self, setting: Setting, measure: Measure) -> Mapping[float, float]:
        """The means over pairs that there are, by place."""
        cells = {at: self._cell(setting, measure, at) for at in self.places}
        return {at: cell.mean for at, cell in cells.items() if cell is not None and not math.isnan(cell.mean)}

    def _cell(self, setting: Setting, measure: Measure, at: float) -> Value | None:
        point = self.points.get((measure, at))
        return None if point is None else mean_value(self.table, setting, point)

    def _picture(self, measure: Measure) -> Plot | None:
        few = len(self.places) <= MOST_TICKS
        wide = self.places[0] > 0 and self.places[-1] > 8 * self.places[0]
        unit = " (%)" if measure.is_rate else ""
        return _mean_curve(
            self.part,
            [row for row in self.rows if Measure(row.measure, row.own_photograph) == measure],
            self.table.settings,
            Axis(self.words, logarithmic=wide, ticks=tuple(self.places) if few else ()),
            Axis(measure.brief + unit, unit="%" if unit else "", limits=(0, 100) if unit else None),
            name=f"{self.part.name}-{self.axis}-{measure.name}",
            title=f"{sentence_case(measure.brief)} against {self.words}",
            caption=sentence_case(measure.describe()),
            to_unit=(lambda value: 100 * value) if unit else float,
        )

    def table_of(self, measure: Measure, digits: int | None = None) -> Table:
        """A line for each place on the axis, a column for each setting."""
        template, settings = column_for(measure, digits), self.table.settings
        columns = [Column(self.words, "number")]
        columns += [Column(str(setting), template.kind, template.digits) for setting in settings]
        lines = [[Value(at), *(self._cell(s, measure, at) for s in settings)] for at in self.places]
        caption = f"{measure.describe()}, mean over pairs{spread_words(self.table)}."
        title = f"{sentence_case(measure.brief)} against {self.words}"
        return Table(f"{self.part.name}-{self.axis}-{measure.name}", title, caption, columns, lines)


def cmc(part: Part, own_photograph: str, settings: Sequence[Setting], name: str) -> Plot | None:
    """Cumulative match characteristic: hit rate against rank."""
    rows = [row for row in part.curves if row.measure == "cmc" and row.own_photograph == own_photograph]
    if not rows:
        hits = ((row, re.fullmatch(r"rank(\d+)", row.measure)) for row in part.methods())
        rows = [
            row._replace(measure="cmc", axis="rank", at=float(hit[1]))
            for row, hit in hits
            if hit and row.own_photograph == own_photograph
        ]
    own = f", same image {own_photograph}" if own_photograph else ""
    return _mean_curve(
        part,
        rows,
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
    """A line for each setting: the mean over pairs at each point; None where there are fewer than two points.

    Args:
      part: whose rows they are.
      rows: of one measure, along one axis.
      settings: to show; at most ``MOST_LINES``.
      x, y: the axes.
      name, title, caption: of the picture; the caption without its last point.
      to_unit, at_to_unit: from a row's value and its place on the axis to the axes' units.
    """
    rows = [row for row in rows if row.at is not None]
    if len({row.at for row in rows}) < 2:
        return None
    table, points = _along(part, rows)
    bands, kind = _bands(table, rows)
    lines: list[Line] = []
    for setting in [s for s in settings if s in table.settings][:MOST_LINES]:
        found = []
        for (_, at), measure in points.items():
            cell = table.mean_over_pairs(setting, measure)
            if cell is not None:
                low, high = bands.get((setting, at), (math.nan, math.nan))
                if kind == "seeds":
                    low, high = cell.mean - cell.deviation, cell.mean + cell.deviation
                found.append((at_to_unit(at), cell.mean, low, high))
        if found:
            lines.append(line_of(str(setting), found, to_unit))
    if not lines:
        return None
    return draw_lines(
        lines, x, y, name=name, title=title, caption=f"{caption}. {_notes(table, kind, settings)}"
    )


def _along(
    part: Part, rows: Iterable[Row], order: Sequence[str] = ()
) -> tuple[ResultTable, dict[tuple[Measure, float], Measure]]:
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
    return part.table(renamed, order), points


def _bands(
    table: ResultTable, rows: Sequence[Row]
) -> tuple[dict[tuple[Setting, float], tuple[float, float]], str]:
    """Ends of intervals, averaged over pairs and seeds; and of which kind bands are."""
    ends: dict[tuple[Setting, float], list[tuple[float, float]]] = {}
    known = {setting.method: setting for setting in table.settings}
    for row in rows:
        pair = row.source, row.target
        if row.low is None or row.high is None or row.at is None or pair in table.left_out:
            continue
        if row.source != row.target:
            setting = Setting(row.method, row.rank)
            setting = setting if setting in table.settings else known[row.method]
            ends.setdefault((setting, row.at), []).append((row.low, row.high))
    if ends:
        mean = lambda values, k: math.fsum(value[k] for value in values) / len(values)  # noqa: E731
        return {key: (mean(values, 0), mean(values, 1)) for key, values in ends.items()}, "intervals"
    return {}, "seeds" if len(table.seeds) > 1 else ""


def _notes(table: ResultTable, kind: str, settings: Sequence[Setting]) -> str:
    words = {
        "intervals": " Bands: 95 % intervals of the pairs, their ends averaged.",
        "seeds": f" Bands: standard deviation over {len(table.seeds)} seeds.",
        "": "",
    }[kind]
    if table.left_out:
        words += f" {count(len(table.left_out), 'pair')} without any number left out."
    if len(settings) > MOST_LINES:
        words += f" Of {len(settings)} settings, {MOST_LINES} are drawn."
    return f"Mean over pairs of encoders.{words}"


def _numbers(part: Part, order: Sequence[str]) -> list[Table]:
    """Numbers that a driver drew from whole curves, such as where they flatten: of the mean, and over pairs.

    These are the part's rows without an axis that are no rates; without such rows there is no table.
    """
    table, _ = _number_rows(part, order)
    means: dict[tuple[Setting, Measure], list[Row]] = {}
    for row in part.rows:
        if not row.source:
            key = Setting(row.method, row.rank), Measure(row.measure, row.own_photograph)
            means.setdefault(key, []).append(row)
    found = [
        _number_line(table, setting, measure, means.get((setting, measure), ()))
        for measure in table.measures
        for setting in table.settings
    ]
    lines = [line for line in found if line is not None]
    heads = "of the mean over pairs", "median of pairs", "lowest", "highest"
    columns = [Column("number"), Column("method"), *(Column(head, "number") for head in heads)]
    caption = (
        "Of the curve of the mean over pairs, 95 % interval in brackets; and of the curves of single pairs."
    )
    return [Table(f"{part.name}-numbers", "In one number", caption, columns, lines)] if lines else []


def _number_rows(part: Part, order: Sequence[str]) -> tuple[ResultTable, list[Row]]:
    rows = [row for row in part.methods() if not Measure(row.measure).is_rate]
    return part.table(rows, order), rows


def _number_line(
    table: ResultTable, setting: Setting, measure: Measure, of_mean: Sequence[Row]
) -> NumberLine | None:
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


def _every_number(part: Part, order: Sequence[str]) -> list[Block]:
    """A line for each pair and setting; of numbers drawn from several measures those of the first."""
    table, rows = _number_rows(part, order)
    if not rows:
        return []
    first = next((m.name.partition(":")[0] for m in table.measures if ":" in m.name), "")
    measures = [m for m in table.measures if ":" not in m.name or m.name.partition(":")[0] == first]
    single = single_rows(table, rows)
    lines = []
    for setting in table.settings:
        for source in table.sources:
            for target in table.targets:
                entries = [pair_value(table, single, setting, m, source, target) for m in measures]
                if any(entry is not None for entry in entries):
                    lines.append([source, target, str(setting), *entries])
    seeds = len(table.seeds)
    spread = "95 % interval in brackets" if seeds == 1 else f"± standard deviation over {seeds} seeds"
    heads = [Column("source"), Column("target"), Column("method"), *(column_for(m) for m in measures)]
    title = "In one number, every pair"
    each = Table(f"{part.name}-numbers-pairs", title, f"Of the curve of each pair; {spread}.", heads, lines)
    return [Folded(f"Every pair ({count(len(lines), 'line')})", [each])]
