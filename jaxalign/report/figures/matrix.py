"""Source by target as colours and numbers: one canvas for all the pictures of a table."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxalign.report.figures.drawing import (
    DOTS_PER_INCH,
    EMPTY,
    INK,
    MUTED,
    PAPER,
    Picture,
    drawing,
    picture,
    text_width,
)
from jaxalign.report.figures.scales import Layout, Scale
from jaxalign.report.labels import count, short_names, shown
from jaxalign.report.rows import Measure, ResultTable, Setting

COLOURS = "cividis"  # even in lightness, and the same to people with and without colour vision deficiency

MOST_NUMBERS, MOST_NUMBERS_ON_PAGE = 24, 40  # encoders; a page can be enlarged
ROLES = "source (probe, mapped)", "target (gallery)"  # of rows and columns


class Canvas:
    """One figure, drawn once without colours and numbers, which are then drawn over it for each picture.

    A run draws a hundred pictures of which only these differ.

    Args:
      table: what was measured.
      caption: one line under the title.
      roles: of rows and columns, beside the axes.
      numbers_to: above so many encoders cells have no numbers; they take most of the time to draw.
    """

    def __init__(
        self,
        table: ResultTable,
        caption: str = "",
        *,
        roles: tuple[str, str] = ROLES,
        numbers_to: int = MOST_NUMBERS,
    ):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.table = table
        rows, columns = len(table.sources) + 1, len(table.targets) + 1  # one more of each for the means
        self.layout = Layout.of(max(rows, columns) - 1, numbers_to)
        self.size = max(6.0, self.layout.size)
        self.names = short_names(table.encoders)
        with drawing():
            widest = max(text_width(name, self.size) for name in ["mean of column", *self.names.values()])
        self.angle = 40 if columns < 16 else 60
        left = 0.5 + widest
        bottom = (0.58 if roles[1] else 0.34) + widest * math.sin(math.radians(self.angle))
        right, top = left + self.layout.width * columns, bottom + self.layout.height * rows
        width, height = max(right + 0.75, 6.4), top + 0.85
        with drawing():
            self.figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
            self.canvas = FigureCanvasAgg(self.figure)
            self.backgrounds: dict[Scale, Any] = {}
            shape = (left / width, bottom / height, (right - left) / width, (top - bottom) / height)
            self.axes: Any = self.figure.add_axes(shape)
            # As it is, without resampling, so that an SVG has one pixel a cell and sharp edges.
            self.image = self.axes.imshow(
                np.zeros((rows, columns)), cmap=COLOURS, aspect="auto", interpolation="none"
            )
            bar = self.figure.add_axes(((right + 0.16) / width, shape[1], 0.14 / width, shape[3]))
            self.bar: Any = self.figure.colorbar(self.image, cax=bar)
            self.bar.outline.set_visible(False)
            self._labels(rows, columns, roles)
            self.texts = [
                [self.axes.text(j, i, "", ha="center", va="center", fontsize=self.layout.size, linespacing=1.05)
                 for j in range(columns)]
                for i in range(rows)
            ]  # fmt: skip
            place = 0.12 / width
            self.title: Any = self.figure.text(place, 1 - 0.3 / height, "", fontsize=11.5, weight="bold")
            self.caption = self.figure.text(place, 1 - 0.56 / height, caption, fontsize=8.5, color=MUTED)
            self.footnote = self.figure.text(place, 0.1 / height, "", fontsize=7.5, color=MUTED)

    def _labels(self, rows: int, columns: int, roles: tuple[str, str]) -> None:
        axes, names = self.axes, self.names
        targets = [*(names[name] for name in self.table.targets), "mean of row"]
        axes.set_xticks(range(columns), targets, rotation=self.angle, ha="right",
                        rotation_mode="anchor", fontsize=self.size)  # fmt: skip
        sources = [*(names[name] for name in self.table.sources), "mean of column"]
        axes.set_yticks(range(rows), sources, fontsize=self.size)
        axes.set_xlabel(roles[1], fontsize=self.size + 0.5)
        axes.set_ylabel(roles[0], fontsize=self.size + 0.5)
        axes.tick_params(length=0)
        axes.set_facecolor(EMPTY)
        for side in axes.spines.values():
            side.set_visible(False)
        self.lines = [
            line(edge - 0.5, color=PAPER, linewidth=4 if edge == count - 1 else 0.8)
            for line, count in ((axes.axvline, columns), (axes.axhline, rows))
            for edge in range(1, count)
        ]

    def draw(self, setting: Setting, measure: Measure) -> np.ndarray:
        """One picture, shape [height, width, 3]."""
        with drawing():
            self._prepare(Scale.of(measure))
            self.show(setting, measure)
            for artist in self._changing():
                self.figure.draw_artist(artist)
        return np.array(self.canvas.buffer_rgba())[..., :3]

    def show(self, setting: Setting, measure: Measure, scale: Scale | None = None, title: str = "") -> None:
        """Puts a setting's numbers into the figure, without drawing it."""
        scale = scale or Scale.of(measure)
        means, deviations, measured = self.table.matrix(setting, measure)
        values = scale.factor * _with_margins(means, self._pairs(measured))
        self._use(scale)
        self.image.set_data(np.ma.masked_invalid(values))
        several = len(self.table.seeds) > 1 and self.layout.deviations
        digits = self.layout.digits if scale.unit else 2
        if self.layout.digits is not None:
            self._numbers(setting, values, scale.factor * deviations if several else None, measured, digits)
        self.title.set_text(title or f"{setting}: {measure.describe()}")
        self.footnote.set_text(self._footnote(setting, measure, values[:-1, :-1], measured))
        self._fit_title()

    def _use(self, scale: Scale) -> None:
        self.image.set_clim(scale.low, scale.high)
        self.image.set_cmap(COLOURS + "_r" if scale.reverse else COLOURS)
        self.bar.update_normal(self.image)
        self.bar.ax.tick_params(labelsize=self.size, length=2)
        self.bar.ax.set_title(scale.unit, fontsize=self.size)

    def _prepare(self, scale: Scale) -> None:
        """Puts on the canvas what all pictures of one scale have in common."""
        if scale not in self.backgrounds:
            self._use(scale)
            for artist in self._changing():
                artist.set_animated(True)
            self.canvas.draw()
            self.backgrounds[scale] = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self.backgrounds[scale])

    def _changing(self) -> Iterator[Any]:
        """What differs between pictures, from back to front."""
        yield self.image
        yield from self.lines
        yield from (text for row in self.texts for text in row)
        yield from (self.title, self.footnote)

    def _numbers(
        self,
        setting: Setting,
        values: np.ndarray,
        deviations: np.ndarray | None,
        measured: np.ndarray,
        digits: int | None,
    ) -> None:
        colour = self.image.to_rgba(np.ma.masked_invalid(values))
        for (i, j), value in np.ndenumerate(values):
            inner = i < measured.shape[0] and j < measured.shape[1]
            text = f"{value:.{digits}f}"
            if np.isnan(value):
                text = "n/a" if not inner or measured[i, j] else ""
            elif inner:
                mark = "*" if self._doubtful(setting, i, j) else ""
                text += mark + (f"\n±{deviations[i, j]:.{digits}f}" if deviations is not None else "")
            self.texts[i][j].set_text(text)
            dark = np.dot(colour[i, j, :3], (0.299, 0.587, 0.114)) < 0.5
            self.texts[i][j].set_color(INK if np.isnan(value) else "white" if dark else "black")

    def _doubtful(self, setting: Setting, i: int, j: int) -> bool:
        return (self.table.sources[i], self.table.targets[j], setting) in self.table.doubtful

    def _pairs(self, measured: np.ndarray) -> np.ndarray:
        left_out = self.table.left_out
        other = np.array(
            [[s != t and (s, t) not in left_out for t in self.table.targets] for s in self.table.sources]
        )
        return measured & other

    def _footnote(self, setting: Setting, measure: Measure, values: np.ndarray, measured: np.ndarray) -> str:
        notes = []
        if len(self.table.seeds) > 1:
            spread = " ± standard deviation" if self.layout.deviations else ""
            notes.append(f"mean{spread} over {len(self.table.seeds)} seeds")
        if np.isnan(values[measured]).any():
            reasons = self.table.reasons(setting, measure)
            more = f" and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
            notes.append(f"n/a: {reasons[0]}{more}")
        if any(mark[2] == setting for mark in self.table.doubtful):
            notes.append("*: the fit was numerically doubtful")
        return "; ".join(notes)

    def _fit_title(self) -> None:
        """Shrinks a title that would run out of a small figure."""
        room = self.figure.get_figwidth() - 0.24
        for text, size in ((self.title, 11.5), (self.caption, 8.5), (self.footnote, 7.5)):
            needed = 0.0078 * size * len(text.get_text()) * (1.07 if text is self.title else 1.0)
            text.set_fontsize(size * min(1.0, room / max(needed, 1e-9)))


