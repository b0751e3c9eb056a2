"""Files of named arrays: .npy, .npz, safetensors, PyTorch, HDF5, and flat FAISS indexes.

Of each file first the shapes are read, then, if it has room in memory, the array that is meant.
"""

import math
import mmap
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, require_memory
from jaxalign.data.readers.identity_files import (
    IDENTITY_NAMES,
    SAMPLE_NAMES,
    Names,
    Samples,
    pick,
    split_columns,
)

PICKLED = "holds pickled Python objects, which are never read; save text with numpy.array(names, dtype=str)."
HEADER_ERRORS = (ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError, tokenize.TokenError)
HEADER_ERRORS += (RecursionError, MemoryError)
DIRECTORY = 0x10  # among the attributes of a member of a zip file
FLAT_HEADERS = {
    b"IxFI": 45,
    b"IxF2": 45,
    b"IxFl": 49,
}  # bytes before the numbers of a flat FAISS index, by its mark


class Header(NamedTuple):
    """An array that is not read yet."""

    shape: tuple[int, ...]
    itemsize: int
    floating: bool = True

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return math.prod(self.shape) * self.itemsize


Load = Callable[[str], np.ndarray]


@contextmanager
def explained(path: pathlib.Path, kind: str) -> Iterator[None]:
    """Turns what a library raises on a damaged file, which none documents as narrower classes, into one sentence."""
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged or no {kind} file ({first_line(error)}).") from error


def from_arrays(
    headers: Mapping[str, Header], load: Load, path: pathlib.Path, key: str | None, names: Names
) -> tuple[np.ndarray, Samples]:
    """The array that is meant, and what the lists beside it say of its rows; vectors by name are one array."""
    tables = [name for name, header in headers.items() if len(header.shape) == 2]
    vectors = [name for name, header in headers.items() if len(header.shape) == 1 and header.floating]
    known = {name.lower() for name in vectors} & {*IDENTITY_NAMES, *SAMPLE_NAMES}
    if key is None and not tables and len(vectors) == len(headers) > 1 and not known:
        widths = {headers[name].shape for name in vectors}
        if len(widths) == 1:
            require_memory(path, 2 * sum(headers[name].size for name in vectors))
            return np.stack([load(name) for name in vectors]), split_columns(
                {"path": np.array(vectors)}, path, Names()
            )
    chosen = pick(key, tables, headers, path)
    require_memory(path, headers[chosen].size)
    array = load(chosen)
    return array, samples_of(headers, load, path, names, rows=len(array) if array.ndim else 0)


def samples_of(
    headers: Mapping[str, Header], load: Load, path: pathlib.Path, names: Names, rows: int | None = None
) -> Samples:
    """The lists of a file: those that name persons or samples, and others of ``rows`` values, or of any number."""
    usual = {*IDENTITY_NAMES, *SAMPLE_NAMES}
    asked = {names.identity, names.sample_id}
    flat = [name for name, header in headers.items() if len(header.shape) == 1]
    flat = [
        name
        for name in flat
        if name in asked or name.lower() in usual or rows is None or headers[name].shape == (rows,)
    ]
    require_memory(path, sum(headers[name].size for name in flat))
    return split_columns({name: load(name) for name in flat}, path, names)


