"""The section of security: how many pairs make a leak of one network a key to another, and what else it allows."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.lines import Axis, Line, draw_lines
from jaxalign.report.labels import count, percent
from jaxalign.report.part import Part
from jaxalign.report.records import COSINE, Row
from jaxalign.report.result_table import Cell
from jaxalign.report.sections.further_attacks import further_blocks
from jaxalign.report.sections.section import Block, Folded, Section, Together
from jaxalign.report.tables import Column, Table

OWN_SYSTEMS = (
    "For assessing systems that you are responsible for: the numbers say how much protection templates need, and no "
    "more than what the photographs and networks measured here allow."
)
KINDS = {"same_image": "same image", "other_image": "other image", "other_person": "other person"}
EXTRAPOLATED = "extrapolated_"
Pair = tuple[str, str]


def security(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.security`` wrote, of its first split; ``order`` is not used."""
    seed = part.rows[0].seed if part.rows else None
    rows = [row for row in part.rows if row.seed == seed]
    blocks: list[Block] = [OWN_SYSTEMS]
    verdicts = {(row.source, row.target): row for row in rows if row.measure.startswith("pairs_to_key@")}
    if verdicts:
        blocks += [verdict_table(part, rows, verdicts), Together(list(_curves(part, rows, verdicts)))]
        blocks.append(Folded("Defender's score, baseline and zero effort", [_score_table(part, rows)]))
    if any(row.measure == "d_sys" for row in rows):
        blocks += [_linkability_table(part, rows), Together(list(_densities(part)))]
    if any(row.measure == "reidentified_rank1" for row in rows):
        blocks += [_reidentification_table(part, rows), Together(list(_searches(part, rows)))]
    blocks += further_blocks(part, rows)
    several = len({row.seed for row in part.rows})
    summary = [*_summary(part, verdicts)]
    if several > 1:
        summary.append(f"The first of {several} splits is shown; results.csv has all.")
    return Section(part.name, "Template security: what a leak allows", summary, blocks)


def _summary(part: Part, verdicts: dict[Pair, Row]) -> Iterator[str]:
    content = part.security
    found = [row for row in verdicts.values() if not math.isnan(row.value)]
    if verdicts:
        yield (
            f"A leak is called a key where {percent(content['key'], 0)} of its mapped templates are accepted although "
            f"the system enrolled another image of their owner, at a false match rate of {content['at_fmr']:g}."
        )
    if found:
        least, most = (pick(found, key=lambda row: row.value) for pick in (min, max))
        yield (
            f"{count(len(found), 'pair')} of {len(verdicts)} ordered pairs of networks are open to it: from "
            f"{_pairs(least.value)} ({least.source} → {least.target}) to {_pairs(most.value)} "
            f"({most.source} → {most.target})."
        )
    if len(found) < len(verdicts):
        yield f"{len(verdicts) - len(found)} are not, with the {max(content['sizes']):,} pairs of photographs measured."
    yield OWN_SYSTEMS


def _pairs(value: float) -> str:
    return count(math.ceil(value), "pair of photographs", "pairs of photographs")


def _cell(row: Row | None) -> Cell | None:
    return None if row is None else Cell(row.value, None, row.low, row.high, reason=row.reason)


def _largest(rows: Sequence[Row], verdict: Row) -> dict[str, Row]:
    """Rates of the verdict's map at the largest number of pairs, by measure."""
    way = (verdict.source, verdict.target, verdict.method, verdict.variant, COSINE)
    of = [row for row in rows if (row.source, row.target, row.method, row.variant, row.score) == way]
    most = max((row.pairs_owned or 0 for row in of), default=0)
    return {row.measure: row for row in of if row.pairs_owned == most}


