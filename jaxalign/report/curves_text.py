"""Curves along an axis as text for a terminal."""

from collections.abc import Sequence

from jaxalign.report.rows import ResultTable, Row


def along(rows: Sequence[Row], measures: Sequence[tuple[str, str]]) -> str:
    """Means over pairs and seeds as text: a line for each method, a column for each place on the axis, in %."""
    lines = []
    for measure, own in measures:
        found = [
            row._replace(rank=None) for row in rows if (row.measure, row.own_photograph) == (measure, own)
        ]
        at = sorted({row.at for row in found if row.at is not None})
        methods = list(dict.fromkeys(row.method for row in found))
        first = max(map(len, ["method", *methods]))
        lines += ["", f"{measure}{f', own photograph {own}' if own else ''}, mean over pairs and seeds, in %"]
        lines.append("method".ljust(first) + "".join(f"{place:,g}".rjust(9) for place in at))
        for method in methods:
            cells = []
            for place in at:
                table = ResultTable(row for row in found if (row.method, row.at) == (method, place))
                cell = table.mean_over_pairs(table.settings[0], table.measures[0]) if table.settings else None
                cells.append("" if cell is None else f"{100 * cell.mean:.2f}".rjust(9))
            lines.append(method.ljust(first) + "".join(cells))
    return "\n".join(lines).lstrip("\n")


def with_interval(row: Row, form: str) -> str:
    """A number and its interval, both in a format such as ".0f"."""
    return f"{row.value:{form}} (95 % interval {row.low:{form}} to {row.high:{form}})"
