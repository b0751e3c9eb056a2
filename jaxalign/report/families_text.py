"""Families of encoders as text for a terminal."""

from collections.abc import Mapping
from typing import Any


def render_families(trees: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The first tree in full, of each measure the order, how well the tree keeps the distances, and the test.

    Args:
      trees: the content of ``families.json``.
      title: first line.
    """
    lines = [title]
    for place, (measure, tree) in enumerate(trees.items()):
        lines += ["", *_tree(measure, tree, full=place == 0)]
    return "\n".join(lines) + "\n"


def _tree(measure: str, tree: Mapping[str, Any], *, full: bool) -> list[str]:
    if "reason" in tree:
        return [f"{measure}: no tree, {tree['reason']}"]
    cophenetic = "n/a" if tree["cophenetic"] is None else f"{tree['cophenetic']:.3f}"
    lines = [f"{measure}: {' | '.join(tree['order'])}", f"  cophenetic correlation {cophenetic}"]
    if tree["left_out"]:
        lines.append(f"  left out, without a value: {', '.join(tree['left_out'])}")
    test = tree["permutation"]
    if test is not None:
        of = f"all {test.permutations:,}" if test.exact else f"{test.permutations:,} random"
        lines.append(
            f"  do families explain the distances? pseudo-F {test.statistic:.2f}, p = {test.p:.4g} "
            f"({of} relabellings; p cannot be below {test.least:.2g})"
        )
    if full:
        first = max(map(len, ["encoder", *tree["order"]]))
        lines += ["", "  " + "encoder".ljust(first) + "source".rjust(9) + "target".rjust(9) + "hub".rjust(7)]
        for name in tree["order"]:
            scores = "".join(f"{100 * tree[side][name]:.1f}".rjust(9) for side in ("source", "sink"))
            lines.append("  " + name.ljust(first) + scores + f"{tree['hub'][name]:.1f}".rjust(7))
        lines.append(
            "  source, target: mean in % as the one mapped from and into; hub: others whose nearest it is"
        )
        lines += ["", "  joined, at height:"]
        names = list(tree["encoders"])
        for left, right, height, _ in tree["linkage"]:
            lines.append(f"  {height:8.2f}  {names[int(left)]}  +  {names[int(right)]}")
            names.append(f"({names[int(left)]}, {names[int(right)]})")
    return lines
