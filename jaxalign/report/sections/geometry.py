"""Sections of geometry: similarity of spaces before any map, what it predicts, and trees of encoders."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalign.report.figures.dendrogram import draw_dendrogram
from jaxalign.report.figures.dots import Dot, draw_dots
from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.heatmap import MOST_NUMBERS_ON_PAGE, Canvas, Scale
from jaxalign.report.labels import count, listed, number, shown
from jaxalign.report.part import Part
from jaxalign.report.records import Predicted
from jaxalign.report.result_table import Cell, Measure, ResultTable
from jaxalign.report.sections.aggregates import BASELINES, over_seeds, sentence_case
from jaxalign.report.sections.section import Block, Folded, Section
from jaxalign.report.tables import Column, Table
from jaxalign.report.tables.model import Entry

DISTANCES = ("procrustes_distance",)
CALIBRATED = ":calibrated"
MOST_PAIRS = 60  # two encoders each, that a terminal gets a line for
NO_CORRELATION = "too few pairs, or the same number for all"
LEADING = ("linear_cka_unbiased", "linear_cka")
NULL = {"": "value", ":null_mean": "null mean", ":null_95%": "null 95 %", CALIBRATED: "calibrated"}


def geometry(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.geometry`` wrote; ``order`` is that of encoders in heat maps and tables."""
    blocks: list[Block] = []
    for table, found in _predictions(part):
        here: list[Block] = [_prediction_picture(table, found), table]
        blocks += [Folded(table.title, here)] if blocks else here
    similar = _similar(part, order)
    if similar.measures:
        pairs = _alignability_table(part, similar)
        blocks += [Folded(f"Every two encoders ({count(len(each.rows), 'pair')})", [each]) for each in pairs]
        blocks += [_similarities(part, similar), *_heat_maps(part, similar)]
    blocks += _encoders(part, order)
    return Section(part.name, f"Geometry of the spaces: {part.dataset_words}", _summary(part), blocks)


def geometry_tables(part: Part) -> list[Table]:
    """For a terminal: what predicts alignability, similarities of pairs with their nulls, and encoders alone."""
    similar = _similar(part, ())
    tables = [table for table, _ in _predictions(part)]
    tables += [table for table in _alignability_table(part, similar) if len(table.rows) <= MOST_PAIRS]
    return [*tables, *([_similarities(part, similar)] if similar.measures else []), *_encoders(part, ())]


def _similar(part: Part, order: Sequence[str]) -> ResultTable:
    """Similarities of both orders of every pair."""
    pairs = [row for row in part.rows if row.source != row.target and not row.axis]
    return part.table([*pairs, *(row._replace(source=row.target, target=row.source) for row in pairs)], order)


def _names(similar: ResultTable) -> list[str]:
    return list(dict.fromkeys(measure.name.partition(":")[0] for measure in similar.measures))


def _label(prediction: Predicted) -> str:
    calibrated = ", calibrated" if prediction.calibrated == "yes" else ""
    return Measure(prediction.similarity).brief + calibrated


def _strength(prediction: Predicted) -> float:
    """The correlation in the direction that a similarity should have: of a raw distance it is the other one."""
    if math.isnan(prediction.spearman):
        return -math.inf
    distance = prediction.similarity in DISTANCES and prediction.calibrated != "yes"
    return -prediction.spearman if distance else prediction.spearman


