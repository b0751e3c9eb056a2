"""Measures from second moments: similarities of two encoders' spaces, and how the rows of one encoder lie.

Similarities of a pair read the coupling W of two encoders' whitened rows: the cross moment is
Λx^½ W Λy^½, the canonical correlations are the singular values of W. A permutation of rows changes W alone.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxalign.core import checks
from jaxalign.core.precision import double_precision, multiply, multiply_transposed
from jaxalign.core.pytree import Leaf, pytree
from jaxalign.moments.moments import Moments

NAMES = ("linear_cka", "mean_cca", "svcca", "pwcca", "procrustes_distance")
LANES, LEAST = 128, 16
# Eigenvalues below this share of the largest count as zero: float32 rows have noise of about 1e-14.
CUTOFF = 1e-10
ROUNDING = 64  # of a mean, in units of its format's precision
Values = dict[str, Array]


@pytree
class Basis:
    """Eigendecomposition XᵀX = V Λ Vᵀ of one encoder's centred rows X, the largest direction first.

    Directions without numerical variance are cut off; arrays are padded with zeros to one of a few sizes, so that
    encoders of similar rank share compiled programs.
    """

    values: Float[Leaf, " r"]  # Λ, zero beyond the rank
    whitening: Float[Leaf, "p r"]  # V Λ^(−1/2); X times it has orthonormal columns
    loadings: Float[Leaf, "r p"]  # Λ^(1/2) Vᵀ: covariances of the whitened rows with the columns
    rank: Int[Leaf, ""]  # directions that have variance
    leading: Int[Leaf, ""]  # directions that are kept where only the largest count


@pytree
class Whitened:
    """Rows in whitened principal axes."""

    rows: Float[Leaf, "n r"]  # (X − mean) V Λ^(−1/2)
    power: Float[Leaf, " n"]  # squared length of each centred row


def padded_size(number: int) -> int:
    """The next multiple of ``LANES``, or below that the next power of two."""
    return min(-(-number // LANES) * LANES, max(LEAST, 1 << (number - 1).bit_length())) if number else LEAST


def principal_axes(moments: Moments, name: str, *, variance: float = 0.99) -> Basis:
    """Eigendecomposition of one encoder's block, on the host and in the format of the moments.

    ``leading`` counts the largest directions that hold a share ``variance`` together.
    """
    mean, scatter = _mean(moments, name), _scatter(moments, name, name)
    values, vectors = (part[..., ::-1] for part in np.linalg.eigh(scatter))
    # Equal rows have the rounding of their mean for a scatter.
    noise = float(moments.weight) * float(mean @ mean) * rounding(moments.mean.dtype) ** 2
    rank = int(np.sum(values > max(CUTOFF * float(values[0]), noise)))
    shares = np.cumsum(values[:rank]) / max(float(values[:rank].sum()), np.finfo(np.float64).tiny)
    leading = min(rank, int(np.searchsorted(shares, variance - 1e-12)) + 1)
    root, missing = np.sqrt(values[:rank]), (0, padded_size(rank) - rank)
    wide = (0, padded_size(len(values)) - len(values))
    whitening = np.pad(vectors[:, :rank] / root, (wide, missing))
    loadings = np.pad(root[:, None] * vectors[:, :rank].T, (missing, wide))
    arrays = (np.pad(values[:rank], missing), whitening, loadings)
    counts = (np.asarray(count, np.int32) for count in (rank, leading))
    return Basis(*(array.astype(moments.scatter.dtype) for array in arrays), *counts)


def rounding(dtype: np.dtype) -> float:
    return ROUNDING * float(np.finfo(dtype).eps)


def _mean(moments: Moments, name: str) -> np.ndarray:
    return np.asarray(moments.mean, np.float64)[moments.span(name)]


def _scatter(moments: Moments, left: str, right: str) -> np.ndarray:
    return np.asarray(moments.scatter)[moments.span(left), moments.span(right)].astype(np.float64)


def scores(moments: Moments, name: str, axes: Basis, rows: np.ndarray) -> Whitened:
    """Rows of an encoder as its axes see them, shape [n, d] in, on the host."""
    centred = rows - _mean(moments, name)
    found = centred @ axes.whitening[: centred.shape[1]], np.sum(centred * centred, axis=1)
    return Whitened(*(np.asarray(part, axes.values.dtype) for part in found))


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
      moments: of the encoders, concatenated.
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
    chosen = list(itertools.combinations(moments.names, 2)) if pairs is None else pairs
    used = {name for pair in chosen for name in pair}
    axes = {name: principal_axes(moments, name, variance=variance) for name in used}
    found = {}
    for pair in chosen:
        first, second = by_rank(pair, axes)
        values = observed(moments, (first, second), axes[first], axes[second])
        found[pair] = {name: float(values[name]) for name in NAMES}
    return found


def by_rank(pair: tuple[str, str], axes: dict[str, Basis]) -> tuple[str, str]:
    """The encoder with fewer directions first."""
    return pair if axes[pair[0]].rank <= axes[pair[1]].rank else (pair[1], pair[0])


def observed(moments: Moments, names: tuple[str, str], x: Basis, y: Basis) -> Values:
    """Similarities of a pair ordered by ``by_rank``, and ``squared_cross`` = ‖XᵀY‖²_F."""
    # The cross-covariance of whitened rows, Λx^(−1/2) Vxᵀ (Xᵀ Y) Vy Λy^(−1/2), from the moments.
    cross = _scatter(moments, *names)
    left, right = (side.whitening[:width] for side, width in zip((x, y), cross.shape))
    coupling = np.asarray(left.T @ cross @ right, x.values.dtype)
    with double_precision():
        return _similarities(jnp.asarray(coupling), x, y, blocks=_blocks(x, y))


def permuted(x: Basis, y: Basis, left: Whitened, right: Whitened, orders: Int[np.ndarray, "b n"]) -> Values:
    """The same when row i of the first goes with row ``orders[b, i]`` of the second, and ``linear_cka_unbiased``: [b].

    In float32: that changes these by about 1e-6, and they vary by more than a thousand times that.
    """

    def single(leaf: Leaf) -> np.ndarray:
        return np.asarray(leaf, np.float32 if np.issubdtype(leaf.dtype, np.floating) else None)

    parts = jax.tree.map(single, (x, y, left, right))
    return _permuted(*parts, jnp.asarray(orders), blocks=_blocks(x, y))


def debiased(
    squared_cross: Array, power_x: Float[Leaf, " n"], power_y: Float[Leaf, " n"], x: Basis, y: Basis
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
    unbiased = hsic(squared_cross, power_x, power_y) / jnp.sqrt(jnp.where(enough, own_x * own_y, 1))
    return jnp.where(enough, unbiased, jnp.nan)


def _blocks(x: Basis, y: Basis) -> tuple[int, int]:
    """Sizes that hold the leading directions."""
    first, second = (min(len(side.values), padded_size(int(side.leading))) for side in (x, y))
    return first, second


@functools.partial(jax.jit, static_argnames="blocks")
def _similarities(coupled: Float[Array, "r s"], x: Basis, y: Basis, *, blocks: tuple[int, int]) -> Values:
    """Everything from W; r directions of x, of which there are no more than of y."""
    cross = jnp.sqrt(x.values)[:, None] * coupled * jnp.sqrt(y.values)
    squared = jnp.sum(cross * cross)
    cka = squared / jnp.sqrt(jnp.sum(x.values**2) * jnp.sum(y.values**2))
    # Padded directions get an eigenvalue of their own, so that they do not mix with real ones of correlation 0.
    beyond = jnp.diag((jnp.arange(len(x.values)) >= x.rank).astype(cross.dtype))
    eigenvalues, vectors = jnp.linalg.eigh(multiply(coupled, coupled.T) - beyond)
    correlation = jnp.sqrt(jnp.clip(eigenvalues, 0, 1))
    weight = jnp.sum(jnp.abs(multiply_transposed(vectors, x.loadings)), axis=1)
    leading = (jnp.arange(blocks[0]) < x.leading)[:, None] & (jnp.arange(blocks[1]) < y.leading)
    cut = jnp.clip(_singular_values(coupled[: blocks[0], : blocks[1]] * leading.astype(cross.dtype)), 0, 1)
    shape = jnp.sum(_singular_values(cross)) / jnp.sqrt(jnp.sum(x.values) * jnp.sum(y.values))
    return {
        "linear_cka": cka,
        "mean_cca": jnp.sum(correlation) / x.rank,
        "svcca": jnp.sum(cut) / jnp.minimum(x.leading, y.leading),
        "pwcca": jnp.sum(weight * correlation) / jnp.sum(weight),
        "procrustes_distance": jnp.arccos(jnp.minimum(shape, 1)),
        "squared_cross": squared,
    }


def _singular_values(matrix: Float[Array, "r s"]) -> Float[Array, " k"]:
    """By the Gram matrix of the shorter side: three times as fast, and exact enough for sums of singular values."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(multiply(short, short.T)), 0))


