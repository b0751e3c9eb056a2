"""Quality against something that is varied: people, pairs, rank, penalty."""

import math
from collections.abc import Iterator, Mapping, Sequence

from jaxalign.report.figures.drawing import Picture
from jaxalign.report.figures.lines import Axis
from jaxalign.report.labels import number, percent, shown
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure, Row, Setting
from jaxalign.report.sections.aggregates import (
    best_of,
    column_for,
    failures,
    leading_measures,
    mean_value,
    sentence_case,
    spread_words,
)
from jaxalign.report.sections.blocks import Block, Section, Together
from jaxalign.report.sections.curve_numbers import curve_numbers
from jaxalign.report.sections.curves import along, mean_curve
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
MOST_TICKS = 8


def sweep(part: Part, order: Sequence[str]) -> Section:
    """The section of results along one or more axes.

    Args:
      part: what ``experiments.data_efficiency``, ``rank_sweep`` or ``ridge_path`` wrote.
      order: of encoders in tables.
    """
    summary: list[str] = []
    blocks: list[Block] = []
    varied = [row for row in part.rows if row.axis and row.at is not None]
    for axis in dict.fromkeys(row.axis for row in varied):
        results = _Along(part, axis, [row for row in varied if row.axis == axis])
        summary += results.summary()
        blocks += results.blocks()
    sentences, found = curve_numbers(part, order)
    title = f"{TITLES.get(part.driver, part.driver)}: {', '.join(map(shown, part.datasets))}"
    return Section(part.name, title, [*summary, *sentences], [*blocks, *found])


class _Along:
    """The results along one axis."""

    def __init__(self, part: Part, axis: str, rows: Sequence[Row]):
        self.part, self.axis = part, axis
        # Along the axis of ranks a method is one line.
        self.rows = [row._replace(rank=None) if axis == "rank" else row for row in rows]
        plain = axis.replace("_", " ")
        self.words, self.at_words = AXES.get(axis, (plain, f"at {plain} {{}}"))
        self.places = sorted({row.at for row in rows if row.at is not None})
        self.table, self.points = along(part, self.rows)
        last = part.table(row for row in self.rows if row.at == self.places[-1] and row.source)
        self.leading = leading_measures(last)
        self.others = [measure for measure in last.measures if not measure.is_rate]

    def blocks(self) -> Iterator[Block]:
        """Figures side by side, then a table for each leading measure."""
        drawn = [picture for measure in (*self.leading, *self.others) if (picture := self._picture(measure))]
        if drawn:
            yield Together(drawn)
        for measure in self.leading:
            yield self._table(measure)

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

    def _picture(self, measure: Measure) -> Picture | None:
        few = len(self.places) <= MOST_TICKS
        wide = self.places[0] > 0 and self.places[-1] > 8 * self.places[0]
        unit = " (%)" if measure.is_rate else ""
        return mean_curve(
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

    def _table(self, measure: Measure) -> Table:
        template, settings = column_for(measure), self.table.settings
        columns = [Column(self.words, "number")]
        columns += [Column(str(setting), template.kind, template.digits) for setting in settings]
        lines = [[Value(at), *(self._cell(s, measure, at) for s in settings)] for at in self.places]
        caption = sentence_case(f"{measure.describe()}, mean over pairs{spread_words(self.table)}.")
        title = f"{sentence_case(measure.brief)} against {self.words}"
        return Table(f"{self.part.name}-{self.axis}-{measure.name}", title, caption, columns, lines)