def _predictions(part: Part) -> list[tuple[Table, list[Predicted]]]:
    """For each measure that is predicted, a table of its predictors and they themselves, the best first."""
    groups: dict[tuple[str, str], list[Predicted]] = {}
    for prediction in part.predictions:
        groups.setdefault((prediction.alignment_method, prediction.measure), []).append(prediction)
    columns = [Column("similarity"), Column("calibrated"), Column("Spearman", "number", 2)]
    columns += [Column("p", "number"), Column("pairs", "number")]
    tables = []
    for (method, name), found in groups.items():
        found.sort(key=_strength, reverse=True)
        measure = Measure(name)
        lines = [
            [
                Measure(p.similarity).brief,
                p.calibrated,
                Cell(p.spearman, None, p.low, p.high, NO_CORRELATION),
                Cell(p.p, reason=NO_CORRELATION),
                Cell(float(p.pairs)),
            ]
            for p in found
        ]
        caption = (
            f"Rank correlation over pairs with {measure.describe()} by {method}; 95 % interval from a bootstrap over "
            "encoders in brackets; p of a Mantel test; the best first."
        )
        title = f"What predicts {measure.brief} by {method}"
        tables.append(
            (Table(f"{part.name}-prediction-{method}-{name}", title, caption, columns, lines), found)
        )
    return tables


def _prediction_picture(table: Table, found: Sequence[Predicted]) -> Plot:
    target = f"{Measure(found[0].measure).describe()} by {found[0].alignment_method}"
    return draw_dots(
        [Dot(_label(p), p.spearman, p.low, p.high, hollow=p.calibrated != "yes") for p in found],
        name=table.name,
        title=table.title,
        caption=f"Spearman's rank correlation over pairs of encoders with {target}, 95 % interval. Filled: "
        "calibrated by a null of permuted rows; hollow: raw. A raw distance should correlate negatively.",
        axis="Spearman's rank correlation",
        zero=True,
    )


def _alignability_table(part: Part, similar: ResultTable) -> list[Table]:
    """A line for each two encoders, the best first: what every method reaches, and their calibrated similarities."""
    reached = [row for row in part.alignability if row.method not in BASELINES and row.source != row.target]
    if not reached:
        return []
    table = part.table(reached, similar.encoders)
    measure = min(table.measures, key=lambda measure: measure.own_photograph != "excluded")
    calibrated = [name for name in _names(similar) if Measure(name + CALIBRATED) in similar.measures]
    lines: list[tuple[float, list[Entry]]] = []
    for one, other in itertools.combinations(table.encoders, 2):
        both = [(one, other), (other, one)]
        rates = [
            _mean_of([table.cell(setting, measure, *pair) for pair in both]) for setting in table.settings
        ]
        numbers = [
            similar.cell(similar.settings[0], Measure(name + CALIBRATED), *both[0]) for name in calibrated
        ]
        first = rates[0].mean if rates[0] and not math.isnan(rates[0].mean) else -math.inf
        lines.append((first, [one, other, *rates, *numbers]))
    lines.sort(key=lambda line: line[0], reverse=True)
    columns = [
        Column("encoder"),
        Column("other"),
        *(Column.of(measure, str(setting)) for setting in table.settings),
    ]
    columns += [Column(Measure(name).brief, "number", 2) for name in calibrated]
    caption = (
        f"{measure.describe()}, mean of both directions, by each method; then the calibrated similarity of the two "
        "spaces before any map: 0 as between rows that do not belong together, 1 where spaces agree."
    )
    title = "What is predicted, and by what"
    return [Table(f"{part.name}-alignability", title, caption, columns, [line for _, line in lines])]


def _mean_of(cells: Sequence[Cell | None]) -> Cell | None:
    there = [cell.mean for cell in cells if cell is not None]
    return Cell(statistics.fmean(there)) if there else None


def _similarities(part: Part, similar: ResultTable) -> Table:
    """Each similarity's mean over pairs beside its null, since width alone inflates raw scores."""
    setting = similar.settings[0]
    lines = [
        [
            Measure(name).brief,
            *(similar.mean_over_pairs(setting, Measure(name + ending)) for ending in NULL),
        ]
        for name in _names(similar)
    ]
    columns = [Column("similarity"), *(Column(head, "number", 3) for head in NULL.values())]
    caption = "Mean over pairs of encoders, beside what rows that do not belong together give."
    return Table(f"{part.name}-similarities", "Similarities and their nulls", caption, columns, lines)