@functools.partial(jax.jit, static_argnames="blocks")
def _permuted(
    x: Basis, y: Basis, left: Whitened, right: Whitened, orders: Int[Array, "b n"], *, blocks: tuple[int, int]
) -> Values:
    def one(order: Int[Array, " n"]) -> Values:
        coupled = multiply_transposed(left.rows, right.rows[order])
        values = _similarities(coupled, x, y, blocks=blocks)
        unbiased = debiased(values["squared_cross"], left.power, right.power[order], x, y)
        return {**values, "linear_cka_unbiased": unbiased}

    return lax.map(one, orders)


def participation_ratio(values: Float[Leaf, " p"]) -> float:
    """(Σλ)² / Σλ² of the eigenvalues of a second moment: how many directions carry the variance; NaN without any."""
    total, squares = float(np.sum(values)), float(np.sum(np.square(values)))
    return total**2 / squares if squares > 0 else float("nan")


def first_component_share(values: Float[Leaf, " p"]) -> float:
    """Share of the variance that the largest eigenvalue has; NaN without variance."""
    total = float(np.sum(values))
    return float(np.max(values)) / total if total > 0 else float("nan")


def anisotropy(rows: ArrayLike) -> float:
    """Mean cosine of two different rows: 0 where directions are even, 1 where all rows point the same way.

    (‖Σ uᵢ‖² − n) / (n (n − 1)) with uᵢ the rows over their lengths, so that no pair is formed. Zero rows do not count.

    References:
      Ethayarajh, "How contextual are contextualized word representations?", EMNLP 2019.
    """
    rows = np.asarray(checks.embedding(rows, "rows"), np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    total, count = np.sum(rows / np.where(length > 0, length, 1), axis=0), int(np.sum(length > 0))
    return float((total @ total - count) / (count * (count - 1))) if count > 1 else float("nan")
