"""A table as text for a terminal."""

import textwrap
from collections.abc import Sequence

from jaxalign.report.labels import shown
from jaxalign.report.tables.formats import entry_text
from jaxalign.report.tables.model import Column, Table

LEAST_HEAD = 9  # letters of a column's head before it is broken at spaces
GAP = "  "


def to_text(tables: Sequence[Table], *, title: str = "", width: int = 100) -> str:
    """Tables one below the other.

    Args:
      tables: what to write; "·" stands for what was not measured.
      title: first line.
      width: of the terminal, in characters. Columns that have no room go into a further block below, which repeats the
        text columns at the left.

    Returns:
      Text whose lines are at most ``width`` long where single columns allow it, with a line feed at the end.
    """
    parts = [[title]] if title else []
    parts += [_lines(table, width) for table in tables]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _lines(table: Table, width: int) -> list[str]:
    heading = ". ".join(filter(None, (table.title, table.caption)))
    cells = [
        [entry_text(entry) or ("" if entry.sort is None else "·") for entry in row] for row in table.written()
    ]
    heads = [_head(column, [row[j] for row in cells]) for j, column in enumerate(table.columns)]
    sizes = [max(map(len, (*head, *(row[j] for row in cells)))) for j, head in enumerate(heads)]
    texts = [column.kind == "text" for column in table.columns]
    fixed = texts.index(False) if False in texts else len(texts) - 1  # columns that every block repeats
    lines = [*textwrap.wrap(shown(heading), width), ""]
    for number, block in enumerate(_blocks(sizes, texts, fixed, width)):
        depth = max(len(heads[j]) for j in block)
        rows = [[([""] * depth + heads[j])[level - depth] for j in block] for level in range(depth)]
        rows += [[row[j] for j in block] for row in cells]
        lines += [""] * (number > 0)
        for row in rows:
            padded = (
                cell.ljust(sizes[j]) if texts[j] else cell.rjust(sizes[j]) for j, cell in zip(block, row)
            )
            lines.append(GAP.join(padded).rstrip())
    notes = [f"n/a: {shown(note)}." for note in table.notes]
    notes += ["*: at least one fit was numerically doubtful."] * table.any_doubtful
    return lines + ["" for _ in notes[:1]] + notes


def _head(column: Column, cells: Sequence[str]) -> list[str]:
    """The head of a column, for numbers on as many lines as its cells leave it."""
    room = max([LEAST_HEAD, *map(len, cells)]) if column.kind != "text" else len(column.head) + 1
    return textwrap.wrap(shown(column.head), room, break_long_words=False, break_on_hyphens=False) or [""]


def _blocks(sizes: Sequence[int], texts: Sequence[bool], fixed: int, width: int) -> list[list[int]]:
    """Numbers of the columns of each block; only a column of numbers begins another."""
    left = list(range(fixed))
    blocks, room = [list(left)], width - sum(sizes[j] + len(GAP) for j in left)
    used = 0
    for j in range(fixed, len(sizes)):
        if used and used + sizes[j] > room and not texts[j]:
            blocks.append(list(left))
            used = 0
        blocks[-1].append(j)
        used += sizes[j] + len(GAP)
    return blocks
