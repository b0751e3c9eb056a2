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
SPARE = 3  # memory beside the sums, in sums: that of a chunk and what is in between


class Accumulator(Protocol):
    """Adds chunks to sums on one device or several: ``place`` sends a chunk to the devices, ``add`` sums it.

    ``add`` may overwrite the sum so far, which has an attribute ``mean``, and begins one for None. The rows of a chunk
    are sharded over ``shards`` devices, and each device holds ``elements`` numbers of a sum.
    """

    @property
    def shards(self) -> int: ...
    @property
    def elements(self) -> int: ...
    def place(self, chunk: Chunk) -> DeviceChunk: ...
    def add(self, sofar: Any, chunk: DeviceChunk) -> Any: ...


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
    if not len(weights):
        return []
    values = [LazyRows.of(array) for array in arrays.values()]
    folds, width = int(fold.max()) + 1, sum(array.width for array in values)
    size, whole = len(weights), folds == 1 and rows is None
    few = chunk_rows is None and size * width <= CHUNK_ELEMENTS
    if few and not whole:
        read = _one_chunk_each(values, fold, weights, rows)
    elif whole:
        size = size if few else min(chunk_rows or default_chunk_rows(values, 1, accumulator), size)
        read: Iterable[tuple[int, Chunk]] = ((0, chunk) for chunk in chunks(values, weights, size))
        if size < len(weights) and any(array.is_mapped for array in values):
            read = prefetch(read)
    else:
        if rows is not None:  # a fold and a weight for every row; those not used are in fold −1
            used, given = rows, (fold, weights)
            fold, weights = np.full(len(values[0]), -1, np.int32), np.zeros(len(values[0]), weights.dtype)
            fold[used], weights[used] = given
        size = min(chunk_rows or default_chunk_rows(values, folds, accumulator), len(weights))
        if chunk_rows is None:  # one chunk of every fold is in memory
            size = max(min(size // 2, 4 * size // folds), min(size, LEAST_FOLD_ROWS))
        read = prefetch(fold_chunks(values, weights, fold, size))
    with explained_memory_error(f"moments of width {width:,}", size):
        return _summed(read, folds, accumulator)


def _one_chunk_each(
    arrays: list[LazyRows], fold: np.ndarray, weights: np.ndarray, rows: np.ndarray | None
) -> Iterable[tuple[int, Chunk]]:
    """One chunk for each fold; all as long as the longest, padded with rows of no weight, for one program."""
    size = int(np.bincount(fold).max())
    for number in np.unique(fold).tolist():
        members = np.flatnonzero(fold == number)
        padded = np.resize(members, size)
        weight = np.where(np.arange(size) < len(members), weights[padded], 0).astype(weights.dtype)
        taken = padded if rows is None else rows[padded]
        yield number, (tuple(array.take(taken) for array in arrays), weight)


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


def default_chunk_rows(arrays: Sequence[LazyRows], folds: int, accumulator: Accumulator) -> int:
    """Rows of a chunk by default."""
    width = sum(array.width for array in arrays)
    row_bytes = sum(array.width * array.dtype.itemsize for array in arrays)
    most = -(-CHUNK_ELEMENTS * accumulator.shards // width)
    if any(array.is_mapped for array in arrays):
        # Not far fewer than columns: each chunk costs a pass over [D, D].
        most = min(most, max(CHUNK_BYTES // row_bytes, width // 4))
    # On the device: the sum of every fold, a chunk's and what is in between; two chunks, one of them twice.
    fixed = (folds + SPARE) * accumulator.elements * 8
    return rows_that_fit(most, 4 * row_bytes // accumulator.shards, fixed)
