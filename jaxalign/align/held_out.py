"""Held-out errors of ridge and reduced-rank maps from moments: for the mathematics see ``selection``."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.align.solvers.reduced_rank import reduced_rank_factors
from jaxalign.align.solvers.spectrum import Spectrum, eigenpairs
from jaxalign.core.precision import multiply, multiply_transposed
from jaxalign.core.pytree import pytree
from jaxalign.moments.blocks import CrossMoments, OwnMoments

# The eigendecomposition stays in the moments' format; the products after it only rank penalties.
PRODUCTS = jnp.float32


@pytree
class FoldSplit:
    """What one fold holds out, and what the others train on."""

    training: Array  # the coefficient of the step between means in the training scatter
    weight: Array  # of the fold
    rows: Float[Array, " p"]  # mean of the fold minus mean of the others
    columns: Float[Array, " q"]

    @classmethod
    def of(cls, total: Any, fold: Any, rows: str = "mean", columns: str = "mean") -> FoldSplit:
        """Of the moments of one encoder, or of a pair; ``rows`` and ``columns`` are the attributes with the means."""
        weight = total.weight - fold.weight

        def step(whole: Array, held_out: Array) -> Array:
            return held_out - (whole + (whole - held_out) * (fold.weight / weight))

        steps = [step(getattr(total, name), getattr(fold, name)) for name in (rows, columns)]
        return cls(weight * fold.weight / total.weight, fold.weight, *steps)

    def block(self, whole: Array, held_out: Array) -> tuple[Array, Array]:
        """A block [p, q] of the training scatter, and of the held-out scatter about the training means."""
        between = jnp.outer(self.rows, self.columns)
        return whole - held_out - self.training * between, held_out + self.weight * between

    def power(self, fold: CrossMoments) -> Float[Array, " q"]:
        """Held-out sum of squares of each target column about its training mean."""
        return fold.power_y + self.weight * self.columns**2


@pytree
class Rotation:
    """A source in the eigenbasis V of its training scatter."""

    transposed: Float[Array, "p p"]  # Vᵀ
    scale: Float[Array, "p L"]  # 1 / (eigenvalue + penalty)
    quadratic: Float[Array, "p p"]  # Vᵀ S' V of the held-out scatter S'


def own_rotation(grid: Float[Array, " L"], own: OwnMoments, fold: OwnMoments) -> Rotation:
    """Of a source in one fold, what its pairs need for ``pair_errors``."""
    training, held_out = FoldSplit.of(own, fold).block(own.scatter, fold.scatter)
    values, vectors = eigenpairs(training)
    # The barriers keep conversions and slices out of the products, which are then faster on CPU.
    transposed = jax.lax.optimization_barrier(vectors.astype(PRODUCTS).T)
    quadratic = multiply(transposed, multiply(held_out.astype(PRODUCTS), transposed.T))
    return Rotation(transposed, 1 / (values[:, None] + grid), quadratic)


def pair_errors(
    _: Any,
    source: Rotation,
    target: None,
    cross: CrossMoments,
    fold: CrossMoments,
    *,
    per_column: bool = False,
) -> Float[Array, "L units"]:
    """Squared error of a pair in one fold, for every penalty and the target, or each of its columns."""
    split, scale = FoldSplit.of(cross, fold, "mean_x", "mean_y"), source.scale
    both = jax.lax.optimization_barrier([part.astype(PRODUCTS) for part in split.block(cross.xy, fold.xy)])
    products = [multiply(source.transposed, part) for part in both]
    rotated, rotated_held_out = jax.lax.optimization_barrier(products)  # A, and the same of the fold
    product, power = rotated * rotated_held_out, split.power(fold)
    if not per_column:
        cross_term = multiply(jnp.sum(product, axis=1, dtype=scale.dtype), scale)
        form = _quadratic_form(source.quadratic, rotated, scale)
        return (power.sum() - 2 * cross_term + form)[:, None] / fold.weight

    def of_penalty(d: Array) -> Array:
        weight = d[:, None] * rotated
        return jnp.sum(multiply(source.quadratic, weight) * weight, axis=0)

    narrow = scale.astype(PRODUCTS)
    squared = jax.lax.map(of_penalty, narrow.T)
    return (power - 2 * multiply(narrow.T, product) + squared) / fold.weight


pair_column_errors = functools.partial(pair_errors, per_column=True)


def _quadratic_form(
    quadratic: Float[Array, "p p"], rotated: Float[Array, "p q"], scale: Float[Array, "p L"]
) -> Float[Array, " L"]:
    """dᵀ (Q ∘ A Aᵀ) d for each column d of ``scale``, without the block above the diagonal of the symmetric matrix."""
    half, narrow = rotated.shape[0] // 2, scale.astype(PRODUCTS)
    upper, lower = slice(0, half), slice(half, None)
    total = jnp.zeros(scale.shape[1], scale.dtype)
    for times, i, j in ((1, upper, upper), (2, lower, upper), (1, lower, lower)):
        form = quadratic[i, j] * multiply(rotated[i], rotated[j].T)
        total += times * jnp.sum(multiply(form, narrow[j]) * narrow[i], axis=0, dtype=scale.dtype)
    return total


def own_spectrum(_: Any, own: OwnMoments) -> Spectrum:
    """Of a source, what its pairs need for ``pair_generalised_errors``."""
    return Spectrum.of(own.scatter, own.width)


def pair_generalised_errors(
    grid: Float[Array, " L"], source: Spectrum, target: None, cross: CrossMoments, *, per_column: bool = False
) -> Float[Array, "L units"]:
    """Of a pair by generalised cross-validation, for every penalty and the target, or each of its columns."""
    squared, power = multiply_transposed(source.vectors, cross.xy) ** 2, cross.power_y
    if not per_column:
        squared, power = squared.sum(1, keepdims=True), power.sum(keepdims=True)
    scale = 1 / (source.values[None, :] + grid[:, None])
    explaining = 2 * scale - scale**2 * source.values
    errors = jnp.maximum(power - multiply(explaining, squared), 0)
    freedom = jnp.sum(source.values * scale, axis=1) + 1  # the mean costs one
    left = jnp.maximum(cross.weight - freedom, 1e-12 * cross.weight)
    return errors * (cross.weight / left**2)[:, None]


pair_generalised_column_errors = functools.partial(pair_generalised_errors, per_column=True)


def own_training(_: Any, own: OwnMoments, fold: OwnMoments) -> tuple[Spectrum, Array]:
    """Of a source in one fold, what its pairs need for ``pair_rank_errors``: its spectrum and held-out scatter."""
    training, held_out = FoldSplit.of(own, fold).block(own.scatter, fold.scatter)
    return Spectrum.of(training, len(training)), held_out


def pair_rank_errors(
    l2: Array, source: tuple[Spectrum, Array], target: None, cross: CrossMoments, fold: CrossMoments
) -> Float[Array, " k"]:
    """Of a pair in one fold, for every rank."""
    (spectrum, own_held_out), split = source, FoldSplit.of(cross, fold, "mean_x", "mean_y")
    xy, held_out = split.block(cross.xy, fold.xy)
    left, right, strengths = reduced_rank_factors(spectrum, l2, xy)
    # Rows of ``right`` are orthogonal with squared length ``strengths``, so every rank is a cumulative sum.
    explained = jnp.sum(multiply_transposed(left, held_out) * right, axis=1)
    squared = strengths * jnp.sum(multiply(own_held_out, left) * left, axis=0)
    errors = split.power(fold).sum() - 2 * jnp.cumsum(explained) + jnp.cumsum(squared)
    return errors / fold.weight
