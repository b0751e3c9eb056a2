"""The arithmetic of moments: rows added to sums, sums merged and taken apart; of the whole matrix or a part of it."""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.pytree import pytree
from jaxalign.scatter import scatter_of

Rows = tuple[jax.Array, ...]  # of each encoder, shapes [c, d]


@pytree
class Sums:
    """Weight, means and centred scatter of columns, or the rows of the scatter matrix that one device keeps.

    Attributes:
      weight: sum of row weights, shape [].
      count: rows of positive weight, shape [].
      mean: weighted column means, shape [m].
      scatter: Σ w (z − mean)ᵀ (z − mean), or some of its rows, shape [r, m].
      residue: what rounding lost from ``scatter``, in float32 only.
    """

    weight: Float[Array, ""]
    count: Float[Array, ""]
    mean: Float[Array, " m"]
    scatter: Float[Array, "r m"]
    residue: Float[Array, "r m"] | None


S = TypeVar("S", bound=Sums)


class Part(Protocol):
    """Which part of the scatter matrix is kept."""

    def products(
        self, chunk: Rows, center: Float[Array, " m"], root: Float[Array, " c"], *, sums: bool
    ) -> tuple[list[Float[Array, "r t"]], Float[Array, " m"] | None]:
        """Of rows about ``center``, in tiles side by side; and Σ w (z − center) if wanted.

        ``root`` are square roots of weights.
        """
        ...

    def factors(
        self, left: Float[Array, " m"], right: Float[Array, " m"]
    ) -> tuple[Float[Array, " r"], Float[Array, " m"]]:
        """Two vectors whose outer product is this part of that of ``left`` and ``right``."""
        ...


class Whole:
    """All of the matrix."""

    def products(
        self, chunk: Rows, center: Array, root: Array, *, sums: bool
    ) -> tuple[list[Array], Array | None]:
        """See ``scatter_of``."""
        scatter, total = scatter_of(chunk, center, root, sums=sums)
        return [scatter], total

    def factors(self, left: Array, right: Array) -> tuple[Array, Array]:
        """The vectors themselves."""
        return left, right


def first_rows(chunk: Rows, weights: jax.Array, dtype: np.dtype, part: Part) -> Sums:
    """Sums of rows."""
    weight = weights.sum()
    safe = jnp.where(weight > 0, weight, 1)
    means = [(rows.astype(dtype) * weights[:, None]).sum(0) / safe for rows in chunk]
    mean = jnp.concatenate(means)
    scatter = _side_by_side(part.products(chunk, mean, jnp.sqrt(weights), sums=False)[0])
    residue = jnp.zeros_like(scatter) if dtype == np.float32 else None
    return Sums(weight, (weights > 0).sum().astype(dtype), mean, scatter, residue)


def next_rows(sums: S, chunk: Rows, weights: jax.Array, part: Part) -> S:
    """Adds rows.

    They are centred by the mean so far instead of their own, which saves a pass over them (12 % of the time for
    float16 on CPU). With s = Σ w (z − mean so far), the scatter about the new mean is the sum of both less
    s sᵀ / (weight of both).
    """
    dtype = sums.mean.dtype
    # Rows of no weight have no mean; anything near the rows is better than the origin.
    row = jnp.concatenate([rows[0] for rows in chunk]).astype(dtype)
    center = jnp.where(sums.weight > 0, sums.mean, row)
    tiles, total = part.products(chunk, center, jnp.sqrt(weights), sums=True)
    assert total is not None
    weight = sums.weight + weights.sum()
    step = total / jnp.where(weight > 0, weight, 1)
    scatter, residue = _add_tiles(sums.scatter, sums.residue, tiles, part.factors(-total, step))
    count = sums.count + (weights > 0).sum().astype(dtype)
    return dataclasses.replace(
        sums, weight=weight, count=count, mean=center + step, scatter=scatter, residue=residue
    )


def merged(a: S, b: S, part: Part) -> S:
    """Sums of the rows of both."""
    weight = a.weight + b.weight
    safe = jnp.where(weight > 0, weight, 1)
    step = b.mean - a.mean
    between = outer(part.factors(step, step * (a.weight * b.weight / safe)))
    scatter, residue = add(a.scatter, a.residue, b.scatter, between)
    if residue is not None and b.residue is not None:
        residue = residue + b.residue
    mean = a.mean + step * (b.weight / safe)
    count = a.count + b.count
    return dataclasses.replace(a, weight=weight, count=count, mean=mean, scatter=scatter, residue=residue)


def without(whole: S, some: S, part: Part) -> S:
    """Sums of the rows that are not in ``some``."""
    weight = whole.weight - some.weight
    safe = jnp.where(weight > 0, weight, 1)
    mean = whole.mean + (whole.mean - some.mean) * (some.weight / safe)
    step = some.mean - mean
    total = jnp.where(whole.weight > 0, whole.weight, 1)
    between = outer(part.factors(step, step * (weight * some.weight / total)))
    scatter, residue = add(whole.scatter, whole.residue, -some.scatter, -between)
    if residue is not None and some.residue is not None:
        residue = residue - some.residue
    count = whole.count - some.count
    return dataclasses.replace(whole, weight=weight, count=count, mean=mean, scatter=scatter, residue=residue)


def add(total: jax.Array, residue: jax.Array | None, *terms: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Sums terms; with a residue, carries what rounding loses (Knuth's exact two-sum)."""
    for term in terms:
        result = total + term
        if residue is not None:
            virtual = result - total
            residue = residue + ((total - (result - virtual)) + (term - virtual))
        total = result
    return total, residue


def outer(factors: tuple[Array, Array]) -> Array:
    """The outer product of two vectors, or of stacks of them."""
    rows, columns = factors
    return rows[..., :, None] * columns[..., None, :]


def _side_by_side(tiles: list[Array]) -> Array:
    """Tiles as one array, written one after the other so that no other copy of all is needed."""
    if len(tiles) == 1:
        return tiles[0]
    whole = jnp.zeros((len(tiles[0]), sum(tile.shape[1] for tile in tiles)), tiles[0].dtype)
    return _add_tiles(whole, None, tiles, None)[0]


def _add_tiles(
    scatter: Array, residue: Array | None, tiles: list[Array], factors: tuple[Array, Array] | None
) -> tuple[Array, Array | None]:
    """Adds tiles, and the outer product of two vectors, one tile after the other in place."""
    start = 0
    for tile in tiles:
        stop = start + tile.shape[1]
        terms = (tile,) if factors is None else (tile, outer((factors[0], factors[1][start:stop])))
        if len(tiles) == 1:
            return add(scatter, residue, *terms)
        lost = None if residue is None else residue[:, start:stop]
        total, lost = add(scatter[:, start:stop], lost, *terms)
        scatter = jax.lax.dynamic_update_slice(scatter, total, (0, start))
        if residue is not None and lost is not None:
            residue = jax.lax.dynamic_update_slice(residue, lost, (0, start))
        start = stop
    return scatter, residue