def verdict_table(part: Part, rows: Sequence[Row], verdicts: dict[Pair, Row]) -> Table:
    """One line for each pair: how many pairs of photographs are needed, and what all of them reach."""
    at = f"fmr={part.security['at_fmr']:g}"
    columns = [Column("leaked"), Column("attacked"), Column("pairs needed", "number"), Column("interval")]
    columns += [Column("map"), *(Column(words, "percent", 1) for words in KINDS.values())]
    lines = []
    for (source, target), row in verdicts.items():
        reached = _largest(rows, row)
        ends = "more" if row.low is None else f"{math.ceil(row.low):,} to "
        ends += "" if row.low is None else "more" if row.high is None else f"{math.ceil(row.high):,}"
        needed = Cell(row.value if math.isnan(row.value) else math.ceil(row.value), reason=row.reason)
        rates = [_cell(reached.get(f"attack_{kind}@{at}")) for kind in KINDS]
        lines.append([source, target, needed, ends, f"{row.method}, {row.variant}", *rates])
    share, most = percent(part.security["key"], 0), max(part.security["sizes"])
    caption = (
        "Pairs of photographs (one image under both networks) that the attacker needs until a share of "
        f"{share} of leaked templates passes as another image of their owner at {at}, by the map that needs fewest; "
        f"`more` is beyond the {most:,} measured. Then what that map reaches with all. 95 % intervals over victims; "
        "thresholds are the system's and stay."
    )
    return Table(f"{part.name}-verdict", "How many pairs make a leak a key", caption, columns, lines)


def _line(label: str, rows: Sequence[Row], x: Sequence[float]) -> Line:
    ends = (
        [np.nan if end is None else 100 * end for end in of] for of in zip(*((r.low, r.high) for r in rows))
    )
    return Line(label, np.array(x, float), np.array([100 * row.value for row in rows]), *map(np.array, ends))


def _curves(part: Part, rows: Sequence[Row], verdicts: dict[Pair, Row]) -> Iterator[Plot]:
    """Success against pairs owned: a figure for each leaked network, a line for each one attacked."""
    measure = f"attack_other_image@fmr={part.security['at_fmr']:g}"
    for source in dict.fromkeys(source for source, _ in verdicts):
        lines = []
        for (of, target), verdict in verdicts.items():
            way = (of, target, verdict.method, verdict.variant, COSINE, measure)
            curve = [r for r in rows if (r.source, r.target, r.method, r.variant, r.score, r.measure) == way]
            curve = sorted((r for r in curve if r.pairs_owned), key=lambda row: row.pairs_owned or 0)
            if of == source and curve:
                lines.append(_line(target, curve, [r.pairs_owned or 0 for r in curve]))
        yield draw_lines(
            lines,
            Axis("pairs of photographs that the attacker owns", logarithmic=True),
            Axis("accepted, other image (%)", unit="%", limits=(0, 100)),
            name=f"{part.name}-pairs-{source}",
            title=f"A leak of {source}",
            caption="Success against each system, by the map of the table above. Bands: 95 % intervals over victims.",
        )


def _score_table(part: Part, rows: Sequence[Row]) -> Table:
    """Every method with all pairs, by the cosine and by a defender's score; the baseline, and zero effort."""
    at = f"fmr={part.security['at_fmr']:g}"
    most = max(part.security["sizes"])
    columns = [
        Column("leaked"),
        Column("attacked"),
        Column("method"),
        Column("variant"),
        Column("system's score"),
    ]
    columns += [Column(words, "percent", 1) for words in KINDS.values()]
    found: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        if (
            row.measure.startswith("attack_")
            and row.measure.endswith(at)
            and row.pairs_owned in (None, 0, most)
        ):
            place = row.source, row.target, row.method, row.variant, row.score
            found.setdefault(place, {})[row.measure] = row
    lines = [
        [*place, *(_cell(of.get(f"attack_{kind}@{at}")) for kind in KINDS)]
        for place, of in sorted(found.items(), key=lambda item: item[0][:2])
    ]
    caption = (
        f"At {at}. `own`: the system's own templates, so that `other person` is the zero-effort rate; `identity`: "
        "leaked templates that no map moved. The cohort is the defender's: other people under the system's network."
    )
    return Table(f"{part.name}-scores", "Every map and score", caption, columns, lines)


def _linkability_table(part: Part, rows: Sequence[Row]) -> Table:
    """D_sys and maximal linkability of every pair, before and after mapping."""
    names = ("d_sys", "maximal_linkability")
    columns = [Column("leaked"), Column("other database"), Column("method")]
    for words in ("D_sys", "maximal linkability"):
        columns += [Column(words, "number", 3), Column("null", "number", 3), Column("corrected", "number", 3)]
    found: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        if row.measure.startswith(names):
            found.setdefault((row.source, row.target, row.method), {})[row.measure] = row
    lines = [
        [*place, *(_cell(of.get(f"{name}{end}")) for name in names for end in ("", "_null", "_corrected"))]
        for place, of in found.items()
    ]
    caption = (
        f"Prior odds ω = {part.security['omega']:g}; 0 is unlinkable, 1 wholly linkable. The null is the mean over "
        "permuted labels: the estimate is that high where nothing is linkable. Corrected: half of the scores say which "
        "bins link, the other half how much. `identity` is before mapping. 95 % intervals over people in brackets."
    )
    return Table(f"{part.name}-linkability", "Linkability of two databases", caption, columns, lines)


