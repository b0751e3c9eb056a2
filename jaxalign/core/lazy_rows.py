"""Rows that are read, chosen and prepared when they are asked for, so that no copy of all of them exists.

>>> rows = LazyRows.of(store["clip"], test_rows).unit().then(map, width=map.out_dim)
>>> evaluate(rows, LazyRows.of(store["arcface"], test_rows), identities)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxalign.core import pages

Step = Callable[[np.ndarray], Any]  # rows [c, d] to rows [c, e]
MAPPED_PIECE = 2048  # rows read between giving pages back; a row that is touched may bring 64 KiB into memory
PIECE_ELEMENTS = 2**24  # of rows in memory that are prepared at once


@dataclasses.dataclass(frozen=True, eq=False)
class LazyRows:
    """Rows of an array in memory or memory-mapped, and what is done to them after reading.

    Rows are copied out of a memory-mapped array and its pages given back: else they would count as resident memory.

    Attributes:
      array: shape [N, d].
      numbers: of its rows, in order, shape [n]; None for all.
      steps: applied to the rows read, one after the other.
      width, dtype: of the rows that come out.
    """

    array: np.ndarray
    numbers: np.ndarray | None
    steps: tuple[Step, ...]
    width: int
    dtype: np.dtype

    @classmethod
    def of(cls, rows: ArrayLike | LazyRows, numbers: np.ndarray | None = None) -> LazyRows:
        """Rows of an array [N, d], all or those of these numbers, in this order."""
        if isinstance(rows, LazyRows):
            return rows if numbers is None else rows.select(numbers)
        array = np.asarray(rows)
        return cls(array, None if numbers is None else np.asarray(numbers), (), array.shape[1], array.dtype)

    def then(self, step: Step, *, width: int | None = None, dtype: Any = None) -> LazyRows:
        """The same rows with one more step, which gives rows of this width and format (both as before by default).

        A step treats every row alone, whatever the others it comes with.
        """
        after = np.dtype(self.dtype if dtype is None else dtype)
        steps = (*self.steps, step)
        return dataclasses.replace(self, steps=steps, width=width or self.width, dtype=after)

    def unit(self) -> LazyRows:
        """Scaled to length 1 as ``unit_rows``, then rounded to float32."""
        return self.then(_unit_float32, dtype=np.float32)

    def select(self, rows: np.ndarray) -> LazyRows:
        """Some of the rows, in this order, shape [m]."""
        numbers = np.asarray(rows) if self.numbers is None else self.numbers[rows]
        return dataclasses.replace(self, numbers=numbers)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return len(self.array) if self.numbers is None else len(self.numbers), self.width

    ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        return np.array(self.take(np.arange(len(self))), dtype, copy=copy)

    @property
    def is_mapped(self) -> bool:
        """Whether the rows lie in a memory-mapped file."""
        return pages.is_mapped(self.array)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start ... stop − 1, shape [stop − start, width]: a view where that is enough."""
        if self.numbers is not None:
            return self.take(np.arange(start, min(stop, len(self))))
        rows = self.array[start:stop]
        if self.is_mapped:
            view, rows = rows, np.array(rows)
            pages.release(view)
        return self._prepared(rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, in the order asked for, shape [m, width]; a copy."""
        numbers = np.asarray(rows) if self.numbers is None else self.numbers[rows]
        if not self.is_mapped and not self.steps:
            return self.array[numbers]
        # Ascending, so that a page is touched once.
        order = np.argsort(numbers, kind="stable") if self.is_mapped else np.arange(len(numbers))
        size = (
            MAPPED_PIECE if self.is_mapped else max(1, PIECE_ELEMENTS // max(self.width, self.array.shape[1]))
        )
        taken = np.empty((len(numbers), self.width), self.dtype)
        for start in range(0, len(order), size):
            places = order[start : start + size]
            chosen = numbers[places]
            taken[places] = self._prepared(self.array[chosen])
            pages.release(self.array[chosen.min() : chosen.max() + 1])
        return taken

    def peek(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number; pages are given back by ``release``."""
        return self._prepared(self.array[rows if self.numbers is None else self.numbers[rows]])

    def release(self, start: int, stop: int) -> None:
        """Gives the pages of rows start ... stop − 1 back."""
        pages.release(self._span(start, stop))

    def announce(self, start: int, stop: int) -> None:
        """Tells the system that rows start ... stop − 1 are read next."""
        if self.numbers is None:
            pages.announce(self._span(start, stop))

    def pieces(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """All rows in order, ``size`` at a time: the number of the first, and the rows."""
        for start in range(0, len(self), size):
            yield start, self.read(start, min(start + size, len(self)))

    def _span(self, start: int, stop: int) -> np.ndarray:
        if self.numbers is None:
            return self.array[start:stop]
        numbers = self.numbers[start:stop]
        return self.array[numbers.min() : numbers.max() + 1] if len(numbers) else self.array[:0]

    def _prepared(self, rows: np.ndarray) -> np.ndarray:
        for step in self.steps:
            rows = np.asarray(step(rows))
        return rows


def any_mapped(arrays: Iterable[np.ndarray | LazyRows]) -> bool:
    """Whether one of the arrays is memory-mapped."""
    return any(LazyRows.of(array).is_mapped for array in arrays)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, the scaling in float64; rows of zeros stay. Shape [c, d], float64."""
    wide = np.asarray(rows, np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(length == 0, 1, length)


def _unit_float32(rows: np.ndarray) -> np.ndarray:
    return unit_rows(rows).astype(np.float32)
