"""A figure of numbers with intervals, one on each line."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxalign.report.figures.drawing import INK, MUTED, PAPER, SERIES, Plot, new_figure, picture, styled
from jaxalign.report.labels import NO_VALUE, number, short_names, shown


class Dot(NamedTuple):
    """One line: its name, the number and its interval (NaN where there is none), and why there is no number.

    A ``hollow`` dot is of a second kind.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    hollow: bool = False


def draw_dots(
    dots: Sequence[Dot], *, name: str, title: str, caption: str, axis: str, unit: str = "", zero: bool = False
) -> Plot:
    """A line for each number, from top to bottom; one without a number says so.

    ``axis`` says what the numbers are, with their unit; ``zero`` draws a line at 0.
    """
    labels = short_names((dot.label for dot in dots), 60)
    with styled():
        figure = new_figure(6.4, 1.0 + 0.27 * len(dots))
        axes = figure.add_subplot()
        write = functools.partial(axes.annotate, va="center", color=INK)
        for row, dot in enumerate(dots):
            if math.isnan(dot.value):
                write(NO_VALUE, (0.01, row), xycoords=("axes fraction", "data"), fontsize=8)
                continue
            if not math.isnan(dot.low):
                axes.plot([dot.low, dot.high], [row, row], color=SERIES[0], linewidth=1.8, alpha=0.6)
            face = PAPER if dot.hollow else SERIES[0]
            axes.plot(dot.value, row, "o", color=SERIES[0], markerfacecolor=face, markersize=6)
            end = dot.value if math.isnan(dot.high) else max(dot.value, dot.high)
            write(number(round(dot.value, 3)), (end, row), (6, 0), textcoords="offset points", fontsize=7.5)
        if zero:
            axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_yticks(range(len(dots)), [labels[dot.label] for dot in dots])
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.tick_params(axis="y", length=0)
        axes.grid(True, axis="x")
        axes.set_xlabel(axis)
        axes.set_title(title, fontsize=10.5, weight="bold", loc="left")
        return picture(figure, name, title=title, caption=caption, alt=_in_words(title, dots, unit))


def _in_words(title: str, dots: Sequence[Dot], unit: str) -> str:
    words = []
    for dot in dots:
        value, low, high = (number(round(each, 3)) for each in (dot.value, dot.low, dot.high))
        text = " ".join(filter(None, (value, unit))) + ("" if math.isnan(dot.low) else f" ({low} to {high})")
        if math.isnan(dot.value):
            text = f"no number ({dot.reason})" if dot.reason else "no number"
        words.append(f"{shown(dot.label)}: {text}")
    return f"{title}. {'; '.join(words)}."
