"""Heat maps of source by target, one picture per setting and measure."""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxalign.errors import UserError
from jaxalign.report.rows import Measure, ResultTable, Setting

COLOURS = "cividis"  # even in lightness, and the same to people with and without colour vision deficiency
MOST_ANNOTATED = 24  # encoders; beyond that numbers would not be readable
DOTS_PER_INCH = 120


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the colours mean: the ends of the scale in per cent, and whether the dark end is the better one."""

    low: float
    high: float
    reverse: bool = False

    @classmethod
    def of(cls, measure: Measure) -> "Scale":
        """The same for every method, so that pictures of one measure can be compared by eye."""
        if measure.lower_is_better:
            return cls(0, 50, reverse=True)
        return cls(50, 100) if measure.name == "auc" else cls(0, 100)


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
      The paths, as ``<method>-<measure>.png``; a rank and the own photograph are in the name where they
      apply.

    Raises:
      UserError: matplotlib is not installed.
    """
    directory = pathlib.Path(directory)
    chosen = list(table.measures if measures is None else measures)
    canvas = _Canvas(table, caption)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    with concurrent.futures.ThreadPoolExecutor(1) as compressing:  # beside the drawing of the next picture
        written = []
        for setting, measure in _drawable(table, chosen):
            path = directory / file_name(setting, measure)
            if progress is not None:
                progress(path.name)
            written.append(compressing.submit(_write, canvas.draw(setting, measure), path))
            paths.append(path)
        for each in written:
            each.result()
    return paths


