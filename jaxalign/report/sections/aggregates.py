"""Tables and sentences that several sections share, from the means of a result table."""

import math
from collections.abc import Sequence

from jaxalign.report.labels import count, shown
from jaxalign.report.rows import Cell, Measure, ResultTable, Row, Setting
from jaxalign.report.table import main_measures, matrix_measures
from jaxalign.report.tables import Column, Table, Value

BASELINES = ("identity", "translation")


def leading_measures(table: ResultTable) -> list[Measure]:
    """The one or two that figures show."""
    return matrix_measures(table) or main_measures(table)[:1] or table.measures[:1]


def best_setting(table: ResultTable, measure: Measure) -> tuple[Setting, Cell] | None:
    """The setting with the best mean over pairs; None where no setting has one."""
    found = [(setting, table.mean_over_pairs(setting, measure)) for setting in table.settings]
    known = [(setting, cell) for setting, cell in found if cell is not None and not math.isnan(cell.mean)]
    sign = -1 if measure.lower_is_better else 1
    return max(known, key=lambda item: sign * item[1].mean, default=None)


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


def spread_words(table: ResultTable) -> str:
    """What follows ± in a table, and what was left out of its means."""
    words = f", ± standard deviation over {len(table.seeds)} seeds" if len(table.seeds) > 1 else ""
    if table.left_out:
        left = ", ".join(f"{shown(s)} → {shown(t)}" for s, t in sorted(table.left_out)[:3])
        more = ", …" if len(table.left_out) > 3 else ""
        words += (
            f"; {count(len(table.left_out), 'pair')} without any number left out of every mean ({left}{more})"
        )
    return words


def pairs_table(table: ResultTable, rows: Sequence[Row], measure: Measure, *, name: str, title: str) -> Table:
    """A line for each ordered pair, a column for each setting."""
    intervals = {
        (row.source, row.target, row.method, row.rank): row
        for row in rows
        if Measure(row.measure, row.own_photograph) == measure and len(table.seeds) == 1
    }
    template = column_for(measure)
    columns = [Column("source"), Column("target")]
    columns += [Column(str(s), template.kind, template.digits, template.better) for s in table.settings]
    lines = []
    for source in table.sources:
        for target in table.targets:
            cells = [table.cell(setting, measure, source, target) for setting in table.settings]
            if any(cell is not None for cell in cells):
                entries = [
                    None
                    if cell is None
                    else pair_value(table, cell, setting, measure, source, target, intervals)
                    for setting, cell in zip(table.settings, cells, strict=True)
                ]
                lines.append([source, target, *entries])
    several = len(table.seeds) > 1
    spread = f", ± standard deviation over {len(table.seeds)} seeds" if several else ""
    if not several and any(row.low is not None for row in intervals.values()):
        spread = ", 95 % interval from a bootstrap over people in brackets"
    caption = f"{measure.describe()}, mean{spread}." if several else f"{measure.describe()}{spread}."
    return Table(name, title, caption[0].upper() + caption[1:], columns, lines)


def pair_value(
    table: ResultTable,
    cell: Cell,
    setting: Setting,
    measure: Measure,
    source: str,
    target: str,
    intervals: dict[tuple[str, str, str, int | None], Row],
) -> Value:
    """One pair's number with the spread over seeds or, with one seed, its interval."""
    doubtful = (source, target, setting) in table.doubtful
    row = intervals.get((source, target, setting.method, setting.rank))
    reason = table.reason(setting, measure, source, target)
    if row is not None and not reason:
        return Value(cell.mean, None, row.low, row.high, doubtful=doubtful)
    return Value.of(cell, reason, doubtful)


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
