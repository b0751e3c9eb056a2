"""MATLAB files (.mat). Those of version 5 to 7 are read here: SciPy's reader ends the process at some damaged ones.

A file is a header and one part for each variable, which may be compressed; a part is a type, a size, and so many bytes.
An array is a part made of parts: flags, dimensions, name, numbers. Reference: MathWorks, "MAT-File Format".
"""

import math
import mmap
import pathlib
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import require_memory
from jaxalign.data.readers.array_files import Header, explained, from_arrays, read_transposed_hdf5
from jaxalign.data.readers.identity_files import Names, Samples

HEADER_BYTES = 128
ORDERS = {b"IM": "<", b"MI": ">"}  # of bytes, by the mark at the end of the header
ARRAY, COMPRESSED = 14, 15  # types of parts
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELLS, CHARACTERS = 1, 4  # classes of arrays; structures, objects and sparse matrices are not read
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
FULL = {CHARACTERS, *CLASSES}


class Variable(NamedTuple):
    """An array whose numbers are not read yet.

    Attributes:
      content: the parts of the array; only the first where ``compressed``, which are all bytes of the whole.
      place: of the first part with numbers.
    """

    name: str
    of_class: int
    is_complex: bool
    shape: tuple[int, ...]
    content: memoryview
    place: int
    compressed: memoryview | None = None

    @property
    def header(self) -> Header:
        """What is known of the array; of text, each row is one value."""
        shape = self.shape[:-1] if self.of_class == CHARACTERS else self.shape
        flat = len(shape) == 2 and min(shape) == 1
        return Header((max(shape),) if flat else shape, 8, self.of_class in (6, 7))


def read_matlab(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """The matrix that is meant of a .mat file; those of version 7.3 are HDF5 files."""
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
        if start.startswith(b"MATLAB 7.3"):
            return read_transposed_hdf5(path, key, names)
        if start[126:] not in ORDERS:
            return _read_version_4(path, key, names)
        with explained(path, ".mat"):
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            order = ORDERS[start[126:]]
            everything = {variable.name: variable for variable in _variables(content, order)}
            if key in everything and everything[key].of_class not in FULL | {CELLS}:
                raise UserError(f"{path}: {key!r} is neither a full matrix of numbers nor text.")
            found = {name: each for name, each in everything.items() if each.of_class in FULL | {CELLS}}

            def load(name: str) -> np.ndarray:
                variable, shape = found[name], found[name].header.shape
                if variable.compressed is not None:
                    size = struct.unpack_from(f"{order}I", _inflated(variable.compressed, 8), 4)[0]
                    require_memory(path, size)
                    whole = memoryview(_inflated(variable.compressed, size + 8, all_of_it=True))
                    variable = _variable(_part(whole, 0, order)[1], order)
                array = _array(variable, order)
                return array.ravel() if len(shape) == 1 else array

            return from_arrays({name: each.header for name, each in found.items()}, load, path, key, names)


def _variables(content: memoryview, order: str) -> Any:
    """The variables of a file; of compressed ones the first bytes are inflated."""
    place = HEADER_BYTES
    while place < len(content):
        kind, part, after = _part(content, place, order)
        if kind == COMPRESSED:
            start = memoryview(_inflated(part, 4096))
            yield _variable(start[8:], order)._replace(compressed=part)
            after = place + 8 + len(part)
        elif kind == ARRAY:
            yield _variable(part, order)
        else:
            raise ValueError(f"a variable is of the type {kind}")
        place = after


def _part(content: memoryview, place: int, order: str) -> tuple[int, memoryview, int]:
    """Type and bytes of the part at a place, and the place of the next one."""
    kind, size = struct.unpack_from(f"{order}II", content, place)
    start, after = place + 8, place + 8 + -(-size // 8) * 8
    if kind >> 16:  # a small part lies in the same eight bytes
        kind, size, start, after = kind & 0xFFFF, kind >> 16, place + 4, place + 8
    part = content[start : min(start + size, after)]
    if len(part) != size:
        raise ValueError("a part is cut short")
    return kind, part, after


def _inflated(part: memoryview, size: int, all_of_it: bool = False) -> bytes:
    """The first ``size`` bytes of a compressed part; a ``ValueError`` where it is to have no more and has."""
    inflate = zlib.decompressobj()
    data = inflate.decompress(part, size)
    if all_of_it and (inflate.decompress(inflate.unconsumed_tail, 1) or not inflate.eof):
        raise ValueError("a compressed part has another size than it says")
    return data


def _variable(content: memoryview, order: str) -> Variable:
    flags_kind, flags, place = _part(content, 0, order)
    shape_kind, shape, place = _part(content, place, order)
    _, name, place = _part(content, place, order)
    (word,) = struct.unpack_from(f"{order}I", flags)
    sides = tuple(map(int, np.frombuffer(shape, f"{order}i4")))
    if (flags_kind, shape_kind) != (6, 5) or len(sides) < 2 or min(sides) < 0:
        raise ValueError("a variable does not say what it is")
    return Variable(bytes(name).decode(), word & 0xFF, bool(word & 0x800), sides, content, place)


def _array(variable: Variable, order: str) -> np.ndarray:
    """The numbers of an array, or its text: a value for each row of characters, or for each cell."""
    content, place = variable.content, variable.place
    if variable.of_class == CELLS:
        cells: list[str] = []
        for _ in range(math.prod(variable.shape)):
            kind, part, place = _part(content, place, order)
            if kind != ARRAY:
                raise ValueError(f"a cell is of the type {kind}")
            cell = _variable(part, order)
            if cell.of_class not in FULL:
                raise ValueError(f"{variable.name!r} holds cells other than text and numbers")
            cells.append(str(np.squeeze(_array(cell, order))))
        return np.array(cells)
    kind, part, place = _part(content, place, order)
    if variable.of_class == CHARACTERS:
        name = TEXTS[kind] + ("" if TEXTS[kind] in ("latin-1", "utf-8") else "-le" if order == "<" else "-be")
        letters = np.array(list(bytes(part).decode(name)), "U1").reshape(variable.shape, order="F")
        rows = letters.reshape(math.prod(variable.shape[:-1]), variable.shape[-1])
        return np.array(["".join(row) for row in rows] or [""])
    array = np.frombuffer(part, order + NUMBERS[kind]).astype(CLASSES[variable.of_class])
    if variable.is_complex:
        kind, part, _ = _part(content, place, order)
        array = array + 1j * np.frombuffer(part, order + NUMBERS[kind])
    return array.reshape(variable.shape, order="F")


def _read_version_4(path: pathlib.Path, key: str | None, names: Names) -> tuple[np.ndarray, Samples]:
    """The matrix that is meant of a file of version 4, by SciPy, whose reader of these is written in Python."""
    import scipy.io

    with explained(path, ".mat"):
        found = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(str(path))}
        headers = {
            name: Header((max(shape),) if min(shape) == 1 else tuple(shape), 8, kind in ("double", "single"))
            for name, (shape, kind) in found.items()
        }

        def load(name: str) -> np.ndarray:
            array = scipy.io.loadmat(str(path), variable_names=[name])[name]
            return array.ravel() if len(headers[name].shape) == 1 else array

        return from_arrays(headers, load, path, key, names)