def _heat_maps(part: Part, similar: ResultTable) -> list[Block]:
    """The leading similarity, all others folded; calibrated where there is a calibration."""
    caption, setting = f"{part.dataset_words}; no map is fitted", similar.settings[0]
    canvas = Canvas(similar, caption, roles=("", ""), numbers_to=MOST_NUMBERS_ON_PAGE)
    pictures = {}
    for name in _names(similar):
        measure, title = Measure(name + CALIBRATED), f"{Measure(name).brief}, calibrated"
        if measure not in similar.measures:
            measure, title = Measure(name), Measure(name).brief
        if measure in similar.measures:
            pictures[name] = canvas.plot(
                setting,
                measure,
                name=f"{part.name}-{measure.name.replace(':', '-')}",
                scale=Scale.around(similar.matrix(setting, measure)[0]),
                title=sentence_case(title),
            )
    first = next((name for name in (*LEADING, *pictures) if name in pictures), None)
    if first is None:
        return []
    leading, rest = pictures.pop(first), list(pictures.values())
    return [leading, *([Folded(f"Heat maps of the other similarities ({len(rest)})", rest)] if rest else [])]


def _encoders(part: Part, order: Sequence[str]) -> list[Table]:
    """A line for each encoder: its dimension, spread and hubs; nothing where there are no such numbers."""
    rows = [row for row in part.rows if row.source == row.target and not row.axis]
    if not rows:
        return []
    table = part.table(rows, order)
    columns = [Column("encoder"), *(Column(m.brief, "number") for m in table.measures)]
    lines = [
        [name, *(table.cell(table.settings[0], measure, name, name) for measure in table.measures)]
        for name in table.encoders
    ]
    caption = f"Numbers of single encoders{over_seeds(table)}."
    return [Table(f"{part.name}-encoders", "Each space by itself", caption, columns, lines)]


def _summary(part: Part) -> list[str]:
    for _, found in _predictions(part)[:1]:
        best = found[0]
        if not math.isnan(best.spearman):
            interval = "too few encoders for an interval"
            if not math.isnan(best.low):
                interval = f"95 % interval {number(best.low)} to {number(best.high)}"
            kinds = count(len({p.similarity for p in found}), "similarity", "similarities")
            predicted = f"{Measure(best.measure).describe()} by {best.alignment_method}"
            return [
                f"Of {kinds}, {_label(best)} predicts {predicted} best: Spearman {number(round(best.spearman, 2))} "
                f"({interval}) over {count(best.pairs, 'pair')}."
            ]
    return []


def family_order(part: Part) -> list[str]:
    """The encoders from top to bottom of the first tree; empty without a tree."""
    return next((list(tree["order"]) for tree in part.families.values()), [])


