"""The section of pairwise results: how well each method maps every encoder to every other."""

import math
from collections.abc import Sequence, Set

from jaxalign.report.figures.heatmap import MOST_NUMBERS_ON_PAGE, Canvas, heat_map
from jaxalign.report.figures.projection import draw_projection
from jaxalign.report.labels import count, percent, percent_cell, shown
from jaxalign.report.part import CONTROL_WORDS, CONTROLS, OWN, RELATIVE, Part, chosen_per_pair
from jaxalign.report.result_table import Measure, Point, ResultTable, Row, Setting
from jaxalign.report.sections.aggregates import (
    BASELINES,
    best_setting,
    differences_table,
    every_pair,
    failures,
    lead,
    leading_measures,
    main_measures,
    methods_table,
)
from jaxalign.report.sections.blocks import Block, Folded, Section, Text, Together
from jaxalign.report.sections.sweeps import MOST_LINES, cmc, det
from jaxalign.report.tables import Column, Table, Value

MOST_VIEWS_OPEN, MOST_VIEWS = 2, 6  # before and after: without unfolding, and at all


def pairwise(part: Part, order: Sequence[str]) -> Section:
    """The section of one data set's pairwise results.

    Args:
      part: what ``experiments.pairwise`` wrote.
      order: of encoders in heat maps.
    """
    rows = part.methods()
    table = part.table(rows, order)
    leading = leading_measures(table)
    name, best = part.name, best_setting(table, leading[0])
    blocks: list[Block] = [
        methods_table(table, main_measures(table), name=f"{name}-methods", title="Methods"),
        *(each for measure in leading for each in differences_table(part, measure)),
        *_heat_maps(part, table, leading, bool(order)),
        *_curves(part, table, leading[0]),
        *_views(part, best[0] if best is not None else None),
        *_controls(part, leading[0], table.left_out),
        *every_pair(part, table, rows, leading),
    ]
    summary = _summary(part, table, leading) + _own_sentences(part, table, leading[0]) + failures(table)
    return Section(name, f"Pairs of encoders: {part.dataset_words}", summary, blocks)


def _summary(part: Part, table: ResultTable, leading: Sequence[Measure]) -> list[str]:
    sentences = []
    ordered = sum(s != t for s in table.sources for t in table.targets)
    for measure in leading:
        best = best_setting(table, measure)
        if best is None:
            sentences.append(
                f"{part.dataset_words}: no method has a mean for {measure.describe()}: "
                f"{'; '.join(table.reasons(table.settings[0], measure))}."
            )
            continue
        setting, cell = best
        pairs = f"{count(ordered, 'ordered pair')} of {count(len(table.encoders), 'encoder')}"
        where = f"On {part.dataset_words}, over {pairs}, "
        start = next((s for s in table.settings if s.method in BASELINES), None)
        before = table.mean_over_pairs(start, measure) if start is not None and start != setting else None
        without = "without a map" if start == Setting("identity") else f"with {start}"
        verb = f"goes from {percent_cell(before)} {without} to" if before is not None else "is"
        many = f", the best of {count(len(table.settings), 'setting')}" if len(table.settings) > 1 else ""
        several = len(table.seeds) > 1 and not sentences
        over = f" (mean ± standard deviation over {len(table.seeds)} seeds)" if several else ""
        sentences.append(
            f"{where if not sentences else 'The '}mean {measure.describe()} {verb} {percent_cell(cell)} with {setting}"
            f"{many}{over}."
        )
        sentences += lead(part, setting, table, measure)
        if measure == leading[0]:
            sentences += _ends(table, setting, measure)
    return sentences


def _ends(table: ResultTable, setting: Setting, measure: Measure) -> list[str]:
    """The best and worst pair, source and target."""
    means, _, _ = table.matrix(setting, measure)
    sign = -1 if measure.lower_is_better else 1
    pairs = {
        (s, t): float(means[i, j])
        for i, s in enumerate(table.sources)
        for j, t in enumerate(table.targets)
        if s != t and not math.isnan(means[i, j])
    }
    if len(pairs) < 3:
        return []
    by_value = sorted(pairs, key=lambda pair: sign * pairs[pair])
    low, high = by_value[0], by_value[-1]
    words = lambda pair: f"{shown(pair[0])} → {shown(pair[1])} ({percent(pairs[pair])})"  # noqa: E731
    sentences = [f"With {setting} the best pair is {words(high)}, the worst {words(low)}."]
    scores = []
    for side, names in ((0, table.sources), (1, table.targets)):
        of = {name: [value for pair, value in pairs.items() if pair[side] == name] for name in names}
        mean = {name: math.fsum(values) / len(values) for name, values in of.items() if values}
        scores.append(max(mean.items(), key=lambda item: sign * item[1]))
    (source, given), (target, taken) = scores
    sentences.append(
        f"Averaged over partners, {shown(source)} is mapped to others best ({percent(given)}) and others are mapped "
        f"to {shown(target)} best ({percent(taken)})."
    )
    return sentences


