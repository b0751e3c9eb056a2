"""A tree of encoders from scipy's linkage matrix."""

from collections.abc import Mapping, Sequence

from jaxalign.report.figures.drawing import INK, MUTED, SERIES, Plot, new_figure, picture, styled
from jaxalign.report.labels import number, short_names, shown

Linkage = Sequence[Sequence[float]]


def leaves(linkage: Linkage, encoders: int) -> list[int]:
    """The order of leaves that draws the tree without crossings, as ``scipy.cluster.hierarchy.leaves_list``."""
    if not linkage:
        return list(range(encoders))
    under: dict[int, list[int]] = {place: [place] for place in range(encoders)}
    for merge, (left, right, *_) in enumerate(linkage):
        under[encoders + merge] = under[int(left)] + under[int(right)]
    return under[encoders + len(linkage) - 1]


def draw_dendrogram(
    encoders: Sequence[str],
    linkage: Linkage,
    *,
    name: str,
    title: str,
    caption: str,
    axis: str,
    labels: Mapping[str, str] | None = None,
) -> Plot:
    """The tree with its root at the left, a height at every merge, and the family of each encoder in ``labels``.

    ``linkage`` has rows of (left, right, height, leaves), which count ``encoders`` in their order; ``axis`` says what
    a height is.
    """
    count = len(encoders)
    names, labels = short_names(encoders), labels or {}
    families = list(dict.fromkeys(labels.values()))
    with styled():
        figure = new_figure(6.4, 1.1 + max(0.28, 0.16 + 0.14 * (count <= 20)) * count)
        axes = figure.add_subplot()
        order = leaves(linkage, count)
        height = dict.fromkeys(range(count), 0.0)
        middle = {leaf: float(row) for row, leaf in enumerate(order)}
        for merge, (left, right, at, *_) in enumerate(linkage):
            a, b = int(left), int(right)
            ends = [middle[a], middle[a], middle[b], middle[b]]
            axes.plot([height[a], at, at, height[b]], ends, color=MUTED, linewidth=1.4)
            centre = (middle[a] + middle[b]) / 2
            if count <= 30:
                axes.annotate(number(round(at, 1)), (at, centre), (3, 0), textcoords="offset points",
                              fontsize=7, va="center", color=INK)  # fmt: skip
            height[count + merge], middle[count + merge] = at, centre
        axes.set_yticks(range(count), [names[encoders[leaf]] for leaf in order])
        for tick, leaf in zip(axes.get_yticklabels(), order, strict=True):
            if (family := labels.get(encoders[leaf])) is not None:
                tick.set_text(f"{names[encoders[leaf]]} [{shown(family)}]")
                tick.set_color(SERIES[families.index(family) % len(SERIES)])
        axes.set_yticklabels(axes.get_yticklabels())
        axes.yaxis.tick_right()
        axes.tick_params(axis="y", length=0)
        highest = max([at for _, _, at, *_ in linkage], default=1.0) or 1.0
        axes.set_xlim(1.1 * highest, 0)
        axes.set_ylim(count - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis)
        axes.set_title(title, fontsize=10.5, weight="bold", loc="left")
        return picture(figure, name, title=title, caption=caption, alt=_in_words(title, encoders, linkage))


def _in_words(title: str, encoders: Sequence[str], linkage: Linkage) -> str:
    """The merges with their heights, the closest first."""
    words = {place: shown(name) for place, name in enumerate(encoders)}
    merges = []
    for merge, (left, right, at, size, *_) in enumerate(linkage):
        a, b = words[int(left)], words[int(right)]
        merges.append(f"{a} and {b} at {number(round(float(at), 2))}")
        words[len(encoders) + merge] = f"group {merge + 1} ({int(size)} encoders)"
    more = f"; {len(merges) - 12} further merges" if len(merges) > 12 else ""
    return f"{title}. Merges, the closest first: {'; '.join(merges[:12])}{more}."
