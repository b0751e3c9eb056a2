"""One pass over rows in memory or on disk: chunks are read, sent to the device and summed there, by fold.

The three overlap: a thread reads the next chunk of memory-mapped rows, and a chunk goes to the device while the one
before is computed with. Few chunks exist at a time, whatever the number of rows.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

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

Sum = TypeVar("Sum", bound=Any)  # has an attribute ``mean``, shape [D]
DeviceChunk = tuple[tuple[jax.Array, ...], jax.Array]  # rows [c, d] of each encoder; their weights [c]
Adding = Callable[[Sum | None, DeviceChunk], Sum]

CHUNK_ELEMENTS = 2**26  # of the rows sent to the device at once; larger chunks save passes over [D, D]
CHUNK_BYTES = 2**26  # of memory-mapped rows read at once; about four such chunks are in memory
LEAST_FOLD_ROWS = 2048  # of a chunk of one fold


@dataclasses.dataclass(frozen=True)
class Placement:
    """How chunks get to the device, or devices.

    Attributes:
      place: sends a chunk.
      shares: devices over which the rows of a chunk are dealt.
      elements: numbers of a sum on each device; None for the square of the width.
      spare: how many times a sum's numbers are needed beside the sums: for a chunk's and what is in between.
      most_rows: of a chunk on each device, by default; None for no such limit.
    """

    place: Callable[[Chunk], DeviceChunk] = jax.device_put
    shares: int = 1
    elements: int | None = None
    spare: int = 3
    most_rows: int | None = None


ONE_DEVICE = Placement()


def by_fold(
    arrays: Mapping[str, np.ndarray | LazyRows],
    fold: np.ndarray | None,
    weights: np.ndarray,
    rows: np.ndarray | None,
    add: Adding[Sum],
    chunk_rows: int | None,
    placement: Placement = ONE_DEVICE,
) -> tuple[Sum, ...]:
    """Sums the rows of each fold.

    Args:
      arrays: rows of each encoder, shapes [n, d].
      fold: of each row used, 0 ... F − 1, shape [m]; None for one sum.
      weights: of the rows used, shape [m], in the format of the sums.
      rows: numbers of the rows used, shape [m]; None for all.
      add: adds a chunk to a sum, which it may overwrite, or begins one.
      chunk_rows: most rows of a chunk; None to choose.
      placement: how chunks get to the devices.

    Returns:
      The sums of the folds. Fewer of them, or unfinished ones, where a sum is not finite: summing ends there.

    Raises:
      UserError: the device has not enough memory.
    """
    width = sum(array.shape[1] for array in arrays.values())
    values = [LazyRows.of(array) for array in arrays.values()]
    if chunk_rows is None and len(weights) * width <= CHUNK_ELEMENTS:
        return _few_rows(values, fold, weights, rows, add, placement)
    if rows is not None or fold is not None:
        # A fold and a weight for every row there is; those not used are in fold −1.
        everywhere, weight_everywhere = (
            np.full(len(values[0]), -1, np.int32),
            np.zeros(len(values[0]), weights.dtype),
        )
        used = slice(None) if rows is None else rows
        everywhere[used], weight_everywhere[used] = 0 if fold is None else fold, weights
        fold, weights = everywhere, weight_everywhere
    return _many_rows(values, fold, weights, add, chunk_rows, placement)


def _few_rows(
    arrays: list[LazyRows],
    fold: np.ndarray | None,
    weights: np.ndarray,
    rows: np.ndarray | None,
    add: Adding[Sum],
    placement: Placement,
) -> tuple[Sum, ...]:
    """One chunk for each fold; all as long as the longest, filled up with rows of no weight, for one program."""
    if fold is None and rows is None:
        return _many_rows(arrays, None, weights, add, len(weights), placement)
    every = np.arange(len(weights))
    members = [every] if fold is None else [np.flatnonzero(fold == k) for k in range(fold.max() + 1)]
    size, sums = max(map(len, members)), []
    for member in members:
        filled = np.resize(member, size)
        weight = np.where(np.arange(size) < len(member), weights[filled], 0).astype(weights.dtype)
        parts = [LazyRows.of(array.take(filled if rows is None else rows[filled])) for array in arrays]
        sums += _many_rows(parts, None, weight, add, size, placement)
    return tuple(sums)


def _many_rows(
    arrays: list[LazyRows],
    fold: np.ndarray | None,
    weights: np.ndarray,
    add: Adding[Sum],
    chunk_rows: int | None,
    placement: Placement,
) -> tuple[Sum, ...]:
    """One pass over the rows in order."""
    folds = 1 if fold is None else int(fold.max()) + 1
    size = min(chunk_rows or default_chunk_rows(arrays, folds, placement), len(weights))
    if fold is not None and chunk_rows is None:
        size = max(
            min(size // 2, 4 * size // folds), min(size, LEAST_FOLD_ROWS)
        )  # one of every fold is in memory
    read: Iterable[tuple[int, Chunk]]
    if fold is not None:
        read = prefetch(fold_chunks(arrays, weights, fold, size))
    else:
        read = ((0, chunk) for chunk in chunks(arrays, weights, size))
        if size < len(weights) and any(array.is_mapped for array in arrays):
            read = prefetch(read)
    width = sum(array.shape[1] for array in arrays)
    with explained_memory_error(f"moments of width {width:,}", size):
        return _summed(read, folds, add, placement)


def _summed(
    chunks: Iterable[tuple[int, Chunk]], folds: int, add: Adding[Sum], placement: Placement
) -> tuple[Sum, ...]:
    sums: list[Sum | None] = [None] * folds
    last = None
    with double_precision():
        for number, chunk in chunks:
            # On its way to the device while the one before is computed with. Waiting for that one then keeps more
            # than two from piling up there.
            placed = placement.place(chunk)
            if last is not None and not np.isfinite(np.asarray(last.mean)).all():
                break
            last = sums[number] = add(sums[number], placed)
        jax.block_until_ready(sums)
    return tuple(part for part in sums if part is not None)


def default_chunk_rows(
    arrays: Sequence[np.ndarray | LazyRows], folds: int, placement: Placement = ONE_DEVICE
) -> int:
    """Rows of a chunk by default."""
    width = sum(array.shape[1] for array in arrays)
    row_bytes = sum(array.shape[1] * array.dtype.itemsize for array in arrays)
    most = -(-CHUNK_ELEMENTS * placement.shares // width)
    if placement.most_rows is not None:
        most = min(most, placement.most_rows * placement.shares)
    if any(LazyRows.of(array).is_mapped for array in arrays):
        # Not far fewer than columns: each chunk costs a pass over [D, D].
        most = min(most, max(CHUNK_BYTES // row_bytes, width // 4))
    # On the device: the sum of every fold, a chunk's and what is in between; two chunks, one of them twice.
    fixed = (folds + placement.spare) * (placement.elements or width**2) * 8
    return rows_that_fit(most, 4 * row_bytes // placement.shares, fixed)
