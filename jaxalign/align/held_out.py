"""Held-out errors of ridge and reduced-rank maps from moments; see ``selection`` for the mathematics.

Of a source and the targets it has, side by side on one device; and encoder by encoder and pair by pair, for
``dealing`` over several.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.align.solvers.reduced_rank import reduced_rank_factors
from jaxalign.align.solvers.spectrum import Spectrum
from jaxalign.core.precision import multiply, multiply_transposed
from jaxalign.core.pytree import pytree
from jaxalign.moments.blocks import Columns, CrossMoments, OwnMoments, cross_moments, own_moments
from jaxalign.moments.moments import Moments

# The eigendecomposition stays in the moments' format; the products after it only rank penalties.
PRODUCTS = jnp.float32


@pytree
class Split:
    """What one fold holds out, and what the others train on.

    Attributes:
      training: weight of the other folds over their total, the coefficient of the step between means.
      weight: of the fold.
      step: mean of the fold minus mean of the others, shape [D].
    """

    training: Array
    weight: Array
    step: Float[Array, " D"]

    @classmethod
    def of(cls, total: Moments | OwnMoments, fold: Moments | OwnMoments) -> Split:
        """Of all columns, or those of one encoder."""
        weight = total.weight - fold.weight
        mean = total.mean + (total.mean - fold.mean) * (fold.weight / weight)
        return cls(weight * fold.weight / total.weight, fold.weight, fold.mean - mean)

    def block(
        self, whole: Array, held_out: Array, rows: Float[Array, " p"], columns: Float[Array, " q"]
    ) -> tuple[Array, Array]:
        """A block of the training scatter, and of the held-out scatter about the training means.

        Args:
          whole, held_out: the block in the total and in the fold, shape [p, q].
          rows, columns: steps of its rows and columns.
        """
        between = jnp.outer(rows, columns)
        return whole - held_out - self.training * between, held_out + self.weight * between


@pytree
class Rotation:
    """A source in the eigenbasis V of its training scatter.

    Attributes:
      turned: Vᵀ, shape [p, p].
      scale: 1 / (eigenvalue + penalty), shape [p, L].
      quadratic: Vᵀ S' V of the held-out scatter S', shape [p, p].
    """

    turned: Float[Array, "p p"]
    scale: Float[Array, "p L"]
    quadratic: Float[Array, "p p"]

    @classmethod
    def of(cls, own: Array, held_out: Array, grid: Float[Array, " L"]) -> Rotation:
        """From the training scatter and the held-out scatter of the source."""
        spectrum = Spectrum.of_matrix(own)
        # The barriers keep conversions and slices out of the products, which are then faster on CPU.
        turned = jax.lax.optimization_barrier(spectrum.vectors.astype(PRODUCTS).T)
        quadratic = multiply(turned, multiply(held_out.astype(PRODUCTS), turned.T))
        return cls(turned, 1 / (spectrum.values[:, None] + grid), quadratic)

    def errors(
        self, both: list[Array], power: Float[Array, " q"], sizes: tuple[int, ...], *, per_column: bool
    ) -> Float[Array, "L units"]:
        """Held-out squared error for every penalty, and each target or target column.

        Args:
          both: training and held-out cross moments with the targets side by side, each [p, q].
          power: held-out power of the targets' columns.
          sizes: of the targets' blocks.
          per_column: for each column.
        """
        scale = self.scale
        rotated, rotated_held_out = jax.lax.optimization_barrier(
            [multiply(self.turned, part) for part in jax.lax.optimization_barrier(both)]
        )  # A first
        product = rotated * rotated_held_out
        if per_column:

            def one(d: Array) -> Array:
                weight = d[:, None] * rotated
                return jnp.sum(multiply(self.quadratic, weight) * weight, axis=0)

            narrow = scale.astype(PRODUCTS)
            squared = jax.lax.map(one, narrow.T)
            return power - 2 * multiply(narrow.T, product) + squared
        edges = np.cumsum((0, *sizes))
        errors = []
        for start, stop in zip(edges[:-1], edges[1:]):
            cross = multiply(jnp.sum(product[:, start:stop], axis=1, dtype=scale.dtype), scale)
            form = _quadratic_form(self.quadratic, rotated[:, start:stop], scale)
            errors.append(power[start:stop].sum() - 2 * cross + form)
        return jnp.stack(errors, axis=1)


@functools.partial(jax.jit, static_argnames="per_column")
def fold_errors(
    total: Moments,
    fold: Moments,
    source: Columns,
    targets: Columns,
    grid: Float[Array, " L"],
    *,
    per_column: bool,
) -> Float[Array, "L units"]:
    """Of a source and its targets in one fold, for every penalty."""
    split = Split.of(total, fold)
    rotation = Rotation.of(*_block(split, total, fold, source, source), grid)
    blocks = [_block(split, total, fold, source, part) for part in targets.parts()]
    both = [jnp.concatenate([pair[k].astype(PRODUCTS) for pair in blocks], axis=1) for k in (0, 1)]
    power = targets.take(_power(split, fold), 0)
    return rotation.errors(both, power, targets.sizes, per_column=per_column) / fold.weight


def _block(
    split: Split, total: Moments, fold: Moments, rows: Columns, columns: Columns
) -> tuple[Array, Array]:
    whole, held_out = (columns.take(rows.take(part.scatter, 0), 1) for part in (total, fold))
    return split.block(whole, held_out, rows.take(split.step, 0), columns.take(split.step, 0))


def _power(split: Split, fold: Moments) -> Float[Array, " D"]:
    """Held-out sum of squares of each column about its training mean."""
    return fold.scatter.diagonal() + fold.weight * split.step**2


def own_rotation(grid: Array, own: OwnMoments, fold: OwnMoments) -> tuple[Rotation, Split]:
    """Of one encoder, what its pairs need for ``pair_errors``."""
    split = Split.of(own, fold)
    return Rotation.of(*split.block(own.scatter, fold.scatter, split.step, split.step), grid), split


def pair_errors(
    _: Any,
    source: tuple[Rotation, Split],
    target: tuple[Rotation, Split],
    cross: CrossMoments,
    fold: CrossMoments,
    *,
    per_column: bool = False,
) -> Float[Array, "L units"]:
    """Of one pair in one fold, for every penalty."""
    (rotation, split), step = source, target[1].step
    both = [part.astype(PRODUCTS) for part in split.block(cross.xy, fold.xy, split.step, step)]
    power = fold.power_y + fold.weight * step**2
    return rotation.errors(both, power, (len(power),), per_column=per_column) / fold.weight


pair_column_errors = functools.partial(pair_errors, per_column=True)


def _quadratic_form(
    quadratic: Float[Array, "p p"], rotated: Float[Array, "p q"], scale: Float[Array, "p L"]
) -> Float[Array, " L"]:
    """dᵀ (Q ∘ A Aᵀ) d for each column d of ``scale``, without the block above the diagonal of the symmetric matrix."""
    half, narrow = rotated.shape[0] // 2, scale.astype(PRODUCTS)
    total = jnp.zeros(scale.shape[1], scale.dtype)
    for times, i, j in ((1, slice(0, half), slice(0, half)), (2, slice(half, None), slice(0, half)),
                        (1, slice(half, None), slice(half, None))):  # fmt: skip
        form = quadratic[i, j] * multiply(rotated[i], rotated[j].T)
        total += times * jnp.sum(multiply(form, narrow[j]) * narrow[i], axis=0, dtype=scale.dtype)
    return total


def _sums(array: Float[Array, "*rows columns"], sizes: tuple[int, ...]) -> Float[Array, "*rows K"]:
    """Sums over blocks of columns that are side by side."""
    edges = np.cumsum((0, *sizes))
    return jnp.stack([array[..., start:stop].sum(-1) for start, stop in zip(edges[:-1], edges[1:])], axis=-1)


def _generalised(
    spectrum: Spectrum,
    cross: CrossMoments,
    sizes: tuple[int, ...],
    grid: Float[Array, " L"],
    per_column: bool,
) -> Float[Array, "L units"]:
    squared, power = multiply_transposed(spectrum.vectors, cross.xy) ** 2, cross.power_y
    if not per_column:
        squared, power = (_sums(part, sizes) for part in (squared, power))
    scale = 1 / (spectrum.values[None, :] + grid[:, None])
    explaining = 2 * scale - scale**2 * spectrum.values
    errors = jnp.maximum(power - multiply(explaining, squared), 0)
    freedom = jnp.sum(spectrum.values * scale, axis=1) + 1  # the mean costs one
    left = jnp.maximum(cross.weight - freedom, 1e-12 * cross.weight)
    return errors * (cross.weight / left**2)[:, None]


@functools.partial(jax.jit, static_argnames="per_column")
def generalised_errors(
    total: Moments, source: Columns, targets: Columns, grid: Float[Array, " L"], *, per_column: bool
) -> tuple[Float[Array, "L units"], Spectrum]:
    """Of a source and its targets by generalised cross-validation, for every penalty; and the source's spectrum."""
    spectrum, cross = Spectrum.of(own_moments(total, source)), cross_moments(total, source, targets)
    return _generalised(spectrum, cross, targets.sizes, grid, per_column), spectrum


