"""Similarities of spaces, and what they predict, as text for a terminal."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxalign.report.rows import ResultTable, Row

CALIBRATED = ":calibrated"
MOST_PAIRS = 60  # lines of the table of pairs
ACROSS = 2  # methods side by side
DISTANCES = ("procrustes_distance",)


class Predicted(NamedTuple):
    """How well one similarity predicts what alignment reaches; the fields are the columns of ``prediction.csv``.

    Attributes:
      similarity: its name.
      calibrated: "yes" or "no".
      alignment_method, measure: what is predicted.
      spearman: rank correlation over unordered pairs of encoders.
      low, high: 95 % interval from a bootstrap over encoders.
      pairs: how many.
      p: of a two-sided Mantel test.
    """

    similarity: str
    calibrated: str
    alignment_method: str
    measure: str
    spearman: float
    low: float
    high: float
    pairs: int
    p: float


def render_geometry(rows: Sequence[Row], predictions: Sequence[Predicted], title: str) -> str:
    """The answer first: what predicts alignability; then similarities of pairs, calibrated; then encoders alone."""
    lines = [title, ""]
    if predictions:
        lines += [*_predictions(predictions), ""]
    lines += [*_pairs(rows), "", *_encoders(rows)]
    return "\n".join(lines) + "\n"


def _predictions(found: Sequence[Predicted]) -> list[str]:
    """A line for each similarity, the best first by the first method; raw and calibrated for each method."""
    methods = list(dict.fromkeys(each.alignment_method for each in found))
    by = {(each.similarity, each.alignment_method, each.calibrated): each for each in found}
    names = sorted(
        dict.fromkeys(each.similarity for each in found),
        key=lambda name: _strength(by[name, methods[0], "yes"]),
        reverse=True,
    )
    pairs = max(each.pairs for each in found)
    lines = [
        f"Does a similarity predict {found[0].measure} after alignment? Spearman's correlation over {pairs} pairs of "
        "encoders,",
        "95 % interval from a bootstrap over encoders; *: p < 0.05 by a Mantel test. Best first.",
        "",
    ]
    first, width = max(map(len, names)), 24
    for start in range(0, len(methods), ACROSS):
        block = methods[start : start + ACROSS]
        lines += [""] if start else []
        lines.append(" " * first + "".join(f"  {method}".ljust(2 * width) for method in block).rstrip())
        lines.append(
            (" " * first + ("  calibrated".ljust(width) + "  raw".ljust(width)) * len(block)).rstrip()
        )
        for name in names:
            cells = [_predicted(by[name, method, which]) for method in block for which in ("yes", "no")]
            lines.append((name.ljust(first) + "".join(f"  {cell}".ljust(width) for cell in cells)).rstrip())
    if any(name in DISTANCES for name in names):
        lines.append(f"{', '.join(DISTANCES)}: raw it is smaller for spaces that agree; calibrated larger.")
    return lines


def _strength(each: Predicted) -> float:
    return -math.inf if math.isnan(each.spearman) else each.spearman


def _predicted(each: Predicted) -> str:
    if math.isnan(each.spearman):
        return "n/a"
    interval = "" if math.isnan(each.low) else f" [{each.low:.2f}, {each.high:.2f}]"
    return f"{each.spearman:.2f}{'*' if each.p < 0.05 else ''}{interval}"


def _pairs(rows: Sequence[Row]) -> list[str]:
    """Calibrated similarities of each pair, or their means over pairs where there are many."""
    own = [row for row in rows if row.measure.endswith(CALIBRATED)]
    table = ResultTable(own)
    names = [measure.name.removesuffix(CALIBRATED) for measure in table.measures]
    pairs = list(dict.fromkeys((row.source, row.target) for row in own))
    heading = "Calibrated similarities: 0 as expected of unrelated spaces, 1 for spaces that agree"
    if len(pairs) > MOST_PAIRS:
        means = [table.mean_over_pairs(table.settings[0], measure) for measure in table.measures]
        lines = [f"{heading}; means over {len(pairs)} pairs", ""]
        return lines + [f"{name:24}{_number(cell)}" for name, cell in zip(names, means)]
    labels = [f"{source}, {target}" for source, target in pairs]
    cells = [
        [_number(table.cell(table.settings[0], measure, *pair)) for measure in table.measures]
        for pair in pairs
    ]
    return [heading, "", *_grid("encoders", names, labels, cells)]


def _encoders(rows: Sequence[Row]) -> list[str]:
    """A line for each encoder."""
    table = ResultTable(row for row in rows if row.source == row.target)
    names = [measure.name for measure in table.measures]
    cells = [
        [_number(table.cell(table.settings[0], measure, name, name)) for measure in table.measures]
        for name in table.encoders
    ]
    return ["Each encoder alone", "", *_grid("encoder", names, table.encoders, cells)]


def _grid(
    corner: str, heads: Sequence[str], labels: Sequence[str], cells: Sequence[Sequence[str]]
) -> list[str]:
    """Columns with their names broken at underscores."""
    split = [head.split("_") for head in heads]
    depth = max(map(len, split))
    first = max(map(len, [corner, *labels]))
    width = max(len(word) for words in [*split, *cells] for word in words) + 2
    lines = []
    for level in range(depth):
        words = [parts[level - depth + len(parts)] if level >= depth - len(parts) else "" for parts in split]
        label = corner if level == depth - 1 else ""
        lines.append((label.ljust(first) + "".join(word.rjust(width) for word in words)).rstrip())
    return lines + [
        label.ljust(first) + "".join(cell.rjust(width) for cell in line)
        for label, line in zip(labels, cells, strict=True)
    ]


def _number(cell) -> str:
    return "n/a" if cell is None or math.isnan(cell.mean) else f"{cell.mean:.3g}"
