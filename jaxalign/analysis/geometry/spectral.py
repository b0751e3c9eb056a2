"""Similarities that are functions of second moments: linear CKA, canonical correlations, Procrustes distance.

All read the coupling W of two encoders' whitened rows (``axes.coupling``): the cross moment is Λx^½ W Λy^½, the
canonical correlations are the singular values of W. A permutation of rows changes W alone.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxalign.analysis.geometry.axes import Axes, Scores, coupling, filled_up, principal_axes
from jaxalign.core.precision import double_precision, multiply, multiply_transposed
from jaxalign.core.pytree import Leaf
from jaxalign.moments.moments import Moments

NAMES = ("linear_cka", "mean_cca", "svcca", "pwcca", "procrustes_distance")
Values = dict[str, Array]


def moment_similarities(
    moments: Moments, pairs: Sequence[tuple[str, str]] | None = None, *, variance: float = 0.99
) -> dict[tuple[str, str], dict[str, float]]:
    """Every similarity that needs no rows, for all unordered pairs of encoders from one D × D matrix.

    - ``linear_cka``: ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), the biased estimator.
    - ``mean_cca``: mean canonical correlation over all directions that have variance.
    - ``svcca``: the same after each side is cut to the principal components that hold ``variance`` of its variance.
    - ``pwcca``: canonical correlations ρᵢ weighted by Σⱼ |⟨hᵢ, xⱼ⟩|, where hᵢ are the canonical variates and xⱼ the
      columns of the encoder with fewer directions (the first at a tie).
    - ``procrustes_distance``: arccos(‖XᵀY‖_* / (‖X‖_F ‖Y‖_F)), the angle between shapes, from 0 to π/2.

    Args:
      moments: of the encoders, side by side.
      pairs: all unordered ones by default.
      variance: share of variance kept by SVCCA.

    Returns:
      Values by pair and name; NaN where an encoder has no variance.

    Equivalent: ``sklearn.cross_decomposition.CCA`` for the correlations; ``scipy.spatial.procrustes`` gives sin² of the
    distance.

    References:
      Kornblith et al., "Similarity of neural network representations revisited", ICML 2019 (CKA).
      Raghu et al., "SVCCA", NeurIPS 2017. Morcos, Raghu, Bengio, "Insights on representational similarity", NeurIPS
      2018 (PWCCA). Williams et al., "Generalized shape metrics on neural representations", NeurIPS 2021.
    """
    names = moments.names
    chosen = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]] if pairs is None else pairs
    used = dict.fromkeys(name for pair in chosen for name in pair)
    axes = {name: principal_axes(moments, name, variance=variance) for name in used}
    found = {}
    for pair in chosen:
        first, second = by_rank(pair, axes)
        values = observed(moments, (first, second), axes[first], axes[second])
        found[pair] = {name: float(values[name]) for name in NAMES}
    return found


def by_rank(pair: tuple[str, str], axes: dict[str, Axes]) -> tuple[str, str]:
    """The encoder with fewer directions first."""
    return pair if axes[pair[0]].rank <= axes[pair[1]].rank else (pair[1], pair[0])


def observed(moments: Moments, names: tuple[str, str], x: Axes, y: Axes) -> Values:
    """Similarities of a pair ordered by ``by_rank``, and ``squared_cross`` = ‖XᵀY‖²_F."""
    with double_precision():
        return _similarities(coupling(moments, names, x, y), x, y, blocks=_blocks(x, y))


def permuted(x: Axes, y: Axes, left: Scores, right: Scores, orders: Int[np.ndarray, "b n"]) -> Values:
    """The same on permuted rows, and ``linear_cka_unbiased``, each of shape [b].

    In float32: that changes these by about 1e-6, and they vary by more than a thousand times that.

    Args:
      x, y: axes of a pair ordered by ``by_rank``.
      left, right: its rows in these axes.
      orders: row i of the first goes with row ``orders[b, i]`` of the second.
    """
    narrow = [side.astype(np.float32) for side in (x, y)]
    rows = [jax.tree.map(lambda part: np.asarray(part, np.float32), side) for side in (left, right)]
    return _permuted(*narrow, *rows, jnp.asarray(orders), blocks=_blocks(x, y))


def debiased(
    squared_cross: Array, power_x: Float[Leaf, " n"], power_y: Float[Leaf, " n"], x: Axes, y: Axes
) -> Array:
    """Linear CKA with the unbiased estimator of HSIC, from moments and the squared lengths of centred rows.

    HSIC₁ = (tr K̃L̃ + 1ᵀK̃1 1ᵀL̃1 / ((n − 1)(n − 2)) − 2/(n − 2) 1ᵀK̃L̃1) / (n (n − 3)) with K̃, L̃ the Gram matrices
    without their diagonals. Adding a constant to rows does not change it, and of centred rows K1 = 0, so that
    tr K̃L̃ = ‖XᵀY‖²_F − aᵀb, K̃1 = −a, L̃1 = −b with a, b the diagonals. Needs four rows or more.

    References:
      Song et al., "Feature selection via dependence maximization", JMLR 2012.
      Nguyen, Raghu, Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021.
    """
    n = power_x.shape[0]

    def hsic(square: Array, a: Leaf, b: Leaf) -> Array:
        inner = jnp.sum(a * b)
        return square - inner + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * inner / (n - 2)

    own_x = hsic(jnp.sum(x.values**2), power_x, power_x)
    own_y = hsic(jnp.sum(y.values**2), power_y, power_y)
    enough = (own_x > 0) & (own_y > 0) & (n > 3)
    return jnp.where(
        enough, hsic(squared_cross, power_x, power_y) / jnp.sqrt(jnp.where(enough, own_x * own_y, 1)), jnp.nan
    )


def _blocks(x: Axes, y: Axes) -> tuple[int, int]:
    """Sizes that hold the leading directions."""
    return tuple(  # pyright: ignore[reportReturnType]
        min(len(side.values), filled_up(int(side.leading))) for side in (x, y)
    )


@functools.partial(jax.jit, static_argnames="blocks")
def _similarities(coupled: Float[Array, "r s"], x: Axes, y: Axes, *, blocks: tuple[int, int]) -> Values:
    """Everything from W; r directions of x, of which there are no more than of y."""
    cross = jnp.sqrt(x.values)[:, None] * coupled * jnp.sqrt(y.values)
    squared = jnp.sum(cross * cross)
    cka = squared / jnp.sqrt(jnp.sum(x.values**2) * jnp.sum(y.values**2))
    # Directions that fill up get an eigenvalue of their own, so that they do not mix with real ones of correlation 0.
    beyond = jnp.arange(len(x.values)) >= x.rank
    eigenvalues, vectors = jnp.linalg.eigh(
        multiply(coupled, coupled.T) - jnp.diag(beyond.astype(cross.dtype))
    )
    correlation = jnp.sqrt(jnp.clip(eigenvalues, 0, 1))
    weight = jnp.sum(jnp.abs(multiply_transposed(vectors, x.loadings)), axis=1)
    leading = jnp.where(jnp.arange(blocks[0]) < x.leading, 1, 0)[:, None] * jnp.where(
        jnp.arange(blocks[1]) < y.leading, 1, 0
    )
    cut = jnp.clip(singular_values(coupled[: blocks[0], : blocks[1]] * leading.astype(cross.dtype)), 0, 1)
    shape = jnp.sum(singular_values(cross)) / jnp.sqrt(jnp.sum(x.values) * jnp.sum(y.values))
    return {
        "linear_cka": cka,
        "mean_cca": jnp.sum(correlation) / x.rank,
        "svcca": jnp.sum(cut) / jnp.minimum(x.leading, y.leading),
        "pwcca": jnp.sum(weight * correlation) / jnp.sum(weight),
        "procrustes_distance": jnp.arccos(jnp.minimum(shape, 1)),
        "squared_cross": squared,
    }


def singular_values(matrix: Float[Array, "r s"]) -> Float[Array, " k"]:
    """Singular values by the Gram matrix of the shorter side: a third of the time of a decomposition, and exact to the
    square root of the format's precision relative to the largest, which sums of them bear."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(multiply(short, short.T)), 0))


@functools.partial(jax.jit, static_argnames="blocks")
def _permuted(
    x: Axes, y: Axes, left: Scores, right: Scores, orders: Int[Array, "b n"], *, blocks: tuple[int, int]
) -> Values:
    def one(order: Int[Array, " n"]) -> Values:
        coupled = multiply_transposed(left.rows, right.rows[order])
        values = _similarities(coupled, x, y, blocks=blocks)
        unbiased = debiased(values["squared_cross"], left.power, right.power[order], x, y)
        return {**values, "linear_cka_unbiased": unbiased}

    return lax.map(one, orders)
