"""How alike spaces are before any map, and whether that predicts what crosses."""

import math
from collections.abc import Sequence

from jaxalign.report.figures.dots import Dot, draw_dots
from jaxalign.report.figures.matrix import MOST_NUMBERS_ON_PAGE, Canvas, heat_map
from jaxalign.report.figures.scales import Scale
from jaxalign.report.geometry_text import DISTANCES, Predicted
from jaxalign.report.labels import count, number, shown
from jaxalign.report.parts import Part
from jaxalign.report.rows import Measure, ResultTable, Row
from jaxalign.report.sections.aggregates import mean_value
from jaxalign.report.sections.alignability import alignability
from jaxalign.report.sections.blocks import Block, Folded, Section
from jaxalign.report.tables import Column, Table, Value

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
NULL = (
    ("", "value"),
    (":null_mean", "null mean"),
    (":null_95%", "null 95 %"),
    (":calibrated", "calibrated"),
)


def geometry(part: Part, order: Sequence[str]) -> Section:
    """The section of similarities of spaces.

    Args:
      part: what ``experiments.geometry`` wrote.
      order: of encoders in heat maps and tables.
    """
    pairs = [row for row in part.rows if row.source != row.target and not row.axis]
    both = [*pairs, *(row._replace(source=row.target, target=row.source) for row in pairs)]
    blocks: list[Block] = [*_predictions(part)]
    if pairs:
        table = part.table(both, order)
        names = list(dict.fromkeys(row.measure.partition(":")[0] for row in pairs))
        blocks += alignability(part, table, {name: similarity_words(name) for name in names})
        blocks += [_similarities(part, table, names), *_heat_maps(part, table, names)]
    single = [row for row in part.rows if row.source == row.target and not row.axis]
    if single:
        blocks.append(_encoders(part, single, order))
    dataset = ", ".join(map(shown, part.datasets))
    return Section(part.name, f"Geometry of the spaces: {dataset}", _summary(part), blocks)


def similarity_words(name: str) -> str:
    """The name of a similarity, or of a number of one encoder, in the words of the field."""
    return IN_WORDS.get(name, name.replace("_", " "))


def _label(prediction: Predicted) -> str:
    return similarity_words(prediction.similarity) + (
        ", calibrated" if prediction.calibrated == "yes" else ""
    )


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


def _predictions(part: Part) -> list[Block]:
    """Does a similarity of spaces predict what crosses? A figure and a table for each thing predicted."""
    blocks: list[Block] = []
    for place, ((method, measure), found) in enumerate(_groups(part).items()):
        target = f"{Measure(measure).describe()} by {method}"
        dots = [Dot(_label(p), p.spearman, p.low, p.high, hollow=p.calibrated != "yes") for p in found]
        name = f"{part.name}-prediction-{method}-{measure}"
        title = f"What predicts {Measure(measure).brief} by {method}"
        picture = draw_dots(
            dots,
            name=name,
            title=title,
            caption=f"Spearman's rank correlation over pairs of encoders with {target}, 95 % interval. Filled: "
            "calibrated by a null of permuted rows; hollow: raw. A raw distance should correlate negatively.",
            axis="Spearman's rank correlation",
            zero=True,
        )
        columns = [
            Column("similarity"),
            Column("calibrated"),
            Column("Spearman", "number", 2),
            Column("p", "number"),
            Column("pairs", "number"),
        ]
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
            f"Rank correlation over pairs with {target}; 95 % interval from a bootstrap over encoders in brackets; p "
            "of a Mantel test; the best first."
        )
        here: list[Block] = [picture, Table(name, title, caption, columns, lines)]
        blocks += here if place == 0 else [Folded(title, here)]
    return blocks


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
        table,
        f"{', '.join(map(shown, part.datasets))}; no map is fitted",
        roles=("", ""),
        numbers_to=MOST_NUMBERS_ON_PAGE,
    )
    pictures = {}
    for name in names:
        measure = known.get(f"{name}:calibrated") or known.get(name)
        if measure is not None:
            means, _, _ = table.matrix(table.settings[0], measure)
            scale = Scale.around(means)
            title = similarity_words(name) + (", calibrated" if measure.name.endswith(":calibrated") else "")
            pictures[name] = heat_map(
                canvas,
                table.settings[0],
                measure,
                name=f"{part.name}-{measure.name.replace(':', '-')}",
                scale=scale,
                title=title[0].upper() + title[1:],
            )
    first = next((name for name in LEADING if name in pictures), next(iter(pictures), None))
    if first is None:
        return []
    rest = [picture for name, picture in pictures.items() if name != first]
    folded = [Folded(f"Heat maps of the other similarities ({len(rest)})", rest)] if rest else []
    return [pictures[first], *folded]


def _encoders(part: Part, rows: Sequence[Row], order: Sequence[str]) -> Table:
    """A line for each encoder: its dimension, spread and hubs."""
    table = part.table(rows, order)
    columns = [Column("encoder"), *(Column(similarity_words(m.name), "number") for m in table.measures)]
    lines = []
    for name in table.encoders:
        entries = []
        for measure in table.measures:
            cell = table.cell(table.settings[0], measure, name, name)
            reason = table.reason(table.settings[0], measure, name, name)
            entries.append(None if cell is None else Value.of(cell, reason))
        lines.append([name, *entries])
    spread = f"; ± standard deviation over {len(table.seeds)} seeds" if len(table.seeds) > 1 else ""
    return Table(
        f"{part.name}-encoders",
        "Each space by itself",
        f"Numbers of single encoders{spread}.",
        columns,
        lines,
    )


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
