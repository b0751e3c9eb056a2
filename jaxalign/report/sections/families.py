"""Which encoders are alike, as a tree; who is carried well and who receives well."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalign.report.figures.dendrogram import draw_dendrogram, leaves
from jaxalign.report.labels import listed, number, shown
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure
from jaxalign.report.sections.blocks import Block, Folded, Section
from jaxalign.report.tables import Column, Table, Value


def family_order(families: Mapping[str, Any]) -> list[str]:
    """The order of encoders in the tree of the first measure; empty without a tree."""
    for tree in families.values():
        names = list(tree["encoders"])
        order = tree.get("order") or leaves(tree["linkage"], len(names))
        return [names[item] if isinstance(item, int) else str(item) for item in order]
    return []


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
        blocks += found if place == 0 else [Folded(f"Tree by {Measure(measure).describe()}", found)]
        summary += _summary(measure, tree) if place < 2 else []
    dataset = ", ".join(map(shown, part.datasets)) or shown(str(part.config.get("dataset", part.name)))
    return Section(part.name, f"Families of encoders: {dataset}", summary, blocks)


def _tree(part: Part, measure: str, tree: Mapping[str, Any]) -> list[Block]:
    encoders = list(tree["encoders"])
    percent = Measure(measure).is_rate
    picture = draw_dendrogram(
        encoders,
        tree["linkage"],
        name=f"{part.name}-tree-{measure}",
        title=f"Average linkage by {measure}",
        caption="The height of a merge is the mean distance between the encoders of its two branches.",
        axis=f"100 − symmetrised {measure} (points)" if percent else f"distance from {measure}",
        labels=tree.get("labels"),
    )
    title = f"Sources and targets by {measure}"
    kind = "percent" if percent else "number"
    columns = [
        Column("encoder"),
        Column("source", kind, better="high"),
        Column("target", kind, better="high"),
    ]
    if tree.get("labels"):
        columns.insert(1, Column("family"))
    lines = []
    for name in family_order({measure: tree}):
        values = [Value(_number(tree.get(side, {}).get(name))) for side in ("source", "sink")]
        label = [str((tree["labels"] or {}).get(name, ""))] if tree.get("labels") else []
        lines.append([name, *label, *values])
    caption = (
        f"Mean {Measure(measure).describe()} over partners, as the encoder that probes come from (source) and as the "
        "one of the gallery (target)."
    )
    return [picture, Table(f"{part.name}-scores-{measure}", title, caption, columns, lines)]


def _summary(measure: str, tree: Mapping[str, Any]) -> list[str]:
    words = Measure(measure).describe()
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
