"""Sections of geometry: similarity of spaces before any map, what it predicts, and trees of encoders."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalign.report.figures.dendrogram import draw_dendrogram, leaves
from jaxalign.report.figures.dots import Dot, draw_dots
from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.heatmap import MOST_NUMBERS_ON_PAGE, Canvas, Scale, heat_map
from jaxalign.report.labels import count, listed, number, shown
from jaxalign.report.part import Part
from jaxalign.report.result_table import Cell, Measure, Predicted, ResultTable
from jaxalign.report.sections.aggregates import BASELINES, mean_value, over_seeds, pair_value, sentence_case
from jaxalign.report.sections.blocks import Block, Folded, Section, Text
from jaxalign.report.tables import Column, Table, Value
from jaxalign.report.tables.model import Entry

DISTANCES = ("procrustes_distance",)
CALIBRATED = ":calibrated"
MOST_PAIRS = 60  # two encoders each, that a terminal gets a line for
NO_CORRELATION = "too few pairs, or the same number for all"
LEADING = ("linear_cka_unbiased", "linear_cka")
IN_WORDS = {
    "linear_cka": "linear CKA",
    "linear_cka_unbiased": "linear CKA, unbiased",
    "rsa_spearman": "RSA (Spearman)",
    "mutual_knn": "mutual k nearest neighbours",
    "mean_cca": "mean CCA",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
    "procrustes_distance": "Procrustes distance",
    "intrinsic_dimension_twonn": "intrinsic dimension, TwoNN",
    "intrinsic_dimension_mle": "intrinsic dimension, maximum likelihood",
    "between_within_ratio": "between- to within-person scatter",
}
NULL = (("", "value"), (":null_mean", "null mean"), (":null_95%", "null 95 %"), (":calibrated", "calibrated"))


def geometry(part: Part, order: Sequence[str]) -> Section:
    """The section of similarities of spaces.

    Args:
      part: what ``experiments.geometry`` wrote.
      order: of encoders in heat maps and tables.
    """
    blocks: list[Block] = []
    for place, (key, found) in enumerate(_groups(part).items()):
        table = _prediction_table(part, key, found)
        here: list[Block] = [_prediction_picture(part, key, found), table]
        blocks += here if place == 0 else [Folded(table.title, here)]
    similar, names = _similar(part, order), _similarity_names(part)
    if names:
        pairs = _alignability_table(part, similar, names)
        blocks += [Folded(f"Every two encoders ({count(len(each.rows), 'pair')})", [each]) for each in pairs]
        blocks += [_similarities(part, similar, names), *_heat_maps(part, similar, names)]
    blocks += _encoders(part, order)
    return Section(part.name, f"Geometry of the spaces: {part.dataset_words}", _summary(part), blocks)


def geometry_tables(part: Part) -> list[Table]:
    """For a terminal: what predicts alignability, similarities of pairs with their nulls, and encoders alone."""
    similar, names = _similar(part, ()), _similarity_names(part)
    pairs = _alignability_table(part, similar, names)
    return [
        *(_prediction_table(part, key, found) for key, found in _groups(part).items()),
        *(table for table in pairs if len(table.rows) <= MOST_PAIRS),
        *([_similarities(part, similar, names)] if names else []),
        *_encoders(part, ()),
    ]


def _similar(part: Part, order: Sequence[str]) -> ResultTable:
    """Similarities of both orders of every pair."""
    pairs = [row for row in part.rows if row.source != row.target and not row.axis]
    return part.table([*pairs, *(row._replace(source=row.target, target=row.source) for row in pairs)], order)


def _similarity_names(part: Part) -> list[str]:
    rows = (row for row in part.rows if row.source != row.target and not row.axis)
    return list(dict.fromkeys(row.measure.partition(":")[0] for row in rows))


def similarity_words(name: str) -> str:
    """The name of a similarity, or of a number of one encoder, in the words of the field."""
    return IN_WORDS.get(name, name.replace("_", " "))


def _label(prediction: Predicted) -> str:
    calibrated = ", calibrated" if prediction.calibrated == "yes" else ""
    return similarity_words(prediction.similarity) + calibrated


def _strength(prediction: Predicted) -> float:
    """The correlation in the direction that a similarity should have: of a raw distance it is the other one."""
    if math.isnan(prediction.spearman):
        return -math.inf
    distance = prediction.similarity in DISTANCES and prediction.calibrated != "yes"
    return -prediction.spearman if distance else prediction.spearman


def _groups(part: Part) -> dict[tuple[str, str], list[Predicted]]:
    """By what is predicted, the best predictor first."""
    groups: dict[tuple[str, str], list[Predicted]] = {}
    for prediction in part.predictions:
        groups.setdefault((prediction.alignment_method, prediction.measure), []).append(prediction)
    return {key: sorted(found, key=_strength, reverse=True) for key, found in groups.items()}


def _prediction_picture(part: Part, key: tuple[str, str], found: Sequence[Predicted]) -> Plot:
    method, measure = key
    target = f"{Measure(measure).describe()} by {method}"
    return draw_dots(
        [Dot(_label(p), p.spearman, p.low, p.high, hollow=p.calibrated != "yes") for p in found],
        name=f"{part.name}-prediction-{method}-{measure}",
        title=f"What predicts {Measure(measure).brief} by {method}",
        caption=f"Spearman's rank correlation over pairs of encoders with {target}, 95 % interval. Filled: "
        "calibrated by a null of permuted rows; hollow: raw. A raw distance should correlate negatively.",
        axis="Spearman's rank correlation",
        zero=True,
    )


def _prediction_table(part: Part, key: tuple[str, str], found: Sequence[Predicted]) -> Table:
    method, measure = key
    columns = [Column("similarity"), Column("calibrated"), Column("Spearman", "number", 2)]
    columns += [Column("p", "number"), Column("pairs", "number")]
    lines = [
        [
            similarity_words(p.similarity),
            p.calibrated,
            Value(p.spearman, None, p.low, p.high, NO_CORRELATION),
            Value(p.p, reason=NO_CORRELATION),
            Value(float(p.pairs)),
        ]
        for p in found
    ]
    caption = (
        f"Rank correlation over pairs with {Measure(measure).describe()} by {method}; 95 % interval from a bootstrap "
        "over encoders in brackets; p of a Mantel test; the best first."
    )
    title = f"What predicts {Measure(measure).brief} by {method}"
    return Table(f"{part.name}-prediction-{method}-{measure}", title, caption, columns, lines)


def _alignability_table(part: Part, similar: ResultTable, names: Sequence[str]) -> list[Table]:
    """A line for each two encoders, the best first: what every method reaches, and their calibrated similarities.

    Args:
      part: what ``experiments.geometry`` wrote.
      similar: its similarities, of both orders of a pair.
      names: of the similarities to show.
    """
    reached = [row for row in part.alignability if row.method not in BASELINES and row.source != row.target]
    if not reached:
        return []
    table = part.table(reached, similar.encoders)
    measure = min(table.measures, key=lambda measure: measure.own_photograph != "excluded")
    known = {m.name: m for m in similar.measures}
    shown = {name: known[name + CALIBRATED] for name in names if name + CALIBRATED in known}
    lines: list[tuple[float, list[Entry]]] = []
    for place, one in enumerate(table.encoders):
        for other in table.encoders[place + 1 :]:
            rates = [
                _both_ways([table.cell(setting, measure, *pair) for pair in ((one, other), (other, one))])
                for setting in table.settings
            ]
            cells = [similar.cell(similar.settings[0], m, one, other) for m in shown.values()]
            numbers = [None if cell is None else Value.of(cell) for cell in cells]
            first = rates[0].mean if rates[0] is not None and not math.isnan(rates[0].mean) else -math.inf
            lines.append((first, [one, other, *rates, *numbers]))
    lines.sort(key=lambda line: line[0], reverse=True)
    columns = [Column("encoder"), Column("other"), *(Column.rate(str(setting)) for setting in table.settings)]
    columns += [Column(similarity_words(name), "number", 2) for name in shown]
    caption = (
        f"{measure.describe()}, mean of both directions, by each method; then the calibrated similarity of the two "
        "spaces before any map: 0 as between rows that do not belong together, 1 where spaces agree."
    )
    title = "What is predicted, and by what"
    entries = [line for _, line in lines]
    return [Table(f"{part.name}-alignability", title, caption, columns, entries)]


def _both_ways(cells: list[Cell | None]) -> Value | None:
    there = [cell.mean for cell in cells if cell is not None]
    return Value(math.fsum(there) / len(there)) if there else None


def _similarities(part: Part, table: ResultTable, names: Sequence[str]) -> Table:
    """Each similarity's mean over pairs beside its null, since width alone inflates raw scores."""
    known = {measure.name: measure for measure in table.measures}
    lines = []
    for name in names:
        entries = [
            mean_value(table, table.settings[0], known[name + ending]) if name + ending in known else None
            for ending, _ in NULL
        ]
        lines.append([similarity_words(name), *entries])
    columns = [Column("similarity"), *(Column(head, "number", 3) for _, head in NULL)]
    caption = "Mean over pairs of encoders, beside what rows that do not belong together give."
    return Table(f"{part.name}-similarities", "Similarities and their nulls", caption, columns, lines)


