"""Second moments of several encoders side by side: all that a closed-form solver reads.

Put K encoders' embeddings of the same n photographs side by side, Z [n, D]. The centred scatter matrix
(Z − μ)ᵀ (Z − μ), [D, D], holds every block that any pair of encoders needs, so one pass over the rows serves all
K (K − 1) ordered pairs. Statistics of chunks, devices and hosts merge in any order (Chan's update), and the
statistics of a fold can be taken away from the total.

References:
  Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign.core import checks
from jaxalign.core import mesh as meshes
from jaxalign.core.errors import UserError
from jaxalign.core.mesh import Layout
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.core.pytree import pytree, static
from jaxalign.core.rows import LazyRows
from jaxalign.moments import sums
from jaxalign.moments.accumulation import DeviceChunk, by_fold
from jaxalign.moments.spread import SpreadMoments
from jaxalign.moments.summing import Summing
from jaxalign.moments.sums import Rows, Sums, Whole

WHOLE = Whole()


@pytree
class Moments(Sums):
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
        mesh: Mesh | None = None,
    ) -> Moments:
        """Moments of arrays in memory or memory-mapped.

        Large arrays are read in chunks, the next while one is computed with; no more than a few chunks of
        memory-mapped ones are in memory.

        Args:
          embeddings: per encoder an array [n, d] or ``LazyRows``, of the same photographs in the same order.
          weights: of the rows used, shape [n] or [m], ≥ 0; all one if absent.
          rows: numbers of the rows to use, none twice, shape [m]; all n if absent.
          dtype: of the statistics; by default float64, or compensated float32 on a device without it.
          chunk_rows: most rows of a chunk; by default what the devices' memory allows.
          mesh: devices (``device_mesh``) over which the rows are dealt; the first one if absent.

        Returns:
          The moments, on the first device; ``SpreadMoments`` over a mesh with several devices on ``pairs``.

        Raises:
          UserError: shapes, formats, weights, values or the mesh are not usable, or a chunk does not fit the device.
        """
        arrays = checks.embeddings(embeddings)
        rows = checks.row_numbers(rows, _rows(arrays))
        weight = checks.weights(weights, _rows(arrays) if rows is None else len(rows))
        dtype = np.dtype(dtype or moment_dtype())
        (moments,) = _by_fold(arrays, None, weight.astype(dtype), rows, chunk_rows, meshes.check(mesh))
        checks.finite_moments(np.asarray(moments.mean), moments.power(), arrays, rows)
        return moments

    @classmethod
    def of_spread(cls, spread: SpreadMoments) -> Moments:
        """The same moments on one device."""
        scatter, mean = spread.whole_matrix()
        with double_precision():
            weight, count, mean, scatter = map(
                jnp.asarray, (np.asarray(spread.weight), np.asarray(spread.count), mean, scatter)
            )
            residue = jnp.zeros_like(scatter) if scatter.dtype == np.float32 else None
            return cls(weight, count, mean, scatter, residue, spread.names, spread.widths)

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

    def unnamed(self) -> Moments:
        """The same numbers for a program that goes by columns, so that other encoders share it."""
        return dataclasses.replace(self, names=(), widths=())

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
      total: of all rows; like the folds' ``SpreadMoments`` over a mesh with several devices on ``pairs``.
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
        mesh: Mesh | None = None,
    ) -> FoldMoments:
        """One pass over the rows, in bounded memory as ``Moments.of``.

        Args:
          embeddings: per encoder an array [n, d] or ``LazyRows``.
          fold: fold of each row used, integers 0 ... F − 1, shape [n] or [m]; without it there are no folds.
          weights: of the rows used, shape [n] or [m], ≥ 0.
          rows: numbers of the rows to use, none twice, shape [m]; all n if absent.
          chunk_rows: most rows of a chunk; by default what the devices' memory allows.
          mesh: devices over which the rows are dealt, as for ``Moments.of``.
        """
        arrays = checks.embeddings(embeddings)
        if fold is None:
            return cls(Moments.of(arrays, weights, rows=rows, chunk_rows=chunk_rows, mesh=mesh), ())
        rows = checks.row_numbers(rows, _rows(arrays))
        used = _rows(arrays) if rows is None else len(rows)
        fold, weight = checks.folds(fold, used), checks.weights(weights, used)
        parts = _by_fold(arrays, fold, weight.astype(moment_dtype()), rows, chunk_rows, meshes.check(mesh))
        with double_precision():
            total = _merge_all(parts)
        checks.finite_moments(np.asarray(total.mean), total.power(), arrays, rows)
        return cls(total, parts)

    def spread(self, mesh: Mesh) -> FoldMoments:
        """The same moments over a mesh, each as ``SpreadMoments``.

        Raises:
          UserError: they are spread over another mesh, or the mesh cannot be used.
        """
        checked = meshes.check(mesh)
        assert checked is not None
        if isinstance(self.total, SpreadMoments):
            if self.total.mesh != checked:
                raise UserError(
                    f"moments are spread over a mesh of {dict(self.total.mesh.shape)}, "
                    f"which is not the mesh given, of {dict(checked.shape)}"
                )
            return self
        layout = Layout.of(self.total.names, self.total.widths, checked.shape["pairs"])
        return jax.tree.map(lambda part: SpreadMoments.of_whole(part, layout, checked), self, is_leaf=_is_one)

    def whole(self) -> FoldMoments:
        """The same moments, none of them spread over devices."""
        return jax.tree.map(
            lambda part: Moments.of_spread(part) if isinstance(part, SpreadMoments) else part,
            self,
            is_leaf=_is_one,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders, in column order."""
        return self.total.names


