"""The .npy file of one encoder: written with its checksum, opened without trusting it.

NumPy's format has no name for bfloat16. Such files say ``<V2`` (two bytes without a meaning), as ``numpy.save`` writes
them, so that nobody takes the bits for whole numbers; the manifest says what they are. Without it:
``numpy.load(path, mmap_mode="r").view(ml_dtypes.bfloat16)``.
"""

import hashlib
import pathlib
import tokenize
from collections.abc import Iterable, Iterator
from typing import IO

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from jaxalign.core.errors import UserError
from jaxalign.core.files import regular_file
from jaxalign.core.rows import narrowed
from jaxalign.data.manifest import FILE, EncoderEntry

CHUNK_BYTES = 1 << 24
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def storable(name: str, array: object, rows: int | None) -> np.ndarray:
    """An encoder's embeddings as an array that a store can hold, float64 still to be narrowed.

    Raises:
      UserError: the shape is not [rows, d], or NumPy does not read float16, bfloat16, float32 or float64.
    """
    values = array if isinstance(array, np.ndarray) else np.asarray(array)
    if values.dtype.kind == "O":
        raise UserError(
            f"encoder {name!r}: rows differ in length or hold no numbers; expected floats [rows, d]."
        )
    if values.dtype != BFLOAT16 and (values.dtype.kind != "f" or values.dtype.itemsize not in (2, 4, 8)):
        raise UserError(
            f"encoder {name!r}: expected float16, bfloat16, float32 or float64, got {values.dtype}."
        )
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(
            f"encoder {name!r}: expected an array [rows, d] with no empty side, got {list(values.shape)}."
        )
    if rows is not None and len(values) != rows:
        raise UserError(f"encoder {name!r} has {len(values):,} rows, there are {rows:,} samples.")
    return values


def stored_dtype(name: str) -> np.dtype:
    """The type of number that a manifest names."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def write_array(file: IO[bytes], name: str, array: np.ndarray) -> EncoderEntry:
    """Writes embeddings in C order, in chunks; float64 becomes float32, a ``UserError`` if float32 cannot hold it."""
    half = BFLOAT16 if array.dtype == BFLOAT16 else np.dtype(np.float16)
    dtype = half if array.dtype.itemsize == 2 else np.dtype(np.float32)
    step = max(1, CHUNK_BYTES // (array.shape[1] * dtype.itemsize))
    parts = (array[start : start + step] for start in range(0, len(array), step))
    return write_chunks(file, name, parts, array.shape, dtype)


def write_chunks(
    file: IO[bytes], name: str, chunks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> EncoderEntry:
    """Writes embeddings that come in chunks [c, d], in order, of ``shape`` together, as float16, bfloat16 or float32.

    Raises:
      UserError: a value is beyond what ``dtype`` holds.
    """
    hashed = _Hashed(file)
    header = {"descr": npy.dtype_to_descr(_on_disk(dtype)), "fortran_order": False, "shape": tuple(shape)}
    npy.write_array_header_1_0(hashed, header)
    rows = 0
    for chunk in _narrowed(name, chunks, dtype):
        rows += len(chunk)
        hashed.write(chunk.view(np.uint8).data)
    if rows != shape[0]:
        raise ValueError(f"encoder {name!r}: {rows} rows came, {shape[0]} were announced")
    return EncoderEntry(shape[1], dtype.name, hashed.sha256.hexdigest())


def _narrowed(name: str, chunks: Iterable[np.ndarray], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The chunks in C order as the type of number to write."""
    for chunk in chunks:
        narrow, beyond = narrowed(chunk, dtype)
        if beyond:
            most = f"{float(ml_dtypes.finfo(dtype).max):.2g}".replace("e+0", "e").replace("e+", "e")
            raise UserError(f"encoder {name!r}: some values are beyond what {dtype.name} holds ({most}).")
        yield narrow


def _on_disk(dtype: np.dtype) -> np.dtype:
    return np.dtype("V2") if dtype == BFLOAT16 else dtype


def open_array(
    directory: pathlib.Path, name: str, entry: EncoderEntry, rows: int, store: str, verify: bool
) -> np.memmap:
    """Maps an encoder's file into memory, read-only, if it is what the manifest says; messages name the ``store``.

    Raises:
      UserError: the file is missing, cut short, of another shape or type, holds objects, or (``verify``) was altered.
    """
    path = directory / f"{name}.npy"
    if path.exists():
        regular_file(path, f"the embeddings of {name!r}")
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
    return np.memmap(path, stored_dtype(entry.dtype), mode="r", offset=offset, shape=(rows, entry.dim))


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
        except (
            ValueError,
            KeyError,
            TypeError,
            SyntaxError,
            RecursionError,
            MemoryError,
            tokenize.TokenError,
        ):
            return "is not a .npy file or its beginning is damaged", 0
        offset = file.tell()
    if dtype.hasobject:
        return "holds pickled Python objects, which are never read", offset
    if dtype != _on_disk(stored_dtype(entry.dtype)):
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
