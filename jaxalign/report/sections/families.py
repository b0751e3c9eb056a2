"""Which encoders are alike, as a tree; who is carried well and who receives well."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalign.report.figures.dendrogram import draw_dendrogram, leaves
from jaxalign.report.labels import listed, number, shown
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure
from jaxalign.report.sections.blocks import Block, Folded, Section, Text
from jaxalign.report.sections.geometry import similarity_words
from jaxalign.report.tables import Column, Table, Value


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
        summary += _summary(measure, tree) if place < 2 else []
    dataset = ", ".join(map(shown, part.datasets)) or shown(str(part.config.get("dataset", part.name)))
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
    title = f"Sources and targets by {words}"
    kind = "percent" if percent else "number"
    columns = [
        Column("encoder"),
        Column("source", kind, better="high"),
        Column("target", kind, better="high"),
    ]
    if tree.get("labels"):
        columns.insert(1, Column("family"))
    lines = []
    for name in leaf_names(tree):
        values = [Value(_number(tree.get(side, {}).get(name))) for side in ("source", "sink")]
        label = [str((tree["labels"] or {}).get(name, ""))] if tree.get("labels") else []
        lines.append([name, *label, *values])
    caption = (
        f"Mean {words} over partners, as the encoder that probes come from (source) and as the "
        "one of the gallery (target)."
    )
    return [picture, Table(f"{part.name}-scores-{measure}", title, caption, columns, lines)]


def _summary(measure: str, tree: Mapping[str, Any]) -> list[str]:
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
