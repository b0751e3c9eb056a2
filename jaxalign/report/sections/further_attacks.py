"""Further blocks of the section of security: keys of templates, collections without known pairs, attributes."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.lines import Axis, Line, draw_lines
from jaxalign.report.part import Part
from jaxalign.report.records import Row
from jaxalign.report.result_table import Cell
from jaxalign.report.sections.section import Block, Together
from jaxalign.report.tables import Column, Table

EXACT, NOISY = "noise=0.0", "noise=other_image"
SITUATIONS = {
    "same_photographs": "The same photographs",
    "different_people": "Different people",
}


def further_blocks(part: Part, rows: Sequence[Row]) -> Iterator[Block]:
    """Tables and figures of the parts that were measured, of one split."""
    if any(row.measure == "key_error" for row in rows):
        yield _keys_table(part, rows)
    if any(row.measure == "matched_rank1" for row in rows):
        yield Together(list(_seed_curves(part, rows)))
        yield _matching_table(part, rows)
    if any(row.measure.startswith("attribute_") for row in rows):
        yield _attributes_table(part, rows)


def _cell(row: Row | None) -> Cell | None:
    return None if row is None else Cell(row.value, None, row.low, row.high, reason=row.reason)


def _keys_table(part: Part, rows: Sequence[Row]) -> Table:
    """One line for each network and kind of key: by the attack that needs fewest pairs."""
    breaks = f"pairs_to_break_key@fmr={part.security['at_fmr']:g}"
    columns = [Column("network"), Column("key")]
    columns += [
        Column(words, "number") for words in ("pairs that break it", "other image", "pairs that give it")
    ]
    columns += [Column(words, "number", 3) for words in ("D_sys, two keys", "after known pairs", "no key")]

    def least(name: str, kind: str, measure: str, variant: str, guesses: Sequence[str] = ()) -> Cell:
        here = [r for r in rows if (r.source, r.measure, r.variant) == (name, measure, variant)]
        found = [
            row.value for row in here if row.method.partition(":")[0] == kind and row.method not in guesses
        ]
        known = [value for value in found if not math.isnan(value)]
        return Cell(min(known)) if known else Cell(math.nan, reason="more than were tried")

    def linked(name: str, method: str) -> Cell | None:
        here = (name, method, "key_d_sys")
        return _cell(next((row for row in rows if (row.source, row.method, row.measure) == here), None))

    keyed = [row for row in rows if row.measure == "key_error"]
    lines = []
    for name, kind in dict.fromkeys((row.source, row.method.partition(":")[0]) for row in keyed):
        # With one pair less than the width, Procrustes guesses the sign that is open, rightly in one case of two.
        given = least(name, kind, "pairs_to_know_key", EXACT, guesses=(f"{kind}:procrustes",))
        links = (f"{kind}:cosine", f"{kind}:pairs", "none:cosine")
        cells = [*(least(name, kind, breaks, noise) for noise in (EXACT, NOISY)), given]
        cells += [linked(name, method) for method in links]
        lines.append([name, kind.replace("_", " "), *cells])
    caption = (
        "Known pairs of a plain and a protected template from which on 95 % of templates forged for others pass at "
        f"fmr={part.security['at_fmr']:g}: the same photograph in both, and another image of the person; then "
        "the pairs that give the key itself (an orthogonal one on width d: d pairs; d − 1 leave a sign open). Numbers "
        "are the smallest of those tried. D_sys: databases of two keys, by their cosines, and once a map between them "
        "is fitted to known pairs of other people."
    )
    return Table(
        f"{part.name}-keys",
        "Keys: known pairs that break them, and what two of them link",
        caption,
        columns,
        lines,
    )


def _seed_curves(part: Part, rows: Sequence[Row]) -> Iterator[Plot]:
    """Rank-1 of the restart that the attacker chooses, against seeds; a figure for each situation and network."""
    chosen = [
        row for row in rows if row.measure == "matched_rank1_chosen" and not row.method.endswith(":moments")
    ]
    for (situation, words), source in itertools.product(
        SITUATIONS.items(), dict.fromkeys(row.source for row in chosen)
    ):
        found = [row for row in chosen if row.source == source and row.method.startswith(situation)]
        lines = []
        for target in dict.fromkeys(row.target for row in found):
            curve = sorted((row for row in found if row.target == target), key=lambda row: row.at or 0)
            points = np.array([[row.at, row.value, row.low, row.high] for row in curve], float).T
            lines.append(Line(target, points[0], *(100 * points[1:])))
        unit = "photographs" if situation == "same_photographs" else "people"
        if lines:
            yield draw_lines(
                lines,
                Axis(f"seed {unit} known in both collections"),
                Axis("rank-1 (%)", unit="%", limits=(0, 100)),
                name=f"{part.name}-seeds-{situation}-{source}",
                title=f"{words}: {source}",
                caption="The restart of highest agreement, which attackers see. Bands: 95 % intervals over victims.",
            )


def _matching_table(part: Part, rows: Sequence[Row]) -> Table:
    """Every restart, the one chosen, and beside them chance and all pairs."""
    columns = [Column("leaked"), Column("other collection"), Column("attack"), Column("seeds", "number")]
    columns += [Column(words, "percent", 1) for words in ("chosen restart", "worst", "best", "succeeded")]
    columns += [Column("chance", "percent", 1), Column("all pairs", "percent", 1)]
    here: dict[tuple, list[Row]] = {}
    for row in rows:
        if row.measure.startswith("matched_"):
            here.setdefault((row.source, row.target, row.method, row.at), []).append(row)
    lines = []
    for (source, target, method, seeds), found in here.items():
        if method == "all_pairs":
            continue
        beside = {row.measure: row for row in here[source, target, "all_pairs", None]}
        named = {row.measure: row for row in found}
        restarts = [row.value for row in found if row.measure == "matched_rank1"]
        cells = [_cell(named["matched_rank1_chosen"]), Cell(min(restarts)), Cell(max(restarts))]
        cells += [Cell(named["matched_success"].value)]
        cells += [_cell(beside["matched_chance"]), _cell(beside["matched_rank1"])]
        lines.append([source, target, method.replace("_", " "), Cell(float(seeds or 0)), *cells])
    caption = (
        "Rank-1 of victims' other photographs in a gallery of one photograph each. A restart has succeeded where it "
        "reaches half of what all pairs give. 95 % intervals over victims in brackets."
    )
    return Table(
        f"{part.name}-matching", "Collections without known pairs, or with few", caption, columns, lines
    )


def _attributes_table(part: Part, rows: Sequence[Row]) -> Table:
    """Mean over attributes of what probes read, for each pair and method."""
    kinds = {
        "source": "in the leaked network",
        "target": "in the other",
        "across": "across",
        "chance": "most frequent value",
    }
    columns = [Column("leaked"), Column("probe of"), Column("method"), Column("attributes", "number")]
    columns += [Column(words, "percent", 1) for words in kinds.values()]
    found: dict[tuple, dict[str, list[float]]] = {}
    for row in rows:
        kind, _, name = row.measure.removeprefix("attribute_").partition(":")
        if row.measure.startswith("attribute_") and name:
            place = found.setdefault((row.source, row.target, row.method), {})
            place.setdefault(kind, []).append(row.value)
    lines = [
        [*place, Cell(float(len(of["across"]))), *(Cell(float(np.mean(of[kind]))) for kind in kinds)]
        for place, of in found.items()
    ]
    caption = (
        "Share of photographs whose attribute a linear probe reads rightly, mean over attributes (results.csv has "
        "each, with intervals). Across: leaked templates, mapped, by the probe of the other network, which attackers "
        "may have from anywhere."
    )
    return Table(f"{part.name}-attributes", "Attributes that cross a map", caption, columns, lines)
