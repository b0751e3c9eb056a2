"""The model of a table: columns, entries with uncertainty, and which entries are best."""

import dataclasses
import math
from collections.abc import Sequence

from jaxalign.report.labels import NO_VALUE, file_stem, number, shown, with_minus
from jaxalign.report.result_table import NO_REASON, Cell, Row


@dataclasses.dataclass(frozen=True)
class Value:
    """A number with its uncertainty, or the reason why there is none.

    Attributes:
      mean: the number; NaN where there is none.
      deviation: standard deviation, over seeds or pairs; None where there is none.
      low, high: interval of 95 %; None where there is none.
      reason: why ``mean`` is NaN; "" where it is not.
      doubtful: whether the fit behind it was numerically doubtful.
    """

    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    doubtful: bool = False

    def __post_init__(self) -> None:
        reason = (self.reason or NO_REASON) if math.isnan(self.mean) else ""
        object.__setattr__(self, "reason", reason)
        for name in ("low", "high"):
            end = getattr(self, name)
            object.__setattr__(self, name, None if end is None or math.isnan(end) else end)

    @classmethod
    def of(cls, cell: Cell, reason: str = "", doubtful: bool = False) -> "Value":
        """Mean and, over several seeds, deviation."""
        return cls(cell.mean, cell.deviation if cell.seeds > 1 else None, reason=reason, doubtful=doubtful)

    @classmethod
    def of_row(cls, row: Row) -> "Value":
        """One row with its interval."""
        return cls(row.value, None, row.low, row.high, row.reason)


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
    def rate(cls, title: str, *, lower_is_better: bool = False, digits: int = 1) -> "Column":
        """A share in per cent."""
        return cls(title, "percent", digits, "low" if lower_is_better else "high")

    @property
    def head(self) -> str:
        """The title with its unit."""
        unit = {"percent": " (%)", "points": " (points)"}.get(self.kind, "")
        return self.title + unit

    def written(self, value: float) -> str:
        """A number as it is shown."""
        if math.isnan(value):
            return NO_VALUE
        if self.kind in ("percent", "points"):
            return with_minus(f"{100 * value:.{1 if self.digits is None else self.digits}f}")
        return number(value) if self.digits is None else with_minus(f"{value:.{self.digits}f}")


Entry = str | Value | None  # None: not measured at all


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
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(
                f"table {self.name}: expected rows of {len(self.columns)} entries, got {wrong[0]}"
            )
        object.__setattr__(self, "name", file_stem(self.name))
        object.__setattr__(self, "caption", self.caption[:1].upper() + self.caption[1:])

    @property
    def notes(self) -> list[str]:
        """Why there are entries without a number, each reason once, in order of appearance."""
        found = [
            entry.reason for row in self.rows for entry in row if isinstance(entry, Value) and entry.reason
        ]
        return list(dict.fromkeys(found))

    @property
    def any_doubtful(self) -> bool:
        """Whether an entry is marked as doubtful."""
        return any(isinstance(entry, Value) and entry.doubtful for row in self.rows for entry in row)

    def best(self) -> set[tuple[int, int]]:
        """Places (row, column) of the best numbers of their columns, as shown: what looks equal is equally good."""
        found: set[tuple[int, int]] = set()
        for j, column in enumerate(self.columns):
            entries = [(i, row[j]) for i, row in enumerate(self.rows)]
            known = [(i, e.mean) for i, e in entries if isinstance(e, Value) and not math.isnan(e.mean)]
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
    if not isinstance(entry, Value):
        return Written(shown(entry or ""), None if column.kind == "text" else "")
    if math.isnan(entry.mean):
        return Written(NO_VALUE, "", note=notes.index(entry.reason) + 1, doubtful=entry.doubtful)
    spread = interval = ""
    if entry.deviation is not None and not math.isnan(entry.deviation):
        spread = column.written(entry.deviation)
    if entry.low is not None and entry.high is not None:
        interval = f"{column.written(entry.low)} to {column.written(entry.high)}"
    return Written(column.written(entry.mean), repr(entry.mean), spread, interval, best, entry.doubtful)
