"""Embeddings in CSV files: a column for each dimension, with or without a first line of names."""

import pathlib
import re

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import csv_lines, read_text
from jaxalign.data.readers.identity_files import Names, Samples, listed
from jaxalign.data.readers.table_files import from_table, is_number, usual_columns

WHOLE = re.compile(r"[+-]?[0-9]+")
WRITTEN_LIST = re.compile(r"\[\s*[+-]?[0-9]*\.[0-9]")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")


def read_csv_embeddings(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """A CSV or TSV file with one number a column, with or without a first line of names, and columns of text.

    Blanks separate numbers where no other mark does. A column is text or numbers throughout: what cannot be told is
    refused, for a column that is taken for text by mistake would be missing among the dimensions. Without a line of
    names, text that repeats is the person, text that does not names the photograph.
    """
    import pyarrow

    text = read_text(path, "a CSV file")
    numbered = csv_lines(text, path)
    if not numbered:
        raise UserError(f"{path} is empty.")
    _require_plain(text, [cells for _, cells in numbered[:2]], path)
    if len(numbered[0][1]) == 1 and _all_numbers(numbered[0][1][0].split()):
        numbered = [(number, " ".join(cells).split()) for number, cells in numbered]
    first = [cell.strip() for cell in numbered[0][1]]
    named = _names_columns(first)
    lines = numbered[1:] if named else numbered
    for number, cells in lines:
        if len(cells) != len(first):
            raise UserError(f"{path}, line {number}: {len(cells)} values, expected {len(first)}.")
    cells = [[line[index].strip() for _, line in lines] for index in range(len(first))]
    kept = list(range(len(first)))
    if not first[-1] and not any(cells[-1]):  # every line ends in a separator
        kept.pop()
    if named:
        kept = [index for index in kept if first[index] or not _is_index(cells[index])]
        if not all(first[index] for index in kept):
            raise UserError(
                f"{path}: a column has no name in the first line. Where it names the photographs, call it sample_id; "
                "an index of pandas is left out with to_csv(index=False)."
            )
        header = {index: first[index] for index in kept}
    else:
        header = _names_of(first, kept, cells, path)
    if len(set(header.values())) < len(header):
        raise UserError(f"{path}: two columns have one name: {listed(list(header.values()))}.")
    usual, columns = usual_columns(names), {}
    for index, name in header.items():
        number = name not in usual and name.lower() not in usual and _all_numbers(cells[index])
        columns[name] = pyarrow.array(np.array(cells[index], np.float64) if number else cells[index])
    return from_table(pyarrow.table(columns), path, key, names)


def _require_plain(text: str, lines: list[list[str]], path: pathlib.Path) -> None:
    """Refuses decimal commas and lists written as text, by the first two lines; ``lines`` are their cells."""
    raw = [line for line in text.splitlines() if line.strip()][:2]
    split = [re.split(r"[;\t]", line) for line in raw if ";" in line or "\t" in line]
    if any(DECIMAL_COMMA.fullmatch(cell.strip(' "')) for line in (*split, *lines) for cell in line):
        raise UserError(
            f"{path}: its numbers have a decimal comma; write them with a decimal point, as "
            "pandas.read_csv(..., sep=';', decimal=',') and to_csv(..., index=False) do."
        )
    if any(WRITTEN_LIST.match(cell.strip()) for line in lines for cell in line):
        raise UserError(
            f"{path}: its vectors are lists written as text. Save them as Parquet (to_parquet), or with a column for "
            "each dimension."
        )


def _names_columns(first: list[str]) -> bool:
    """Whether the first line of a CSV file has names: no numbers, or the numbers of its columns, as pandas writes."""
    numbers = [cell for cell in first if is_number(cell)]
    counts = range(len(numbers))
    return not numbers or (
        len(numbers) > 1
        and numbers in ([str(count) for count in counts], [str(count + 1) for count in counts])
    )


def _names_of(
    first: list[str], kept: list[int], cells: list[list[str]], path: pathlib.Path
) -> dict[int, str]:
    """Names for the columns of a CSV file without a line of names: text that repeats is the person, else the sample."""
    texts = [index for index in kept if not is_number(first[index])]
    numbers = [index for index in kept if index not in texts]
    if len(texts) > 2:
        raise UserError(
            f"{path}: {len(texts)} columns of text, and no first line with the names of the columns: give it one."
        )
    for index in kept:
        if index in numbers and _all_numbers(cells[index]):
            continue
        other = [
            row for row, cell in enumerate(cells[index]) if not cell or is_number(cell) == (index in texts)
        ]
        if other:
            raise UserError(
                f"{path}: column {index + 1} holds {cells[index][other[0]]!r} (row {other[0]}); without a first line "
                "of names, a column is text or numbers throughout."
            )
    whole = [index for index in numbers if all(map(WHOLE.fullmatch, cells[index]))]
    if len(whole) < len(numbers):
        for index in numbers[:1] + numbers[-1:]:
            if index in whole and len(set(cells[index])) > 1:
                raise UserError(
                    f"{path}: column {index + 1} holds whole numbers beside columns of fractions. Is it a label? Give "
                    "the file a first line of names, such as identity,d0,d1,... (or d0,d1,... if it is a dimension)."
                )
    repeats = [len(set(cells[index])) < len(cells[index]) for index in texts]
    if repeats == [True, True]:
        raise UserError(
            f"{path}: both columns of text repeat, so neither names the photographs: give the file a first line with "
            "the names of the columns."
        )
    person_first = repeats[:1] == [True]
    header = dict(zip(texts, ("identity", "sample_id") if person_first else ("sample_id", "identity")))
    return dict(sorted({**header, **{index: f"dim_{k}" for k, index in enumerate(numbers)}}.items()))


def _is_index(cells: list[str]) -> bool:
    """Whether a column counts the rows, as the index that pandas writes."""
    return cells == [str(row) for row in range(len(cells))]


def _all_numbers(cells: list[str]) -> bool:
    """Whether all are numbers; 1_0 is a name here, though Python reads ten."""
    try:
        np.array(cells, np.float64)
    except ValueError:
        return False
    return bool(cells) and not any("_" in cell for cell in cells)