def own_spectrum(grid: Array, own: OwnMoments) -> tuple[Spectrum, Array]:
    """Of one encoder, what its pairs need for ``pair_generalised_errors``."""
    return Spectrum.of(own), grid


def pair_generalised_errors(
    _: Any,
    source: tuple[Spectrum, Array],
    target: tuple[Spectrum, Array],
    cross: CrossMoments,
    *,
    per_column: bool = False,
) -> Float[Array, "L units"]:
    """Of one pair by generalised cross-validation, for every penalty."""
    return _generalised(source[0], cross, (cross.xy.shape[1],), source[1], per_column)


pair_generalised_column_errors = functools.partial(pair_generalised_errors, per_column=True)


@jax.jit
def rank_errors(
    total: Moments, fold: Moments, pair: tuple[Columns, Columns], l2: Array
) -> Float[Array, " k"]:
    """Of one pair in one fold, for every rank."""
    split, (source, target) = Split.of(total, fold), pair
    own, own_held_out = _block(split, total, fold, source, source)
    both = _block(split, total, fold, source, target)
    power = target.take(_power(split, fold), 0)
    return _by_rank(Spectrum.of_matrix(own), own_held_out, both, power, l2) / fold.weight


def _by_rank(
    spectrum: Spectrum, own_held_out: Array, both: tuple[Array, Array], power: Array, l2: Array
) -> Float[Array, " k"]:
    xy, cross = both
    left, right, strengths = reduced_rank_factors(spectrum, l2, xy)
    # Rows of ``right`` are orthogonal with squared length ``strengths``, so every rank is a cumulative sum.
    explained = jnp.sum(multiply_transposed(left, cross) * right, axis=1)
    squared = strengths * jnp.sum(multiply(own_held_out, left) * left, axis=0)
    return power.sum() - 2 * jnp.cumsum(explained) + jnp.cumsum(squared)


def own_training(_: Any, own: OwnMoments, fold: OwnMoments) -> tuple[Spectrum, Array, Split]:
    """Of one encoder, what its pairs need for ``pair_rank_errors``."""
    split = Split.of(own, fold)
    training, held_out = split.block(own.scatter, fold.scatter, split.step, split.step)
    return Spectrum.of_matrix(training), held_out, split


def pair_rank_errors(
    l2: Array,
    source: tuple[Spectrum, Array, Split],
    target: tuple[Spectrum, Array, Split],
    cross: CrossMoments,
    fold: CrossMoments,
) -> Float[Array, " k"]:
    """Of one pair in one fold, for every rank."""
    (spectrum, own_held_out, split), step = source, target[2].step
    both = split.block(cross.xy, fold.xy, split.step, step)
    return _by_rank(spectrum, own_held_out, both, fold.power_y + fold.weight * step**2, l2) / fold.weight
