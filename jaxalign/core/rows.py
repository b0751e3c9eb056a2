"""Rows that are read when they are used, so that no copy of all of them exists, and reading them chunk by chunk.

>>> rows = LazyRows.of(store["clip"], test_rows).unit().then(map, width=map.out_dim)
>>> evaluate(rows, LazyRows.of(store["arcface"], test_rows), identities)
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line
from jaxalign.core.memory import available_memory

Item = TypeVar("Item")
Step = Callable[[np.ndarray], Any]  # rows [c, d] to rows [c, e]
Chunk = tuple[tuple[np.ndarray, ...], np.ndarray]  # rows [c, d] of each array; their weights [c]

PIECE_ELEMENTS = 2**24  # numbers that go through the steps at once
BY_XLA = 2**18  # numbers whose conversion pays for compiling it
_END: Any = object()


def as_array(values: Any, name: str) -> np.ndarray:
    """Values as an array; a ``UserError`` for what NumPy cannot read, such as another library's bfloat16."""
    try:
        return np.asanyarray(values)
    except ValueError as error:
        raise UserError(f"{name}: expected an array, got rows of unequal length") from error
    except Exception as error:  # whatever the other library raises
        kind = f"{type(values).__module__.partition('.')[0]}.{type(values).__name__}"
        raise UserError(
            f"{name}: NumPy cannot read this {kind} ({first_line(error)}); convert it first, such as PyTorch's by "
            "x.detach().cpu().float().numpy()"
        ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class LazyRows:
    """Rows of an array, in memory or memory-mapped, and the steps that are applied after reading them."""

    array: np.ndarray  # shape [N, d]
    numbers: np.ndarray | None  # indices of the rows used, in order, shape [n]; None for all
    steps: tuple[Step, ...]  # applied one after the other; each treats every row independently of the others
    width: int  # of the rows after the last step
    dtype: np.dtype

    @classmethod
    def of(cls, rows: ArrayLike | LazyRows, numbers: np.ndarray | None = None) -> LazyRows:
        """The rows of an array [N, d], or those with these indices, in this order."""
        if isinstance(rows, LazyRows):
            return rows if numbers is None else rows.select(numbers)
        array = as_array(rows, "rows")
        return cls(array, None if numbers is None else np.asarray(numbers), (), array.shape[1], array.dtype)

    def then(self, step: Step, *, width: int | None = None, dtype: Any = None) -> LazyRows:
        """The same rows with one more step; ``width`` and ``dtype`` of its output are those of its input by default."""
        after = np.dtype(self.dtype if dtype is None else dtype)
        steps = (*self.steps, step)
        return dataclasses.replace(self, steps=steps, width=width or self.width, dtype=after)

    def unit(self) -> LazyRows:
        """The rows scaled to length 1 by ``unit_rows`` and rounded to float32."""
        return self.then(lambda rows: unit_rows(rows).astype(np.float32), dtype=np.float32)

    def select(self, rows: np.ndarray) -> LazyRows:
        """Some of the rows, by index, shape [m], in this order."""
        numbers = np.asarray(rows) if self.numbers is None else self.numbers[rows]
        return dataclasses.replace(self, numbers=numbers)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and width."""
        return len(self.array) if self.numbers is None else len(self.numbers), self.width

    ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        return np.array(self.take(np.arange(len(self))), dtype, copy=copy)

    @property
    def is_mapped(self) -> bool:
        """Whether the array is memory-mapped."""
        array: Any = self.array
        while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
            array = array.base
        return isinstance(array, np.memmap)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start ... stop − 1, shape [stop − start, width]; a view if they are in memory and have no steps."""
        if self.numbers is not None:
            return self.take(np.arange(start, min(stop, len(self))))
        rows = self.array[start:stop]
        if not self.steps and self.is_mapped:
            return np.array(rows)  # read from disk now, on the thread that prefetches
        return self._prepared(rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of rows, by index and in the order given, shape [m, width]."""
        numbers = np.asarray(rows) if self.numbers is None else self.numbers[rows]
        if not self.steps:
            return self.array[numbers]
        taken = np.empty((len(numbers), self.width), self.dtype)
        size = max(1, PIECE_ELEMENTS // max(self.width, self.array.shape[1]))
        for start in range(0, len(numbers), size):
            taken[start : start + size] = self._prepared(self.array[numbers[start : start + size]])
        return taken

    def pieces(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """All rows in order, ``size`` at a time: the index of the first one, and the rows."""
        for start in range(0, len(self), size):
            yield start, self.read(start, min(start + size, len(self)))

    def _prepared(self, rows: np.ndarray) -> np.ndarray:
        for step in self.steps:
            rows = np.asarray(step(rows))
        return rows


def in_range(rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Rows whose squares neither overflow nor vanish: those that are extreme, times a power of two, which is exact.

    Processors and compilers may take the smallest numbers, subnormal ones, for 0; after scaling there are none that
    count. Shape [n, d]; ``rows`` themselves where none is extreme, else a copy, or ``out``.
    """
    if not rows.size:
        return rows
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    limit = np.finfo(rows.dtype).maxexp // 4
    extreme = np.isfinite(largest) & (largest > 0)
    extreme &= (largest > 2.0**limit) | (largest < 2.0**-limit)
    if not extreme.any():
        return rows
    scaled = rows.copy() if out is None else out
    scaled[extreme] = np.ldexp(rows[extreme], -np.frexp(largest[extreme])[1][:, None])
    return scaled


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1 in float64; rows of zeros stay zero. Shape [c, d], float64."""
    wide = np.asarray(rows, np.float64)
    if np.asarray(rows).dtype.itemsize >= 8:  # squares of smaller types stay within float64
        wide = in_range(wide)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(length == 0, 1, length)


def narrowed(rows: np.ndarray, dtype: Any) -> tuple[np.ndarray, bool]:
    """Rows in C order in another format, rounded to the nearest even, and whether it cannot hold a finite number.

    XLA gives NumPy's bits for float32 to float16, in a third of the time.
    """
    dtype = np.dtype(dtype)
    halved = (rows.dtype, dtype) == (np.float32, np.float16) and rows.size >= BY_XLA
    if halved and jax.default_backend() == "cpu":
        found, infinite = (np.asarray(part) for part in _half(rows))
    else:
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(rows, dtype)
        infinite = found.dtype != rows.dtype
    return found, bool(infinite and (np.isinf(found) & np.isfinite(rows)).any())


@jax.jit
def _half(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = rows.astype(jnp.float16)
    return found, jnp.isinf(found).any()


def chunks(arrays: Sequence[LazyRows], weights: np.ndarray, size: int) -> Iterator[Chunk]:
    """All rows of arrays [n, d] and their weights [n], in order, in equal chunks of at most ``size`` rows.

    Chunks have one shape, so that one compiled program serves all: the last is padded with rows of weight zero.
    """
    size = _even_size(len(weights), size)
    for start in range(0, len(weights), size):
        parts = [array.read(start, start + size) for array in arrays]
        yield tuple(_padded(part, size) for part in parts), _padded(weights[start : start + size], size)


def fold_chunks(
    arrays: Sequence[LazyRows], weights: np.ndarray, fold: np.ndarray, size: int
) -> Iterator[tuple[int, Chunk]]:
    """The rows of each fold in chunks of their own, as ``chunks``, in one pass over all rows.

    Yields the fold and a chunk of it as soon as the chunk is full; at the end the last chunk of each fold. One chunk of
    every fold is in memory. Rows of a fold below 0 are left out.
    """
    size = _even_size(int(np.bincount(fold[fold >= 0]).max()), size)
    partial: dict[int, tuple[int, Chunk]] = {}
    for start in range(0, len(fold), size):
        here = fold[start : start + size]
        for number in np.unique(here[here >= 0]).tolist():
            rows = np.flatnonzero(here == number)
            while len(rows):
                if number in partial:
                    filled, chunk = partial.pop(number)
                else:
                    empty = tuple(np.zeros((size, array.width), array.dtype) for array in arrays)
                    filled, chunk = 0, (empty, np.zeros(size, weights.dtype))
                now, rows = rows[: size - filled], rows[size - filled :]
                part = slice(filled, filled + len(now))
                for array, buffer in zip(arrays, chunk[0]):
                    buffer[part] = array.take(start + now)
                chunk[1][part] = weights[start + now]
                if part.stop < size:
                    partial[number] = part.stop, chunk
                else:
                    yield number, chunk
                del chunk  # the consumer may free it while the next one is filled
    for number, (_, chunk) in partial.items():
        yield number, chunk


def _even_size(rows: int, size: int) -> int:
    """Rows of a chunk if ``rows`` are divided into as few equal chunks of at most ``size`` rows as possible."""
    return -(-rows // -(-rows // size))


def _padded(part: np.ndarray, size: int) -> np.ndarray:
    if len(part) == size:
        return part
    return np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])


def prefetch(items: Iterable[Item], depth: int = 1) -> Generator[Item, None, None]:
    """Iterates while a background thread makes the next ``depth`` items; an exception of the items is raised here."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = collections.deque(pool.submit(next, iterator, _END) for _ in range(depth))
        while (item := coming.popleft().result()) is not _END:
            coming.append(pool.submit(next, iterator, _END))
            yield item


def rows_that_fit(most: int, row_bytes: int, fixed_bytes: int = 0) -> int:
    """Rows of a chunk: as many as the device has memory for, from 1 to ``most``.

    Each row takes ``row_bytes`` on the device, and ``fixed_bytes`` are needed besides the chunk. A device that does not
    report its memory (CPUs do not) has what the host has.
    """
    device = next(iter(jnp.zeros(()).devices()))
    memory: dict[str, Any] = device.memory_stats() or {}
    limit = memory.get("bytes_limit")
    free = available_memory() if limit is None else limit - memory.get("bytes_in_use", 0)
    return max(1, most if free is None else min(most, (free - fixed_bytes) // row_bytes))


@contextlib.contextmanager
def explained_memory_error(what: str, rows: int, name: str = "chunk_rows") -> Iterator[None]:
    """Raises a ``UserError`` where memory runs out: ``what`` does not fit with so many ``rows``, argument ``name``."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"{what} do not fit into memory with {rows:,} rows at once. Give a smaller {name} or a device with more "
            "memory."
        ) from error
