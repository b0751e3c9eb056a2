"""Rows of arrays in memory or memory-mapped, a chunk at a time; the next chunk is read while one is computed with.

Pages of a memory-mapped file count as resident memory once they were touched. Rows of such arrays are therefore copied
into a buffer of a chunk's size and the pages given back; the file stays in the system's cache.
"""

import collections
import mmap
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")
Chunk = tuple[tuple[np.ndarray, ...], np.ndarray]  # rows [c, d] of each array; their weights [c]
_END: Any = object()


def is_mapped(array: np.ndarray) -> bool:
    """Whether the rows lie in a memory-mapped file whose pages can be given back."""
    return _mapping(array) is not None


def any_mapped(arrays: Iterable[np.ndarray]) -> bool:
    """Whether one of the arrays is memory-mapped."""
    return any(is_mapped(array) for array in arrays)


def read_rows(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows start ... stop − 1: a view of an array in memory, a copy of a memory-mapped one."""
    rows = np.asarray(array)[start:stop]
    if not is_mapped(array):
        return rows
    copy = np.array(rows)
    release(rows)
    return copy


def ahead(items: Iterable[Item], depth: int = 1) -> Generator[Item, None, None]:
    """Goes through items, the next ``depth`` of which are made on another thread; errors come where the item would."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = collections.deque(pool.submit(next, iterator, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item


def chunks(arrays: Sequence[np.ndarray], weights: np.ndarray, size: int) -> Iterator[Chunk]:
    """All rows in order, in equal chunks of at most ``size`` rows.

    Args:
      arrays: of shapes [n, d].
      weights: of the rows, shape [n].
      size: most rows of a chunk.

    Yields:
      Chunks of one shape, so that one program serves all: the last is filled up with zeros of weight zero.
    """
    rows = len(weights)
    size = even(rows, size)
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        for array in arrays:
            _advise(np.asarray(array)[stop : stop + size], "MADV_WILLNEED")
        parts = [read_rows(array, start, stop) for array in arrays]
        yield tuple(_filled_up(part, size) for part in parts), _filled_up(weights[start:stop], size)


def fold_chunks(
    arrays: Sequence[np.ndarray], weights: np.ndarray, fold: np.ndarray, size: int
) -> Iterator[tuple[int, Chunk]]:
    """The rows of each fold in chunks of their own, from one pass over all rows in order.

    Args:
      arrays: of shapes [n, d].
      weights: of the rows, shape [n].
      fold: of each row, integers [n]; rows below 0 are left out.
      size: most rows of a chunk.

    Yields:
      The fold and a chunk of it, when it is full; at the end what is left of each fold, filled up with zeros of weight
      zero. All chunks have one shape. A chunk of every fold is in memory.
    """
    counts = np.bincount(fold[fold >= 0])
    size = even(int(counts.max()), size)
    partial: dict[int, tuple[int, Chunk]] = {}
    for start in range(0, len(fold), size):
        here = fold[start : start + size]
        views = [np.asarray(array)[start : start + size] for array in arrays]
        for number in np.unique(here[here >= 0]).tolist():
            rows = np.flatnonzero(here == number)
            while len(rows):
                filled, chunk = partial.pop(number, None) or (0, _zeros(arrays, size, weights.dtype))
                now, rows = rows[: size - filled], rows[size - filled :]
                part = slice(filled, filled + len(now))
                for view, buffer in zip(views, chunk[0]):
                    buffer[part] = view[now]
                chunk[1][part] = weights[start + now]
                if part.stop < size:
                    partial[number] = part.stop, chunk
                else:
                    yield number, chunk
                del chunk  # the consumer may let go of it while the next is filled
        for view in views:
            release(view)
    for number, (_, chunk) in partial.items():
        yield number, chunk


def release(rows: np.ndarray) -> None:
    """Gives the pages of memory-mapped rows back; reading them again finds them in the file as before."""
    _advise(rows, "MADV_DONTNEED")


def even(rows: int, size: int) -> int:
    """Rows of a chunk when rows are dealt into as few equal chunks as ``size`` allows."""
    return -(-rows // -(-rows // size))


def _filled_up(part: np.ndarray, size: int) -> np.ndarray:
    if len(part) == size:
        return part
    return np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])


def _zeros(arrays: Sequence[np.ndarray], size: int, dtype: np.dtype) -> Chunk:
    return tuple(np.zeros((size, array.shape[1]), array.dtype) for array in arrays), np.zeros(size, dtype)


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
