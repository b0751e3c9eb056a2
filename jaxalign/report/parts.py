"""What one driver left behind, as the sections of a report read it."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxalign.report.controls import OWN, PIXEL_MAPS, RELATIVE, SHUFFLED
from jaxalign.report.geometry_text import Predicted
from jaxalign.report.records import Difference, Point, ThreeWay
from jaxalign.report.rows import ResultTable, Row, Setting

CONTROLS = (OWN, SHUFFLED, PIXEL_MAPS)


@dataclasses.dataclass(frozen=True)
class Part:
    """One results directory.

    Attributes:
      name: of the directory.
      driver: that wrote it.
      config: the content of its ``config.json``.
      rows: of ``results.parquet``.
      curves: of ``curves.parquet``.
      doubtful: (source, target, method) of fits that were not numerically sound in some seed.
      alignability: of ``alignability.parquet``.
      projection, predictions, differences, three_way: of ``projection.csv``, ``prediction.csv``, ``differences.csv``
        and ``three_way.csv``.
      families: the content of ``families.json``.
      checksums: SHA-256 of the files read, by name.
    """

    name: str
    driver: str
    config: Mapping[str, Any]
    rows: Sequence[Row]
    curves: Sequence[Row] = ()
    doubtful: frozenset[tuple[str, str, str]] = frozenset()
    alignability: Sequence[Row] = ()
    projection: Sequence[Point] = ()
    predictions: Sequence[Predicted] = ()
    differences: Sequence[Difference] = ()
    three_way: Sequence[ThreeWay] = ()
    families: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def datasets(self) -> list[str]:
        """Where maps were fitted, in order of appearance; without rows, that of the configuration."""
        store = self.config.get("store")
        named = store.get("dataset") if isinstance(store, Mapping) else None
        return list(dict.fromkeys(row.dataset for row in self.rows)) or ([str(named)] if named else [])

    @property
    def encoders(self) -> list[str]:
        """In order of appearance, sources first; controls are none."""
        rows = [row for row in self.rows if row.method not in CONTROLS and row.source]
        return list(dict.fromkeys([*(row.source for row in rows), *(row.target for row in rows)]))

    def methods(self) -> list[Row]:
        """Rows of pairs by methods at one setting: no controls, nothing varied along an axis."""
        return [row for row in self.rows if row.method not in CONTROLS and not row.axis and row.source]

    def means(self) -> list[Row]:
        """Rows of numbers of the mean over pairs."""
        return [row for row in self.rows if not row.source]

    def controls(self) -> list[Row]:
        """Rows of controls, and rates relative to them."""
        return [row for row in self.rows if row.method in CONTROLS or row.measure.endswith(RELATIVE)]

    def table(self, rows: Iterable[Row], order: Sequence[str] = ()) -> ResultTable:
        """Rows as a table: ranks chosen per pair are one setting, doubtful fits are marked."""
        rows = [row for row in rows if not row.measure.endswith(RELATIVE)]
        settings = {Setting(row.method, row.rank) for row in rows}
        merged = chosen_per_pair(rows)
        marks = [
            (source, target, Setting(method) if method in merged else setting)
            for source, target, method in self.doubtful
            for setting in settings
            if setting.method == method
        ]
        return ResultTable(rows, merge_ranks=merged, doubtful=marks, order=order)


def chosen_per_pair(rows: Sequence[Row]) -> set[str]:
    """Methods with several ranks, but one for each pair: it was chosen."""
    ranks: dict[str, set[int | None]] = {}
    seen: dict[tuple[str, ...], set[int | None]] = {}
    for row in rows:
        ranks.setdefault(row.method, set()).add(row.rank)
        seen.setdefault((row.method, row.source, row.target, str(row.seed), row.dataset), set()).add(row.rank)
    several = {method for method, found in ranks.items() if len(found) > 1}
    return several - {key[0] for key, found in seen.items() if len(found) > 1}
