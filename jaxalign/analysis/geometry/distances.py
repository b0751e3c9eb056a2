"""Representational similarity analysis: do two encoders find the same pairs of photographs alike?"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, moment_dtype, multiply
from jaxalign.core.pytree import Leaf

TIES = {
    64: 2.0**-40,
    32: 2.0**-20,
}  # cosines that differ by rounding only are equal: multiples of this are ranked
MOST_ROWS = 5000  # all n (n − 1) / 2 cosines must be ranked together


def rsa_spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of two encoders' pairwise cosines, ties (to 1e-12) at their mean rank.

    Args:
      x, y: rows of the same photographs, shapes [n, p] and [n, q].

    Raises:
      UserError: rows differ in number, or are fewer than three or more than ``MOST_ROWS``.

    Equivalent: ``scipy.stats.spearmanr(pdist(x, "cosine"), pdist(y, "cosine")).statistic``.

    References:
      Kriegeskorte, Mur, Bandettini, "Representational similarity analysis", 2008.
    """
    arrays = {name: np.asarray(rows) for name, rows in checks.embeddings({"x": x, "y": y}).items()}
    with double_precision():
        return float(_inner(*(ranked_cosines(rows) for rows in arrays.values())))


def ranked_cosines(rows: ArrayLike) -> Float[Array, "n n"]:
    """Ranks of the cosines of all pairs of different rows, centred and scaled so that ½ Σ of squares is 1.

    Symmetric with a zero diagonal: ½ Σ of the product of two such matrices is Spearman's correlation.
    """
    rows = checks.embedding(rows, "rows")
    if not 3 <= len(rows) <= MOST_ROWS:
        raise UserError(f"RSA ranks all pairs of 3 to {MOST_ROWS:,} rows, got {len(rows):,} rows")
    with double_precision():
        return _ranked(_cosines(jnp.asarray(rows, moment_dtype())))


def rsa_null(
    x: Float[Array, "n n"], y: Float[Array, "n n"], orders: Int[np.ndarray, "b n"]
) -> Float[Array, " b"]:
    """The correlation when row i of x goes with row ``orders[b, i]`` of y, of ``ranked_cosines`` matrices."""
    with double_precision():
        return _permuted(x, y, jnp.asarray(orders))


@jax.jit
def _cosines(rows: Float[Array, "n d"]) -> Float[Array, "n n"]:
    length = jnp.sqrt(jnp.sum(rows * rows, axis=1, keepdims=True))
    unit = rows / jnp.where(length > 0, length, 1)
    return multiply(unit, unit.T)


@jax.jit  # on its own: one program for encoders of all widths
def _ranked(cosines: Float[Array, "n n"]) -> Float[Array, "n n"]:
    n = len(cosines)
    upper = jnp.triu_indices(n, 1)
    ranks = mean_ranks(jnp.round(cosines[upper] / TIES[8 * cosines.dtype.itemsize]))
    centred = ranks - ranks.mean()
    scale = jnp.sqrt(jnp.sum(centred * centred))
    full = jnp.zeros((n, n), cosines.dtype).at[upper].set(centred / scale)
    return full + full.T


def mean_ranks(values: Float[Leaf, " m"]) -> Float[Array, " m"]:
    """Ranks from 1, equal values sharing their mean rank (``scipy.stats.rankdata``)."""
    order = jnp.argsort(values)
    ordered = values[order]
    place = jnp.arange(len(values))
    starts = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    ends = jnp.concatenate([starts[1:], jnp.ones(1, bool)])
    first = lax.cummax(jnp.where(starts, place, 0))
    last = lax.cummin(jnp.where(ends, place, len(values)), reverse=True)
    return jnp.zeros_like(values).at[order].set((first + last).astype(values.dtype) / 2 + 1)


@jax.jit
def _inner(x: Float[Array, "n n"], y: Float[Array, "n n"]) -> Float[Array, ""]:
    return jnp.sum(x * y) / 2


@jax.jit
def _permuted(
    x: Float[Array, "n n"], y: Float[Array, "n n"], orders: Int[Array, "b n"]
) -> Float[Array, " b"]:
    return lax.map(lambda order: _inner(x, y[order][:, order]), orders)
