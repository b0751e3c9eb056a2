"""The section of pairwise results: how well each method maps every encoder to every other."""

import math
import statistics
from collections.abc import Sequence, Set
from typing import Any

from jaxalign.report.definitions import RELATIVE_WORDS
from jaxalign.report.figures.heatmap import MOST_NUMBERS_ON_PAGE, Canvas
from jaxalign.report.figures.projection import draw_projection
from jaxalign.report.labels import count, listed, percent, percent_cell, shown, with_minus
from jaxalign.report.part import CONTROL_WORDS, CONTROLS, OWN, RELATIVE, Part, chosen_per_pair
from jaxalign.report.records import COSINE, ProjectedPoint, Row
from jaxalign.report.result_table import Cell, Measure, ResultTable, Setting
from jaxalign.report.sections import aggregates
from jaxalign.report.sections.advice import advice, thresholds
from jaxalign.report.sections.aggregates import BASELINES, best_of, best_setting, means_of
from jaxalign.report.sections.section import Block, Folded, Section, Together
from jaxalign.report.sections.sweeps import MOST_LINES, cmc, det
from jaxalign.report.tables import Column, Table

PUBLISHED = ("orthogonal", "linear", "ridge")  # maps of arXiv 2604.07282
FEW_PAIRS = 12  # whose thresholds are shown without unfolding
MOST_VIEWS_OPEN, MOST_VIEWS = 2, 6  # before and after: without unfolding, and at all


