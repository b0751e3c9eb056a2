"""Heat maps of source by target, one picture per setting and measure."""

import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.report.figures.drawing import DOTS_PER_INCH
from jaxalign.report.figures.matrix import Canvas
from jaxalign.report.rows import Measure, ResultTable, Setting


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
    require_matplotlib()
    canvas = Canvas(table, caption)
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
