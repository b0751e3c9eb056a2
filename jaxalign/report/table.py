"""Results as text for a terminal: one line per method, and source by target where that is readable."""

import textwrap
from collections.abc import Sequence

import numpy as np

from jaxalign.report.rows import Cell, Measure, ResultTable, Setting

FEW_ENCODERS = 8  # one measure as matrices
VERY_FEW_ENCODERS = 4  # two
LABEL_WIDTH = 24
CORNER = "source \\ target"


def render_table(table: ResultTable, *, title: str = "", width: int = 100) -> str:
    """The summary of a run: means over pairs per method, then matrices for up to ``FEW_ENCODERS`` encoders.

    Args:
      table: what was measured.
      title: first line.
      width: of the terminal, in characters.

    Returns:
      Text, in per cent, each line at most about ``width`` long, with a line feed at the end.
    """
    lines = [title, ""] if title else []
    several = len(table.seeds) > 1
    spread = f", ± standard deviation over {len(table.seeds)} seeds" if several else ""
    lines += [*textwrap.wrap(f"Mean over the ordered pairs{spread}, in %:", width), ""]
    lines += _summary(table, main_measures(table), width)
    if len(table.encoders) <= FEW_ENCODERS:
        for measure in matrix_measures(table)[: 2 if len(table.encoders) <= VERY_FEW_ENCODERS else 1]:
            heading = (
                f"{measure.describe()}, in %; rows are sources (probes), columns are targets (galleries)"
            )
            lines += ["", *textwrap.wrap(heading, width), ""]
            lines += _matrices(table, measure, width)
    lines += _footnotes(table)
    return "\n".join(lines) + "\n"


def main_measures(table: ResultTable) -> list[Measure]:
    """Those of the summary: the first identification rate, one mean average precision, and all of verification."""
    ranks = [measure for measure in table.measures if _hit_rate_rank(measure) is not None]
    lowest = min((_hit_rate_rank(measure) or 0 for measure in ranks), default=None)
    chosen = [measure for measure in ranks if _hit_rate_rank(measure) == lowest]
    # With the own photograph in the gallery as published, cut at 50; without it over the whole gallery.
    published = (Measure("map50", "included"), Measure("map", "excluded"))
    chosen += [measure for measure in table.measures if measure in published]
    # Whatever is no rate of identification is of verification.
    return chosen + [m for m in table.measures if m not in ranks and not m.name.startswith("map")]


def matrix_measures(table: ResultTable) -> list[Measure]:
    """At most two: the hardest identification rate, and the true match rate at the lowest supported FMR ≤ 0.001."""
    ranks = [m for m in main_measures(table) if _hit_rate_rank(m) is not None]
    ranks.sort(key=lambda measure: measure.own_photograph != "excluded")
    rates = [m for m in table.measures if m.name.startswith("tmr@fmr=") and _supported(table, m)]
    rates.sort(key=lambda measure: abs(np.log(float(measure.name.partition("=")[2]) / 1e-3)))
    return ranks[:1] + rates[:1]


def _hit_rate_rank(measure: Measure) -> int | None:
    digits = measure.name.removeprefix("rank")
    return int(digits) if digits != measure.name and digits.isdigit() else None


def _supported(table: ResultTable, measure: Measure) -> bool:
    cells = [table.mean_over_pairs(setting, measure) for setting in table.settings]
    return all(cell is not None and not np.isnan(cell.mean) for cell in cells)


def _summary(table: ResultTable, measures: Sequence[Measure], width: int) -> list[str]:
    several = len(table.seeds) > 1
    own = any(measure.own_photograph for measure in measures)
    column = max([14 if several or own else 8, *(len(measure.name) + 2 for measure in measures)])
    labels = [_label(table, setting) for setting in table.settings]
    first = max(map(len, ["method", *labels]))
    per_block = max(1, (width - first) // column)
    lines = []
    for start in range(0, len(measures), per_block):
        block = measures[start : start + per_block]
        lines += [""] if start else []
        lines.append("method".ljust(first) + "".join(measure.name.rjust(column) for measure in block))
        if any(measure.own_photograph for measure in block):
            own = ["own " + measure.own_photograph if measure.own_photograph else "" for measure in block]
            lines.append(" " * first + "".join(text.rjust(column) for text in own))
        for label, setting in zip(labels, table.settings, strict=True):
            cells = [_number(table.mean_over_pairs(setting, measure), several) for measure in block]
            lines.append(label.ljust(first) + "".join(cell.rjust(column) for cell in cells))
    return lines


def _label(table: ResultTable, setting: Setting) -> str:
    return f"{setting} *" if any(mark[2] == setting for mark in table.doubtful) else str(setting)


def _number(cell: Cell | None, several: bool) -> str:
    if cell is None:
        return ""
    if np.isnan(cell.mean):
        return "n/a"
    return f"{100 * cell.mean:.2f}" + (f" ±{100 * cell.deviation:.2f}" if several else "")


def _matrices(table: ResultTable, measure: Measure, width: int) -> list[str]:
    """Every setting's matrix, as many side by side as fit."""
    numbered = {name: str(k + 1) for k, name in enumerate(table.encoders)}
    names = [f"{numbered[name]} {name}"[:LABEL_WIDTH] for name in table.sources]
    first = max(map(len, [CORNER, *names]))
    across = 7 * len(table.targets)
    per_block = max(1, (width - first) // (across + 2))
    lines = []
    settings = [setting for setting in table.settings if table.mean_over_pairs(setting, measure) is not None]
    for start in range(0, len(settings), per_block):
        block = settings[start : start + per_block]
        lines += [""] if start else []
        lines.append(" " * first + "".join("  " + f"  {setting}".ljust(across)[:across] for setting in block))
        heads = "".join(numbered[name].rjust(7) for name in table.targets)
        lines.append(CORNER.ljust(first) + ("  " + heads) * len(block))
        rows = [_matrix_rows(table, setting, measure) for setting in block]
        for i, name in enumerate(names):
            lines.append(name.ljust(first) + "".join("  " + part[i] for part in rows))
    unnamed = [f"{numbered[name]} {name}" for name in table.targets if name not in table.sources]
    return lines + ([", ".join(unnamed)] if unnamed else [])


def _matrix_rows(table: ResultTable, setting: Setting, measure: Measure) -> list[str]:
    means, _, measured = table.matrix(setting, measure)
    rows = []
    for i, source in enumerate(table.sources):
        cells = []
        for j, target in enumerate(table.targets):
            text = "n/a" if np.isnan(means[i, j]) else f"{100 * means[i, j]:.1f}"
            mark = "*" if (source, target, setting) in table.doubtful else " "
            cells.append((text + mark if measured[i, j] else "· ").rjust(7))
        rows.append("".join(cells))
    return rows


def _footnotes(table: ResultTable) -> list[str]:
    lines = []
    cells = [
        table.mean_over_pairs(setting, measure) for setting in table.settings for measure in table.measures
    ]
    if any(cell is not None and np.isnan(cell.mean) for cell in cells):
        lines.append("n/a: too few comparisons to support a number, or none possible.")
    if table.left_out:
        count = len(table.left_out)
        lines.append(f"Means leave out {count} pair{'s' * (count > 1)} that some method gave no number for.")
    if table.doubtful:
        pairs = {mark[:2] for mark in table.doubtful}
        lines.append(
            f"*: at least one fit was numerically doubtful ({len(pairs)} pair{'s' * (len(pairs) > 1)})."
        )
    return ["", *lines] if lines else []
