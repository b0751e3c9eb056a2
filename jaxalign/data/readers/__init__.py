"""Embeddings and identities in files of other programs: ``read_embeddings`` and ``read_samples``, by suffix."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, regular_file
from jaxalign.data.readers import array_files, csv_tables, json_files, matlab_files, table_files
from jaxalign.data.readers.identity_files import Names, Samples, read_csv, read_list

__all__ = ["Names", "Samples", "read_embeddings", "read_samples"]

EMBEDDINGS = {
    ".npy": array_files.read_npy,
    ".npz": array_files.read_npz,
    ".safetensors": array_files.read_safetensors,
    ".parquet": table_files.read_parquet_embeddings,
    ".feather": table_files.read_feather,
    ".csv": csv_tables.read_csv_embeddings,
    ".tsv": csv_tables.read_csv_embeddings,
    ".json": json_files.read_json_embeddings,
    ".jsonl": json_files.read_json_lines,
    ".h5": array_files.read_hdf5,
    ".hdf5": array_files.read_hdf5,
    ".pt": array_files.read_torch,
    ".pth": array_files.read_torch,
    ".mat": matlab_files.read_matlab,
    ".faiss": array_files.read_faiss,
    ".index": array_files.read_faiss,
}
SAMPLES = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_list,
    ".lst": read_list,
    ".parquet": table_files.parquet_samples,
    ".feather": table_files.feather_samples,
    ".jsonl": json_files.json_lines_samples,
    ".npz": array_files.npz_samples,
}
PICKLES = (".pkl", ".pickle", ".joblib")


def read_embeddings(
    path: pathlib.Path, key: str | None = None, names: Names | None = None
) -> tuple[np.ndarray, Samples]:
    """Reads the embeddings of one encoder, and what the same file says of its rows.

    Args:
      path: of a file with one of the suffixes of ``EMBEDDINGS``, or of a directory saved by ``datasets``.
      key: which array or column of the file (or split of the data set); None where only one can be meant.
      names: of the columns or arrays with persons and samples.

    Returns:
      The array, shape [n, d], memory-mapped where the format allows it; and the samples. A table with one number a
      column is one array; so are vectors of one width each of which has a name, which is then the sample's.

    Raises:
      UserError: the file is missing, damaged or of another format, holds pickled objects, more than memory has room
        for, or no such array; or the package that reads it is not installed.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir() and path.suffix.lower() not in EMBEDDINGS:
        return table_files.read_saved_dataset(path, key, names or Names())
    return _read(EMBEDDINGS, path, "embeddings", key, names or Names())


def read_samples(path: pathlib.Path, names: Names | None = None) -> Samples:
    """Reads who is on each row.

    Args:
      path: of a .csv or .tsv file with a first line that names its columns (without it, a single column of
        persons), separated by commas, semicolons or tabs; of a .txt file of lines ``person/photo.jpg``, where the
        folder is the person and the line the sample's name; or of a .parquet, .feather, .jsonl or .npz file.
      names: of the columns with persons and samples.

    Raises:
      UserError: the file is missing, damaged or of another format, or has neither persons nor samples.
    """
    path = pathlib.Path(path).expanduser()
    names = names or Names()
    samples = _read(SAMPLES, path, "identities", names)
    if samples.identities is None and samples.sample_ids is None:
        there = ", ".join(samples.columns)
        raise UserError(f"{path} has no column {names.identity or 'identity'!r}; it has {there}.")
    return samples


def _read(readers: Mapping[str, Any], path: pathlib.Path, what: str, *arguments: Any) -> Any:
    suffix = path.suffix.lower()
    if suffix not in readers:
        convert = ""
        if suffix in PICKLES:
            code = f"import pickle, numpy; numpy.save('x.npy', pickle.load(open('{path.name}', 'rb')))"
            convert = f' A pickle can run any code; where you trust it, convert it: python -c "{code}"'
        formats = ", ".join(readers)
        raise UserError(f"{path}: {what} are read from {formats}; this name ends in {suffix!r}.{convert}")
    regular_file(path, f"a {suffix} file with {what}")
    try:
        return readers[suffix](path, *arguments)
    except ImportError as error:
        extra = "torch" if error.name == "torch" else "'jaxalign[formats]'"
        raise UserError(
            f"{path}: {suffix} files need the package {error.name}: pip install {extra}."
        ) from error
    except (MemoryError, OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error