def _heat_maps(part: Part, table: ResultTable, names: Sequence[str]) -> list[Block]:
    """The leading similarity, all others folded; calibrated where there is a calibration."""
    known = {measure.name: measure for measure in table.measures}
    canvas = Canvas(
        table, f"{part.dataset_words}; no map is fitted", roles=("", ""), numbers_to=MOST_NUMBERS_ON_PAGE
    )
    pictures = {}
    for name in names:
        measure = known.get(name + CALIBRATED) or known.get(name)
        if measure is not None:
            means, _, _ = table.matrix(table.settings[0], measure)
            scale = Scale.around(means)
            title = similarity_words(name) + (", calibrated" if measure.name.endswith(CALIBRATED) else "")
            pictures[name] = heat_map(
                canvas,
                table.settings[0],
                measure,
                name=f"{part.name}-{measure.name.replace(':', '-')}",
                scale=scale,
                title=sentence_case(title),
            )
    first = next((name for name in LEADING if name in pictures), next(iter(pictures), None))
    if first is None:
        return []
    rest = [picture for name, picture in pictures.items() if name != first]
    folded = [Folded(f"Heat maps of the other similarities ({len(rest)})", rest)] if rest else []
    return [pictures[first], *folded]


def _encoders(part: Part, order: Sequence[str]) -> list[Table]:
    """A line for each encoder: its dimension, spread and hubs; nothing where there are no such numbers."""
    rows = [row for row in part.rows if row.source == row.target and not row.axis]
    if not rows:
        return []
    table = part.table(rows, order)
    columns = [Column("encoder"), *(Column(similarity_words(m.name), "number") for m in table.measures)]
    lines = [
        [name, *(pair_value(table, {}, table.settings[0], m, name, name) for m in table.measures)]
        for name in table.encoders
    ]
    caption = f"Numbers of single encoders{over_seeds(len(table.seeds))}."
    return [Table(f"{part.name}-encoders", "Each space by itself", caption, columns, lines)]


