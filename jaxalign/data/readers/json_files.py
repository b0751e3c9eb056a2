"""Embeddings in JSON files and in files of JSON lines."""

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, parse_json, read_json, read_text
from jaxalign.data.readers.identity_files import IDENTITY_NAMES, SAMPLE_NAMES, Names, Samples, find, listed
from jaxalign.data.readers.table_files import from_table, table_samples

if TYPE_CHECKING:
    import pyarrow


def read_json_embeddings(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """Vectors by name, columns by name, or a list of records."""
    content = read_json(path)
    if isinstance(content, dict) and content and all(isinstance(vector, list) for vector in content.values()):
        known = find(None, (*IDENTITY_NAMES, *SAMPLE_NAMES), content)
        nested = any(vector and isinstance(vector[0], list) for vector in content.values())
        if known is None and not nested:
            content = [{"path": name, "embedding": vector} for name, vector in content.items()]
        elif len({len(values) for values in content.values()}) == 1:
            content = [dict(zip(content, values)) for values in zip(*content.values())]
    return _from_records(content, path, key, names)


def read_json_lines(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """One record a line, such as {"path": ..., "embedding": [...]}."""
    return _from_records(_json_lines(path), path, key, names)


def json_lines_samples(path: pathlib.Path, names: Names) -> Samples:
    """The columns of a file of JSON lines that are no lists."""
    return table_samples(_record_table(_json_lines(path), path), path, names)


def _json_lines(path: pathlib.Path) -> list[Any]:
    lines = enumerate(read_text(path, "a file of JSON lines").split("\n"), 1)
    return [parse_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _from_records(
    records: Any, path: pathlib.Path, key: str | None, names: Names
) -> tuple[np.ndarray, Samples]:
    return from_table(_record_table(records, path), path, key, names)


def _record_table(records: Any, path: pathlib.Path) -> "pyarrow.Table":
    import pyarrow

    if (
        not isinstance(records, list)
        or not records
        or not all(isinstance(record, dict) for record in records)
    ):
        raise UserError(f'{path}: expected records such as {{"path": "a.jpg", "embedding": [0.1, ...]}}.')
    fields = list(records[0])
    for number, record in enumerate(records, 1):
        if record.keys() != records[0].keys():
            raise UserError(f"{path}: record {number} has {listed(record)}, expected {listed(fields)}.")
    columns = {}
    for name in fields:
        values = [record[name] for record in records]
        if all(isinstance(value, list) for value in values):
            values = [
                [float(x) if isinstance(x, int) and not isinstance(x, bool) else x for x in v] for v in values
            ]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, UnicodeError) as error:
            raise UserError(
                f"{path}: {name!r} is not of one kind in all records ({first_line(error)})."
            ) from error
    return pyarrow.table(columns)
