"""Embeddings of a few people in two dimensions, before and after a map."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxalign.report.figures.drawing import INK, MARKERS, MUTED, SERIES, Plot, new_figure, picture, styled
from jaxalign.report.labels import short_names
from jaxalign.report.records import ProjectedPoint

STAGES = ("before", "after")


def draw_projection(points: Sequence[ProjectedPoint], *, name: str) -> Plot:
    """Both stages, in one figure: the source's embeddings filled, the target's hollow, a colour and mark a person."""
    first = points[0]
    names = short_names([first.source, first.target])
    title = f"{names[first.source]} → {names[first.target]} by {first.method}"
    people = sorted({point.person for point in points})
    with styled():
        figure = new_figure(7.6, 4.1)
        for axes, stage in zip(figure.subplots(1, 2), STAGES, strict=True):
            here = [point for point in points if point.stage == stage]
            for point in here:
                place = people.index(point.person)
                colour = SERIES[place % len(SERIES)]
                face, size = (colour, 6) if point.side == "source" else ("none", 7.5)
                look: Any = {
                    "color": colour,
                    "markerfacecolor": face,
                    "markersize": size,
                    "markeredgewidth": 1.3,
                }
                look |= {"alpha": 0.85, "linestyle": "none"}
                axes.plot(point.x, point.y, MARKERS[place % len(MARKERS)], **look)
            found, asked = same_person_nearest(here)
            words = f"{stage}: nearest is the same person for {found} of {asked}"
            axes.set_title(words, fontsize=8.5, color=INK)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(visible=True, color=MUTED)
            axes.set_aspect("equal", adjustable="datalim")
            axes.margins(0.08)
        figure.suptitle(title, fontsize=10.5, weight="bold", x=0.02, ha="left")
        figure.supxlabel(f"filled: {names[first.source]}, hollow: {names[first.target]}", fontsize=8.5)
        caption = (
            f"{len(people)} test people, a colour and mark each. Two dimensions show a part of the whole: closeness "
            "here is neither needed nor enough for closeness in all dimensions."
        )
        return picture(figure, name, title=title, caption=caption, alt=_in_words(title, points, len(people)))


def same_person_nearest(points: Sequence[ProjectedPoint]) -> tuple[int, int]:
    """For how many source points the nearest target point is of the same person, and of how many."""
    sources = [point for point in points if point.side == "source"]
    targets = [point for point in points if point.side == "target"]
    if not sources or not targets:
        return 0, 0
    a, b = (np.array([[point.x, point.y] for point in side]) for side in (sources, targets))
    nearest = np.argmin(((a[:, None] - b[None]) ** 2).sum(-1), axis=1)
    hits = [point.person == targets[place].person for point, place in zip(sources, nearest.tolist())]
    return sum(hits), len(sources)


def _in_words(title: str, points: Sequence[ProjectedPoint], people: int) -> str:
    texts = []
    for stage in STAGES:
        found, asked = same_person_nearest([point for point in points if point.stage == stage])
        words = f"the nearest target point is of the same person for {found} of {asked} source points"
        texts.append(f"{stage} the map {words}")
    return f"Embeddings of {people} people in two dimensions, {title}: {'; '.join(texts)}."
