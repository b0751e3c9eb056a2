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
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign import checks
from jaxalign.errors import UserError
from jaxalign.precision import double_precision, moment_dtype, multiply
from jaxalign.pytree import pytree, static

CHUNK_ELEMENTS = 2**26  # of the rows sent to the device at once; larger chunks save passes over [D, D]
SLICE_ROWS = 2048  # of a chunk that are centred and multiplied at once
# The scatter matrix is cut into tiles of which only those on and above the diagonal are computed.
MOST_BLOCKS, LEAST_BLOCK = 12, 128


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
        embeddings: Mapping[str, ArrayLike],
        weights: ArrayLike | None = None,
        *,
        dtype: np.dtype | None = None,
    ) -> Moments:
        """Moments of arrays in memory or memory-mapped, read in chunks.

        Args:
          embeddings: per encoder an array [n, d], rows of the same photographs in the same order.
          weights: of rows, shape [n], ≥ 0; all one if absent.
          dtype: of the statistics; by default float64, or compensated float32 on a device without it.

        Raises:
          UserError: shapes, formats, weights or values are not usable.
        """
        arrays = checks.embeddings(embeddings)
        moments = _accumulate(
            arrays, checks.weights(weights, _rows(arrays)), np.dtype(dtype or moment_dtype())
        )
        checks.finite_moments(np.asarray(moments.mean), moments.power(), arrays)
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
        embeddings: Mapping[str, ArrayLike],
        *,
        fold: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> FoldMoments:
        """One pass over the rows.

        Args:
          embeddings: per encoder an array [n, d].
          fold: fold of each row, integers 0 ... F − 1, shape [n]; without it there are no folds.
          weights: of rows, shape [n], ≥ 0.
        """
        arrays = checks.embeddings(embeddings)
        if fold is None:
            return cls(Moments.of(arrays, weights), ())
        rows, dtype = _rows(arrays), moment_dtype()
        fold, weight = checks.folds(fold, rows), checks.weights(weights, rows)
        members = [np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)]
        parts = tuple(
            _accumulate({name: array[rows] for name, array in arrays.items()}, weight[rows], dtype)
            for rows in members
        )
        with double_precision():
            total = _merge_all(parts)
        checks.finite_moments(np.asarray(total.mean), total.power(), arrays)
        return cls(total, parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders, in column order."""
        return self.total.names


def _rows(arrays: Mapping[str, np.ndarray]) -> int:
    return next(iter(arrays.values())).shape[0]


def _accumulate(arrays: Mapping[str, np.ndarray], weights: np.ndarray, dtype: np.dtype) -> Moments:
    """Moments of rows that were checked, not yet looked at for NaN."""
    names, widths = tuple(arrays), tuple(array.shape[1] for array in arrays.values())
    moments = None
    for chunk, part in _chunks(list(arrays.values()), weights):
        if moments is None:  # a merge with the moments of no rows would be one more pass over [D, D]
            with double_precision():
                moments = _first(tuple(chunk), jnp.asarray(part, dtype), names, widths, dtype)
        else:
            moments = moments.update(chunk, part)
    assert moments is not None, "checks.embeddings lets no empty array through"
    return moments


def _chunks(
    arrays: list[np.ndarray], weights: np.ndarray
) -> Iterable[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Equal chunks of rows; the last is filled up with rows of weight zero, so that one program serves all."""
    rows, width = arrays[0].shape[0], sum(array.shape[1] for array in arrays)
    count = max(1, -(-rows * width // CHUNK_ELEMENTS))
    size = -(-rows // count)
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        fill = size - (stop - start)
        chunk = tuple(
            np.concatenate([array[start:stop], np.zeros((fill, array.shape[1]), array.dtype)])
            if fill
            else array[start:stop]
            for array in arrays
        )
        yield chunk, np.concatenate([weights[start:stop], np.zeros(fill)])


@jax.jit
def _diagonal(square: jax.Array) -> jax.Array:
    return jnp.diagonal(square)


@jax.jit
def _update(moments: Moments, chunk: tuple[jax.Array, ...], weights: jax.Array) -> Moments:
    return _merge(
        moments, chunk_moments(chunk, weights, moments.names, moments.widths, moments.scatter.dtype)
    )


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
    scatter = _scatter(chunk, means, jnp.sqrt(weights))
    residue = jnp.zeros_like(scatter) if dtype == np.float32 else None
    return Moments(
        weight, (weights > 0).sum().astype(dtype), jnp.concatenate(means), scatter, residue, names, widths
    )


_first = jax.jit(chunk_moments, static_argnums=(2, 3, 4))


def _scatter(chunk: tuple[jax.Array, ...], means: list[jax.Array], root: jax.Array) -> Float[Array, "D D"]:
    """Σ w (z − mean)ᵀ (z − mean) from the tiles on and above the diagonal, a slice of rows at a time."""
    rows, width = root.shape[0], sum(mean.shape[0] for mean in means)
    blocks = min(MOST_BLOCKS, -(-width // LEAST_BLOCK))
    edges = [width * k // blocks for k in range(blocks + 1)]
    upper = [(i, j) for i in range(blocks) for j in range(i, blocks)]

    mean = jnp.concatenate(means)

    def products(rows: tuple[jax.Array, ...], root: jax.Array) -> list[jax.Array]:
        narrow = jnp.result_type(*rows, jnp.float32)
        beside = jax.lax.optimization_barrier(jnp.concatenate([part.astype(narrow) for part in rows], axis=1))
        # [D, rows]: the layout in which a product with the transpose is fast on CPU. Without the barriers the
        # transposition is folded into the product, which then runs on one core, or is done encoder by encoder.
        columns = jax.lax.optimization_barrier((beside.T.astype(mean.dtype) - mean[:, None]) * root)
        tiles = [columns[start:stop] for start, stop in zip(edges[:-1], edges[1:])]
        return [multiply(tiles[i], tiles[j].T) for i, j in upper]

    slices = -(-rows // SLICE_ROWS)
    size = rows // slices
    sums = products(
        tuple(part[: rows - size * (slices - 1)] for part in chunk), root[: rows - size * (slices - 1)]
    )
    if slices > 1:
        rest = jax.tree.map(
            lambda array: array[rows - size * (slices - 1) :].reshape(slices - 1, size, *array.shape[1:]),
            (chunk, root),
        )
        sums, _ = jax.lax.scan(
            lambda sums, part: ([a + b for a, b in zip(sums, products(*part))], None), sums, rest
        )
    scatter = jnp.zeros((width, width), means[0].dtype)
    for (i, j), tile in zip(upper, sums):  # faster than concatenating the tiles
        scatter = jax.lax.dynamic_update_slice(scatter, tile, (edges[i], edges[j]))
        if i != j:
            scatter = jax.lax.dynamic_update_slice(scatter, tile.T, (edges[j], edges[i]))
    return scatter


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
