"""Second moments of several encoders side by side: all that a closed-form solver reads.

Put K encoders' embeddings of the same n photographs side by side, Z [n, D]. The centred scatter matrix
(Z − μ)ᵀ (Z − μ), [D, D], holds every block that any pair of encoders needs, so one pass over the rows serves all
K (K − 1) ordered pairs. Statistics of chunks, devices and hosts merge in any order (Chan's update), and the
statistics of a fold can be taken away from the total.

References:
  Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign import checks, chunk_size
from jaxalign.accumulation import DeviceChunk, by_fold
from jaxalign.errors import UserError
from jaxalign.lazy_rows import LazyRows
from jaxalign.precision import double_precision, moment_dtype
from jaxalign.pytree import pytree, static
from jaxalign.scatter import scatter_of


@pytree
class Moments:
    """Weight, means and centred scatter of the columns of several encoders side by side.

    Attributes:
      weight: sum of row weights (the row count where rows have none), shape [].
      count: rows of positive weight, shape [].
      mean: weighted column means, shape [D].
      scatter: Σ w (z − mean)ᵀ (z − mean), shape [D, D]; divide by ``weight`` for the second moment.
      residue: what rounding lost from ``scatter`` (float32 devices only: compensated sums), shape [D, D] or None.
      names: the encoders, in column order.
      widths: their widths, Σ widths = D.
    """

    weight: Float[Array, ""]
    count: Float[Array, ""]
    mean: Float[Array, " D"]
    scatter: Float[Array, "D D"]
    residue: Float[Array, "D D"] | None
    names: tuple[str, ...] = static()
    widths: tuple[int, ...] = static()

    @classmethod
    def empty(cls, names: Sequence[str], widths: Sequence[int], dtype: np.dtype | None = None) -> Moments:
        """Moments of no rows, the start of a sum."""
        dtype = np.dtype(dtype or moment_dtype())
        total = sum(widths)
        with double_precision():
            square = jnp.zeros((total, total), dtype)
            zero = jnp.zeros((), dtype)
            residue = jnp.zeros_like(square) if dtype == np.float32 else None
            return cls(zero, zero, jnp.zeros((total,), dtype), square, residue, tuple(names), tuple(widths))

    @classmethod
    def of(
        cls,
        embeddings: Mapping[str, ArrayLike | LazyRows],
        weights: ArrayLike | None = None,
        *,
        rows: ArrayLike | None = None,
        dtype: np.dtype | None = None,
        chunk_rows: int | None = None,
    ) -> Moments:
        """Moments of arrays in memory or memory-mapped.

        Large arrays are read in chunks, the next while one is computed with; no more than a few chunks of
        memory-mapped ones are in memory.

        Args:
          embeddings: per encoder an array [n, d] or ``LazyRows``, of the same photographs in the same order.
          weights: of the rows used, shape [n] or [m], ≥ 0; all one if absent.
          rows: numbers of the rows to use, none twice, shape [m]; all n if absent.
          dtype: of the statistics; by default float64, or compensated float32 on a device without it.
          chunk_rows: most rows of a chunk; by default what the device's memory allows.

        Raises:
          UserError: shapes, formats, weights or values are not usable, or a chunk does not fit the device.
        """
        arrays = checks.embeddings(embeddings)
        rows = checks.row_numbers(rows, _rows(arrays))
        weight = checks.weights(weights, _rows(arrays) if rows is None else len(rows))
        dtype = np.dtype(dtype or moment_dtype())
        (moments,) = by_fold(
            arrays, None, weight.astype(dtype), rows, _adding(arrays, dtype), chunk_size.check(chunk_rows)
        )
        checks.finite_moments(np.asarray(moments.mean), moments.power(), arrays, rows)
        return moments

    def update(self, chunk: Sequence[ArrayLike], weights: ArrayLike | None = None) -> Moments:
        """Adds rows: one array [c, d] per encoder, in the order of ``names``, and their weights [c]."""
        with double_precision():
            weights = np.ones(np.shape(chunk[0])[0]) if weights is None else weights
            return _update(self, tuple(chunk), jnp.asarray(weights, self.scatter.dtype))

    def merge(self, other: Moments) -> Moments:
        """Moments of the rows of both; associative and commutative up to rounding."""
        self._require_same_columns(other)
        with double_precision():
            return _merge(self, other)

    def subtract(self, other: Moments) -> Moments:
        """Moments of the rows that are not in ``other``, which must be a part of this (a fold of the total)."""
        self._require_same_columns(other)
        with double_precision():
            return _subtract(self, other)

    def power(self) -> np.ndarray:
        """Σ w (z − mean)² of each column, on the host, shape [D]."""
        with double_precision():
            return np.asarray(_diagonal(self.scatter))

    def offset(self, name: str) -> int:
        """First column of an encoder."""
        return sum(self.widths[: self.names.index(name)])

    def width(self, name: str) -> int:
        """Width of an encoder."""
        return self.widths[self.names.index(name)]

    def _require_same_columns(self, other: Moments) -> None:
        if (self.names, self.widths) != (other.names, other.widths):
            raise UserError(
                f"moments of the same encoders are needed, got {dict(zip(self.names, self.widths))} "
                f"and {dict(zip(other.names, other.widths))}"
            )


@pytree
class FoldMoments:
    """Moments of all rows and, for cross-validation, of each fold.

    Attributes:
      total: of all rows.
      folds: of the rows of each fold; empty without folds.
    """

    total: Moments
    folds: tuple[Moments, ...]

    @classmethod
    def of(
        cls,
        embeddings: Mapping[str, ArrayLike | LazyRows],
        *,
        fold: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        chunk_rows: int | None = None,
    ) -> FoldMoments:
        """One pass over the rows, in bounded memory as ``Moments.of``.

        Args:
          embeddings: per encoder an array [n, d] or ``LazyRows``.
          fold: fold of each row used, integers 0 ... F − 1, shape [n] or [m]; without it there are no folds.
          weights: of the rows used, shape [n] or [m], ≥ 0.
          rows: numbers of the rows to use, none twice, shape [m]; all n if absent.
          chunk_rows: most rows of a chunk; by default what the device's memory allows.
        """
        arrays = checks.embeddings(embeddings)
        if fold is None:
            return cls(Moments.of(arrays, weights, rows=rows, chunk_rows=chunk_rows), ())
        rows = checks.row_numbers(rows, _rows(arrays))
        used = _rows(arrays) if rows is None else len(rows)
        fold, weight = checks.folds(fold, used), checks.weights(weights, used)
        dtype = moment_dtype()
        parts = by_fold(
            arrays, fold, weight.astype(dtype), rows, _adding(arrays, dtype), chunk_size.check(chunk_rows)
        )
        with double_precision():
            total = _merge_all(parts)
        checks.finite_moments(np.asarray(total.mean), total.power(), arrays, rows)
        return cls(total, parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders, in column order."""
        return self.total.names


