"""Maps fitted on one data set and tested on another, as text for a terminal."""

from collections.abc import Sequence

from jaxalign.report.rows import ResultTable, Row
from jaxalign.report.table import render_table


def render_transfer(rows: Sequence[Row], counts: Sequence[tuple[str, str, int, int]]) -> str:
    """A table for each ordered pair of stores, and who was left out."""
    lines = []
    for fitted, tested in dict.fromkeys((row.dataset, row.test_dataset) for row in rows):
        table = ResultTable(row for row in rows if (row.dataset, row.test_dataset) == (fitted, tested))
        where = f"fitted on {fitted}, tested on {tested or fitted}"
        lines += [render_table(table, title=where).split("\n\nrank-1")[0].rstrip(), ""]
    for fitted, tested, seed, people in counts:
        lines.append(
            f"{fitted} → {tested}, seed {seed}: {people:,} people with the name of one who is tested were left out of "
            "the training side."
        )
    return "\n".join(lines) + "\n"