def _densities(part: Part) -> Iterator[Plot]:
    """D↔ over scores with both densities, before mapping and by the last method, of the first pair."""
    drawn = part.security.get("densities", [])
    first = [of for of in drawn if (of["source"], of["target"]) == (drawn[0]["source"], drawn[0]["target"])]
    for of in (first[0], first[-1]) if first else ():
        edges = np.array(of["edges"])
        middle, none = (edges[1:] + edges[:-1]) / 2, np.full(len(edges) - 1, np.nan)
        highest = max(max(of["mated"]), max(of["non_mated"]))
        lines = [Line("D↔", middle, np.array(of["local"]), none, none)]
        for name, words in (("mated", "one person"), ("non_mated", "two people")):
            lines.append(Line(words, middle, np.array(of[name]) / highest, none, none))
        yield draw_lines(
            lines,
            Axis("score"),
            Axis("D↔, and densities (highest = 1)", limits=(0, 1.02)),
            name=f"{part.name}-linkability-{of['method']}",
            title=f"{of['source']} and {of['target']}, {of['method']}",
            caption="Local linkability of a score, with the densities of scores of one person and of two.",
        )


def _reidentification_table(part: Part, rows: Sequence[Row]) -> Table:
    """Re-identification in the largest gallery measured, and of a million people by each model."""
    of = [row for row in rows if row.measure.startswith("reidentified")]
    measured = [row.at or 0 for row in of if not row.variant]
    sizes = part.security["reidentification"]["sizes"]
    places = [("", max(measured))]
    places += [(row.variant, row.at) for row in of if row.variant]
    measures = list(dict.fromkeys(row.measure for row in of))
    columns = [
        Column("leaked"),
        Column("searched with"),
        Column("method"),
        Column("score"),
        Column("people", "number"),
    ]
    columns += [
        Column("how"),
        *(Column(name.removeprefix("reidentified_"), "percent", 1) for name in measures),
    ]
    lines = []
    ways = dict.fromkeys((row.source, row.target, row.method, row.score) for row in of)
    for way in ways:
        for variant, at in dict.fromkeys(places):
            here = {
                row.measure: row
                for row in of
                if (row.source, row.target, row.method, row.score, row.variant, row.at) == (*way, variant, at)
            }
            how = variant.replace("_", " by ", 1).replace("_", "-") if variant else "measured"
            lines.append([*way, Cell(float(at or 0)), how, *(_cell(here.get(name)) for name in measures)])
    caption = (
        f"Rank-1, and first candidate above the threshold of an FPIR. A million people are EXTRAPOLATED: log-linear "
        f"from the sizes {', '.join(map(str, sizes))}; Pareto from strangers' scores in a gallery of {max(sizes):,}. "
        "The models are far apart where neither is to be trusted. 95 % intervals over people in brackets."
    )
    return Table(f"{part.name}-reidentification", "Re-identification", caption, columns, lines)


def _searches(part: Part, rows: Sequence[Row]) -> Iterator[Plot]:
    """Rank-1 against the size of the leak, a figure for each leaked network, by the last method."""
    of = [row for row in rows if row.measure == "reidentified_rank1" and row.score == COSINE]
    method = of[-1].method
    for source in dict.fromkeys(row.source for row in of):
        lines = []
        for target in dict.fromkeys(row.target for row in of if row.source == source):
            here = [r for r in of if (r.source, r.target, r.method) == (source, target, method)]
            curve = [row for row in here if row.variant in ("", f"{EXTRAPOLATED}log_linear")]
            lines.append(_line(target, curve, [row.at or 0 for row in curve]))
        yield draw_lines(
            lines,
            Axis("people in the leaked database; a million is extrapolated", logarithmic=True),
            Axis("rank-1 (%)", unit="%", limits=(0, 100)),
            name=f"{part.name}-searches-{source}",
            title=f"A leak of {source}, searched",
            caption=f"By {method}. The last point is extrapolated, by a straight line through the measured sizes.",
        )
