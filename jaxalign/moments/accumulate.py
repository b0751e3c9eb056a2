"""One pass over rows in memory or on disk: chunks are read, sent to the devices and summed there, by fold.

The three overlap: a thread reads the next chunk of memory-mapped rows, and a chunk goes to the device while the one
before is computed with. Few chunks exist at a time, whatever the number of rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jaxalign.core.precision import double_precision
from jaxalign.core.rows import (
    Chunk,
    LazyRows,
    chunks,
    explained_memory_error,
    fold_chunks,
    prefetch,
    rows_that_fit,
)

DeviceChunk = tuple[tuple[jax.Array, ...], jax.Array]  # rows [c, d] of each encoder; their weights [c]

CHUNK_ELEMENTS = 2**26  # of the rows sent to the device at once; larger chunks save passes over [D, D]
CHUNK_BYTES = 2**26  # of memory-mapped rows read at once; about four such chunks are in memory
LEAST_FOLD_ROWS = 2048  # of a chunk of one fold
SPARE = (
    3  # how many times the numbers of a sum are needed beside the sums: for a chunk's and what is in between
)


class Accumulator(Protocol):
    """Adds chunks to sums on one device or several."""

    @property
    def shards(self) -> int:
        """Devices over which the rows of a chunk are sharded."""
        ...

    @property
    def elements(self) -> int:
        """Numbers of a sum on each device."""
        ...

    def place(self, chunk: Chunk) -> DeviceChunk:
        """Sends a chunk to the devices."""
        ...

    def add(self, sofar: Any, chunk: DeviceChunk) -> Any:
        """Adds a chunk to a sum, which has an attribute ``mean`` and may be overwritten, or begins one for None."""
        ...


def by_fold(
    arrays: Mapping[str, np.ndarray | LazyRows],
    fold: np.ndarray,
    weights: np.ndarray,
    rows: np.ndarray | None,
    accumulator: Accumulator,
    chunk_rows: int | None,
) -> list[Any]:
    """Sums the rows of each fold.

    Args:
      arrays: rows of each encoder, shapes [n, d].
      fold: of each row used, 0 ... F − 1, shape [m].
      weights: of the rows used, shape [m], in the format of the sums.
      rows: indices of the rows used, shape [m]; None for all.
      accumulator: adds chunks.
      chunk_rows: most rows of a chunk; None to choose.

    Returns:
      The sums of the folds, None for a fold without rows. Where a sum is not finite, summing ends there.

    Raises:
      UserError: the device has not enough memory.
    """
    values = [LazyRows.of(array) for array in arrays.values()]
    folds, width = int(fold.max(initial=-1)) + 1, sum(array.width for array in values)
    one = folds == 1
    if not len(weights):
        return []
    if chunk_rows is None and len(weights) * width <= CHUNK_ELEMENTS:
        with explained_memory_error(f"moments of width {width:,}", len(weights)):
            if one and rows is None:
                return _summed(_numbered(chunks(values, weights, len(weights))), folds, accumulator)
            return _summed(_one_chunk_each(values, fold, weights, rows), folds, accumulator)
    if rows is not None:
        # A fold and a weight for every row; those not used are in fold −1.
        used, given = rows, (fold, weights)
        fold, weights = np.full(len(values[0]), -1, np.int32), np.zeros(len(values[0]), weights.dtype)
        fold[used], weights[used] = given
    size = min(
        chunk_rows or default_chunk_rows(values, folds, accumulator.shards, accumulator.elements),
        len(weights),
    )
    if one and rows is None:
        read: Iterable[tuple[int, Chunk]] = _numbered(chunks(values, weights, size))
        if size < len(weights) and any(array.is_mapped for array in values):
            read = prefetch(read)
    else:
        if chunk_rows is None:  # one chunk of every fold is in memory
            size = max(min(size // 2, 4 * size // folds), min(size, LEAST_FOLD_ROWS))
        read = prefetch(fold_chunks(values, weights, fold, size))
    with explained_memory_error(f"moments of width {width:,}", size):
        return _summed(read, folds, accumulator)


def _numbered(items: Iterable[Chunk]) -> Iterable[tuple[int, Chunk]]:
    return ((0, chunk) for chunk in items)


def _one_chunk_each(
    arrays: list[LazyRows], fold: np.ndarray, weights: np.ndarray, rows: np.ndarray | None
) -> Iterable[tuple[int, Chunk]]:
    """One chunk for each fold; all as long as the longest, padded with rows of no weight, for one program."""
    size = int(np.bincount(fold).max(initial=0))
    for number in np.unique(fold).tolist():
        members = np.flatnonzero(fold == number)
        padded = np.resize(members, size)
        weight = np.where(np.arange(size) < len(members), weights[padded], 0).astype(weights.dtype)
        yield (
            number,
            (tuple(array.take(padded if rows is None else rows[padded]) for array in arrays), weight),
        )


def _summed(chunks: Iterable[tuple[int, Chunk]], folds: int, accumulator: Accumulator) -> list[Any]:
    sums: list[Any] = [None] * folds
    last = None
    with double_precision():
        for number, chunk in chunks:
            # On its way to the device while the one before is computed with. Waiting for that one then keeps more
            # than two from piling up there.
            placed = accumulator.place(chunk)
            if last is not None and not np.isfinite(np.asarray(last.mean)).all():
                break
            last = sums[number] = accumulator.add(sums[number], placed)
        jax.block_until_ready(sums)
    return sums


def default_chunk_rows(
    arrays: Sequence[np.ndarray | LazyRows], folds: int, shards: int = 1, elements: int | None = None
) -> int:
    """Rows of a chunk by default; see ``Accumulator`` for ``shards`` and ``elements``."""
    width = sum(array.shape[1] for array in arrays)
    row_bytes = sum(array.shape[1] * array.dtype.itemsize for array in arrays)
    most = -(-CHUNK_ELEMENTS * shards // width)
    if any(LazyRows.of(array).is_mapped for array in arrays):
        # Not far fewer than columns: each chunk costs a pass over [D, D].
        most = min(most, max(CHUNK_BYTES // row_bytes, width // 4))
    # On the device: the sum of every fold, a chunk's and what is in between; two chunks, one of them twice.
    fixed = (folds + SPARE) * (elements or width**2) * 8
    return rows_that_fit(most, 4 * row_bytes // shards, fixed)
