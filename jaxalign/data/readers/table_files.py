"""Files of tables: Parquet, Feather and data sets saved by ``datasets``; embeddings among columns of any table."""

import dataclasses
import pathlib
import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import (
    read_json,
    regular_file,
    require_memory,
)
from jaxalign.data.readers.array_files import explained
from jaxalign.data.readers.identity_files import (
    IDENTITY_NAMES,
    SAMPLE_NAMES,
    Names,
    Samples,
    listed,
    pick,
    split_columns,
)
from jaxalign.data.samples import column, is_text, read_parquet

if TYPE_CHECKING:
    import pyarrow

NUMBERED = re.compile(r"(.*?)([0-9]{1,9})")


def read_parquet_embeddings(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """A column of lists of floats, or one column for each dimension."""
    return from_table(_parquet(path), path, key, names)


def parquet_samples(path: pathlib.Path, names: Names) -> Samples:
    """The columns of a Parquet file that are no lists."""
    return table_samples(_parquet(path), path, names)


def _parquet(path: pathlib.Path) -> "pyarrow.Table":
    return read_parquet(path, f"{path} is damaged or no Parquet file")


def read_feather(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """As ``read_parquet_embeddings``, of a Feather (Arrow) file."""
    return from_table(_feather(path), path, key, names)


def feather_samples(path: pathlib.Path, names: Names) -> Samples:
    """The columns of a Feather file that are no lists."""
    return table_samples(_feather(path), path, names)


def _feather(path: pathlib.Path) -> "pyarrow.Table":
    import pyarrow.feather

    with explained(path, "Feather"):
        with path.open("rb") as file:
            compressed = not file.read(4).startswith(b"FEA1")  # version 1 of the format never is
        require_memory(path, _announced(path, 8) if compressed else path.stat().st_size)
        table = pyarrow.feather.read_table(path, memory_map=False)
        table.validate(full=True)
    return table


def _announced(path: pathlib.Path, start: int = 0) -> int:
    """Bytes in memory of the columns of an Arrow file whose messages begin at ``start``; no column is read."""
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as file:
        file.seek(start)
        return sum(map(_decompressed, pyarrow.ipc.MessageReader.open_stream(file)))


def _decompressed(message: Any) -> int:
    """Bytes of the columns in a message, which pyarrow does not tell: a compressed column begins with its size.

    Where columns lie is in the message's header, tables of FlatBuffers as in Arrow's Message.fbs.
    """
    header, columns = message.metadata, message.body
    number = lambda kind, place: struct.unpack_from(f"<{kind}", header, place)[0]  # noqa: E731

    def field(table: int, index: int) -> int:
        """The place of a field of the table at a place; 0 where it is left out."""
        layout, slot = table - number("i", table), 4 + 2 * index
        offset = number("H", layout + slot) if slot < number("H", layout) else 0
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + number("I", place)

    if message.type not in ("record batch", "dictionary"):
        return 0
    batch = follow(field(follow(0), 2))
    if message.type == "dictionary":
        batch = follow(field(batch, 1))
    size, first = 0, follow(field(batch, 2)) + 4
    for place in range(first, first + 16 * number("I", first - 4), 16):
        offset, length = struct.unpack_from("<qq", header, place)
        stated = struct.unpack_from("<q", columns, offset)[0] if length and field(batch, 3) else -1
        size += length if stated < 0 else stated  # -1 where compression would not have made it smaller
    return size


def read_saved_dataset(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """A data set of embeddings that ``datasets`` saved to a directory; ``key`` is a split, a column, or both: a/b."""
    import pyarrow.ipc

    if (path / "dataset_dict.json").is_file():
        splits = _listed_in(path / "dataset_dict.json", "splits")
        split, _, column_name = (key or "").partition("/")
        path, key = path / pick(split or None, splits, splits, path), column_name or None
    if not (path / "state.json").is_file():
        raise UserError(f"{path} is a directory, and not one that datasets' save_to_disk wrote.")
    files = [entry.get("filename") for entry in _listed_in(path / "state.json", "_data_files", dict)]
    if not files or not all(isinstance(name, str) and pathlib.Path(name).name == name for name in files):
        raise UserError(f"{path / 'state.json'} is damaged: it names no files beside it.")
    with explained(path, "saved data set's"):
        require_memory(path, sum(_announced(regular_file(path / name)) for name in files))
        tables = []
        for name in files:
            with pyarrow.OSFile(str(path / name)) as file, pyarrow.ipc.open_stream(file) as stream:
                tables.append(stream.read_all())
        table = pyarrow.concat_tables(tables)
        table.validate(full=True)
    return from_table(table, path, key, names)


def _listed_in(file: pathlib.Path, name: str, kind: type = str) -> list[Any]:
    """A list in a JSON file, of text or objects."""
    content = read_json(file)
    values = content.get(name) if isinstance(content, dict) else None
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise UserError(f"{file} is damaged: {name!r} is no list.")
    return values


def from_table(
    table: "pyarrow.Table", path: pathlib.Path, key: str | None, names: Names
) -> tuple[np.ndarray, Samples]:
    """The embeddings of a table and the rest of its columns."""
    import pyarrow.types as types

    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: two columns have one name: {listed(twice)}.")
    if table.num_rows == 0:
        raise UserError(f"{path} has no rows.")
    columns = [field for field in table.schema if _is_list(field.type)]
    lists = [field.name for field in columns if types.is_floating(field.type.value_type)]
    families = {} if key in table.column_names else _families(table, names)
    if key in families:
        return _beside(table, families[key], path, names)
    if not lists and families:
        largest, *others = sorted(families, key=lambda family: -len(families[family]))
        if others and 2 * len(families[others[0]]) >= len(families[largest]):
            shown = ", ".join(_span(families[family]) for family in (largest, others[0]))
            raise UserError(
                f"{path} holds more than one numbered family of columns ({shown}). Name the one that is meant with "
                f"{path}#{largest}."
            )
        return _beside(table, families[largest], path, names)
    numbers = [
        f.name
        for f in table.schema
        if types.is_floating(f.type) and f.name.lower() not in usual_columns(names)
    ]
    if not key and not lists and len(numbers) > 1:
        raise UserError(
            f"{path}: which columns are the embedding is not plain ({listed(numbers)}). Call its dimensions by one "
            "name with a number: d0, d1, ..."
        )
    name = pick(key, lists, table.column_names, path)
    if name not in lists:
        kind = table.schema.field(name).type
        raise UserError(f"{path}: column {name!r} must hold lists of floats, it holds {kind}.")
    array = _rows_of_lists(table[name], name, path)
    for family in families.values():
        if len(family) > array.shape[1]:
            raise UserError(
                f"{path} holds lists ({name}) and more numbered columns ({_span(family)}). Name the one that is meant "
                f"with {path}#{name}."
            )
    return array, table_samples(table, path, names)


def usual_columns(names: Names) -> set[str | None]:
    """Names of columns that say who is on a row, and are no dimensions."""
    return {*IDENTITY_NAMES, *SAMPLE_NAMES, names.identity, names.sample_id}


def _families(table: "pyarrow.Table", names: Names) -> dict[str, list[str]]:
    """Columns called alike and numbered, in the order of their numbers, by what they are called; numbers in two."""
    usual, found = usual_columns(names), {}
    for name in table.column_names:
        numbered = NUMBERED.fullmatch(name)
        if numbered and name not in usual and not _is_list(table.schema.field(name).type):
            found.setdefault(numbered[1], []).append(name)
    return {
        prefix: sorted(family, key=_number)
        for prefix, family in found.items()
        if sum(_has_numbers(table[name]) for name in family) > 1
    }


def is_number(cell: str) -> bool:
    """Whether a cell of text is a number; 1_0 is a name here, though Python reads ten."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _has_numbers(values: "pyarrow.ChunkedArray") -> bool:
    """Whether a column holds numbers, or text that is a number somewhere."""
    return _is_numeric(values.type) or (
        is_text(values.type) and any(is_number(cell) for cell in values.to_pylist() if cell)
    )


def _is_numeric(kind: "pyarrow.DataType") -> bool:
    import pyarrow.types as types

    return types.is_floating(kind) or types.is_integer(kind)


def _number(name: str) -> int:
    return int(NUMBERED.fullmatch(name)[2])  # pyright: ignore[reportOptionalSubscript]


def _span(columns: Sequence[str]) -> str:
    return f"{columns[0]} … {columns[-1]}"


def _beside(
    table: "pyarrow.Table", dimensions: list[str], path: pathlib.Path, names: Names
) -> tuple[np.ndarray, Samples]:
    """The dimensions as one array [n, d], and the other columns; refuses gaps in their numbers or in the array."""
    numbers = list(map(_number, dimensions))
    if numbers[0] > 1:
        raise UserError(
            f"{path}: the dimensions begin with {dimensions[0]!r}; their numbers begin with 0 or 1."
        )
    for before, after, name, following in zip(numbers, numbers[1:], dimensions, dimensions[1:]):
        if after != before + 1:
            raise UserError(
                f"{path}: column {name!r} is followed by {following!r}; the dimensions of an embedding are numbered "
                "without gaps."
            )
    for name in dimensions:
        if is_text(table[name].type):
            cells = enumerate(table[name].to_pylist())
            row, cell = next(
                ((row, cell) for row, cell in cells if not is_number(cell or "")), (0, table[name][0])
            )
            raise UserError(
                f"{path}: column {name!r} holds {str(cell or '')!r} (row {row}), where {_span(dimensions)} are numbers."
            )
        if not _is_numeric(table[name].type):
            raise UserError(
                f"{path}: column {name!r} holds {table[name].type}, where {_span(dimensions)} are numbers."
            )
        if table[name].null_count:
            raise UserError(f"{path}: column {name!r} has {table[name].null_count:,} rows without a number.")
    array = np.stack([table[name].to_numpy() for name in dimensions], axis=1)
    samples = table_samples(table.drop_columns(dimensions), path, names)
    return array, dataclasses.replace(samples, dimensions=tuple(dimensions))


def _rows_of_lists(values: Any, name: str, path: pathlib.Path) -> np.ndarray:
    """A column of lists of equal length as an array [n, d]."""
    import pyarrow.compute as compute

    if values.null_count:
        row = np.flatnonzero(values.is_null().to_numpy())[0]
        raise UserError(
            f"{path}: column {name!r} has no list in {values.null_count:,} rows (first: row {row})."
        )
    widths = compute.call_function("list_value_length", [values]).to_numpy()
    other = np.flatnonzero(widths != widths[0])
    if len(other):
        raise UserError(
            f"{path}: column {name!r} has lists of different length: {widths[0]} in row 0, "
            f"{widths[other[0]]} in row {other[0]}."
        )
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in values.chunks])
    return flat.reshape(len(widths), -1)


def table_samples(table: "pyarrow.Table", path: pathlib.Path, names: Names) -> Samples:
    """The columns of a table that are no lists."""
    flat = [field.name for field in table.schema if not _is_list(field.type)]
    return split_columns({name: column(table, name) for name in flat}, path, names)


def _is_list(kind: "pyarrow.DataType") -> bool:
    import pyarrow.types as types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
