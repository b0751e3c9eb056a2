"""Pages of memory-mapped files: which array lies in one, and giving pages back once they were read.

Pages of a memory-mapped file count as resident memory from the first touch on. Given back, they stay in the system's
cache of the file.
"""

import mmap
from typing import Any

import numpy as np


def is_mapped(array: np.ndarray) -> bool:
    """Whether the rows lie in a memory-mapped file whose pages can be given back."""
    return _mapping(array) is not None


def release(rows: np.ndarray) -> None:
    """Gives the pages of memory-mapped rows back; reading them again finds them in the file as before."""
    _advise(rows, "MADV_DONTNEED")


def announce(rows: np.ndarray) -> None:
    """Tells the system that memory-mapped rows are read next."""
    _advise(rows, "MADV_WILLNEED")


def _mapping(array: Any) -> mmap.mmap | None:
    """The map that an array lies in, if pages of it can be given back without losing anything."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and array.mode == "c":
            return None  # changes of a private copy live in its pages alone
        array = array.base
    return array if isinstance(array, mmap.mmap) and hasattr(array, "madvise") else None


def _advise(rows: np.ndarray, advice: str) -> None:
    mapping = _mapping(rows)
    if mapping is None or not rows.size or not hasattr(mmap, advice):
        return
    origin = np.frombuffer(mapping, np.uint8).ctypes.data
    low, high = np.lib.array_utils.byte_bounds(rows)
    start = (low - origin) // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(getattr(mmap, advice), start, high - origin - start)
