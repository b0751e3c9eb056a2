"""Scatter matrices: the product of rows with themselves, and Chan's update that merges sums or takes one from another.

References:
  Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply
from jaxalign.core.pytree import pytree, static

Rows = tuple[jax.Array, ...]  # of each encoder, shapes [c, d]

SLICE_ROWS = 2048  # of a chunk that are centred and multiplied at once
# The scatter matrix is cut into tiles of which only those on and above the diagonal are computed. Many of them save
# operations and cost compilation, which few rows do not repay.
MOST_BLOCKS, LEAST_BLOCK = 12, 128
FEW_ROWS, FEW_BLOCKS = 8192, 6


@pytree
class Sums:
    """Weight, means and centred scatter of the columns of several encoders, concatenated in order."""

    weight: Float[Array, ""]  # sum of row weights
    count: Float[Array, ""]  # rows of positive weight
    mean: Float[Array, " D"]  # weighted column means
    scatter: Any  # Σ w (z − mean)ᵀ (z − mean), or blocks of its rows
    residue: Any  # what rounding lost from ``scatter``, in float32 only
    names: tuple[str, ...] = static()  # the encoders, in column order
    widths: tuple[int, ...] = static()  # their widths, Σ widths = D

    def rows_of(self, vector: Float[Array, " D"]) -> Any:
        """The entries of a vector for the rows of ``scatter``, in its structure without columns."""
        raise NotImplementedError

    def product(self, chunk: Rows, center: Float[Array, " D"], root: Float[Array, " c"]) -> Any:
        """Σ w (z − center)ᵀ (z − center) in the structure of ``scatter``; ``root`` are square roots of the weights."""
        raise NotImplementedError

    def block(self, row: Any, column: Any) -> Float[Array, "p q"]:
        """The block of the matrix with the rows of one encoder and the columns of another (``blocks.Encoder``)."""
        raise NotImplementedError

    def specs(self) -> Self:
        """How the leaves are sharded: here not at all."""
        return jax.tree.map(lambda _: P(), self)

    def of_rows(self, chunk: Rows, weights: Float[Array, " c"]) -> Self:
        """Moments of the same kind of some rows; for use inside programs."""
        dtype = self.mean.dtype
        weight = weights.sum()
        safe = jnp.where(weight > 0, weight, 1)
        mean = jnp.concatenate([(rows.astype(dtype) * weights[:, None]).sum(0) / safe for rows in chunk])
        scatter = self.product(chunk, mean, jnp.sqrt(weights))
        residue = jax.tree.map(jnp.zeros_like, scatter) if dtype == np.float32 else None
        count = (weights > 0).sum().astype(dtype)
        return replace(self, weight=weight, count=count, mean=mean, scatter=scatter, residue=residue)

    def plus(self, other: Self) -> Self:
        """Moments of the rows of both; for use inside programs."""
        weight = self.weight + other.weight
        safe = jnp.where(weight > 0, weight, 1)
        step = other.mean - self.mean
        between = self.outer(step, step * (self.weight * other.weight / safe))
        scatter, residue = add(self.scatter, self.residue, other.scatter, between)
        if residue is not None and other.residue is not None:
            residue = jax.tree.map(jnp.add, residue, other.residue)
        mean = self.mean + step * (other.weight / safe)
        count = self.count + other.count
        return replace(self, weight=weight, count=count, mean=mean, scatter=scatter, residue=residue)

    def minus(self, part: Self) -> Self:
        """Moments of the rows that are not in ``part``, as if it were added with weights below 0."""
        return self.plus(replace(jax.tree.map(jnp.negative, part), mean=part.mean))

    def outer(self, left: Float[Array, " D"], right: Float[Array, " D"]) -> Any:
        """The product of two vectors in the structure of ``scatter``."""
        return jax.tree.map(lambda rows: rows[..., None] * right, self.rows_of(left))

    def merge(self, other: Self) -> Self:
        """Moments of the rows of both; associative and commutative up to rounding."""
        return self._combined(_plus, other)

    def subtract(self, other: Self) -> Self:
        """Moments of the rows that are not in ``other``, which must be a part of this (a fold of the total)."""
        return self._combined(_minus, other)

    def offset(self, name: str) -> int:
        """First column of an encoder."""
        return sum(self.widths[: self.names.index(name)])

    def width(self, name: str) -> int:
        """Width of an encoder."""
        return self.widths[self.names.index(name)]

    def span(self, name: str) -> slice:
        """Columns of an encoder."""
        start = self.offset(name)
        return slice(start, start + self.width(name))

    def unnamed(self) -> Self:
        """The same numbers for a program that goes by columns, so that encoders of other names share it."""
        return replace(self, names=(), widths=())

    def place(self, name: str) -> tuple[int, int]:
        """The device on ``pairs`` that holds an encoder, and the index of its row block there."""
        return 0, 0

    def _combined(self, program: Callable[[Any, Any], Any], other: Self) -> Self:
        if jax.tree.structure(self) != jax.tree.structure(other):
            raise UserError(
                f"moments of the same encoders are needed, got {dict(zip(self.names, self.widths))} "
                f"and {dict(zip(other.names, other.widths))}"
            )
        with double_precision():
            return program(self, other)


_plus, _minus = jax.jit(Sums.plus), jax.jit(Sums.minus)


def add(total: Any, residue: Any, *terms: Any) -> tuple[Any, Any]:
    """Sums terms of one structure; with a residue, keeps what rounding loses (Knuth's exact two-sum)."""
    for term in terms:
        result = jax.tree.map(jnp.add, total, term)
        if residue is not None:
            residue = jax.tree.map(_with_loss, residue, total, term, result)
        total = result
    return total, residue


def _with_loss(residue: Array, total: Array, term: Array, result: Array) -> Array:
    virtual = result - total
    return residue + ((total - (result - virtual)) + (term - virtual))


def centred(rows: Rows, center: Array, root: Array) -> Float[Array, "D c"]:
    """Columns of the rows minus their centre, times the roots of the weights, transposed."""
    narrow, barrier = jnp.result_type(*rows, jnp.float32), jax.lax.optimization_barrier
    concatenated = barrier(jnp.concatenate([part.astype(narrow) for part in rows], axis=1))
    # [D, rows]: the layout in which a product with the transpose is fast on CPU. Without the barriers the
    # transposition is folded into the product, which then runs on one core, or is done encoder by encoder.
    return barrier((concatenated.T.astype(center.dtype) - center[:, None]) * root)


def scatter_of(chunk: Rows, center: Float[Array, " D"], root: Float[Array, " c"]) -> Float[Array, "D D"]:
    """Σ w (z − center)ᵀ (z − center) from the tiles on and above the diagonal, a slice of rows at a time.

    ``root`` are square roots of the rows' weights. The result has the format of ``center``.
    """
    edges = _edges(center.shape[0], root.shape[0])
    parts = range(len(edges) - 1)
    upper = [(i, j) for i in parts for j in parts[i:]]

    def products(rows: Rows, root: jax.Array) -> list[jax.Array]:
        columns = centred(rows, center, root)
        tiles = [columns[start:stop] for start, stop in zip(edges[:-1], edges[1:])]
        return [multiply(tiles[i], tiles[j].T) for i, j in upper]

    scatter = jnp.zeros((edges[-1], edges[-1]), center.dtype)
    for (i, j), tile in zip(upper, _over_slices(products, chunk, root)):  # faster than concatenation
        scatter = jax.lax.dynamic_update_slice(scatter, tile, (edges[i], edges[j]))
        if i != j:
            scatter = jax.lax.dynamic_update_slice(scatter, tile.T, (edges[j], edges[i]))
    return scatter


def _edges(width: int, rows: int) -> list[int]:
    """Where the tiles begin and end, for chunks of so many rows."""
    blocks = min(MOST_BLOCKS if rows > FEW_ROWS else FEW_BLOCKS, -(-width // LEAST_BLOCK))
    return [width * k // blocks for k in range(blocks + 1)]


def _over_slices(
    products: Callable[[Rows, jax.Array], list[jax.Array]], chunk: Rows, root: jax.Array
) -> list[jax.Array]:
    """Sums products of slices of rows; the first slice takes the rows that are left over."""
    rows = root.shape[0]
    slices = -(-rows // SLICE_ROWS)
    size = rows // slices
    first = rows - size * (slices - 1)
    found = products(tuple(part[:first] for part in chunk), root[:first])
    if slices > 1:
        rest = jax.tree.map(
            lambda array: array[first:].reshape(slices - 1, size, *array.shape[1:]), (chunk, root)
        )
        found, _ = jax.lax.scan(
            lambda found, part: ([a + b for a, b in zip(found, products(*part))], None), found, rest
        )
    return found