def _rows(arrays: Mapping[str, np.ndarray | LazyRows]) -> int:
    return next(iter(arrays.values())).shape[0]


def _adding(
    arrays: Mapping[str, np.ndarray | LazyRows], dtype: np.dtype
) -> Callable[[Moments | None, DeviceChunk], Moments]:
    """A function that adds a chunk to moments, or begins with it: a merge with none would be a pass over [D, D]."""
    names, widths = tuple(arrays), tuple(array.shape[1] for array in arrays.values())

    def add(sofar: Moments | None, chunk: DeviceChunk) -> Moments:
        rows, weights = chunk
        return _first(rows, weights, names, widths, dtype) if sofar is None else _next(sofar, rows, weights)

    return add


@jax.jit
def _diagonal(square: jax.Array) -> jax.Array:
    return jnp.diagonal(square)


@jax.jit
def _update(moments: Moments, chunk: tuple[jax.Array, ...], weights: jax.Array) -> Moments:
    return _merge(
        moments, chunk_moments(chunk, weights, moments.names, moments.widths, moments.scatter.dtype)
    )


@functools.partial(jax.jit, donate_argnums=0)
def _next(moments: Moments, chunk: tuple[jax.Array, ...], weights: jax.Array) -> Moments:
    """Adds rows and overwrites the sum so far.

    The chunk is centred by the mean so far instead of its own, which saves a pass over it (12 % of the time for
    float16 on CPU). With s = Σ w (z − mean so far), the scatter about the new mean is the sum of both less
    s sᵀ / (weight of both).
    """
    dtype = moments.mean.dtype
    # Rows of no weight have no mean; anything near the rows is better than the origin.
    row = jnp.concatenate([part[0] for part in chunk]).astype(dtype)
    center = jnp.where(moments.weight > 0, moments.mean, row)
    scatter, total = scatter_of(chunk, center, jnp.sqrt(weights), sums=True)
    assert total is not None
    weight = moments.weight + weights.sum()
    step = total / jnp.where(weight > 0, weight, 1)
    scatter, residue = _add(moments.scatter, moments.residue, scatter, -jnp.outer(total, step))
    count = moments.count + (weights > 0).sum().astype(dtype)
    return Moments(weight, count, center + step, scatter, residue, moments.names, moments.widths)


