"""Curves with bands: CMC, DET, and quality against the number of people, the rank or the penalty."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxalign.report.figures.drawing import DASHES, MARKERS, SERIES, Plot, new_figure, picture, styled
from jaxalign.report.labels import number, shown

FEW = 16  # points of a line, each of which gets a mark


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve: points and band, each of shape [n], ``x`` ascending; NaN leaves a gap or stands for no band."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a figure.

    Attributes:
      label: with its unit.
      logarithmic: its scale.
      unit: appended to its values in words.
      limits: of the axis; None leaves them to the data.
      ticks: where to write numbers; empty leaves it to the scale.
    """

    label: str
    logarithmic: bool = False
    unit: str = ""
    limits: tuple[float, float] | None = None
    ticks: tuple[float, ...] = ()


def draw_lines(lines: Sequence[Line], x: Axis, y: Axis, *, name: str, title: str, caption: str) -> Plot:
    """Lines in one pair of axes, told apart by colour, dashes and, where points are few, by marks.

    ``name``, ``title`` and ``caption`` are those of the ``Plot``; the alternative text is made from the numbers.
    """
    with styled():
        legend_rows = math.ceil(len(lines) / 3)
        figure = new_figure(5.5, 3.7 + 0.2 * legend_rows)
        axes = figure.add_subplot()
        for place, line in enumerate(lines):
            _draw(axes, line, place)
        _prepare(axes, x, y)
        axes.set_title(title, fontsize=10.5, weight="bold", loc="left")
        figure.legend(loc="outside lower center", ncols=min(3, len(lines)), fontsize=8.5, handlelength=2.8)
        return picture(figure, name, title=title, caption=caption, alt=_in_words(title, lines, x, y))


def _draw(axes: Any, line: Line, place: int) -> None:
    colour = SERIES[place % len(SERIES)]
    few = len(line.x) <= FEW
    look: Any = {"color": colour, "linestyle": "-" if few else DASHES[(place // 2) % len(DASHES)]}
    look |= {"marker": MARKERS[place % len(MARKERS)] if few else None, "markersize": 4, "linewidth": 1.7}
    axes.plot(line.x, line.y, label=shown(line.label), **look)
    if np.isfinite(line.low).any():
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)


def _prepare(axes: Any, x: Axis, y: Axis) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.grid(True)
    for axis, wanted, limit in ((axes.xaxis, x, axes.set_xlim), (axes.yaxis, y, axes.set_ylim)):
        if wanted.logarithmic:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
            low, high = sorted(axis.get_data_interval() if wanted.limits is None else wanted.limits)
            span = high / max(low, 1e-30)
            steps = (1.0, 2.0, 3.0, 5.0, 7.0) if span < 12 else (1.0, 2.0, 5.0) if span < 300 else (1.0,)
            axis.set_major_locator(LogLocator(subs=steps))
            axis.set_minor_locator(NullLocator())
        if wanted.logarithmic or wanted.unit != "%":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if wanted.ticks:
            axis.set_major_locator(FixedLocator(wanted.ticks))
        axis.set_label_text(wanted.label)
        if wanted.limits is not None:
            limit(*wanted.limits)


def _in_words(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Each line at its first, middle and last point."""
    texts = []
    for line in lines:
        known = np.flatnonzero(np.isfinite(line.y))
        if not len(known):
            texts.append(f"{shown(line.label)}: no numbers")
            continue
        places = dict.fromkeys([known[0], known[len(known) // 2], known[-1]])
        points = [f"{_with(float(line.y[k]), y)} at {_with(float(line.x[k]), x)}" for k in places]
        band = ""
        low, high = float(line.low[known[-1]]), float(line.high[known[-1]])
        if np.isfinite(low):
            band = f" (band {number(low)} to {_with(high, y)})"
        texts.append(f"{shown(line.label)}: {', '.join(points)}{band}")
    return f"{title}. {y.label} against {x.label}. {'; '.join(texts)}."


def _with(value: float, axis: Axis) -> str:
    return f"{number(value)}{' ' + axis.unit if axis.unit else ''}"