def read_npy(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """One array, memory-mapped."""
    if key:
        raise UserError(f"{path} holds one array without a name; leave '#{key}' out.")
    with open(path, "rb") as file:
        header = _npy_header(file, path, "")
        length = file.tell() + header.size
    if length != path.stat().st_size:
        told = f"its first line announces {length:,} bytes, it has {path.stat().st_size:,}"
        raise UserError(f"{path} is damaged or no .npy file ({told}).")
    return npy.open_memmap(path, mode="r"), Samples()


def _npy_header(file: IO[bytes], path: pathlib.Path, name: str) -> Header:
    """Shape and type that a .npy file, or one within a .npz file, announces; the file then stands at the numbers."""
    kind = ".npz" if name else ".npy"
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except HEADER_ERRORS as error:
        raise UserError(f"{path} is damaged or no {kind} file ({name} {first_line(error)}).") from error
    if dtype.hasobject:
        raise UserError(f"{path} {PICKLED}")
    if any(side < 0 for side in shape):
        raise UserError(f"{path} is damaged or no {kind} file ({name} has the shape {shape}).")
    return Header(shape, dtype.itemsize, dtype.kind in "fV")


def read_npz(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """The array that is meant of a .npz file; the others are not read."""
    with _open_npz(path) as (headers, load):
        return from_arrays(headers, load, path, key, names)


def npz_samples(path: pathlib.Path, names: Names) -> Samples:
    """The lists of a .npz file."""
    with _open_npz(path) as (headers, load):
        return samples_of(headers, load, path, names)


@contextmanager
def _open_npz(path: pathlib.Path) -> Iterator[tuple[dict[str, Header], Load]]:
    errors = (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
    )
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is damaged or no .npz file.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            headers = {}
            for name, info in members.items():
                with archive.open(info) as file:
                    headers[name] = _npy_header(file, path, info.filename)
                    told = file.tell() + headers[name].size
                if told != info.file_size:
                    found = f"{info.filename} announces {told:,} bytes, it has {info.file_size:,}"
                    raise UserError(f"{path} is damaged or no .npz file ({found}).")

            def load(name: str) -> np.ndarray:
                with archive.open(members[name]) as file:
                    array = npy.read_array(file, allow_pickle=False)
                    file.read(1)  # the checksum is compared at the end
                    return array

            yield headers, load
    except UserError:
        raise
    except errors as error:
        raise UserError(f"{path} is damaged or no .npz file ({first_line(error)}).") from error


def read_safetensors(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """The tensor that is meant, or vectors by name."""
    import safetensors

    sizes = {
        "F64": 8,
        "I64": 8,
        "U64": 8,
        "F32": 4,
        "I32": 4,
        "U32": 4,
        "F16": 2,
        "BF16": 2,
        "I16": 2,
        "U16": 2,
    }
    with explained(path, "safetensors"), safetensors.safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        headers = {
            name: Header(tuple(part.get_shape()), sizes.get(part.get_dtype(), 1), "F" in part.get_dtype())
            for name, part in slices.items()
        }
        return from_arrays(headers, file.get_tensor, path, key, names)


def read_torch(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """A tensor, or a dictionary of tensors and of lists of text, saved by ``torch.save``; no code of it runs."""
    import torch

    with explained(path, "PyTorch"):
        if zipfile.is_zipfile(path):
            _require_checksums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content if isinstance(content, dict) else {"tensor": content}
        values = {str(name): value for name, value in content.items()}
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        lists = {name: value for name, value in values.items() if isinstance(value, (list, tuple))}
        headers = {
            name: Header(tuple(t.shape), t.element_size(), t.is_floating_point())
            for name, t in tensors.items()
        } | {name: Header((len(value),), 64, False) for name, value in lists.items()}

        def load(name: str) -> np.ndarray:
            if name in lists:
                return np.array(lists[name])
            tensor = tensors[name].detach().contiguous()
            if tensor.dtype == torch.bfloat16:
                return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            return tensor.numpy()

        return from_arrays(headers, load, path, key, names)


def _require_checksums(path: pathlib.Path) -> None:
    """Refuses a zip file whose members are not what their checksums say, which PyTorch writes and does not compare.

    Nor does it read a member that is marked as a directory; it takes zeros for it.
    """
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            require_memory(path, info.file_size)
            # Not by ``testzip``, which passes over such a mark, and over a length that is too short.
            if info.external_attr & DIRECTORY or zlib.crc32(archive.read(info)) != info.CRC:
                raise UserError(f"{path} is damaged: the checksum of {info.filename} in it differs.")


def read_hdf5(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """The data set that is meant, by its path in the file; data that lie in other files are not read."""
    return _read_hdf5(path, key, names, transposed=False)


def read_transposed_hdf5(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """The same of a file of MATLAB, which writes columns first."""
    return _read_hdf5(path, key, names, transposed=True)


def _read_hdf5(
    path: pathlib.Path, key: str | None, names: Names, transposed: bool
) -> tuple[np.ndarray, Samples]:
    import h5py

    _require_finite_heaps(path)
    with explained(path, "HDF5"), h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        file.visititems(
            lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None
        )
        elsewhere = [name for name, data in found.items() if data.is_virtual or data.external]
        if elsewhere:
            raise UserError(f"{path}: {elsewhere[0]!r} lies in another file, which is not read.")
        headers = {
            name: Header(tuple(data.shape or ()), max(data.dtype.itemsize, 1), data.dtype.kind == "f")
            for name, data in found.items()
        }

        def load(name: str) -> np.ndarray:
            data = found[name]
            array = np.asarray(data.asstr()[()] if h5py.check_string_dtype(data.dtype) else data[()])
            return array.T if transposed else array

        return from_arrays(headers, load, path, key, names)


def _require_finite_heaps(path: pathlib.Path) -> None:
    """Refuses a file with a heap of texts that has free space of no length, by damage: HDF5 would never get past it."""
    if not path.stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"GCOL")
        while start >= 0:
            (size,) = struct.unpack("<Q", content[start + 8 : start + 16].ljust(8, b"\0"))
            place, end = start + 16, min(start + size, len(content))
            while place + 16 <= end:
                index, length = struct.unpack("<H6xQ", content[place : place + 16])
                step = 16 + -(-length // 8) * 8 if index else length
                if not step:
                    raise UserError(
                        f"{path} is damaged: its heap at byte {start:,} has free space of no length."
                    )
                place += step
            start = content.find(b"GCOL", start + 4)


def read_faiss(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """The rows of a flat FAISS index, in its order."""
    if key:
        raise UserError(f"{path} holds one array without a name; leave '#{key}' out.")
    import faiss

    with open(path, "rb") as file:
        head = file.read(16)
    width, rows = struct.unpack("<iq", head[4:]) if len(head) == 16 else (0, 0)
    if head[:4] not in FLAT_HEADERS:
        raise UserError(f"{path} is no flat FAISS index; only those hold the embeddings as they were.")
    if width < 1 or rows < 1 or path.stat().st_size != FLAT_HEADERS[head[:4]] + 4 * width * rows:
        raise UserError(f"{path} is damaged: {rows:,} rows of {width:,} do not fill its bytes.")
    require_memory(path, 2 * 4 * width * rows)
    with explained(path, "FAISS"):
        return faiss.read_index(str(path)).reconstruct_n(0, rows), Samples()
