"""samples.parquet of a store: who is on each row."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, regular_file, require_memory
from jaxalign.core.names import normal_name, normal_names

if TYPE_CHECKING:
    import pyarrow

FILE = "samples.parquet"
REQUIRED = ("sample_id", "identity")
DIGEST = "digest"  # column of a store that was made from photographs: equal digests, equal photographs


def text_column(values: Any, what: str) -> np.ndarray:
    """Names (text or whole numbers, shape [n]) as an array of text in its normal form; numbers become their digits.

    A ``UserNote`` warns where names that look alike become one.

    Raises:
      UserError: one is missing or empty, or they are something else; the message names ``what`` they are.
    """
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise UserError(f"{what}: expected one name per row, got shape {list(values.shape)}.")
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUTSiu":
        raise UserError(f"{what}: expected text or whole numbers, got {values.dtype}.")
    # Not through an array: it would drop a NUL at the end of a text and turn numbers among texts into texts.
    listed = values.tolist() if hasattr(values, "tolist") else values
    texts = [value if type(value) is str else _text(value, what) for value in listed]
    if any("\0" in text for text in texts):
        raise UserError(f"{what}: a name holds a NUL character.")
    texts = normal_names(texts, f"names ({what})")
    missing = [row for row, text in enumerate(texts) if not text]
    if missing:
        raise UserError(
            f"{what} is missing in {_count(len(missing), 'row')} of {len(texts):,} (first: row {missing[0]})."
        )
    return np.array(texts)


def require_unique(sample_ids: np.ndarray, where: str) -> None:
    """Refuses sample ids that occur twice, naming the first."""
    names, counts = np.unique(sample_ids, return_counts=True)
    if len(names) < len(sample_ids):
        twice = names[counts > 1]
        raise UserError(
            f"{where}: {_count(len(twice), 'sample id')} on more than one row (first: {str(twice[0])!r})."
        )


def make_table(sample_ids: np.ndarray, identities: np.ndarray, columns: Mapping[str, Any]) -> "pyarrow.Table":
    """The rows of samples.parquet.

    Raises:
      UserError: a column has another number of rows, an own column's name, or values that Parquet cannot hold.
    """
    import pyarrow

    arrays = {}
    for name, values in {"sample_id": sample_ids, "identity": identities, **columns}.items():
        if name in REQUIRED and name in columns:
            raise UserError(f"column {name!r} is given apart, not among the other columns.")
        try:
            arrays[name] = pyarrow.array(values.tolist() if isinstance(values, np.ndarray) else values)
        except (pyarrow.ArrowException, UnicodeError, TypeError) as error:
            raise UserError(f"column {name!r} cannot be stored: {first_line(error)}.") from error
        if len(arrays[name]) != len(sample_ids):
            raise UserError(
                f"column {name!r} has {len(arrays[name]):,} rows, there are {len(sample_ids):,} samples."
            )
    return pyarrow.table(arrays)


def further_columns(columns: Mapping[str, Any], own: Sequence[str] = REQUIRED) -> dict[str, Any]:
    """Columns of a user's file by the names that a store gives them: ``original_`` goes before a name that is taken."""
    named: dict[str, Any] = {}
    for name, values in columns.items():
        while name in own or name in named:
            name = f"original_{name}"
        named[name] = values
    return named


def write_table(file: IO[bytes], table: "pyarrow.Table") -> None:
    """Writes samples.parquet to an open file."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, file, compression="zstd")


def read_table(directory: pathlib.Path, rows: int, store: str) -> "pyarrow.Table":
    """Reads and checks samples.parquet of a store, which messages call ``store``.

    Raises:
      UserError: the file is missing or damaged, lacks a column, has not so many ``rows``, names a sample twice, or has
        rows without an identity.
    """
    path = directory / FILE
    if not path.is_file():
        raise UserError(f"{store}: {path} is missing.")
    table = read_parquet(path, f"{store}: {path} is damaged: it cannot be read as Parquet")
    for name in REQUIRED:
        if table.column_names.count(name) != 1:
            raise UserError(
                f"{store}: {path} lacks the column {name!r}; it has {', '.join(table.column_names)}."
            )
        if not is_text(table.schema.field(name).type):
            raise UserError(
                f"{store}: {path}: column {name!r} must be text, it is {table.schema.field(name).type}."
            )
    if table.num_rows != rows:
        raise UserError(
            f"{store}: {path} has {table.num_rows:,} rows, manifest.json says {rows:,}. Restore the file."
        )
    for name in REQUIRED:
        text_column(table[name].to_pylist(), f"{store}: {path}: {name}")
    require_unique(names(table, "sample_id"), f"{store}: {path}")
    return table


def read_parquet(path: pathlib.Path, refusal: str) -> "pyarrow.Table":
    """A whole Parquet file, or a ``UserError`` with this beginning."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(
            regular_file(path, "a Parquet file"), page_checksum_verification=True
        ) as file:
            # Not by column: asking a damaged file for a column that its schema alone has ends the process.
            about = file.metadata
            stated = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
            require_memory(pathlib.Path(path), max(stated, 8 * about.num_rows))
            table = file.read()
        table.validate(full=True)
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{refusal} ({first_line(error)}).") from error
    return table


def column(table: "pyarrow.Table", name: str) -> np.ndarray:
    """One column as an array, shape [n]; text with gaps is an array of objects."""
    values = table[name]
    if is_text(values.type):
        texts = values.to_pylist()
        return np.array(texts, dtype=object if None in texts else str)
    return values.to_numpy(zero_copy_only=False)


def names(table: "pyarrow.Table", name: str) -> np.ndarray:
    """A column of names in their normal form, shape [n]."""
    return np.array([normal_name(text) for text in table[name].to_pylist()])


def is_text(kind: "pyarrow.DataType") -> bool:
    """Whether a column of this type holds text."""
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _text(value: Any, what: str) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{what}: {value!r} is not text in UTF-8.") from error
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if abs(int(value)) < 2**64:
            return str(value)
        raise UserError(f"{what}: expected text or whole numbers, got a number of more than 64 bits.")
    raise UserError(f"{what}: expected text or whole numbers, got {value!r}.")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