def pairwise(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.pairwise`` wrote; ``order`` is that of encoders in heat maps and tables."""
    table = part.table(part.methods(), order)
    leading = aggregates.leading_measures(table)
    name, measures = part.name, aggregates.main_measures(table)
    to_use = thresholds(table, name=f"{name}-thresholds")
    few = to_use is None or len(to_use.rows) <= FEW_PAIRS
    blocks: list[Block] = [
        *([] if to_use is None else [to_use] if few else [Folded("Thresholds of every pair", [to_use])]),
        aggregates.methods_table(table, measures, name=f"{name}-methods", title="Methods"),
        *(each for measure in leading for each in aggregates.differences_table(part, measure)),
        *_heat_maps(part, table, leading, bool(order)),
        *_curves(part, table, leading[0]),
        *_views(part, best_setting(table, leading[0])),
    ]
    if any(row.method in CONTROLS or row.measure.endswith(RELATIVE) for row in part.rows):
        blocks.append(controls_table(part, leading[0], table.left_out))
    if part.fits:
        blocks.append(aggregates.fits_table(part.fits, name=f"{name}-fits"))
    blocks += aggregates.every_pair(part, table, leading)
    summary = [*advice(table), *_summary(part, table, leading), *_own_sentences(part, table, leading[0])]
    title = f"Pairs of encoders: {part.dataset_words}"
    return Section(name, title, summary + aggregates.failures(table), blocks)


def _summary(part: Part, table: ResultTable, leading: Sequence[Measure]) -> list[str]:
    sentences: list[str] = []
    ordered = sum(s != t for s in table.sources for t in table.targets)
    pairs = f"{count(ordered, 'ordered pair')} of {count(len(table.encoders), 'encoder')}"
    for measure in leading:
        best = best_setting(table, measure)
        if best is None:
            reasons = "; ".join(table.reasons(table.settings[0], measure))
            words = f"no method has a mean for {measure.describe()}: {reasons}."
            sentences.append(f"{part.dataset_words}: {words}")
            continue
        setting, cell = best
        start = _baseline(table)
        before = table.mean_over_pairs(start, measure) if start and start != setting else None
        without = "without a map" if start == Setting("identity") else f"with {start}"
        verb = f"goes from {percent_cell(before)} {without} to" if before is not None else "is"
        many = f", the best of {count(len(table.settings), 'setting')}" if len(table.settings) > 1 else ""
        several = len(table.seeds) > 1 and not sentences
        over = f" (mean ± standard deviation over {len(table.seeds)} seeds)" if several else ""
        where = "The " if sentences else f"On {part.dataset_words}, over {pairs}, "
        words = f"mean {measure.describe()} {verb} {percent_cell(cell)} with {setting}{many}{over}."
        ahead = aggregates.lead(part, setting, table, measure)
        sentences += [where + words, *_by_score(table, setting, measure), *ahead]
        if many and len(table.seeds) == 1 and not ahead and not part.differences:
            chance = "one split of people without intervals, so the order of close methods may be chance"
            sentences.append(f"This is {chance}: give several --seeds or --intervals=1000.")
        if measure == leading[0]:
            sentences += _ends(table, setting, measure)
    return sentences


def _by_score(table: ResultTable, best: Setting, measure: Measure) -> list[str]:
    """What the map and what the score of the best setting gains; nothing where there is one score."""
    cells = {setting: cell for setting, cell in means_of(table, measure).items() if not math.isnan(cell.mean)}
    scores = dict.fromkeys(setting.score for setting in cells)
    if len(scores) < 2:
        return []
    same = [f"{percent_cell(cells[one])} by {one.score}" for one in cells if one.fit == best.fit]
    words = f"Score by score, this map reaches {listed(same)}"
    published: dict[str, str] = {}
    theirs: dict[str, float] = {}
    for score in scores:
        known = {s: cell.mean for s, cell in cells.items() if s.method in PUBLISHED and s.score == score}
        if known:
            setting = best_of(known, measure)
            assert setting is not None
            theirs[score] = known[setting]
            published[score] = f"{percent_cell(cells[setting])} by {score} ({setting.fit})"
    reached = f"; the best published map reaches {listed(published.values())}" if published else ""
    found = [f"{words}{reached}."]
    if not measure.is_rate:
        return found

    def gained(better: float, than: float) -> str:
        return with_minus(f"{100 * (than - better if measure.lower_is_better else better - than):.1f}")

    mine = {one.score: cells[one].mean for one in cells if one.fit == best.fit}
    if COSINE in mine and len(mine) > 1:
        each = [f"{gained(mine[score], mine[COSINE])} with {score}" for score in mine if score != COSINE]
        found.append(f"In points, the score gains over the cosine with this map: {listed(each)}.")
    if best.method not in PUBLISHED and (known := [score for score in mine if score in theirs]):
        each = [f"{gained(mine[score], theirs[score])} by {score}" for score in known]
        found.append(f"The map gains over the best published map given the same score: {listed(each)}.")
    return found


def _baseline(table: ResultTable) -> Setting | None:
    return next((setting for setting in table.settings if setting.method in BASELINES), None)


def _ends(table: ResultTable, setting: Setting, measure: Measure) -> list[str]:
    """The best and worst pair, source and target."""
    pairs: dict[tuple[str, str], float] = {}
    for source in table.sources:
        for target in table.targets:
            cell = table.cell(setting, measure, source, target)
            if source != target and cell and not math.isnan(cell.mean):
                pairs[source, target] = cell.mean
    if len(pairs) < 3:
        return []
    by_value = sorted(pairs, key=lambda pair: pairs[pair], reverse=measure.lower_is_better)
    low, high = (f"{shown(s)} → {shown(t)} ({percent(pairs[s, t])})" for s, t in (by_value[0], by_value[-1]))
    best = []
    for side, names in enumerate((table.sources, table.targets)):
        of = {name: [value for pair, value in pairs.items() if pair[side] == name] for name in names}
        means = {name: statistics.fmean(values) for name, values in of.items() if values}
        name = best_of(means, measure)
        best.append((shown(name), percent(means[name])))  # pyright: ignore[reportArgumentType]
    (source, given), (target, taken) = best
    return [
        f"With {setting} the best pair is {high}, the worst {low}.",
        f"Averaged over partners, {source} is mapped to others best ({given}) and others are mapped to {target} best "
        f"({taken}).",
    ]


def _heat_maps(part: Part, table: ResultTable, leading: Sequence[Measure], ordered: bool) -> list[Block]:
    """The baseline and the best method of the leading measure, the best of the second; all others folded."""
    words = "ordered by family" if ordered else "in the order of the results"
    canvas = Canvas(table, f"{part.dataset_words}; encoders {words}", numbers_to=MOST_NUMBERS_ON_PAGE)
    first: list[tuple[Setting, Measure]] = []
    for measure in leading:
        best, start = best_setting(table, measure), _baseline(table)
        if start is not None and measure == leading[0]:
            first.append((start, measure))
        if best is not None and (best[0], measure) not in first:
            first.append((best[0], measure))
    every = [(setting, measure) for measure in leading for setting in means_of(table, measure)]
    draw = lambda setting, measure: canvas.plot(setting, measure, name=f"{part.name}-{setting}-{measure}")  # noqa: E731
    pictures = {each: draw(*each) for each in dict.fromkeys([*first, *every])}
    rest = [picture for each, picture in pictures.items() if each not in first]
    folded = [Folded(f"Heat maps of the other methods ({len(rest)})", rest)] if rest else []
    return [*(pictures[each] for each in first), *folded]


def _curves(part: Part, table: ResultTable, leading: Measure) -> list[Block]:
    """CMC and DET; of many settings the first and the best."""
    settings = table.settings
    if len(settings) > MOST_LINES:
        known = {s: cell.mean for s, cell in means_of(table, leading).items() if not math.isnan(cell.mean)}
        chosen = sorted(known, key=lambda s: known[s], reverse=not leading.lower_is_better)
        shown_first = {settings[0], *chosen[: MOST_LINES - 1]}
        settings = [s for s in settings if s in shown_first] + [s for s in chosen if s not in shown_first]
    pictures = [
        cmc(part, leading.own_photograph, settings, f"{part.name}-cmc"),
        det(part, settings, f"{part.name}-det"),
    ]
    drawn = [picture for picture in pictures if picture is not None]
    return [Together(drawn)] if drawn else []


def _views(part: Part, best: tuple[Setting, Cell] | None) -> list[Block]:
    """Embeddings before and after the best method's maps, of a few of the pairs that were kept."""
    groups: dict[Any, list[ProjectedPoint]] = {}
    for point in part.projection:
        groups.setdefault(point[:4], []).append(point)
    of_best = [points for key, points in groups.items() if best is not None and key[3] == best[0].method]
    chosen = (of_best or list(groups.values()))[:MOST_VIEWS]
    if not chosen:
        return []
    pictures = [
        draw_projection(points, name=f"{part.name}-view-{k}") for k, points in enumerate(chosen, start=1)
    ]
    text = "Embeddings of a few test people, before and after a map."
    if rest := len(groups) - len(chosen):
        more = count(rest, "more pair and method", "more pairs and methods")
        text += f" Of {more} the numbers are in projection.csv."
    opened, folded = pictures[:MOST_VIEWS_OPEN], pictures[MOST_VIEWS_OPEN:]
    further = [Folded(f"Further views before and after ({len(folded)})", folded)] if folded else []
    return [text, *opened, *further]


def controls_table(part: Part, measure: Measure, left_out: Set[tuple[str, str]]) -> Table:
    """A line for each method and control: its mean, and relative to what encoders reach by themselves.

    Pairs in ``left_out`` count for no mean.
    """
    relative = Measure(measure.name + RELATIVE, measure.own_photograph)
    rows: dict[Setting, list[Row]] = {}
    merged = chosen_per_pair(part.rows)
    for row in part.rows:
        if not row.axis and (row.source, row.target) not in left_out:
            rows.setdefault(Setting.of(row, merged), []).append(row)
    lines = []
    for setting, found in rows.items():
        cells = [_control_cell(found, which, setting.method) for which in (measure, relative)]
        if any(cells):
            words = CONTROL_WORDS.get(setting.method)
            by = "" if setting.score == COSINE else f", {setting.score}"
            lines.append([words + by if words else str(setting), *cells])
    heads = measure.brief, "relative to the encoders' own"
    columns = [Column("method or control"), *(Column(head, "percent", 2) for head in heads)]
    above = any(row[2] and row[2].mean > 1 for row in lines)
    relative_words = RELATIVE_WORDS if above else RELATIVE_WORDS.partition(". ")[0] + "."
    caption = f"{measure.describe()}, mean over pairs and seeds. {relative_words}"
    return Table(f"{part.name}-controls", "Controls", caption, columns, lines)


def _control_cell(rows: Sequence[Row], measure: Measure, method: str) -> Cell | None:
    """The mean over rows of pairs or, of the control that has no pairs, of encoders against themselves."""
    chosen = [
        row
        for row in rows
        if Measure(row.measure, row.own_photograph) == measure
        and (row.source == row.target) == (method == OWN)
        and not (method == OWN and row.source in CONTROLS)
    ]
    if not chosen:
        return None
    reason = next((row.reason for row in chosen if math.isnan(row.value)), "")
    return Cell(statistics.fmean(row.value for row in chosen), reason=reason)


def _own_sentences(part: Part, table: ResultTable, measure: Measure) -> list[str]:
    best = best_setting(table, measure)
    score = COSINE if best is None else best[0].score
    rows = [row for row in part.rows if row.method == OWN and row.score == score]
    own = _control_cell(rows, measure, OWN)
    if own is None or best is None or math.isnan(own.mean):
        return []
    return [
        f"Compared with themselves the encoders reach {percent(own.mean)} on average, against "
        f"{percent(best[1].mean)} across encoders with {best[0]}."
    ]
