"""The results of one driver as the sections of a report read them, and controls to judge results by."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxalign.report.labels import shown
from jaxalign.report.records import Difference, Predicted, ProjectedPoint, Row, ThreeWay
from jaxalign.report.result_table import ResultTable, Setting

OWN, SHUFFLED, PIXEL_MAPS = CONTROLS = ("own", "shuffled", "pixels")
CONTROL_WORDS = {
    OWN: "own: each encoder against itself",
    SHUFFLED: "shuffled: ridge on rows that do not belong together",
    PIXEL_MAPS: "pixels: ridge from 64 principal components of the pixels",
}
RELATIVE = "_relative"


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
      fits: (method, R², ok) of every fit.
      alignability: of ``alignability.parquet``.
      projection, predictions, differences, three_way: of ``projection.csv``, ``prediction.csv``, ``differences.csv``
        and ``three_way.csv``.
      families, migration, security: the content of ``families.json``, ``migration.json`` and ``security.json``.
      checksums: SHA-256 of the files read, by name.
    """

    name: str
    driver: str
    config: Mapping[str, Any]
    rows: Sequence[Row]
    curves: Sequence[Row] = ()
    doubtful: frozenset[tuple[str, str, str]] = frozenset()
    fits: Sequence[tuple[str, float, bool]] = ()
    alignability: Sequence[Row] = ()
    projection: Sequence[ProjectedPoint] = ()
    predictions: Sequence[Predicted] = ()
    differences: Sequence[Difference] = ()
    three_way: Sequence[ThreeWay] = ()
    families: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    migration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    security: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def datasets(self) -> list[str]:
        """Where maps were fitted, in order of appearance; without rows, that of the configuration."""
        store = self.config.get("store")
        named = store.get("dataset") if isinstance(store, Mapping) else None
        return list(dict.fromkeys(row.dataset for row in self.rows)) or ([str(named)] if named else [])

    @property
    def dataset_words(self) -> str:
        """The data sets for a title."""
        return ", ".join(map(shown, self.datasets))

    @property
    def synthetic(self) -> bool:
        """Whether the faces are those of people who do not exist, made by the package."""
        images = (self.config.get("config") or {}).get("images")
        named = [re.fullmatch(r"faces-\d+x\d+", name) for name in self.datasets]
        return str(images).startswith("faces:") or any(named)

    def methods(self) -> list[Row]:
        """Rows of pairs by methods at one setting: no controls, nothing varied along an axis."""
        return [row for row in self.rows if row.method not in CONTROLS and not row.axis and row.source]

    def table(self, rows: Iterable[Row], order: Sequence[str] = ()) -> ResultTable:
        """Rows as a table: ranks chosen per pair are one setting, doubtful fits are marked."""
        rows = [row for row in rows if not row.measure.endswith(RELATIVE)]
        merged = chosen_per_pair(rows)
        settings = {Setting.of(row, merged).fit for row in rows}
        marks = [
            (source, target, setting)
            for source, target, method in self.doubtful
            for setting in settings
            if setting.method == method
        ]
        return ResultTable(rows, merge_ranks=merged, doubtful=marks, order=order)


def chosen_per_pair(rows: Sequence[Row]) -> set[str]:
    """Methods with several ranks, but one for each pair: it was chosen."""
    ranks: dict[str, set[int | None]] = {}
    ranks_of_pair: dict[tuple, set[int | None]] = {}
    for row in rows:
        ranks.setdefault(row.method, set()).add(row.rank)
        pair = row.method, row.source, row.target, row.seed, row.dataset, row.score
        ranks_of_pair.setdefault(pair, set()).add(row.rank)
    several = {method for method, found in ranks.items() if len(found) > 1}
    return several - {pair[0] for pair, found in ranks_of_pair.items() if len(found) > 1}


def relative_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """For every identification rate of a pair, its share of the geometric mean of the two encoders' own.

    Above 1 where a map identifies people better than the encoders do; NaN where an encoder identifies nobody.
    """
    question = lambda row: (row.dataset, row.seed, row.own_photograph, row.measure, row.score)  # noqa: E731
    own = {(row.source, *question(row)): row.value for row in rows if row.method == OWN}
    for row in rows:
        if row.method == OWN or not row.own_photograph or row.measure.endswith(RELATIVE):
            continue
        source, target = (own.get((name, *question(row))) for name in (row.source, row.target))
        if source is not None and target is not None:
            bound = math.sqrt(source * target)
            value = row.value / bound if bound > 0 else math.nan
            reason = "" if bound > 0 else "an encoder finds nobody by itself"
            yield row._replace(measure=row.measure + RELATIVE, value=value, reason=reason)