def _heat_maps(part: Part, table: ResultTable, leading: Sequence[Measure], ordered: bool) -> list[Block]:
    """The baseline and the best method of the leading measure, the best of the second; all others folded."""
    caption = f"{part.dataset_words}; encoders " + (
        "ordered by family" if ordered else "in the order of the results"
    )
    canvas = Canvas(table, caption, numbers_to=MOST_NUMBERS_ON_PAGE)
    shown_first: list[tuple[Setting, Measure]] = []
    for number, measure in enumerate(leading):
        best = best_setting(table, measure)
        start = next((s for s in table.settings if s.method in BASELINES), None)
        if number == 0 and start is not None and (best is None or start != best[0]):
            shown_first.append((start, measure))
        if best is not None:
            shown_first.append((best[0], measure))
    every = [
        (setting, measure)
        for measure in leading
        for setting in table.settings
        if table.mean_over_pairs(setting, measure) is not None
    ]
    draw = lambda setting, measure: heat_map(  # noqa: E731
        canvas, setting, measure, name=f"{part.name}-{setting}-{measure}"
    )
    rest = [draw(*each) for each in every if each not in shown_first]
    folded = [Folded(f"Heat maps of the other methods ({len(rest)})", rest)] if rest else []
    return [*(draw(*each) for each in shown_first), *folded]


def _curves(part: Part, table: ResultTable, leading: Measure) -> list[Block]:
    settings = table.settings
    if len(settings) > MOST_LINES:
        value = lambda s: cell.mean if (cell := table.mean_over_pairs(s, leading)) else math.nan  # noqa: E731
        known = [setting for setting in settings if not math.isnan(value(setting))]
        chosen = sorted(known, key=value, reverse=not leading.lower_is_better)
        settings = [s for s in settings if s in chosen[: MOST_LINES - 1] or s == settings[0]] + [
            s for s in chosen[MOST_LINES - 1 :] if s != settings[0]
        ]
    pictures = [
        cmc(part, leading.own_photograph, settings, f"{part.name}-cmc"),
        det(part, settings, f"{part.name}-det"),
    ]
    drawn = [picture for picture in pictures if picture is not None]
    return [Together(drawn)] if drawn else []


def _views(part: Part, best: Setting | None) -> list[Block]:
    """Embeddings before and after the best method's maps, of a few of the pairs that were kept."""
    groups: dict[tuple[str, str, str, str], list[Point]] = {}
    for point in part.projection:
        groups.setdefault(point[:4], []).append(point)
    of_best = [points for key, points in groups.items() if best is not None and key[3] == best.method]
    chosen = (of_best or list(groups.values()))[:MOST_VIEWS]
    if not chosen:
        return []
    pictures = [
        draw_projection(points, name=f"{part.name}-view-{place + 1}") for place, points in enumerate(chosen)
    ]
    rest = len(groups) - len(chosen)
    more = f" Of {count(rest, 'more pair and method', 'more pairs and methods')} the numbers are in projection.csv."
    text = f"Embeddings of a few test people, before and after a map.{more if rest else ''}"
    opened, folded = pictures[:MOST_VIEWS_OPEN], pictures[MOST_VIEWS_OPEN:]
    further = [Folded(f"Further views before and after ({len(folded)})", folded)] if folded else []
    return [Text(text), *opened, *further]


def _controls(part: Part, measure: Measure, left_out: Set[tuple[str, str]]) -> list[Block]:
    there = any(row.method in CONTROLS or row.measure.endswith(RELATIVE) for row in part.rows)
    return [controls_table(part, measure, left_out)] if there else []


def controls_table(part: Part, measure: Measure, left_out: Set[tuple[str, str]]) -> Table:
    """A line for each method and control: its mean, and relative to what encoders reach by themselves.

    Args:
      part: its rows of pairs and of controls.
      measure: to show.
      left_out: pairs that count for no mean.
    """
    relative = Measure(measure.name + RELATIVE, measure.own_photograph)
    rows: dict[Setting, list[Row]] = {}
    merged = chosen_per_pair(part.rows)
    for row in part.rows:
        if not row.axis and (row.source, row.target) not in left_out:
            rank = None if row.method in merged else row.rank
            rows.setdefault(Setting(row.method, rank), []).append(row)
    lines = []
    for setting, found in rows.items():
        values = [_control_value(found, which, setting.method) for which in (measure, relative)]
        if any(value is not None for value in values):
            lines.append([CONTROL_WORDS.get(setting.method, str(setting)), *values])
    heads = measure.brief, "relative to the encoders' own"
    columns = [Column("method or control"), *(Column(head, "percent", 2) for head in heads)]
    caption = (
        f"{measure.describe()}, mean over pairs and seeds; relative: to the geometric mean of what the two encoders "
        "reach by themselves."
    )
    return Table(f"{part.name}-controls", "Controls", caption, columns, lines)


def _control_value(rows: Sequence[Row], measure: Measure, method: str) -> Value | None:
    chosen = [row for row in rows if Measure(row.measure, row.own_photograph) == measure]
    chosen = [row for row in chosen if (row.source == row.target) == (method == OWN)]
    if method == OWN:
        chosen = [row for row in chosen if row.source not in CONTROLS]
    if not chosen:
        return None
    reason = next((row.reason for row in chosen if math.isnan(row.value)), "")
    return Value(math.fsum(row.value for row in chosen) / len(chosen), reason=reason)


def _own_sentences(part: Part, table: ResultTable, measure: Measure) -> list[str]:
    own = _control_value([row for row in part.rows if row.method == OWN], measure, OWN)
    best = best_setting(table, measure)
    if own is None or best is None or math.isnan(own.mean):
        return []
    return [
        f"Compared with themselves the encoders reach {percent(own.mean)} on average, against "
        f"{percent(best[1].mean)} across encoders with {best[0]}."
    ]
