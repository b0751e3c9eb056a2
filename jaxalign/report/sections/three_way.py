"""Is it the same to go to an encoder by way of a third?"""

import statistics
from collections.abc import Iterator, Sequence

from jaxalign.report.labels import count
from jaxalign.report.parts import Part
from jaxalign.report.records import ThreeWay
from jaxalign.report.sections.blocks import Block, Folded
from jaxalign.report.tables import Column, Table, Value
from jaxalign.report.tables.model import Entry

DIGITS = 3


def three_way(part: Part) -> Iterator[Block]:
    """By the encoder between, and every way; nothing where there is no third encoder.

    Args:
      part: what ``experiments.stability`` wrote.
    """
    if not part.three_way:
        return
    methods = list(dict.fromkeys(way.method for way in part.three_way))
    yield _by_encoder_between(part, methods)
    each = _every_way(part, methods)
    yield Folded(f"Every way by a third encoder ({count(len(each.rows), 'line')})", [each])


def _by_encoder_between(part: Part, methods: Sequence[str]) -> Table:
    names = dict.fromkeys(way.via for way in part.three_way)
    lines = [
        [via, *(_over_seeds([w for w in part.three_way if (w.via, w.method) == (via, m)]) for m in methods)]
        for via in names
    ]
    return Table(
        f"{part.name}-three-way",
        "By way of a third encoder",
        "Agreement of A → B → C with A → C by the encoder B between, mean over A and C; 1 is the same.",
        [Column("encoder between"), *_columns(methods)],
        lines,
    )


def _every_way(part: Part, methods: Sequence[str]) -> Table:
    ways: dict[tuple[str, str, str], dict[str, list[ThreeWay]]] = {}
    for way in part.three_way:
        found = ways.setdefault((way.source, way.via, way.target), {})
        found.setdefault(way.method, []).append(way)
    lines: list[list[Entry]] = [
        [*names, *(_over_seeds(found.get(method, [])) for method in methods)] for names, found in ways.items()
    ]
    return Table(
        f"{part.name}-three-way-each",
        "Every way by a third encoder",
        "Agreement of A → B → C with A → C; 95 % interval over people in brackets, or ± over seeds.",
        [*(Column(name) for name in ("A", "B", "C")), *_columns(methods)],
        lines,
    )


def _columns(methods: Sequence[str]) -> list[Column]:
    return [Column(method, "number", DIGITS, "high") for method in methods]


def _over_seeds(ways: Sequence[ThreeWay]) -> Value | None:
    """The mean over ways within each seed; of a single way with its interval, of several seeds with their deviation."""
    if len(ways) == 1:
        return Value(ways[0].value, None, ways[0].low, ways[0].high)
    by_seed: dict[int, list[float]] = {}
    for way in ways:
        by_seed.setdefault(way.seed, []).append(way.value)
    means = [statistics.fmean(values) for values in by_seed.values()]
    return (
        Value(statistics.fmean(means), statistics.pstdev(means) if len(means) > 1 else None)
        if means
        else None
    )
