"""The section of ensembles: what sets of encoders reach as one system, and what each encoder adds."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.figures.lines import Axis, Line, draw_lines
from jaxalign.report.labels import count, listed, number, percent, shown
from jaxalign.report.part import Part
from jaxalign.report.result_table import Cell, Measure, ResultTable, Setting
from jaxalign.report.sections import aggregates
from jaxalign.report.sections.section import Block, Folded, Section
from jaxalign.report.tables import Column, Table

CROSSING, MIXED = "shared", "heterogeneous"  # not fusions: one encoder against another, galleries of several


def ensemble(part: Part, order: Sequence[str]) -> Section:
    """The section of what ``experiments.ensemble`` wrote; ``order`` is that of encoders in tables."""
    systems = _Systems(part)
    blocks: list[Block] = [*systems.tables()]
    summary: list[str] = []
    if systems.leading is not None:
        lead, summary = systems.leading, [*systems.summary(systems.leading)]
        blocks.insert(1, systems.picture(lead))
        crossing = part.table((row for row in part.rows if row.method == CROSSING), order)
        words = {
            "name": f"{part.name}-crossing",
            "title": "One encoder's probes in the gallery of another",
        }
        blocks.append(
            Folded("Every set", [systems.every_set(lead), aggregates.pairs_table(crossing, lead, **words)])
        )
    return Section(part.name, f"Several encoders as one system: {part.dataset_words}", summary, blocks)


def ensemble_tables(part: Part) -> list[Table]:
    """For a terminal: means over sets by method and size, what an encoder adds to others, and the greedy choice."""
    return [*_Systems(part).tables()]


def ensemble_measures(table: ResultTable) -> list[Measure]:
    """The measures that are shown."""
    return [kind for kind in table.measures if kind.name == "rank1" or kind.name.startswith("tmr@")]


class _Systems:
    """The results of sets of encoders, whose members ``config.json`` names under "ensembles"."""

    def __init__(self, part: Part):
        self.part = part
        self.table = part.table(row for row in part.rows if not row.axis)
        self.members: Mapping[str, Sequence[str]] = part.config["ensembles"]
        self.sizes = sorted({len(members) for members in self.members.values()})
        self.alone = [name for name, members in self.members.items() if len(members) == 1]
        self.kinds = ensemble_measures(self.table)
        found = dict.fromkeys(setting.method for setting in self.table.settings)
        self.methods = [method for method in found if method != CROSSING]
        self.greedy: dict[int, list[str]] = {}  # by seed, in the order of the choice
        for row in sorted(part.rows, key=lambda row: row.at or 0):
            if row.axis == "budget" and row.source not in self.greedy.setdefault(row.seed, []):
                self.greedy[row.seed].append(row.source)
        self.leading = self._leading()

    def _leading(self) -> Measure | None:
        """The true match rate at the lowest false match rate that every system has, else the first measure."""
        rates = [kind for kind in self.kinds if kind.name.startswith("tmr@")]
        rates.sort(key=lambda kind: float(kind.name.partition("=")[2]))
        whole = (
            kind for kind in rates if not any(math.isnan(self.value(kind, "mean", of)) for of in self.members)
        )
        return next(whole, self.kinds[0] if self.kinds else None)

    def cell(self, kind: Measure, method: str, name: str) -> Cell | None:
        """A number of one set by one method; None where it was not measured."""
        return self.table.cell(Setting(method), kind, name, name)

    def value(self, kind: Measure, method: str, name: str) -> float:
        """The number of ``cell``; NaN where there is none."""
        cell = self.cell(kind, method, name)
        return math.nan if cell is None else cell.mean

    def mean(self, kind: Measure, method: str, size: int) -> float:
        """The mean over all sets of one size."""
        names = [name for name, members in self.members.items() if len(members) == size]
        return statistics.fmean(self.value(kind, method, name) for name in names)

    def sizes_of(self, method: str) -> list[int]:
        """Numbers of encoders that a method was measured for."""
        there = {
            source
            for setting in self.table.settings
            if setting.method == method
            for kind in self.kinds
            for source, _ in self.table.rows_of(setting, kind)
        }
        return sorted({len(self.members[name]) for name in there})

    def tables(self) -> Iterator[Table]:
        """Means over sets by method and size, what an encoder adds to others, and the greedy choice."""
        part, heads = self.part, [Column.of(kind) for kind in self.kinds]
        lines: list = [
            [method, Cell(float(size)), *(Cell(self.mean(kind, method, size)) for kind in self.kinds)]
            for method in self.methods
            for size in self.sizes_of(method)
        ]
        columns = [Column("method"), Column("encoders", "number"), *heads]
        caption = "Mean over all sets of so many encoders; beyond --largest, over those of the greedy choice."
        yield Table(f"{part.name}-fusions", "Fusions", caption, columns, lines)
        by_members = {frozenset(members): name for name, members in self.members.items()}
        lines = []
        for name in self.alone:
            both = {
                whole: by_members[members - {name}]
                for members, whole in by_members.items()
                if name in members and members - {name} in by_members
            }
            if both:
                gains = (
                    statistics.fmean(
                        self.value(kind, "mean", whole) - self.value(kind, "mean", rest)
                        for whole, rest in both.items()
                    )
                    for kind in self.kinds
                )
                lines.append([name, *map(Cell, gains)])
        columns = [Column("encoder"), *(Column(kind.head, "points", 1) for kind in self.kinds)]
        caption = "Fused by mean; mean over sets."
        yield Table(f"{part.name}-added", "What an encoder adds to others", caption, columns, lines)
        lines = [
            [
                Cell(float(seed)),
                Cell(float(size)),
                name,
                *(self.cell(kind, "mean", name) for kind in self.kinds),
            ]
            for seed, names in self.greedy.items()
            for size, name in enumerate(names, start=1)
        ]
        columns = [Column("seed", "number"), Column("budget", "number"), Column("encoders"), *heads]
        caption = (
            "Chosen one after the other on training people, fused by mean; numbers are means over seeds."
        )
        yield Table(f"{part.name}-greedy", "Greedy choice", caption, columns, lines)

    def summary(self, lead: Measure) -> Iterator[str]:
        """Sentences: the best alone and together, the greedy choice, mixed galleries, and what predicts the gain."""
        fusions = [method for method in self.methods if method != MIXED]
        found = {(name, how): self.value(lead, how, name) for name in self.members for how in fusions}
        alone = aggregates.best_of({way: v for way, v in found.items() if way[0] in self.alone}, lead)
        several = aggregates.best_of({way: v for way, v in found.items() if way[0] not in self.alone}, lead)
        if alone is not None and several is not None:
            less = "" if found[several] > found[alone] else ", so that no fusion reaches that encoder"
            yield (
                f"By {lead.describe()} the best of {count(len(self.alone), 'encoder')} alone is {shown(alone[0])} "
                f"({percent(found[alone])}), the best set {shown(several[0])}, fused by {several[1]} "
                f"({percent(found[several])}){less}."
            )
        for seed, names in [*self.greedy.items()][:1]:
            steps = listed(f"{shown(name)} ({percent(self.value(lead, 'mean', name))})" for name in names)
            yield f"Chosen on training people (seed {seed}), fused by mean: {steps}."
        mixed = {size: self.mean(lead, MIXED, size) for size in self.sizes_of(MIXED)}
        if mixed:
            steps = listed(f"{percent(value)} with {size}" for size, value in mixed.items())
            yield (
                f"Where each person is enrolled under one encoder of a set at random, {steps} encoders remain on "
                f"average, of {percent(self.mean(lead, 'mean', 1))} where one encoder serves all."
            )
        for each in self.part.predictions:
            if each.measure == str(lead) and not math.isnan(each.spearman):
                interval = f" (95 % interval {number(each.low)} to {number(each.high)})"
                yield (
                    "What crosses between two encoders and what fusing them gains over the better one have a rank "
                    f"correlation of {number(each.spearman)}{'' if math.isnan(each.low) else interval} over "
                    f"{count(each.pairs, 'pair')}."
                )

    def picture(self, lead: Measure) -> Plot:
        """The leading measure against the number of encoders, a line for each method."""
        lines = []
        for method in self.methods:
            sizes = self.sizes_of(method)
            values, none = (
                [100 * self.mean(lead, method, size) for size in sizes],
                np.full(len(sizes), np.nan),
            )
            lines.append(Line(method, np.array(sizes, float), np.array(values), none, none))
        return draw_lines(
            lines,
            Axis("encoders in a set", ticks=tuple(map(float, self.sizes))),
            Axis(f"{lead.brief} (%)", unit="%"),
            name=f"{self.part.name}-sizes",
            title="Quality against the number of encoders",
            caption=f"{aggregates.sentence_case(lead.describe())}, mean over sets of so many encoders.",
        )

    def every_set(self, lead: Measure) -> Table:
        """A line for each set, a column for each method."""
        columns = [Column("encoders"), Column("number", "number")]
        columns += [Column.of(lead, method, bold=False) for method in self.methods]
        lines = [
            [name, Cell(float(len(members))), *(self.cell(lead, method, name) for method in self.methods)]
            for name, members in self.members.items()
        ]
        caption = f"{lead.describe()}{aggregates.over_seeds(self.table)}."
        return Table(f"{self.part.name}-sets", "Every set", caption, columns, lines)
