"""Curves as means over pairs, with bands."""

import math
import re
from collections.abc import Callable, Iterable, Sequence

from jaxalign.report.figures.drawing import Picture
from jaxalign.report.figures.lines import Axis, Line, draw_lines, line_of
from jaxalign.report.labels import count
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure, ResultTable, Row, Setting

MOST_LINES = 8
RATES_AXIS = Axis("hit rate (%)", unit="%", limits=(0, 100))


def cmc(part: Part, own_photograph: str, settings: Sequence[Setting], name: str) -> Picture | None:
    """Cumulative match characteristic: hit rate against rank."""
    rows = [row for row in part.curves if row.measure == "cmc" and row.own_photograph == own_photograph]
    if not rows:
        hits = ((row, re.fullmatch(r"rank(\d+)", row.measure)) for row in part.methods())
        rows = [
            row._replace(measure="cmc", axis="rank", at=float(hit[1]))
            for row, hit in hits
            if hit and row.own_photograph == own_photograph
        ]
    own = f", own photograph {own_photograph}" if own_photograph else ""
    return mean_curve(
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


def det(part: Part, settings: Sequence[Setting], name: str) -> Picture | None:
    """Detection error trade-off: false non-match rate against false match rate."""
    rows = [row for row in part.curves if row.measure == "tmr" and row.axis == "fmr"]
    if not rows:
        rows = [
            row._replace(measure="tmr", axis="fmr", at=float(row.measure.partition("=")[2]))
            for row in part.methods()
            if row.measure.startswith("tmr@fmr=")
        ]
    return mean_curve(
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


def mean_curve(
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
) -> Picture | None:
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
    table, points = along(part, rows)
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


def along(
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
