"""Source by target as colours and numbers: one canvas for all the pictures of a table."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxalign.report.figures import drawing
from jaxalign.report.figures.drawing import EMPTY, INK, MUTED, PAPER, Plot
from jaxalign.report.labels import count, short_names, shown
from jaxalign.report.result_table import Measure, ResultTable, Setting

COLOURS = "cividis"  # even in lightness, and the same to people with and without colour vision deficiency
MOST_NUMBERS, MOST_NUMBERS_ON_PAGE = 24, 40  # encoders; a page can be enlarged
ROLES = "source (probe, mapped)", "target (gallery)"  # of rows and columns


def draw_heatmaps(
    table: ResultTable,
    directory: str | os.PathLike,
    *,
    caption: str = "",
    measures: Iterable[Measure] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[pathlib.Path]:
    """Draws one PNG per setting and measure, in per cent, with row and column means.

    The mean of a row says how well that encoder is translated from (source), the mean of a column how well
    others are translated into it (target); an encoder against itself does not count in either.

    Args:
      table: what was measured.
      directory: for the files; made if missing.
      caption: one line under the title, such as data set, protocol and seeds.
      measures: those to draw; all by default.
      progress: called with the name of each file before it is drawn.

    Returns:
      The paths, as ``<method>-<measure>.png``; the name has a rank, and whether the same image
      counts, where they apply.

    Raises:
      UserError: matplotlib is not installed.
    """
    require_matplotlib()
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    canvas = Canvas(table, caption)
    chosen = list(table.measures if measures is None else measures)
    paths = []
    for setting in table.settings:
        for measure in chosen:
            if table.mean_over_pairs(setting, measure) is not None:
                paths.append(directory / file_name(setting, measure))
                if progress is not None:
                    progress(paths[-1].name)
                canvas.save(setting, measure, paths[-1])
    return paths


def require_matplotlib() -> None:
    """Raises ``UserError`` if matplotlib is missing, before any work is done."""
    drawing.require_libraries("heat maps need", ["matplotlib"], " or add --heatmaps=none")


def file_name(setting: Setting, measure: Measure) -> str:
    """Such as ``canonical_r64-rank1-excluded.png``."""
    method = setting.method if setting.rank is None else f"{setting.method}_r{setting.rank}"
    return "-".join(filter(None, [method, measure.name, measure.own_photograph])) + ".png"


@dataclasses.dataclass(frozen=True)
class Scale:
    """The scale of colours.

    Attributes:
      low, high: its ends, in the unit shown.
      reverse: the low end is the bright one.
      factor: from a row's value to the unit.
      unit: written above the scale.
    """

    low: float
    high: float
    reverse: bool = False
    factor: float = 100
    unit: str = "%"

    @classmethod
    def of(cls, measure: Measure) -> "Scale":
        """The same for every method, so that pictures of one measure can be compared by eye."""
        if measure.lower_is_better:
            return cls(0, 50, reverse=True)
        return cls(50, 100) if measure.name == "auc" else cls(0, 100)

    @classmethod
    def around(cls, values: np.ndarray) -> "Scale":
        """For numbers of no known range: from 0 where they come near it, else from the lowest to the highest."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        low = 0.0 if 0 <= low < 0.5 * high else low
        return cls(low, high if high > low else low + 1, factor=1, unit="")


class Layout(NamedTuple):
    """Width and height of a cell in inches, size of its text in points, and what the text is of."""

    width: float
    height: float
    size: float
    digits: int | None  # after the point; None for no numbers at all
    deviations: bool = False


def layout_for(encoders: int, numbers_to: int) -> Layout:
    """A layout that keeps numbers readable from 2 encoders to ``numbers_to``."""
    if encoders <= 10:
        return Layout(0.66, 0.48, 8.5, 1, deviations=True)
    if encoders <= 14:
        return Layout(0.52, 0.42, 7.5, 1, deviations=True)
    if encoders <= 24:
        side = 9.4 / (encoders + 1)
        return Layout(side, max(side, 0.36), 7, 1)
    side = max(0.1, 9.6 / (encoders + 1))
    return Layout(side, side, 6, 0 if encoders <= numbers_to else None)


