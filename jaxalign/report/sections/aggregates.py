"""Tables and sentences that several sections and drivers share, from the means of a result table."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxalign.report.figures.dots import Dot
from jaxalign.report.labels import count, shown, with_minus
from jaxalign.report.part import Part
from jaxalign.report.result_table import Cell, Difference, Measure, ResultTable, Row, Setting
from jaxalign.report.sections.blocks import Folded
from jaxalign.report.tables import Column, Table, Value, to_text

BASELINES = ("identity", "translation")
FEW_ENCODERS, VERY_FEW_ENCODERS = 8, 4  # one measure as matrices on a terminal; two
PairRows = Mapping[tuple[str, str, str, int | None, Measure], Row]


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
    cells = [table.mean_over_pairs(setting, measure) for setting in table.settings]
    return all(cell is not None and not math.isnan(cell.mean) for cell in cells)


def sentence_case(text: str) -> str:
    """With a capital letter in front."""
    return text[:1].upper() + text[1:]


def best_of(values: Mapping[Setting, float], measure: Measure) -> Setting | None:
    """The setting with the best of numbers of a measure; None where none has a number."""
    known = {setting: value for setting, value in values.items() if not math.isnan(value)}
    if not known:
        return None
    return (min if measure.lower_is_better else max)(known, key=lambda setting: known[setting])


def best_setting(table: ResultTable, measure: Measure) -> tuple[Setting, Cell] | None:
    """The setting with the best mean over pairs; None where no setting has one."""
    cells = {setting: table.mean_over_pairs(setting, measure) for setting in table.settings}
    known = {setting: cell for setting, cell in cells.items() if cell is not None}
    best = best_of({setting: cell.mean for setting, cell in known.items()}, measure)
    return None if best is None else (best, known[best])


def mean_value(table: ResultTable, setting: Setting, measure: Measure) -> Value | None:
    """The mean over pairs, or why there is none."""
    cell = table.mean_over_pairs(setting, measure)
    if cell is None:
        return None
    doubtful = any(mark[2] == setting for mark in table.doubtful)
    if not math.isnan(cell.mean):
        return Value.of(cell, doubtful=doubtful)
    pairs = [(s, t) for s in table.sources for t in table.targets if s != t and (s, t) not in table.left_out]
    reasons = [why for s, t in pairs if (why := table.reason(setting, measure, s, t))]
    words = "; ".join(dict.fromkeys(reasons))
    return Value(math.nan, reason=f"{len(reasons):,} of {count(len(pairs), 'pair')}: {words}")


def column_for(measure: Measure, digits: int | None = None) -> Column:
    """The column of a measure: rates in per cent, anything else as it is."""
    title = measure.head
    if measure.is_rate:
        return Column.rate(
            title, lower_is_better=measure.lower_is_better, digits=1 if digits is None else digits
        )
    return Column(title, "number")


def methods_table(table: ResultTable, measures: Sequence[Measure], *, name: str, title: str) -> Table:
    """A line for each setting, the mean over pairs of each measure."""
    columns = [Column("method"), *(column_for(measure, 2) for measure in measures)]
    rows = [
        [str(setting), *(mean_value(table, setting, measure) for measure in measures)]
        for setting in table.settings
    ]
    return Table(name, title, f"Mean over ordered pairs of encoders{spread_words(table)}.", columns, rows)


def matrix_table(table: ResultTable, measure: Measure) -> Table:
    """A line for each setting and source, a column for each target, which has the number of its encoder for a head."""
    labels = {name: f"{k + 1} {name}"[:24] for k, name in enumerate(table.encoders)}
    template = column_for(measure)
    columns = [Column("method"), Column("source \\ target")]
    columns += [Column(labels[name].split()[0], template.kind, template.digits) for name in table.targets]
    rows = [
        [
            str(setting),
            labels[source],
            *(_cell_value(table, setting, measure, source, t) for t in table.targets),
        ]
        for setting in table.settings
        if table.mean_over_pairs(setting, measure) is not None
        for source in table.sources
    ]
    others = ", ".join(labels[name] for name in table.targets if name not in table.sources)
    caption = "Rows are sources (probes), columns are targets (galleries)" + (
        f"; targets: {others}" * bool(others)
    )
    return Table(f"matrix-{measure.name}", sentence_case(measure.describe()), f"{caption}.", columns, rows)


def _cell_value(
    table: ResultTable, setting: Setting, measure: Measure, source: str, target: str
) -> Value | None:
    cell = table.cell(setting, measure, source, target)
    if cell is None:
        return None
    doubtful = (source, target, setting) in table.doubtful
    return Value(cell.mean, reason=table.reason(setting, measure, source, target), doubtful=doubtful)


def over_seeds(seeds: int) -> str:
    """The end of a caption that explains ±; "" for one seed."""
    return f", ± standard deviation over {seeds} seeds" if seeds > 1 else ""


def spread_words(table: ResultTable) -> str:
    """The end of a caption: what ± means, and which pairs its means leave out."""
    words = over_seeds(len(table.seeds))
    if table.left_out:
        left = ", ".join(f"{shown(s)} → {shown(t)}" for s, t in sorted(table.left_out)[:3])
        left += ", …" if len(table.left_out) > 3 else ""
        words += f"; {count(len(table.left_out), 'pair')} without any number left out of every mean ({left})"
    return words


def single_rows(table: ResultTable, rows: Sequence[Row]) -> PairRows:
    """The row of each pair, setting and measure, where there is one seed and with it an interval for each pair."""
    if len(table.seeds) > 1:
        return {}
    return {(*row[1:5], Measure(row.measure, row.own_photograph)): row for row in rows}  # pyright: ignore


def pair_value(
    table: ResultTable, rows: PairRows, setting: Setting, measure: Measure, source: str, target: str
) -> Value | None:
    """One pair's number with the deviation over seeds or, with one seed, the interval of its row."""
    cell = table.cell(setting, measure, source, target)
    if cell is None:
        return None
    doubtful = (source, target, setting) in table.doubtful
    reason = table.reason(setting, measure, source, target)
    row = rows.get((source, target, setting.method, setting.rank, measure))
    if row is not None and not reason:
        return Value(cell.mean, None, row.low, row.high, doubtful=doubtful)
    return Value.of(cell, reason, doubtful)


