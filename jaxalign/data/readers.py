"""Embeddings and identities in files of other programs: .npy, .npz, safetensors, Parquet and CSV."""

import csv
import dataclasses
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from jaxalign.core.errors import UserError
from jaxalign.data.samples import REQUIRED, column, first_line, read_parquet, text_column

if TYPE_CHECKING:
    import pyarrow

# Names under which people keep who is on a row and what the row is called; the first that is there counts.
IDENTITY_NAMES = ("identity", "identities", "person", "people", "subject", "subjects", "label", "labels")
SAMPLE_NAMES = tuple("sample_id sample_ids path paths file filename filenames image images".split())


@dataclasses.dataclass(frozen=True)
class Names:
    """Which columns or arrays hold the person and the sample; None looks for the usual names."""

    identity: str | None = None
    sample_id: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What a file says of the rows: person and name of each, text [n] or None, and other columns of n values."""

    identities: np.ndarray | None = None
    sample_ids: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def read_embeddings(
    path: pathlib.Path, key: str | None = None, names: Names | None = None
) -> tuple[np.ndarray, Samples]:
    """Reads the embeddings of one encoder, and what the same file says of its rows.

    Args:
      path: of a .npy, .npz, .safetensors or .parquet file.
      key: which array or column of the file; None where there is only one that can be meant.
      names: of the columns or arrays with persons and samples.

    Returns:
      The array, shape [n, d], memory-mapped where the format allows it; and the samples.

    Raises:
      UserError: the file is missing, damaged or of another format, holds pickled objects, or no such array.
    """
    readers: dict[str, Callable[[pathlib.Path, str | None, Names], tuple[np.ndarray, Samples]]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".parquet": _read_parquet,
    }
    reader = _chosen(readers, path, "embeddings")
    return reader(path, key, names or Names())


def read_samples(path: pathlib.Path, names: Names | None = None) -> Samples:
    """Reads who is on each row.

    Args:
      path: of a .csv or .tsv file with a first line that names its columns (without it, a single column of
        persons); of a .txt file of lines ``person/photo.jpg``, where the folder is the person and the line
        the sample's name; or of a .parquet or .npz file.
      names: of the columns with persons and samples.

    Raises:
      UserError: the file is missing, damaged or of another format, or has neither persons nor samples.
    """
    readers: dict[str, Callable[[pathlib.Path, Names], Samples]] = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".txt": _read_list,
        ".lst": _read_list,
        ".parquet": lambda path, names: _table_samples(_open_parquet(path), path, names),
        ".npz": lambda path, names: _npz_samples(_open_npz(path), path, names),
    }
    names = names or Names()
    samples = _chosen(readers, path, "identities")(path, names)
    if samples.identities is None and samples.sample_ids is None:
        there = ", ".join(samples.columns)
        raise UserError(f"{path} has no column {names.identity or 'identity'!r}; it has {there}.")
    return samples


def _chosen(readers: Mapping[str, Any], path: pathlib.Path, what: str) -> Any:
    if path.suffix.lower() not in readers:
        formats = ", ".join(readers)
        raise UserError(f"{path}: {what} are read from {formats}; this name ends in {path.suffix!r}.")
    if not path.is_file():
        raise UserError(f"{path} is missing." if not path.exists() else f"{path} is not a file.")
    return readers[path.suffix.lower()]


def _read_npy(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    if key:
        raise UserError(f"{path} holds one array without a name; leave '#{key}' out.")
    try:
        # Unlike numpy.load this looks at no other format and knows no pickle.
        return npy.open_memmap(path, mode="r"), Samples()
    except (ValueError, OSError, EOFError) as error:
        if "Python objects" in str(error):
            raise UserError(f"{path} holds pickled Python objects, which are never read.") from error
        raise UserError(f"{path} is damaged or no .npy file ({first_line(error)}).") from error


def _read_npz(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    arrays = _open_npz(path)
    samples = _npz_samples(arrays, path, names)
    return arrays[_pick(key, [name for name in arrays if arrays[name].ndim == 2], arrays, path)], samples


def _open_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is damaged or no .npz file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds pickled Python objects, which are never read; save text with "
                "numpy.array(names, dtype=str)."
            ) from error
        raise UserError(f"{path} is damaged or no .npz file ({first_line(error)}).") from error


def _npz_samples(arrays: Mapping[str, np.ndarray], path: pathlib.Path, names: Names) -> Samples:
    flat = {name: array for name, array in arrays.items() if array.ndim == 1}
    return _split_columns(flat, path, names)


def _read_safetensors(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            array = file.get_tensor(_pick(key, [n for n in shapes if len(shapes[n]) == 2], shapes, path))
    except UserError:
        raise
    except Exception as error:  # safetensors documents no narrower class for a damaged file
        raise UserError(f"{path} is damaged or no safetensors file ({first_line(error)}).") from error
    return array, Samples()


def _read_parquet(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    import pyarrow.compute as compute
    import pyarrow.types as types

    table = _open_parquet(path)
    columns = [field for field in table.schema if _is_list(field.type)]
    lists = [field.name for field in columns if types.is_floating(field.type.value_type)]
    name = _pick(key, lists, table.column_names, path)
    field = table.schema.field(name)
    if name not in lists:
        raise UserError(f"{path}: column {name!r} must hold lists of floats, it holds {field.type}.")
    values = table[name]
    if values.null_count:
        row = np.flatnonzero(values.is_null().to_numpy())[0]
        raise UserError(
            f"{path}: column {name!r} has no list in {values.null_count:,} rows (first: row {row})."
        )
    if table.num_rows == 0:
        raise UserError(f"{path} has no rows.")
    widths = compute.call_function("list_value_length", [values]).to_numpy()
    other = np.flatnonzero(widths != widths[0])
    if len(other):
        raise UserError(
            f"{path}: column {name!r} has lists of different length: {widths[0]} in row 0, "
            f"{widths[other[0]]} in row {other[0]}."
        )
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in values.chunks])
    return flat.reshape(len(widths), -1), _table_samples(table, path, names)


def _open_parquet(path: pathlib.Path) -> "pyarrow.Table":
    return read_parquet(path, f"{path} is damaged or no Parquet file")


def _table_samples(table: "pyarrow.Table", path: pathlib.Path, names: Names) -> Samples:
    flat = [field.name for field in table.schema if not _is_list(field.type)]
    return _split_columns({name: column(table, name) for name in flat}, path, names)


def _is_list(kind: "pyarrow.DataType") -> bool:
    import pyarrow.types as types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _read_csv(path: pathlib.Path, names: Names) -> Samples:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, delimiter=delimiter, skipinitialspace=True) if line]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({first_line(error)}).") from error
    if not lines:
        raise UserError(f"{path} is empty.")
    header = [name.strip() for name in lines[0]]
    usual = header[0].lower() in (*IDENTITY_NAMES, *SAMPLE_NAMES)
    if len(header) == 1 and not usual and header[0] not in (names.identity, names.sample_id):
        header, lines = ["identity"], [[], *lines]
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have one name: {', '.join(header)}.")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise UserError(f"{path}: record {number} has {len(line)} values, expected {len(header)}.")
    columns = {name: np.array([line[index] for line in lines[1:]]) for index, name in enumerate(header)}
    return _split_columns(columns, path, names)


def _read_list(path: pathlib.Path, names: Names) -> Samples:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({first_line(error)}).") from error
    samples, people = [], []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        folders = [part for part in re.split(r"[/\\]", line)[:-1] if part not in ("", ".", "..")]
        if not folders:
            raise UserError(f"{path}, line {number}: expected person/photo.jpg, got {line!r}.")
        samples.append(line)
        people.append(folders[-1])
    if not samples:
        raise UserError(f"{path} is empty.")
    return Samples(np.array(people), np.array(samples))


def _split_columns(columns: Mapping[str, np.ndarray], path: pathlib.Path, names: Names) -> Samples:
    """The persons, the samples' names and the rest of the columns of a file."""
    found = _find(names.identity, IDENTITY_NAMES, columns), _find(names.sample_id, SAMPLE_NAMES, columns)
    rest = {name: values for name, values in columns.items() if name not in found}
    rest = {f"original_{name}" if name in REQUIRED else name: values for name, values in rest.items()}
    texts = (None if name is None else text_column(columns[name], f"{path}: {name}") for name in found)
    return Samples(*texts, rest)  # pyright: ignore[reportCallIssue]


def _find(asked: str | None, usual: Sequence[str], columns: Mapping[str, np.ndarray]) -> str | None:
    if asked is not None:
        return asked if asked in columns else None
    lower = {name.lower(): name for name in reversed(list(columns))}
    return next((lower[name] for name in usual if name in lower), None)


def _pick(
    key: str | None, fitting: Sequence[str], there: Sequence[str] | Mapping[str, Any], path: pathlib.Path
) -> str:
    """The array that is meant: the one asked for, or the only one that fits."""
    if key is not None:
        if key not in there:
            raise UserError(f"{path} holds no {key!r}; it holds {', '.join(there)}.")
        return key
    if len(fitting) != 1:
        count = "no array" if not fitting else f"{len(fitting)} arrays"
        raise UserError(
            f"{path} holds {count} [rows, d] of embeddings; it holds {', '.join(there) or 'nothing'}. "
            f"Name the one that is meant with {path}#name."
        )
    return fitting[0]
