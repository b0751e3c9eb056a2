"""Rows a chunk at a time; the next chunk is read while one is computed with."""

import collections
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from jaxalign.core.lazy_rows import LazyRows

Item = TypeVar("Item")
Chunk = tuple[tuple[np.ndarray, ...], np.ndarray]  # rows [c, d] of each array; their weights [c]
_END: Any = object()


def ahead(items: Iterable[Item], depth: int = 1) -> Generator[Item, None, None]:
    """Goes through items, the next ``depth`` of which are made on another thread; errors come where the item would."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = collections.deque(pool.submit(next, iterator, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item


def chunks(arrays: Sequence[LazyRows], weights: np.ndarray, size: int) -> Iterator[Chunk]:
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
            array.announce(stop, stop + size)
        parts = [array.read(start, stop) for array in arrays]
        yield tuple(_filled_up(part, size) for part in parts), _filled_up(weights[start:stop], size)


def fold_chunks(
    arrays: Sequence[LazyRows], weights: np.ndarray, fold: np.ndarray, size: int
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
        for number in np.unique(here[here >= 0]).tolist():
            rows = np.flatnonzero(here == number)
            while len(rows):
                filled, chunk = partial.pop(number, None) or (0, _zeros(arrays, size, weights.dtype))
                now, rows = rows[: size - filled], rows[size - filled :]
                part = slice(filled, filled + len(now))
                for array, buffer in zip(arrays, chunk[0]):
                    buffer[part] = array.peek(start + now)
                chunk[1][part] = weights[start + now]
                if part.stop < size:
                    partial[number] = part.stop, chunk
                else:
                    yield number, chunk
                del chunk  # the consumer may let go of it while the next is filled
        for array in arrays:
            array.release(start, start + size)
    for number, (_, chunk) in partial.items():
        yield number, chunk


def even(rows: int, size: int) -> int:
    """Rows of a chunk when rows are dealt into as few equal chunks as ``size`` allows."""
    return -(-rows // -(-rows // size))


def _filled_up(part: np.ndarray, size: int) -> np.ndarray:
    if len(part) == size:
        return part
    return np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])


def _zeros(arrays: Sequence[LazyRows], size: int, dtype: np.dtype) -> Chunk:
    return tuple(np.zeros((size, array.width), array.dtype) for array in arrays), np.zeros(size, dtype)
