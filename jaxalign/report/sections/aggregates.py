"""Tables and sentences that several sections share, from the means of a result table."""

import math
from collections.abc import Mapping, Sequence

from jaxalign.report.labels import count, shown, with_minus
from jaxalign.report.parts import Part
from jaxalign.report.records import Difference
from jaxalign.report.rows import Cell, Measure, ResultTable, Row, Setting
from jaxalign.report.table import main_measures, matrix_measures
from jaxalign.report.tables import Column, Table, Value

BASELINES = ("identity", "translation")


def leading_measures(table: ResultTable) -> list[Measure]:
    """The one or two that figures show."""
    return matrix_measures(table) or main_measures(table)[:1] or table.measures[:1]


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

    def row_of(setting: Setting, source: str, target: str) -> Row | None:
        return intervals.get((source, target, setting.method, setting.rank))

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
                    else pair_value(
                        table, cell, setting, measure, source, target, row_of(setting, source, target)
                    )
                    for setting, cell in zip(table.settings, cells, strict=True)
                ]
                lines.append([source, target, *entries])
    several = len(table.seeds) > 1
    spread = f", ± standard deviation over {len(table.seeds)} seeds" if several else ""
    if not several and any(row.low is not None for row in intervals.values()):
        spread = ", 95 % interval from a bootstrap over people in brackets"
    caption = f"{measure.describe()}, mean{spread}." if several else f"{measure.describe()}{spread}."
    return Table(name, title, sentence_case(caption), columns, lines)


def pair_value(
    table: ResultTable,
    cell: Cell,
    setting: Setting,
    measure: Measure,
    source: str,
    target: str,
    row: Row | None,
) -> Value:
    """One pair's number with the spread over seeds or, with one seed, the interval of its row."""
    doubtful = (source, target, setting) in table.doubtful
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


def _differences(part: Part, measure: Measure) -> list[Difference]:
    """Those of the mean over pairs, where the maps were fitted."""
    return [
        each
        for each in part.differences
        if not (each.source or each.axis or each.test_dataset)
        and Measure(each.measure, each.own_photograph) == measure
    ]


def differences_table(part: Part, measure: Measure, *, name: str) -> list[Table]:
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
    return [Table(name, f"Differences: {measure.brief}", sentence_case(caption), columns, lines)]


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