class Canvas:
    """One figure for all settings and measures of a table, which differ only in colours, numbers and words.

    Args:
      table: what was measured.
      caption: one line under the title.
      roles: of rows and columns, beside the axes.
      numbers_to: above so many encoders cells have no numbers, which take most of the time to draw.
    """

    def __init__(
        self,
        table: ResultTable,
        caption: str = "",
        *,
        roles: tuple[str, str] = ROLES,
        numbers_to: int = MOST_NUMBERS,
    ):
        self.table = table
        rows, columns = len(table.sources) + 1, len(table.targets) + 1  # one more of each for the means
        self.layout = layout_for(max(rows, columns) - 1, numbers_to)
        self.size = max(6.0, self.layout.size)
        self.names = short_names(table.encoders)
        self.angle = 40 if columns < 16 else 60
        with drawing.styled():
            words = ["mean of column", *self.names.values()]
            widest = max(drawing.text_width(name, self.size) for name in words)
            left = 0.5 + widest
            bottom = (0.58 if roles[1] else 0.34) + widest * math.sin(math.radians(self.angle))
            right, top = left + self.layout.width * columns, bottom + self.layout.height * rows
            width, height = max(right + 0.75, 6.4), top + 0.85
            self.figure = drawing.new_figure(width, height, layout=None)
            shape = (left / width, bottom / height, (right - left) / width, (top - bottom) / height)
            self.axes: Any = self.figure.add_axes(shape)
            # As it is, without resampling, so that an SVG has one pixel a cell and sharp edges.
            empty = np.zeros((rows, columns))
            self.image = self.axes.imshow(empty, cmap=COLOURS, aspect="auto", interpolation="none")
            bar = self.figure.add_axes(((right + 0.16) / width, shape[1], 0.14 / width, shape[3]))
            self.bar: Any = self.figure.colorbar(self.image, cax=bar)
            self.bar.outline.set_visible(False)
            self._labels(rows, columns, roles)
            style = {"ha": "center", "va": "center", "fontsize": self.layout.size, "linespacing": 1.05}
            self.texts = [[self.axes.text(j, i, "", **style) for j in range(columns)] for i in range(rows)]
            place = 0.12 / width
            self.title: Any = self.figure.text(place, 1 - 0.3 / height, "", fontsize=11.5, weight="bold")
            self.caption = self.figure.text(place, 1 - 0.56 / height, caption, fontsize=8.5, color=MUTED)
            self.footnote = self.figure.text(place, 0.1 / height, "", fontsize=7.5, color=MUTED)

    def _labels(self, rows: int, columns: int, roles: tuple[str, str]) -> None:
        axes = self.axes
        targets = [*(self.names[name] for name in self.table.targets), "mean of row"]
        turned: Any = {"rotation": self.angle, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(columns), targets, fontsize=self.size, **turned)
        sources = [*(self.names[name] for name in self.table.sources), "mean of column"]
        axes.set_yticks(range(rows), sources, fontsize=self.size)
        axes.set_xlabel(roles[1], fontsize=self.size + 0.5)
        axes.set_ylabel(roles[0], fontsize=self.size + 0.5)
        axes.tick_params(length=0)
        axes.set_facecolor(EMPTY)
        axes.spines[:].set_visible(False)
        for line, cells in ((axes.axvline, columns), (axes.axhline, rows)):
            for edge in range(1, cells):
                line(edge - 0.5, color=PAPER, linewidth=4 if edge == cells - 1 else 0.8)

    def save(self, setting: Setting, measure: Measure, path: pathlib.Path) -> None:
        """Writes one picture as PNG."""
        with drawing.styled():
            self._show(setting, measure, Scale.of(measure), f"{setting}: {measure.describe()}")
            self.figure.savefig(path, dpi=drawing.DOTS_PER_INCH, metadata={"Software": None})

    def plot(
        self, setting: Setting, measure: Measure, *, name: str, scale: Scale | None = None, title: str = ""
    ) -> Plot:
        """A setting's heat map for a page; without a scale and a title they are those of the measure."""
        scale = scale or Scale.of(measure)
        title = title or f"{setting}: {measure.describe()}"
        roles = "Rows are sources, columns are targets. " if scale.unit else ""
        means = "The last row and column are means over the other encoders; cells not measured are grey."
        alt = f"Heat map. {title}. {_in_words(self.table, setting, measure, scale)}"
        with drawing.styled():
            self._show(setting, measure, scale, title)
            return drawing.picture(self.figure, name, title=title, caption=roles + means, alt=alt)

    def _show(self, setting: Setting, measure: Measure, scale: Scale, title: str) -> None:
        """Puts a setting's numbers into the figure, without drawing it."""
        means, deviations, measured = self.table.matrix(setting, measure)
        values = scale.factor * _with_margins(means, self._pairs(measured))
        self.image.set_data(np.ma.masked_invalid(values))
        self.image.set_clim(scale.low, scale.high)
        self.image.set_cmap(COLOURS + "_r" if scale.reverse else COLOURS)
        self.bar.update_normal(self.image)
        self.bar.ax.tick_params(labelsize=self.size, length=2)
        self.bar.ax.set_title(scale.unit, fontsize=self.size)
        if self.layout.digits is not None:
            digits = self.layout.digits if scale.unit else 2
            self._numbers(setting, values, scale.factor * deviations, measured, digits)
        self.title.set_text(title)
        self.footnote.set_text(self._footnote(setting, measure, means, measured))
        self._fit()

    def _numbers(
        self, setting: Setting, values: np.ndarray, deviations: np.ndarray, measured: np.ndarray, digits: int
    ) -> None:
        table = self.table
        colour = self.image.to_rgba(np.ma.masked_invalid(values))
        for (i, j), value in np.ndenumerate(values):
            inner = i < len(table.sources) and j < len(table.targets)
            text = f"{value:.{digits}f}"
            if np.isnan(value):
                text = "n/a" if not inner or measured[i, j] else ""
            elif inner:
                text += "*" * ((table.sources[i], table.targets[j], setting) in table.doubtful)
                if self.layout.deviations and not np.isnan(deviations[i, j]):
                    text += f"\n±{deviations[i, j]:.{digits}f}"
            self.texts[i][j].set_text(text)
            dark = np.dot(colour[i, j, :3], (0.299, 0.587, 0.114)) < 0.5
            self.texts[i][j].set_color(INK if np.isnan(value) else "white" if dark else "black")

    def _pairs(self, measured: np.ndarray) -> np.ndarray:
        """Which cells count for the means, shape as ``measured``."""
        table = self.table
        other = [[s != t and (s, t) not in table.left_out for t in table.targets] for s in table.sources]
        return measured & np.array(other)

    def _footnote(self, setting: Setting, measure: Measure, means: np.ndarray, measured: np.ndarray) -> str:
        notes = []
        if len(self.table.seeds) > 1:
            spread = " ± standard deviation" if self.layout.deviations else ""
            notes.append(f"mean{spread} over {len(self.table.seeds)} seeds")
        if np.isnan(means[measured]).any():
            reasons = self.table.reasons(setting, measure)
            more = f" and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
            notes.append(f"n/a: {reasons[0]}{more}")
        if any(mark[2] == setting for mark in self.table.doubtful):
            notes.append("*: the fit was numerically doubtful")
        return "; ".join(notes)

    def _fit(self) -> None:
        """Shrinks lines of text that would run out of a small figure."""
        room = self.figure.get_figwidth() - 0.24
        for text, size in ((self.title, 11.5), (self.caption, 8.5), (self.footnote, 7.5)):
            needed = 0.0078 * size * len(text.get_text()) * (1.07 if text is self.title else 1.0)
            text.set_fontsize(size * min(1.0, room / max(needed, 1e-9)))