def pairs_table(table: ResultTable, rows: Sequence[Row], measure: Measure, *, name: str, title: str) -> Table:
    """A line for each ordered pair, a column for each setting."""
    single = single_rows(table, rows)
    template = column_for(measure)
    columns = [Column("source"), Column("target")]
    columns += [Column(str(s), template.kind, template.digits, template.better) for s in table.settings]
    lines = [
        [source, target, *(pair_value(table, single, s, measure, source, target) for s in table.settings)]
        for source in table.sources
        for target in table.targets
    ]
    lines = [line for line in lines if any(entry is not None for entry in line[2:])]
    spread = f", mean{over_seeds(len(table.seeds))}" if len(table.seeds) > 1 else ""
    if any(row.low is not None for key, row in single.items() if key[4] == measure):
        spread = ", 95 % interval from a bootstrap over people in brackets"
    return Table(name, title, f"{measure.describe()}{spread}.", columns, lines)


def every_pair(
    part: Part, table: ResultTable, rows: Sequence[Row], measures: Sequence[Measure]
) -> list[Folded]:
    """The tables of pairs of a few measures, folded."""
    folded = []
    for measure in measures:
        title = f"Every pair: {measure.describe()}"
        each = pairs_table(table, rows, measure, name=f"{part.name}-pairs-{measure.name}", title=title)
        folded.append(Folded(f"{title} ({count(len(each.rows), 'pair')})", [each]))
    return folded


def dot_of(label: str, value: Value, measure: Measure, *, hollow: bool = False) -> Dot:
    """A mean with its deviation as a line of a figure, rates in per cent."""
    factor = 100 if measure.is_rate else 1
    spread = math.nan if value.deviation is None else value.deviation
    low, high = factor * (value.mean - spread), factor * (value.mean + spread)
    return Dot(label, factor * value.mean, low, high, value.reason, hollow)


def failures(table: ResultTable) -> list[str]:
    """A sentence on comparisons that could not be made, if there are any: pairs that a setting has no number for."""
    if not table.left_out:
        return []
    source, target = min(table.left_out)
    why = {
        setting: [table.reason(setting, measure, source, target) for measure in table.measures]
        for setting in table.settings
        if any(table.cell(setting, measure, source, target) is not None for measure in table.measures)
    }
    # A setting without a number has a reason at every measure it was asked for.
    setting = max(why, key=lambda setting: sum(map(bool, why[setting])))
    reasons = [reason for reason in why[setting] if reason]
    first = f"{shown(source)} → {shown(target)} by {setting}: {max(reasons, key=reasons.count, default='')}"
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
    found = _differences(part, measure)
    if not found:
        return []
    kind = "points" if measure.is_rate else "number"
    columns = [Column("method"), Column("less"), Column("seed", "number"), Column("difference", kind, 2)]
    lines = [
        [each.method, each.other, Value(float(each.seed)), Value(each.value, None, each.low, each.high)]
        for each in found
    ]
    caption = (
        f"{measure.describe()}, mean over pairs: the first method less the second on the same resampled people, 95 % "
        "interval in brackets."
    )
    name = f"{part.name}-differences-{measure.name}"
    return [Table(name, f"Differences: {measure.brief}", caption, columns, lines)]


def lead(part: Part, best: Setting, table: ResultTable, measure: Measure) -> list[str]:
    """A sentence on how far the best setting is ahead of the next; none without resamples or with several seeds."""
    cells = {s: table.mean_over_pairs(s, measure) for s in table.settings if s != best}
    other = best_of({s: cell.mean for s, cell in cells.items() if cell is not None}, measure)
    found = [
        each for each in _differences(part, measure) if {each.method, each.other} == {str(best), str(other)}
    ]
    if len(found) != 1 or not measure.is_rate:
        return []
    (each,) = found
    numbers = (each.value, each.low, each.high)
    if each.method != str(best):
        numbers = (-each.value, -each.high, -each.low)
    value, low, high = (with_minus(f"{100 * number:.1f}") for number in numbers)
    doubt = "" if numbers[1] > 0 or numbers[2] < 0 else ", so that the two cannot be told apart"
    return [
        f"That is {value} points more than {other}, the next best (95 % interval {low} to {high}{doubt})."
    ]
