"""Galleries in Parquet files: a column of lists of floats, as LanceDB, DuckDB and Hugging Face data sets read it."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, regular_file
from jaxalign.core.rows import prefetch
from jaxalign.data.readers.identity_files import IDENTITY_NAMES, find
from jaxalign.data.samples import text_column
from jaxalign.gallery.stores.kinds import (
    COMPLETE,
    Gallery,
    Move,
    Rows,
    as_stored,
    file_marker,
    require_new_file,
    same_move,
    split_path,
    swept,
    write_new_file,
)

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

MARKER = b"jaxalign.gallery"  # in the schema's metadata: the marker, and which column it is about
GROUP = 16  # chunks of a row group
BUFFER = 2**20  # bytes read at once, so that a large row group is not held


class ParquetGallery(Gallery):
    """``parquet:FILE`` where one column holds lists of floats, else ``parquet:FILE#column``.

    A move writes a new file: the column becomes lists of the new width, a ``FixedSizeList`` where it was one; all other
    columns, rows without a vector and the compression stay as they were.
    """

    kind = "parquet"

    def __init__(self, specification: str, path: pathlib.Path, column: str | None):
        import pyarrow

        self.specification, self.path = specification, regular_file(path, "a Parquet file")
        try:
            with self._opened() as file:
                schema, about = file.schema_arrow, file.metadata
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged or no Parquet file ({first_line(error)}).") from error
        self.schema, self.column = schema, _chosen(schema, column, path)
        self.type = schema.field(self.column).type
        self.dtype = {"halffloat": "float16", "float": "float32"}.get(str(self.type.value_type), "float64")
        self.width = getattr(self.type, "list_size", None) or next(
            (rows.shape[1] for _, rows in self.stored_chunks(1)), 0
        )
        if not self.width:
            raise UserError(f"{path}: column {self.column!r} holds no vector.")
        noted = _noted(schema, path)
        self.marker = {**noted["marker"], "state": COMPLETE} if noted.get("column") == self.column else None
        if self.width > 1:  # each row has width numbers, or one
            self.rows = (_numbers(about, self.column) - about.num_rows) // (self.width - 1)
        else:
            self.rows = sum(len(rows) for _, rows in self.stored_chunks(4096))

    @classmethod
    def open(cls, specification: str) -> ParquetGallery:
        return cls(specification, *split_path(specification))

    def _opened(self) -> pyarrow.parquet.ParquetFile:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(
            self.path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True
        )

    def _batches(self, size: int, columns: list[str] | None = None) -> Iterator[pyarrow.RecordBatch]:
        import pyarrow

        try:
            with self._opened() as file:
                yield from file.iter_batches(size, columns=columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{self.path} is damaged ({first_line(error)}).") from error

    def _vectors(self, batch: pyarrow.RecordBatch, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows of a batch have a vector, shape [c], and their vectors, float16 or float32."""
        column = batch.column(self.column)
        there = column.is_valid().to_numpy(zero_copy_only=False)
        held = column.drop_null()
        values = held.flatten()
        if values.null_count:
            raise UserError(f"{self.path}: column {self.column!r} has vectors with missing numbers.")
        width = getattr(self, "width", None) or (len(values) // max(1, len(held)))
        if not hasattr(self.type, "list_size"):
            lengths = held.value_lengths().to_numpy()
            if (lengths != width).any():
                row = first + int(np.flatnonzero(there)[np.argmax(lengths != width)])
                raise UserError(
                    f"{self.path}: row {row:,} of column {self.column!r} has another width than {width}."
                )
        rows = values.to_numpy(zero_copy_only=False).reshape(len(held), width)
        return there, rows if rows.dtype == np.float16 else rows.astype(np.float32, copy=False)

    def stored_chunks(self, size: int) -> Iterator[Rows]:
        start = 0
        for batch in self._batches(size, [self.column]):
            there, rows = self._vectors(batch, start)
            if len(rows):
                yield start + np.flatnonzero(there), rows
            start += len(there)

    def identities(self) -> np.ndarray | None:
        name = find(None, IDENTITY_NAMES, self.schema.names)
        if name is None:
            return None
        held = (
            batch.column(name).filter(batch.column(self.column).is_valid())
            for batch in self._batches(4096, [name, self.column])
        )
        return text_column([value for people in held for value in people.to_pylist()], f"{self.path}: {name}")

    def check(self, out: str | None, move: Move) -> None:
        move.only_dtypes(self.specification, "float16", "float32")

    def move(self, out: str | None, move: Move) -> ParquetGallery:
        if out is None:
            raise UserError("a Parquet file is moved to a new file: give parquet:FILE.")
        self.check(out, move)
        path, name = split_path(out)
        if name not in (None, self.column):
            raise UserError(f"{out}: the column keeps its name, {self.column!r}.")
        marker = file_marker(self.path, move)
        dtype = move.dtype or self.dtype
        if path.exists() and not move.overwrite and _holds(path, self.column, marker, dtype, move.width):
            with swept(path):
                return ParquetGallery(out, path, self.column)
        require_new_file(self.path, path, move.overwrite)
        write_new_file(path, functools.partial(self._write, move=move, marker=marker, dtype=dtype))
        return ParquetGallery(out, path, self.column)

    def _write(self, target: IO[bytes], move: Move, marker: dict[str, Any], dtype: str) -> None:
        import pyarrow
        import pyarrow.parquet

        values = pyarrow.from_numpy_dtype(np.dtype(dtype))
        item = self.type.value_field.with_type(values)
        fixed, kind = pyarrow.list_(item, move.width), _list_like(self.type, item, move.width)
        number = self.schema.get_field_index(self.column)
        schema = self.schema.set(number, self.schema.field(number).with_type(kind))
        schema = schema.with_metadata(_metadata(schema, self.column, marker, move.width, str(values)))
        # One chunk is written while the next one is mapped and the one after it is read.
        coming, group = prefetch(move.mapped(prefetch(self._read(move.size)))), []
        with pyarrow.parquet.ParquetWriter(target, schema, **self._as_before()) as writer:
            for (batch, there), rows in coming:
                moved, mask = as_stored(rows, dtype, self.specification), None
                if not there.all():
                    held, moved = moved, np.zeros((len(there), move.width), dtype)
                    moved[there], mask = held, pyarrow.array(~there)
                flat = pyarrow.array(moved.reshape(-1), values)
                column = pyarrow.FixedSizeListArray.from_arrays(flat, type=fixed, mask=mask)
                columns = [
                    column.cast(kind) if at == number else batch.column(at) for at in range(len(schema))
                ]
                group.append(pyarrow.record_batch(columns, schema=schema))
                if len(group) == GROUP:
                    writer.write_table(pyarrow.Table.from_batches(group))
                    group.clear()
            if group:
                writer.write_table(pyarrow.Table.from_batches(group))

    def _read(self, size: int) -> Iterator[Rows]:
        """As ``stored_chunks``, with whole batches, and which rows of a batch have a vector, as keys."""
        start = 0
        for batch in self._batches(size):
            there, rows = self._vectors(batch, start)
            yield (batch, there), rows
            start += len(there)

    def _as_before(self) -> dict[str, Any]:
        """How the writer compresses: as the file does; vectors have no use for a dictionary or for statistics."""
        with self._opened() as file:
            leaves = [file.schema.column(index).path for index in range(len(file.schema))]
            first = (
                file.metadata.row_group(0).column(0).compression if file.metadata.num_row_groups else "SNAPPY"
            )
        others = [leaf for leaf in leaves if leaf.partition(".")[0] != self.column]
        compression = {"UNCOMPRESSED": "none", "UNKNOWN": "none"}.get(first, first)
        return {
            "compression": compression,
            "use_dictionary": others or False,
            "write_statistics": others or False,
        }


def _chosen(schema: pyarrow.Schema, column: str | None, path: pathlib.Path) -> str:
    """The column of vectors: the one asked for, or the only one there is."""
    import pyarrow.types as types

    lists = [
        field.name
        for field in schema
        if (
            types.is_list(field.type)
            or types.is_large_list(field.type)
            or types.is_fixed_size_list(field.type)
        )
        and types.is_floating(field.type.value_type)
    ]
    there = f"there are {', '.join(lists)}" if lists else "there is no such column"
    if column is not None and column not in lists:
        raise UserError(f"{path}: {column!r} is no column of lists of floats; {there}.")
    if column is None and len(lists) != 1:
        advice = f"choose one as parquet:{path}#{lists[0]}; {there}" if lists else there
        raise UserError(f"{path}: expected one column of lists of floats; {advice}.")
    return column or lists[0]


def _numbers(about: pyarrow.parquet.FileMetaData, column: str) -> int:
    """How many numbers a column of lists holds, where a row without a vector counts as one."""
    groups = (about.row_group(number) for number in range(about.num_row_groups))
    leaves = (group.column(leaf) for group in groups for leaf in range(group.num_columns))
    return sum(leaf.num_values for leaf in leaves if leaf.path_in_schema.partition(".")[0] == column)


def _list_like(kind: pyarrow.DataType, item: pyarrow.Field, width: int) -> pyarrow.DataType:
    """The same kind of list, with items of another type, and of another width where it is fixed."""
    import pyarrow
    import pyarrow.types as types

    if types.is_fixed_size_list(kind):
        return pyarrow.list_(item, width)
    return pyarrow.large_list(item) if types.is_large_list(kind) else pyarrow.list_(item)


def _noted(schema: pyarrow.Schema, path: pathlib.Path) -> dict[str, Any]:
    """What an earlier move noted in the schema's metadata; an empty mapping without."""
    text = (schema.metadata or {}).get(MARKER)
    try:
        noted = json.loads(text) if text else {}
        return noted if not noted or isinstance(noted["marker"], dict) else {}[""]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {MARKER.decode()} in its metadata is damaged.") from error


def _holds(path: pathlib.Path, column: str, marker: dict[str, Any], dtype: str, width: int) -> bool:
    """Whether a file is what this move writes, so that a run that was killed at its very end has ended."""
    try:
        there = ParquetGallery(str(path), path, column)
    except UserError:
        return False
    return same_move(there.marker, marker) and (there.dtype, there.width) == (dtype, width)


def _metadata(
    schema: pyarrow.Schema, column: str, marker: dict[str, Any], width: int, values: str
) -> dict[bytes, bytes]:
    """The schema's metadata with the marker, and with the new width where Hugging Face data sets note the old one."""
    metadata = dict(schema.metadata or {})
    metadata[MARKER] = json.dumps({"column": column, "marker": marker}).encode()
    try:
        about = json.loads(metadata[b"huggingface"])
        feature = about["info"]["features"][column]
        if feature.get("length", -1) != -1:
            feature["length"] = width
        feature["feature"]["dtype"] = {"halffloat": "float16", "float": "float32", "double": "float64"}[
            values
        ]
        metadata[b"huggingface"] = json.dumps(about).encode()
    except (KeyError, TypeError, ValueError):  # of another library's making, or none
        pass
    return metadata
