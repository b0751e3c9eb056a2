"""Tables, figures and sentences that several sections and commands share, from the means of a result table."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.report.figures.dots import Dot, draw_dots
from jaxalign.report.figures.drawing import Plot
from jaxalign.report.labels import count, shown, with_minus
from jaxalign.report.part import Part
from jaxalign.report.records import Difference
from jaxalign.report.result_table import Cell, Measure, ResultTable, Setting
from jaxalign.report.sections.section import Folded
from jaxalign.report.tables import Column, Table, to_text

BASELINES = ("identity", "translation")
FEW_ENCODERS, VERY_FEW_ENCODERS = 8, 4  # one measure as matrices on a terminal; two


def render_table(table: ResultTable, *, title: str = "", width: int = 100) -> str:
    """The summary of a run for a terminal: means over pairs per method, then matrices for up to eight encoders.

    Args:
      table: what was measured.
      title: first line.
      width: of the terminal, in characters.
    """
    tables = [methods_table(table, main_measures(table), name="methods", title="Methods")]
    if len(table.encoders) <= FEW_ENCODERS:
        most = 2 if len(table.encoders) <= VERY_FEW_ENCODERS else 1
        tables += [matrix_table(table, measure) for measure in matrix_measures(table)[:most]]
    return to_text(tables, title=title, width=width)


def main_measures(table: ResultTable) -> list[Measure]:
    """Those of a summary: the first identification rate, one mean average precision, and all of verification."""
    ranks = _identification(table)
    chosen = [measure for measure in ranks if measure.name == ranks[0].name]
    # With the same image in the gallery as published, cut at 50; without it over the whole gallery.
    published = (Measure("map50", "included"), Measure("map", "excluded"))
    chosen += [measure for measure in table.measures if measure in published]
    return chosen + [m for m in table.measures if m not in ranks and not m.name.startswith("map")]


def matrix_measures(table: ResultTable) -> list[Measure]:
    """At most two: the hardest identification rate, and the true match rate near FMR 0.001 that all pairs have."""
    ranks = [measure for measure in main_measures(table) if measure in _identification(table)]
    ranks.sort(key=lambda measure: measure.own_photograph != "excluded")
    rates = [m for m in table.measures if m.name.startswith("tmr@fmr=") and _has_all_means(table, m)]
    rates.sort(key=lambda measure: abs(np.log(float(measure.name.partition("=")[2]) / 1e-3)))
    return ranks[:1] + rates[:1]


def leading_measures(table: ResultTable) -> list[Measure]:
    """The one or two that figures show."""
    return matrix_measures(table) or main_measures(table)[:1] or table.measures[:1]


def _identification(table: ResultTable) -> list[Measure]:
    """Identification rates, the lowest rank first."""
    ranks = [m for m in table.measures if m.name.startswith("rank") and m.name[4:].isdigit()]
    return sorted(ranks, key=lambda measure: int(measure.name[4:]))


def _has_all_means(table: ResultTable, measure: Measure) -> bool:
    cells = means_of(table, measure)
    return len(cells) == len(table.settings) and not any(math.isnan(cell.mean) for cell in cells.values())


def sentence_case(text: str) -> str:
    """With a capital letter in front."""
    return text[:1].upper() + text[1:]


def means_of(table: ResultTable, measure: Measure) -> dict[Setting, Cell]:
    """The mean over pairs of every setting that was asked for the measure."""
    cells = {setting: table.mean_over_pairs(setting, measure) for setting in table.settings}
    return {setting: cell for setting, cell in cells.items() if cell is not None}


def best_of(values: Mapping[Any, float], measure: Measure) -> Any | None:
    """The key of the best of numbers of a measure; None where none is a number."""
    known = {key: value for key, value in values.items() if not math.isnan(value)}
    return (min if measure.lower_is_better else max)(known, key=lambda key: known[key], default=None)


def best_setting(table: ResultTable, measure: Measure) -> tuple[Setting, Cell] | None:
    """The setting with the best mean over pairs; None where no setting has one."""
    cells = means_of(table, measure)
    best = best_of({setting: cell.mean for setting, cell in cells.items()}, measure)
    return None if best is None else (best, cells[best])


def methods_table(table: ResultTable, measures: Sequence[Measure], *, name: str, title: str) -> Table:
    """A line for each setting, the mean over pairs of each measure."""
    columns = [Column("method"), *(Column.of(measure, digits=2) for measure in measures)]
    rows = [
        [str(setting), *(table.mean_over_pairs(setting, measure) for measure in measures)]
        for setting in table.settings
    ]
    return Table(name, title, f"Mean over ordered pairs of encoders{spread_words(table)}.", columns, rows)


def fits_table(fits: Iterable[tuple[str, float, bool]], *, name: str = "fits") -> Table:
    """A line for each method: how much its maps explain, and how many are numerically doubtful.

    ``fits`` are (method, R² on training rows, whether it can be trusted), one for each pair and seed.
    """
    found: dict[str, list[tuple[float, bool]]] = {}
    for method, r2, ok in fits:
        found.setdefault(method, []).append((r2, ok))
    lines = []
    for method, of in found.items():
        known = [r2 for r2, _ in of if math.isfinite(r2)]
        mean = Cell(math.fsum(known) / len(known)) if known else Cell(math.nan, reason="the method has no R²")
        if mean.mean < 0:
            mean = Cell(math.nan, reason="below 0: the method does not aim at the target's variance")
        lines.append([method, mean, Cell(float(len(of))), Cell(float(sum(not ok for _, ok in of)))])
    columns = [
        Column("method"),
        Column("R²", "number", 3),
        Column("fits", "number"),
        Column("doubtful", "number"),
    ]
    caption = (
        "R² is the share of the target's variance that the mapped source explains on training people, mean over pairs "
        "and seeds, and empty where it is below 0, since a method need not aim at it; a fit is doubtful where rounding "
        "may decide its numbers."
    )
    return Table(name, "Fits", caption, columns, lines)


def matrix_table(table: ResultTable, measure: Measure) -> Table:
    """A line for each setting and source, a column for each target, which has the number of its encoder for a head."""
    labels = {name: f"{k + 1} {name}"[:24] for k, name in enumerate(table.encoders)}
    columns = [Column("method"), Column("source \\ target")]
    columns += [Column.of(measure, labels[name].split()[0], bold=False) for name in table.targets]
    rows = []
    for setting in means_of(table, measure):
        for source in table.sources:
            cells = [table.cell(setting, measure, source, target) for target in table.targets]
            bare = [cell and Cell(cell.mean, reason=cell.reason, doubtful=cell.doubtful) for cell in cells]
            rows.append([str(setting), labels[source], *bare])
    others = ", ".join(labels[name] for name in table.targets if name not in table.sources)
    caption = "Rows are sources (probes), columns are targets (galleries)"
    caption += f"; targets: {others}." if others else "."
    return Table(f"matrix-{measure.name}", sentence_case(measure.describe()), caption, columns, rows)


def over_seeds(table: ResultTable) -> str:
    """The end of a caption that explains ±; "" for one seed."""
    return f", ± standard deviation over {len(table.seeds)} seeds" if len(table.seeds) > 1 else ""


def spread_words(table: ResultTable) -> str:
    """The end of a caption: what ± means, and which pairs its means leave out."""
    words = over_seeds(table)
    if table.left_out:
        left = ", ".join(f"{shown(s)} → {shown(t)}" for s, t in sorted(table.left_out)[:3])
        left += ", …" if len(table.left_out) > 3 else ""
        words += f"; {count(len(table.left_out), 'pair')} without any number left out of every mean ({left})"
    return words


def pairs_table(table: ResultTable, measure: Measure, *, name: str, title: str) -> Table:
    """A line for each ordered pair, a column for each setting."""
    columns = [Column("source"), Column("target"), *(Column.of(measure, str(s)) for s in table.settings)]
    lines = []
    spread = f", mean{over_seeds(table)}" if len(table.seeds) > 1 else ""
    for source in table.sources:
        for target in table.targets:
            cells = [table.cell(setting, measure, source, target) for setting in table.settings]
            if any(cells):
                lines.append([source, target, *cells])
            if any(cell and cell.low is not None for cell in cells):
                spread = ", 95 % interval from a bootstrap over people in brackets"
    return Table(name, title, f"{measure.describe()}{spread}.", columns, lines)


def every_pair(part: Part, table: ResultTable, measures: Sequence[Measure]) -> list[Folded]:
    """The tables of pairs of a few measures, folded."""
    folded = []
    for measure in measures:
        title = f"Every pair: {measure.describe()}"
        each = pairs_table(table, measure, name=f"{part.name}-pairs-{measure.name}", title=title)
        folded.append(Folded(f"{title} ({count(len(each.rows), 'pair')})", [each]))
    return folded


def draw_means(
    means: Mapping[str, Cell], measure: Measure, *, axis: str, hollow: Collection[str] = (), **words: str
) -> Plot:
    """Means of a measure by label, with their deviations, as a figure; rates in per cent.

    ``hollow`` are labels that are drawn hollow, ``words`` the figure's name, title and caption.
    """
    factor, unit = (100, "%") if measure.is_rate else (1, "")
    dots = []
    for label, cell in means.items():
        spread = math.nan if cell.deviation is None else cell.deviation
        low, high = factor * (cell.mean - spread), factor * (cell.mean + spread)
        dots.append(Dot(label, factor * cell.mean, low, high, cell.reason, label in hollow))
    return draw_dots(dots, axis=f"{axis} (%)" if unit else axis, unit=unit, **words)  # pyright: ignore[reportArgumentType]


def failures(table: ResultTable) -> list[str]:
    """A sentence on comparisons that could not be made, if there are any: pairs that a setting has no number for."""
    if not table.left_out:
        return []
    source, target = min(table.left_out)
    why: dict[Setting, list[str]] = {}
    for setting in table.settings:
        cells = [table.cell(setting, measure, source, target) for measure in table.measures]
        why[setting] = [cell.reason for cell in cells if cell and cell.reason]
    # A setting without a number has a reason at every measure it was asked for.
    setting = max(why, key=lambda setting: len(why[setting]))
    first = f"{shown(source)} → {shown(target)} by {setting}: {max(why[setting], key=why[setting].count, default='')}"
    many = len(table.left_out)
    return [
        f"{count(many, 'pair')} could not be measured by some method and {'is' if many == 1 else 'are'} left out of "
        f"every mean; the first is {first}."
    ]


def _differences(part: Part, measure: Measure) -> list[Difference]:
    """Those of the mean over pairs, where the maps were fitted."""
    return [
        each
        for each in part.differences
        if not (each.source or each.axis or each.test_dataset)
        and Measure(each.measure, each.own_photograph) == measure
    ]


def differences_table(part: Part, measure: Measure) -> list[Table]:
    """Every two methods on the same resampled people, for the mean over pairs; none without resamples."""
    kind = "points" if measure.is_rate else "number"
    columns = [Column("method"), Column("less"), Column("seed", "number"), Column("difference", kind, 2)]
    lines = [
        [each.method, each.other, Cell(float(each.seed)), Cell(each.value, None, each.low, each.high)]
        for each in _differences(part, measure)
    ]
    caption = (
        f"{measure.describe()}, mean over pairs: the first method less the second on the same resampled people, 95 % "
        "interval in brackets."
    )
    name = f"{part.name}-differences-{measure.name}"
    return [Table(name, f"Differences: {measure.brief}", caption, columns, lines)] if lines else []


def lead(part: Part, best: Setting, table: ResultTable, measure: Measure) -> list[str]:
    """A sentence on how far the best setting is ahead of the next; none without resamples or with several seeds."""
    others = {str(s): cell.mean for s, cell in means_of(table, measure).items() if s != best}
    other = best_of(others, measure)
    found = [each for each in _differences(part, measure) if {each.method, each.other} == {str(best), other}]
    if len(found) != 1 or not measure.is_rate:
        return []
    numbers = found[0].value, found[0].low, found[0].high
    if found[0].method != str(best):
        numbers = (-numbers[0], -numbers[2], -numbers[1])
    value, low, high = (with_minus(f"{100 * number:.1f}") for number in numbers)
    doubt = "" if numbers[1] > 0 or numbers[2] < 0 else ", so that the two cannot be told apart"
    return [
        f"That is {value} points more than {other}, the next best (95 % interval {low} to {high}{doubt})."
    ]