def require_matplotlib() -> None:
    """Says in one sentence that matplotlib is missing, before any work is done.

    Raises:
      UserError: it is.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            "heat maps need matplotlib, which is not installed; run `pip install matplotlib` or add "
            "--heatmaps=none."
        ) from error


def file_name(setting: Setting, measure: Measure) -> str:
    """Such as ``canonical_r64-rank1-excluded.png``."""
    method = setting.method if setting.rank is None else f"{setting.method}_r{setting.rank}"
    return "-".join(filter(None, [method, measure.name, measure.own_photograph])) + ".png"


def _drawable(table: ResultTable, measures: list[Measure]) -> Iterator[tuple[Setting, Measure]]:
    for setting in table.settings:
        for measure in measures:
            if table.mean_over_pairs(setting, measure) is not None:
                yield setting, measure


def _write(pixels: np.ndarray, path: pathlib.Path) -> None:
    from PIL import Image  # comes with matplotlib

    Image.fromarray(pixels).save(path, dpi=(DOTS_PER_INCH, DOTS_PER_INCH), compress_level=4)


class _Canvas:
    """One figure, drawn once without colours and numbers, which are then drawn over it for each picture.

    A run draws a hundred pictures of which only these differ.
    """

    def __init__(self, table: ResultTable, caption: str):
        require_matplotlib()
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.table = table
        rows, columns = len(table.sources) + 1, len(table.targets) + 1  # one more of each for the means
        self.annotate = max(rows, columns) - 1 <= MOST_ANNOTATED
        cell = 0.78 if self.annotate else max(0.12, 18 / max(rows, columns))
        self.size = 9.0 if max(rows, columns) <= 14 else 7.0
        left = 0.5 + 0.072 * max(map(len, ["mean of column", *table.sources])) * self.size / 9 * 1.15
        bottom = 0.55 + 0.055 * max(map(len, ["mean of row", *table.targets])) * self.size / 9 * 1.15
        width, height = left + cell * columns + 1.05, bottom + cell * rows + 0.95
        width = max(width, 6.4)
        self.figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
        self.canvas = FigureCanvasAgg(self.figure)
        self.backgrounds: dict[Scale, Any] = {}
        shape = (left / width, bottom / height, cell * columns / width, cell * rows / height)
        self.axes: Any = self.figure.add_axes(shape)
        bar = self.figure.add_axes((shape[0] + shape[2] + 0.2 / width, shape[1], 0.16 / width, shape[3]))
        self.image = self.axes.imshow(
            np.zeros((rows, columns)), cmap=COLOURS, aspect="auto", interpolation="nearest"
        )
        self.bar: Any = self.figure.colorbar(self.image, cax=bar)
        self.bar.ax.tick_params(labelsize=self.size)
        self.bar.ax.set_title("%", fontsize=self.size)
        self._labels(rows, columns)
        self.texts = [
            [self.axes.text(j, i, "", ha="center", va="center", fontsize=self.size) for j in range(columns)]
            for i in range(rows)
        ]
        self.title: Any = self.figure.text(0.12 / width, 1 - 0.32 / height, "", fontsize=11.5, weight="bold")
        self.caption = self.figure.text(0.12 / width, 1 - 0.6 / height, caption, fontsize=8.5, color="0.25")
        self.footnote = self.figure.text(0.12 / width, 0.1 / height, "", fontsize=7.5, color="0.25")

    def _labels(self, rows: int, columns: int) -> None:
        axes = self.axes
        axes.set_xticks(range(columns), [*self.table.targets, "mean of row"], rotation=40, ha="right",
                        rotation_mode="anchor", fontsize=self.size)  # fmt: skip
        axes.set_yticks(range(rows), [*self.table.sources, "mean of column"], fontsize=self.size)
        axes.set_xlabel("target (gallery)", fontsize=self.size + 0.5)
        axes.set_ylabel("source (probe, mapped)", fontsize=self.size + 0.5)
        axes.tick_params(length=0)
        axes.set_facecolor("0.9")
        for side in axes.spines.values():
            side.set_visible(False)
        self.lines = [
            line(edge - 0.5, color="white", linewidth=5 if edge == count - 1 else 0.8)
            for line, count in ((axes.axvline, columns), (axes.axhline, rows))
            for edge in range(1, count)
        ]

    def draw(self, setting: Setting, measure: Measure) -> np.ndarray:
        """One picture, shape [height, width, 3]."""
        means, deviations, measured = self.table.matrix(setting, measure)
        values = 100 * _with_margins(means, self._pairs(measured))
        self._prepare(Scale.of(measure))
        self.image.set_data(np.ma.masked_invalid(values))
        several = len(self.table.seeds) > 1
        if self.annotate:
            self._numbers(setting, values, 100 * deviations if several else None, measured)
        self.title.set_text(f"{setting}: {measure.describe()}")
        self.footnote.set_text(self._footnote(setting, values[:-1, :-1], measured))
        self._fit_title()
        for artist in self._changing():
            self.figure.draw_artist(artist)
        return np.array(self.canvas.buffer_rgba())[..., :3]

    def _prepare(self, scale: Scale) -> None:
        """Puts on the canvas what all pictures of one scale have in common."""
        self.image.set_clim(scale.low, scale.high)
        self.image.set_cmap(COLOURS + "_r" if scale.reverse else COLOURS)
        if scale not in self.backgrounds:
            self.bar.update_normal(self.image)
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
        self, setting: Setting, values: np.ndarray, deviations: np.ndarray | None, measured: np.ndarray
    ):
        colour = self.image.to_rgba(np.ma.masked_invalid(values))
        for (i, j), value in np.ndenumerate(values):
            inner = i < measured.shape[0] and j < measured.shape[1]
            text = f"{value:.1f}"
            if np.isnan(value):
                text = "n/a" if not inner or measured[i, j] else ""
            elif inner:
                mark = "*" if self._doubtful(setting, i, j) else ""
                text += mark + (f"\n±{deviations[i, j]:.1f}" if deviations is not None else "")
            dark = np.dot(colour[i, j, :3], (0.299, 0.587, 0.114)) < 0.5 and not np.isnan(value)
            self.texts[i][j].set_text(text)
            self.texts[i][j].set_color("white" if dark else "black")

    def _doubtful(self, setting: Setting, i: int, j: int) -> bool:
        return (self.table.sources[i], self.table.targets[j], setting) in self.table.doubtful

    def _pairs(self, measured: np.ndarray) -> np.ndarray:
        left_out = self.table.left_out
        other = np.array(
            [[s != t and (s, t) not in left_out for t in self.table.targets] for s in self.table.sources]
        )
        return measured & other

    def _footnote(self, setting: Setting, values: np.ndarray, measured: np.ndarray) -> str:
        notes = []
        if len(self.table.seeds) > 1:
            notes.append(f"mean ± standard deviation over {len(self.table.seeds)} seeds")
        if np.isnan(values[measured]).any():
            notes.append("n/a: too few comparisons to support a number, or none possible")
        if any(mark[2] == setting for mark in self.table.doubtful):
            notes.append("*: the fit was numerically doubtful")
        return "; ".join(notes)

    def _fit_title(self) -> None:
        """Shrinks a title that would run out of a small figure."""
        room = self.figure.get_figwidth() - 0.24
        for text, size in ((self.title, 11.5), (self.caption, 8.5), (self.footnote, 7.5)):
            needed = 0.0078 * size * len(text.get_text()) * (1.07 if text is self.title else 1.0)
            text.set_fontsize(size * min(1.0, room / max(needed, 1e-9)))


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