def _in_words(table: ResultTable, setting: Setting, measure: Measure, scale: Scale) -> str:
    """The range, its ends and the mean of a heat map."""
    means, _, measured = table.matrix(setting, measure)
    values = scale.factor * means
    unit = f" {scale.unit}" if scale.unit else ""
    digits = 1 if scale.unit else 2
    words = f"{len(table.sources)} sources by {len(table.targets)} targets."
    if np.isfinite(values).any():
        ends = []
        for place in (np.nanargmax(values), np.nanargmin(values)):
            i, j = np.unravel_index(place, values.shape)
            pair = f"{shown(table.sources[i])} to {shown(table.targets[j])}"
            ends.append(f"{values[i, j]:.{digits}f}{unit} ({pair})")
        words += f" Highest {ends[0]}, lowest {ends[1]}"
        mean = table.mean_over_pairs(setting, measure)
        known = mean is not None and np.isfinite(mean.mean)
        words += f", mean over pairs {scale.factor * mean.mean:.{digits}f}{unit}." if known and mean else "."
    missing = int(np.isnan(values[measured]).sum())
    if missing:
        words += f" {count(missing, 'cell')} without a number: {'; '.join(table.reasons(setting, measure))}."
    return words


def _with_margins(means: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Appends row means, column means and the mean of all pairs; NaN where one of the pairs is NaN."""
    known = np.where(pairs, means, 0)
    with np.errstate(invalid="ignore"):
        rows, columns = (known.sum(axis, keepdims=True) / pairs.sum(axis, keepdims=True) for axis in (1, 0))
        return np.block([[means, rows], [columns, np.full((1, 1), known.sum() / pairs.sum())]])
