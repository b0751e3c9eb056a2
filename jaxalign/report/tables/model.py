"""The model of a table: columns, entries with uncertainty, and which entries are best."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from jaxalign.report.labels import NO_VALUE, file_stem, number, shown, with_minus
from jaxalign.report.result_table import Cell, Measure

UNITS = {"percent": " (%)", "points": " (points)"}  # of shares and of their differences


@dataclasses.dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
      title: its head.
      kind: "text", "percent" (values are shares), "points" (differences of shares) or "number".
      digits: after the decimal point; None for as many as a number of its size needs.
      better: "high" or "low": which end is best, to be set in bold; "" where neither is.
    """

    title: str
    kind: str = "text"
    digits: int | None = None
    better: str = ""

    @classmethod
    def of(cls, measure: Measure, title: str = "", *, digits: int = 1, bold: bool = True) -> "Column":
        """The column of a measure: rates in per cent, the best in bold if wanted; anything else as it is."""
        if not measure.is_rate:
            return cls(title or measure.head, "number")
        better = "low" if measure.lower_is_better else "high"
        return cls(title or measure.head, "percent", digits, better if bold else "")

    @property
    def head(self) -> str:
        """The title with its unit."""
        return self.title + UNITS.get(self.kind, "")

    def written(self, value: float) -> str:
        """A number as it is shown."""
        if math.isnan(value):
            return NO_VALUE
        if self.kind in UNITS:
            return with_minus(f"{100 * value:.{1 if self.digits is None else self.digits}f}")
        return number(value) if self.digits is None else with_minus(f"{value:.{self.digits}f}")


Entry = str | Cell | None  # None: not measured at all


@dataclasses.dataclass(frozen=True)
class Written:
    """An entry as text.

    Attributes:
      text: the number, a name, "n/a", or "" for what was not measured.
      sort: the number to sort by; "" where there is none; None for text.
      spread, interval: deviation and interval; "" where there is none.
      best, doubtful: whether it is set in bold, and marked.
      note: number of its reason in ``Table.notes``, from 1; 0 where there is none.
    """

    text: str
    sort: str | None
    spread: str = ""
    interval: str = ""
    best: bool = False
    doubtful: bool = False
    note: int = 0


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      name: of its files, made safe for files and ids.
      title: what it is, in a few words.
      caption: what the numbers are, with what ± and brackets mean; it gets a capital letter in front.
      columns: heads and kinds.
      rows: entries, as many as columns each.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.name}: expected rows of {len(self.columns)} entries, got {len(row)}"
                )
        object.__setattr__(self, "name", file_stem(self.name))
        object.__setattr__(self, "caption", self.caption[:1].upper() + self.caption[1:])

    @property
    def notes(self) -> list[str]:
        """Why there are entries without a number, each reason once, in order of appearance."""
        return list(dict.fromkeys(cell.reason for cell in self._cells() if cell.reason))

    @property
    def any_doubtful(self) -> bool:
        """Whether an entry is marked as doubtful."""
        return any(cell.doubtful for cell in self._cells())

    def _cells(self) -> Iterator[Cell]:
        return (entry for row in self.rows for entry in row if isinstance(entry, Cell))

    def best(self) -> set[tuple[int, int]]:
        """Places (row, column) of the best numbers of their columns, as shown: what looks equal is equally good."""
        found: set[tuple[int, int]] = set()
        for j, column in enumerate(self.columns):
            entries = [(i, row[j]) for i, row in enumerate(self.rows)]
            known = [(i, e.mean) for i, e in entries if isinstance(e, Cell) and not math.isnan(e.mean)]
            if column.better and len(known) > 1:
                top = (max if column.better == "high" else min)(value for _, value in known)
                found |= {(i, j) for i, value in known if column.written(value) == column.written(top)}
        return found

    def written(self) -> list[list[Written]]:
        """Every entry as it is shown, row by row."""
        best, notes = self.best(), self.notes
        return [
            [
                _written(entry, column, (i, j) in best, notes)
                for j, (entry, column) in enumerate(zip(row, self.columns))
            ]
            for i, row in enumerate(self.rows)
        ]


def _written(entry: Entry, column: Column, best: bool, notes: Sequence[str]) -> Written:
    if not isinstance(entry, Cell):
        return Written(shown(entry or ""), None if column.kind == "text" else "")
    if math.isnan(entry.mean):
        return Written(NO_VALUE, "", note=notes.index(entry.reason) + 1, doubtful=entry.doubtful)
    spread = "" if entry.deviation is None else column.written(entry.deviation)
    interval = ""
    if entry.low is not None and entry.high is not None:
        interval = f"{column.written(entry.low)} to {column.written(entry.high)}"
    return Written(column.written(entry.mean), repr(entry.mean), spread, interval, best, entry.doubtful)
