"""The .npy file of one encoder: written with its checksum, opened without trusting it."""

import hashlib
import pathlib
from typing import IO

import numpy as np
from numpy.lib import format as npy

from jaxalign.embeddings.manifest import FILE, EncoderEntry
from jaxalign.errors import UserError

CHUNK_BYTES = 1 << 24


def storable(name: str, array: object, rows: int | None) -> np.ndarray:
    """An encoder's embeddings as an array that a store can hold, float64 still to be narrowed.

    Args:
      name: of the encoder.
      array: anything NumPy reads as float16, float32 or float64, shape [rows, d].
      rows: expected; None for any number of 1 or more.

    Raises:
      UserError: the shape or the type of number is another.
    """
    values = array if isinstance(array, np.ndarray) else np.asarray(array)
    if values.dtype.kind == "O":
        raise UserError(
            f"encoder {name!r}: rows differ in length or hold no numbers; expected floats [rows, d]."
        )
    if values.dtype.kind != "f" or values.dtype.itemsize not in (2, 4, 8):
        raise UserError(f"encoder {name!r}: expected float16, float32 or float64, got {values.dtype}.")
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(
            f"encoder {name!r}: expected an array [rows, d] with no empty side, got {list(values.shape)}."
        )
    if rows is not None and len(values) != rows:
        raise UserError(f"encoder {name!r} has {len(values):,} rows, there are {rows:,} samples.")
    return values


def write_array(file: IO[bytes], name: str, array: np.ndarray) -> EncoderEntry:
    """Writes embeddings in C order, in chunks; float64 becomes float32.

    Raises:
      UserError: a float64 value is beyond what float32 holds.
    """
    dtype = np.dtype(np.float16 if array.dtype.itemsize == 2 else np.float32)
    hashed = _Hashed(file)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    npy.write_array_header_1_0(hashed, header)
    step = max(1, CHUNK_BYTES // (array.shape[1] * dtype.itemsize))
    for start in range(0, len(array), step):
        chunk = array[start : start + step]
        with np.errstate(over="ignore"):
            narrow = np.ascontiguousarray(chunk, dtype)
        if array.dtype.itemsize == 8 and (np.isinf(narrow) & np.isfinite(chunk)).any():
            raise UserError(f"encoder {name!r}: some values are beyond what float32 holds (3.4e38).")
        hashed.write(narrow.data)
    return EncoderEntry(array.shape[1], dtype.name, hashed.sha256.hexdigest())


def open_array(
    directory: pathlib.Path, name: str, entry: EncoderEntry, rows: int, store: str, verify: bool
) -> np.memmap:
    """Maps an encoder's file into memory, read-only, if it is what the manifest says.

    Args:
      directory: of the store.
      name: of the encoder.
      entry: of the encoder in the manifest.
      rows: of samples.parquet.
      store: what a message calls the store.
      verify: whether to compare the checksum.

    Raises:
      UserError: the file is missing, cut short, of another shape or type, holds objects, or was altered.
    """
    path = directory / f"{name}.npy"
    try:
        problem, offset = _problem(path, entry, rows)
        digest = sha256(path) if problem or verify else entry.sha256
    except FileNotFoundError:
        raise UserError(f"{store}: encoder {name!r} is in {FILE}, but {path} is missing.") from None
    except OSError as error:
        raise UserError(f"{store}: {path} cannot be read: {error.strerror or error}.") from error
    altered = digest != entry.sha256
    remedy = f"Embed again or restore {path.name}."
    if problem:
        checksum = "does not match either" if altered else "does match"
        raise UserError(
            f"{store}: encoder {name!r}: {path} {problem}; its checksum in {FILE} {checksum}. {remedy}"
        )
    if altered:
        raise UserError(
            f"{store}: encoder {name!r}: {path} was altered: its checksum is not the one in {FILE}. {remedy}"
        )
    return np.memmap(path, entry.dtype, mode="r", offset=offset, shape=(rows, entry.dim))


def sha256(path: pathlib.Path) -> str:
    """Checksum of a whole file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _problem(path: pathlib.Path, entry: EncoderEntry, rows: int) -> tuple[str, int]:
    """What is wrong with the file's header and length ("" for nothing), and where the numbers begin."""
    with open(path, "rb") as file:
        try:
            version = npy.read_magic(file)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran_order, dtype = read(file)
        except (ValueError, KeyError):
            return "is not a .npy file or its beginning is damaged", 0
        offset = file.tell()
    if dtype.hasobject:
        return "holds pickled Python objects, which are never read", offset
    if dtype != np.dtype(entry.dtype):
        found = dtype.name if dtype.isnative else f"byte-swapped {dtype.name}"
        return f"holds {found}, {FILE} says {entry.dtype}", offset
    if len(shape) != 2 or shape[1] != entry.dim:
        return f"has shape {list(shape)}, expected [{rows}, {entry.dim}]", offset
    if fortran_order:
        return "is in Fortran order, expected C order", offset
    if shape[0] != rows:
        return f"has {shape[0]:,} rows, samples.parquet has {rows:,}", offset
    expected, size = offset + rows * entry.dim * dtype.itemsize, path.stat().st_size
    if size != expected:
        what = "is cut short" if size < expected else "is too long"
        return f"{what}: {rows:,} rows of {entry.dim} take {expected:,} bytes, it has {size:,}", offset
    return "", offset


class _Hashed:
    """A file that takes the checksum of what is written to it."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes | memoryview) -> None:
        self.sha256.update(content)
        self._file.write(content)
