"""Whether two maps do the same: of rows, of scores, of rankings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxalign.align.affine import AffineMap
from jaxalign.core.precision import double_precision, multiply, multiply_transposed
from jaxalign.moments.blocks import Columns, own_moments
from jaxalign.moments.moments import Moments


def effective_rank(map_: AffineMap, total: Moments, source: str) -> float:
    """How many dimensions the mapped rows fill: (Σ s)² / Σ s² of their variances s along their own principal axes.

    With S the source's second moment and W the map, that is tr(F)² / ‖F‖²_F of F = Wᵀ S W.

    Args:
      map_: from the source; filled up (``Fit.padded``), so that maps of like width share programs, or not.
      total: moments of the rows.
      source: name of the encoder among them.
    """
    width, real = map_.in_dim, total.width(source)
    columns = Columns(
        np.array([total.offset(source)]), (None if width == real else np.array(real),), (width,)
    )
    with double_precision():
        return float(_participation(map_.factors, total.unnamed(), columns))


@jax.jit
def _participation(factors: tuple[Array, ...], total: Moments, source: Columns) -> Float[Array, ""]:
    scatter = own_moments(total, source).scatter
    matrix = functools.reduce(multiply, factors, jnp.eye(len(scatter), dtype=scatter.dtype))
    mapped = multiply(multiply_transposed(matrix, scatter), matrix)
    square = jnp.sum(mapped**2)
    return jnp.trace(mapped) ** 2 / jnp.where(square > 0, square, 1)


def row_differences(left: ArrayLike, right: ArrayLike, center: ArrayLike) -> Float[np.ndarray, "n 2"]:
    """Of each row the squared distance between two images of it, and the mean of their squared distances to a centre.

    The agreement of two maps on rows is 1 − √(Σ first / Σ second): 1 for equal maps, near 1 − √2 for unrelated ones of
    like size. That is the relative Frobenius distance of the maps, taken in the second moment of the rows.

    Args:
      left, right: images of the same rows, shape [n, d].
      center: of the space, shape [d].
    """
    with double_precision():
        return np.asarray(_differences(*map(jnp.asarray, (left, right, center))))


@jax.jit
def _differences(
    left: Float[Array, "n d"], right: Float[Array, "n d"], center: Float[Array, " d"]
) -> Float[Array, "n 2"]:
    one, other, middle = (array.astype(jnp.float64) for array in (left, right, center))
    apart, from_one, from_other = (
        jnp.sum(difference**2, axis=1) for difference in (one - other, one - middle, other - middle)
    )
    return jnp.stack([apart, (from_one + from_other) / 2], axis=1)


def agreement_of_sums(sums: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape"]:
    """1 − √(apart / size) from sums of ``row_differences``; NaN where the size is zero."""
    apart, size = sums[..., 0], sums[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - np.sqrt(apart / size)


def compare_scores(
    one: tuple[ArrayLike, ArrayLike], other: tuple[ArrayLike, ArrayLike]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Correlations of each probe's cosines to the gallery under two pairs of maps.

    Args:
      one, other: mapped probes [n, d] and mapped gallery [m, d]; the two may lie in different spaces.

    Returns:
      Pearson's correlation of the scores, and Spearman's (of the rankings; ties in order of the gallery), of each
      probe, shapes [n]; NaN for a probe whose scores are all alike.

    Equivalent: ``scipy.stats.pearsonr`` and ``spearmanr`` of each row of the two matrices of scores.
    """
    first, second = (_scores(*map(jnp.asarray, sides)) for sides in (one, other))
    pearson = _correlation(first, second)
    ranks = [jnp.asarray(_ranks(scores)) for scores in (first, second)]
    return np.asarray(pearson, np.float64), np.asarray(_correlation(*ranks), np.float64)


@jax.jit
def _scores(probes: Float[Array, "n d"], gallery: Float[Array, "m d"]) -> Float[Array, "n m"]:
    unit = [side / jnp.linalg.norm(side, axis=1, keepdims=True) for side in (probes, gallery)]
    return multiply(unit[0], unit[1].T)


@jax.jit
def _correlation(left: Float[Array, "n m"], right: Float[Array, "n m"]) -> Float[Array, " n"]:
    left, right = (side - side.mean(axis=1, keepdims=True) for side in (left, right))
    return jnp.sum(left * right, axis=1) / jnp.sqrt(jnp.sum(left**2, axis=1) * jnp.sum(right**2, axis=1))


def _ranks(scores: Float[Array, "n m"]) -> Float[np.ndarray, "n m"]:
    """Place of each score in its row, centred around 0; equal scores in their order.

    NumPy sorts on the host many times faster than XLA, and numbers several times faster than it orders them.
    """
    rows, columns = scores.shape
    with double_precision():
        ordered = np.array(_sortable(scores))
    ordered.sort(axis=1)
    ordered &= 0xFFFFFFFF  # the columns
    ordered += np.arange(rows)[:, None] * columns
    places = np.arange(columns, dtype=np.float32) - columns / 2
    ranks = np.empty(scores.size, np.float32)
    ranks[ordered.ravel()] = np.broadcast_to(places, scores.shape).ravel()
    return ranks.reshape(scores.shape)


@jax.jit
def _sortable(scores: Float[Array, "n m"]) -> Int[Array, "n m"]:
    """Each score as a whole number that rises with it, and its column below."""
    scores = jnp.where(scores == 0, 0, scores)  # no negative zeros, which would not equal others
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    key = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits).astype(jnp.int64) << 32
    return key | jnp.arange(scores.shape[1])