def heat_map(
    canvas: Canvas,
    setting: Setting,
    measure: Measure,
    *,
    name: str,
    scale: Scale | None = None,
    title: str = "",
) -> Picture:
    """A setting's heat map for a page.

    Args:
      canvas: of the table.
      setting, measure: what to show.
      name: of the files.
      scale: of the colours; that of the measure by default.
      title: setting and measure by default.
    """
    scale = scale or Scale.of(measure)
    title = title or f"{setting}: {measure.describe()}"
    with drawing():
        canvas.show(setting, measure, scale, title)
        roles = "" if scale.unit == "" else "Rows are sources, columns are targets. "
        caption = (
            f"{roles}The last row and column are means over the other encoders; cells not measured are grey."
        )
        return picture(
            canvas.figure,
            name,
            title=title,
            caption=caption,
            alt=f"Heat map. {title}. {_in_words(canvas.table, setting, measure, scale)}",
        )


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
    rows, columns = means.shape
    padded = np.full((rows + 1, columns + 1), np.nan)
    padded[:-1, :-1] = means
    for i in range(rows):
        padded[i, -1] = _mean(means[i][pairs[i]])
    for j in range(columns):
        padded[-1, j] = _mean(means[:, j][pairs[:, j]])
    padded[-1, -1] = _mean(means[pairs])
    return padded


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