def families(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.families`` wrote; trees have an order of their own."""
    blocks: list[Block] = []
    summary: list[str] = []
    for place, (measure, tree) in enumerate(part.families.items()):
        found = _tree(part, measure, tree)
        blocks += found if place == 0 else [Folded(f"Tree by {family_words(measure)}", found)]
        summary += _tree_summary(measure, tree) if place < 2 else []
    dataset = part.dataset_words or shown(str(part.config.get("dataset", part.name)))
    return Section(part.name, f"Families of encoders: {dataset}", summary, blocks)


def family_words(measure: str) -> str:
    """A measure of ``families.json``: a rate, a rate by a method, or a calibrated similarity."""
    name, _, rest = measure.partition(":")
    between = " by" if Measure(name).is_rate else ","
    return Measure(name).brief + (f"{between} {rest}" if rest else "")


def _tree(part: Part, measure: str, tree: Mapping[str, Any]) -> list[Block]:
    words, percent = family_words(measure), Measure(measure.partition(":")[0]).is_rate
    if not tree["linkage"]:
        return [f"No tree by {words}: {tree.get('reason') or 'too few encoders'}."]
    picture = draw_dendrogram(
        list(tree["encoders"]),
        tree["linkage"],
        name=f"{part.name}-tree-{measure}",
        title=f"Average linkage by {words}",
        caption="The height of a merge is the mean distance between the encoders of its two branches.",
        axis=f"100 − symmetrised {words} (points)" if percent else f"1 − {words}",
        labels=tree.get("labels"),
    )
    return [picture, _scores_table(part.name, measure, tree)]


def _scores_table(name: str, measure: str, tree: Mapping[str, Any]) -> Table:
    """A line for each encoder from top to bottom of the tree: its family, its mean scores, and its hub-ness."""
    words, labels, hubs = family_words(measure), tree.get("labels") or {}, tree.get("hub") or {}
    kind = "percent" if Measure(measure.partition(":")[0]).is_rate else "number"
    columns = [Column("encoder"), *([Column("family")] if labels else [])]
    columns += [Column(side, kind, better="high") for side in ("source", "target")]
    columns += [Column("hub", "number", 1)] if hubs else []
    scores = [tree.get("source", {}), tree.get("sink", {}), *([hubs] if hubs else [])]
    lines = []
    for encoder in tree["order"]:
        family = [str(labels.get(encoder, ""))] if labels else []
        lines.append([encoder, *family, *(Cell(_number(values.get(encoder))) for values in scores)])
    caption = (
        f"Mean {words} over partners, as the encoder that probes come from (source) and as the "
        f"one of the gallery (target){'; hub: for how many others it is the nearest' if hubs else ''}."
    )
    return Table(f"{name}-scores-{measure}", f"Sources and targets by {words}", caption, columns, lines)


def family_tables(trees: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """For a terminal: the order and the test of every tree, by measure; the scores and the merges of the first."""
    tested = any(tree.get("permutation") is not None for tree in trees.values())
    tests = {"statistic": "pseudo-F", "p": "p", "permutations": "relabellings", "least": "least p"}
    heads = ["cophenetic correlation", *(tests.values() if tested else [])]
    columns = [Column("measure"), *(Column(head, "number") for head in heads), Column("order")]
    lines = []
    for measure, tree in trees.items():
        test = tree.get("permutation")
        values = [Cell(_number(tree.get("cophenetic")), reason=tree.get("reason", ""))]
        if tested:
            values += [test and Cell(float(getattr(test, field))) for field in tests]
        left_out = f"; without a value: {', '.join(tree['left_out'])}" if tree["left_out"] else ""
        lines.append([measure, *values, " | ".join(tree["order"]) + left_out])
    question = "; do given families explain the distances (PERMANOVA)?" if tested else "."
    tables = [Table("trees", "Trees of encoders", f"Average linkage{question}", columns, lines)]
    measure, tree = next(iter(trees.items()))
    if not len(tree["linkage"]):
        return tables
    names = list(tree["encoders"])
    merges = []
    for left, right, height, _ in tree["linkage"]:
        merges.append([Cell(height), f"{names[int(left)]} + {names[int(right)]}"])
        names.append(f"({names[int(left)]}, {names[int(right)]})")
    columns = [Column("height", "number", 2), Column("joined")]
    merged = Table("merges", "Merges", "The closest first.", columns, merges)
    return [*tables, _scores_table("families", measure, tree), merged]


def _tree_summary(measure: str, tree: Mapping[str, Any]) -> list[str]:
    sentences = []
    if len(tree["linkage"]):
        left, right, height, _ = tree["linkage"][0]
        closest = listed(shown(tree["encoders"][int(place)]) for place in (left, right))
        cophenetic = number(round(_number(tree.get("cophenetic")), 3))
        sentences.append(
            f"By {family_words(measure)} the closest encoders are {closest}, at {number(round(float(height), 1))}; the "
            f"tree keeps the distances with a cophenetic correlation of {cophenetic}."
        )
    if test := tree.get("permutation"):
        p = _number(test.get("p"))
        sentences.append(
            f"Given family labels {'explain' if p < 0.05 else 'do not explain'} the distances at the 5 % level "
            f"(permutation test, p = {number(p)}, {int(test.get('permutations', 0)):,} permutations)."
        )
    return sentences


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