def _summary(part: Part) -> list[str]:
    sentences = []
    for (method, measure), found in list(_groups(part).items())[:1]:
        best = found[0]
        if not math.isnan(best.spearman):
            low, high = best.low, best.high
            interval = f"95 % interval {number(low)} to {number(high)}"
            interval = f" ({interval if not math.isnan(low) else 'too few encoders for an interval'})"
            kinds = count(len({p.similarity for p in found}), "similarity", "similarities")
            sentences.append(
                f"Of {kinds}, {_label(best)} predicts {Measure(measure).describe()} by {method} best: Spearman "
                f"{number(round(best.spearman, 2))}{interval} over {count(best.pairs, 'pair')}."
            )
    return sentences


def family_order(families: Mapping[str, Any]) -> list[str]:
    """The order of encoders in the tree of the first measure; empty without a tree."""
    for tree in families.values():
        return list(tree.get("order") or leaf_names(tree))
    return []


def leaf_names(tree: Mapping[str, Any]) -> list[str]:
    """The encoders from top to bottom of the drawn tree."""
    names = list(tree["encoders"])
    return [names[place] for place in leaves(tree["linkage"], len(names))]


def families(part: Part, order: Sequence[str]) -> Section:
    """The section of trees.

    Args:
      part: what ``experiments.families`` wrote.
      order: unused; trees have their own.
    """
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
    if Measure(name).is_rate:
        return Measure(name).brief + (f" by {rest}" if rest else "")
    return similarity_words(name) + (f", {rest}" if rest else "")


