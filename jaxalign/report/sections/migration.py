"""The section of a migration: the verdict, what the gallery reaches before and after, and what would help."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.lines import Axis, Line, draw_lines
from jaxalign.report.labels import count, number, percent
from jaxalign.report.part import Part
from jaxalign.report.result_table import Cell
from jaxalign.report.sections.section import Block, Folded, Section, Together
from jaxalign.report.tables import Column, Table

VERDICTS = {
    "map": "Map the gallery",
    "map_and_reenrol": "Map the gallery, and enrol a part again",
    "reenrol": "Enrol again",
    "stay": "Stay with the old network",
}
Content = Mapping[str, Any]


def migration(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.migrate`` wrote; ``order`` is not used, there is one pair."""
    content = part.migration
    blocks: list[Block] = [rates_table(content, part.name), candidates_table(content, part.name)]
    blocks += [
        thresholds_table(content, part.name),
        Together([_people(content, part), _reenrolled(content, part)]),
    ]
    if content["tested"]:
        blocks.append(tested_table(content, part.name))
    blocks.append(Folded("What the curves are drawn from", [_steps(content, part.name)]))
    title = f"{VERDICTS[content['verdict']]}: {content['old']} → {content['new']}"
    return Section(part.name, title, list(_summary(content)), blocks)


def _summary(content: Content) -> Iterator[str]:
    yield content["reason"]
    low, high = content["threshold_interval"]
    way = _way(content)
    if content["verdict"].startswith("map"):
        yield (
            f"Compare by {way} and accept scores of {content['threshold']:.4f} or more (95 % interval {low:.4f} to "
            f"{high:.4f}) for {_point(content)}."
        )
    search = content["rates"]["mapped"]["fnir@threshold"]
    people = count(content["operating_point"]["gallery"], "person", "people")
    yield (
        f"At the threshold {content['threshold']:.4f} a search of {people} misses {percent(search['value'])} of those "
        f"who are enrolled; a measurement on as many other people shows {percent(search['low'])} to "
        f"{percent(search['high'])} in 95 of 100 cases."
    )
    kept = content["rates_keeping_gallery"][content["operating_point"]["measure"].replace("tpir", "fnir")]
    yield (
        f"Where the gallery stays and probes of {content['new']} are mapped into the space of {content['old']}, they "
        f"{'find' if content['operating_point']['fpir'] is None else 'miss'} {percent(kept['value'])} at "
        f"{_point(content)}, with a threshold of {kept['threshold']:.4f}."
    )
    *fewer, all_ = content["people"][-2:]
    for size in fewer:  # none where fewer people fill no cohort
        yield (
            f"Maps fitted on {size['people']:,} people reach {percent(size['value'])}, those fitted on "
            f"{all_['people']:,} {percent(all_['value'])}."
        )
    yield from content["helps"]
    unlike, rows = content["unlike"], content["gallery"]["rows"]
    named = " and ".join(f"{amount:,} by {sign}" for sign, amount in unlike["flagged"].items())
    yield (
        f"Of {count(rows, 'gallery row')}, {named} are flagged as unlike the calibration data; "
        f"{unlike['false_alarm'] * rows:,.0f} by each would be expected of like ones."
    )


def _way(content: Content) -> str:
    kind = "drop-in" if content["drop_in"] else "two-sided"
    return f"{content['method']} ({kind}) and the {content['score']}"


def _point(content: Content) -> str:
    point = content["operating_point"]
    if point["fpir"] is None:
        return f"a false match rate of {point['fmr']:g}"
    return f"an FPIR of {point['fpir']:g} in a gallery of {point['gallery']:,} people"


def _cell(rate: Mapping[str, Any] | None) -> Cell | None:
    if rate is None:
        return None
    if rate["value"] is None:
        return Cell(math.nan, reason=rate.get("reason", ""))
    return Cell(rate["value"], None, rate["low"], rate["high"])


def rates_table(content: Content, name: str = "migration") -> Table:
    """What each network reaches alone, and what mapped rows do: people whom no map was fitted on."""
    systems = {"old": content["old"], "new": content["new"], "mapped": f"{content['old']}, mapped"}
    probes = {"old": content["old"], "new": content["new"], "mapped": content["new"]}
    other = next(
        way for way in content["candidates"] if way["chosen"] and way["drop_in"] != content["drop_in"]
    )
    systems["other"] = f"{content['old']}, mapped {'drop-in' if other['drop_in'] else 'two-sided'}"
    measures = [name for name in content["rates"]["old"] if name != "fnir@threshold"]
    columns = [Column("gallery"), Column("probes"), *(Column(name, "percent", 1) for name in measures)]
    lines = [
        [
            title,
            probes.get(system, content["new"]),
            *(_cell(content["rates"][system].get(name)) for name in measures),
        ]
        for system, title in systems.items()
    ]
    kept = content["rates_keeping_gallery"]
    lines.append([content["old"], f"{content['new']}, mapped", *(_cell(kept.get(name)) for name in measures)])
    size = content["operating_point"]["gallery"]
    caption = (
        f"People of the calibration, each by maps that were not fitted on them; searches for {size:,} people, each "
        "enrolled with one photograph. 95 % intervals over people in brackets."
    )
    return Table(f"{name}-rates", "Before and after", caption, columns, lines)