def chunk_moments(
    chunk: tuple[jax.Array, ...],
    weights: jax.Array,
    names: tuple[str, ...],
    widths: tuple[int, ...],
    dtype: np.dtype,
) -> Moments:
    """Moments of rows that are on the device already; a pure function, for use inside other programs."""
    weight = weights.sum()
    safe = jnp.where(weight > 0, weight, 1)
    means = [(part.astype(dtype) * weights[:, None]).sum(0) / safe for part in chunk]
    mean = jnp.concatenate(means)
    scatter, _ = scatter_of(chunk, mean, jnp.sqrt(weights))
    residue = jnp.zeros_like(scatter) if dtype == np.float32 else None
    return Moments(weight, (weights > 0).sum().astype(dtype), mean, scatter, residue, names, widths)


_first = jax.jit(chunk_moments, static_argnums=(2, 3, 4))


def _add(
    total: jax.Array, residue: jax.Array | None, *terms: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Sums terms; with a residue, carries what rounding loses (Knuth's exact two-sum)."""
    for term in terms:
        result = total + term
        if residue is not None:
            virtual = result - total
            residue = residue + ((total - (result - virtual)) + (term - virtual))
        total = result
    return total, residue


@jax.jit
def _merge(a: Moments, b: Moments) -> Moments:
    weight = a.weight + b.weight
    safe = jnp.where(weight > 0, weight, 1)
    step = b.mean - a.mean
    between = jnp.outer(step, step * (a.weight * b.weight / safe))
    scatter, residue = _add(a.scatter, a.residue, b.scatter, between)
    if residue is not None and b.residue is not None:
        residue = residue + b.residue
    mean = a.mean + step * (b.weight / safe)
    return Moments(weight, a.count + b.count, mean, scatter, residue, a.names, a.widths)


@jax.jit
def _merge_all(parts: tuple[Moments, ...]) -> Moments:
    return functools.reduce(_merge, parts)


@jax.jit
def _subtract(whole: Moments, part: Moments) -> Moments:
    weight = whole.weight - part.weight
    safe = jnp.where(weight > 0, weight, 1)
    mean = whole.mean + (whole.mean - part.mean) * (part.weight / safe)
    step = part.mean - mean
    total = jnp.where(whole.weight > 0, whole.weight, 1)
    between = jnp.outer(step, step * (weight * part.weight / total))
    scatter, residue = _add(whole.scatter, whole.residue, -part.scatter, -between)
    if residue is not None and part.residue is not None:
        residue = residue - part.residue
    return Moments(weight, whole.count - part.count, mean, scatter, residue, whole.names, whole.widths)