def _tree(part: Part, measure: str, tree: Mapping[str, Any]) -> list[Block]:
    encoders = list(tree["encoders"])
    words, percent = family_words(measure), Measure(measure.partition(":")[0]).is_rate
    if not tree["linkage"]:
        return [Text(f"No tree by {words}: {tree.get('reason') or 'too few encoders'}.")]
    picture = draw_dendrogram(
        encoders,
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
    lines = []
    for encoder in leaf_names(tree):
        values = [Value(_number(tree.get(side, {}).get(encoder))) for side in ("source", "sink")]
        values += [Value(_number(hubs.get(encoder)))] if hubs else []
        lines.append([encoder, *([str(labels.get(encoder, ""))] if labels else []), *values])
    caption = (
        f"Mean {words} over partners, as the encoder that probes come from (source) and as the "
        f"one of the gallery (target){'; hub: for how many others it is the nearest' if hubs else ''}."
    )
    return Table(f"{name}-scores-{measure}", f"Sources and targets by {words}", caption, columns, lines)


def family_tables(trees: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """For a terminal: the order and the test of every tree; the scores and the merges of the first.

    Args:
      trees: the content of ``families.json``.
    """
    tested = any(tree.get("permutation") is not None for tree in trees.values())
    heads = ["cophenetic correlation", *(["pseudo-F", "p", "relabellings", "least p"] if tested else [])]
    columns = [Column("measure"), *(Column(head, "number") for head in heads), Column("order")]
    lines = []
    for measure, tree in trees.items():
        test = tree.get("permutation")
        values: list[Entry] = [Value(_number(tree.get("cophenetic")), reason=tree.get("reason", ""))]
        if tested:
            values += [None] * 4 if test is None else _test_values(test)
        left_out = f"; without a value: {', '.join(tree['left_out'])}" if tree["left_out"] else ""
        lines.append([measure, *values, " | ".join(tree["order"]) + left_out])
    test = "; do given families explain the distances (PERMANOVA)?" if tested else "."
    caption = f"Average linkage{test}"
    tables = [Table("trees", "Trees of encoders", caption, columns, lines)]
    measure, tree = next(iter(trees.items()))
    if not len(tree["linkage"]):
        return tables
    names = list(tree["encoders"])
    merges = []
    for left, right, height, _ in tree["linkage"]:
        merges.append([Value(height), f"{names[int(left)]} + {names[int(right)]}"])
        names.append(f"({names[int(left)]}, {names[int(right)]})")
    columns = [Column("height", "number", 2), Column("joined")]
    caption = "The closest first."
    return [
        *tables,
        _scores_table("families", measure, tree),
        Table("merges", "Merges", caption, columns, merges),
    ]


def _test_values(test: Any) -> list[Value]:
    numbers = test.statistic, test.p, test.permutations, test.least
    return [Value(float(number)) for number in numbers]


def _tree_summary(measure: str, tree: Mapping[str, Any]) -> list[str]:
    words = family_words(measure)
    sentences = []
    names = list(tree["encoders"])
    if len(tree["linkage"]):
        left, right, height, _ = tree["linkage"][0]
        closest = [shown(names[int(place)]) for place in (left, right)]
        sentences.append(
            f"By {words} the closest encoders are {listed(closest)}, at {number(round(float(height), 1))}; the tree "
            f"keeps the distances with a cophenetic correlation of {number(round(_number(tree.get('cophenetic')), 3))}."
        )
    test = tree.get("permutation")
    if test:
        p = _number(test.get("p"))
        sentences.append(
            f"Given family labels {'explain' if p < 0.05 else 'do not explain'} the distances at the 5 % level "
            f"(permutation test, p = {number(p)}, {int(test.get('permutations', 0)):,} permutations)."
        )
    return sentences


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