def _rows(arrays: Mapping[str, np.ndarray | LazyRows]) -> int:
    return next(iter(arrays.values())).shape[0]


def _is_one(node: object) -> bool:
    return isinstance(node, Sums)


def _by_fold(
    arrays: Mapping[str, np.ndarray | LazyRows],
    fold: np.ndarray | None,
    weights: np.ndarray,
    rows: np.ndarray | None,
    chunk_rows: int | None,
    mesh: Mesh | None,
) -> tuple[Any, ...]:
    """Moments of each fold, on one device or over a mesh."""
    names, widths = tuple(arrays), tuple(array.shape[1] for array in arrays.values())
    given = arrays, fold, weights, rows
    chunk_rows = checks.positive(chunk_rows, "chunk_rows")
    if mesh is None or mesh.size == 1:
        return by_fold(*given, _adding(names, widths, weights.dtype), chunk_rows)
    summing = Summing(Layout.of(names, widths, mesh.shape["pairs"]), mesh, weights.dtype)
    parts = by_fold(*given, summing.add, chunk_rows, summing.placement)
    spread = (summing.finish(part) for part in parts)
    return tuple(map(Moments.of_spread, spread) if mesh.shape["pairs"] == 1 else spread)


def _adding(
    names: tuple[str, ...], widths: tuple[int, ...], dtype: np.dtype
) -> Callable[[Moments | None, DeviceChunk], Moments]:
    """A function that adds a chunk to moments, or begins with it: a merge with none would be a pass over [D, D]."""

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
def _next(moments: Moments, chunk: Rows, weights: jax.Array) -> Moments:
    """Adds rows and overwrites the sum so far."""
    return sums.next_rows(moments, chunk, weights, WHOLE)


def chunk_moments(
    chunk: Rows, weights: jax.Array, names: tuple[str, ...], widths: tuple[int, ...], dtype: np.dtype
) -> Moments:
    """Moments of rows that are on the device already; a pure function, for use inside other programs."""
    of = sums.first_rows(chunk, weights, dtype, WHOLE)
    return Moments(of.weight, of.count, of.mean, of.scatter, of.residue, names, widths)


_first = jax.jit(chunk_moments, static_argnums=(2, 3, 4))


@jax.jit
def _merge(a: Moments, b: Moments) -> Moments:
    return sums.merged(a, b, WHOLE)


@jax.jit
def _merge_all(parts: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda a, b: a.merge(b), parts)


@jax.jit
def _subtract(whole: Moments, part: Moments) -> Moments:
    return sums.without(whole, part, WHOLE)