def candidates_table(content: Content, name: str = "migration") -> Table:
    """Every way that was compared."""
    point = content["operating_point"]
    columns = [
        Column("method"),
        Column("kind"),
        Column("score"),
        Column(point["measure"], "percent", 1, "high"),
    ]
    lines = [
        [way["method"], "drop-in" if way["drop_in"] else "two-sided", way["score"], Cell(way["value"])]
        for way in sorted(content["candidates"], key=lambda way: -way["value"])
    ]
    caption = (
        "On people whom the maps were not fitted on. Drop-in: the gallery moves into the new network's own "
        "coordinates, probes stay as they are. Two-sided: probes are mapped too."
    )
    return Table(f"{name}-candidates", "Ways to compare", caption, columns, lines)


def thresholds_table(content: Content, name: str = "migration") -> Table:
    """The thresholds of the chosen way."""
    columns = [
        Column("false match rate"),
        Column("threshold", "number", 4),
        Column("true match rate", "percent", 1),
    ]
    lines = []
    for measure, rate in content["rates"]["mapped"].items():
        if measure.startswith("tmr@"):
            at = Cell(math.nan, reason=rate.get("reason", ""))
            if rate["value"] is not None:
                at = Cell(rate["threshold"], None, rate["threshold_low"], rate["threshold_high"])
            lines.append([measure.partition("=")[2], at, _cell(rate)])
    caption = f"Of {_way(content)}. 95 % intervals over people in brackets."
    return Table(f"{name}-thresholds", "Thresholds", caption, columns, lines)


def tested_table(content: Content, name: str = "migration") -> Table:
    """The gallery's own people, where it holds both networks' rows: nobody of them was used before."""
    tested = content["tested"]
    measures = list(tested["rates"]["old"])
    columns = [Column("gallery"), *(Column(measure, "percent", 1) for measure in measures)]
    titles = {"old": content["old"], "new": content["new"], "mapped": f"{content['old']}, mapped"}
    lines = [[titles[of], *(_cell(rates[m]) for m in measures)] for of, rates in tested["rates"].items()]
    low, high = tested["expected"]
    caption = (
        f"The gallery's own {tested['people']:,} people, of whom nothing was used before. At the threshold, a search "
        f"of {tested['enrolled']:,} of them missed {percent(tested['fnir'])}; {percent(low)} to {percent(high)} were "
        "expected."
    )
    return Table(f"{name}-tested", "On the gallery's people", caption, columns, lines)


def _curve(points: Sequence[Mapping[str, Any]], along: str, label: str, scale: float = 1) -> Line:
    at = [scale * point[along] for point in points]
    parts = ([100 * point[name] for point in points] for name in ("value", "low", "high"))
    return Line(label, np.array(at), *map(np.array, parts))


def _level(content: Content, system: str, label: str, ends: np.ndarray) -> Line:
    hits = content["hits"][system]
    flat = (np.full(2, 100 * hits[name]) for name in ("value", "low", "high"))
    return Line(label, np.array([min(ends), max(ends)]), *flat)


def _people(content: Content, part: Part) -> Plot:
    curve = _curve(content["people"], "people", "mapped")
    lines = [curve, *(_level(content, of, f"{content[of]} alone", curve.x) for of in ("old", "new"))]
    return draw_lines(
        lines,
        Axis("calibration people", logarithmic=True, ticks=tuple(curve.x)),
        Axis(f"{content['operating_point']['measure']} (%)", unit="%"),
        name=f"{part.name}-people",
        title="How many calibration people are enough",
        caption="Nested parts of the people, always compared on the same others. Bands: 95 % intervals over people.",
    )


def _reenrolled(content: Content, part: Part) -> Plot:
    steps = [{"share": 0.0, **content["hits"]["mapped"]}, *content["reenrolled"]]
    curve = _curve(steps, "share", "in the order of reenrol.csv", 100)
    chance = [step.get("at_random", step["value"]) for step in steps]
    none = np.full(len(steps), np.nan)
    lines = [curve, Line("at random", curve.x, 100 * np.array(chance), none, none)]
    return draw_lines(
        [*lines, _level(content, "old", f"{content['old']} alone", curve.x)],
        Axis("gallery enrolled again (%)", unit="%"),
        Axis(f"{content['operating_point']['measure']} (%)", unit="%"),
        name=f"{part.name}-reenrolled",
        title="What enrolling a part again gains",
        caption="Mapped rows and new ones in one gallery, at one threshold. Bands: 95 % intervals over people.",
    )


def _steps(content: Content, name: str) -> Table:
    measure = content["operating_point"]["measure"]
    columns = [Column("what"), Column(measure, "percent", 1)]
    lines = [[f"{number(size['people'])} calibration people", _cell(size)] for size in content["people"]]
    for step in content["reenrolled"]:
        lines += [
            [f"{percent(step['share'], 0)} enrolled again, in order", _cell(step)],
            [f"{percent(step['share'], 0)} enrolled again, at random", Cell(step["at_random"])],
        ]
    return Table(f"{name}-steps", "Curves", "95 % intervals over people in brackets.", columns, lines)
