"""Measures that compare single rows: nearest neighbours and what they tell, and correlations of pairwise cosines.

Rows are compared tile by tile for their neighbours; only representational similarity analysis forms an n × n matrix.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, moment_dtype, multiply

TILE_ROWS = 256
SPARE = 8  # neighbours are picked in float32, forty times faster on a CPU, and so many more sorted in float64
TIES = 2.0**-40  # cosines that differ by rounding only are equal: multiples of this are ranked
MOST_ROWS = 5000  # all n (n − 1) / 2 cosines must be ranked together


class Neighbours(NamedTuple):
    """The k nearest other rows of each row, nearest first, by Euclidean distance.

    Attributes:
      index: row numbers, shape [n, k]; of rows as far away the first.
      distance: shape [n, k].
    """

    index: np.ndarray
    distance: np.ndarray


def nearest_neighbours(rows: ArrayLike, k: int, *, unit: bool = False) -> Neighbours:
    """Finds the nearest other rows.

    Args:
      rows: shape [n, d].
      k: how many, from 1 to n − 1.
      unit: whether rows are scaled to length 1 first; the order is then that of the cosine.

    Raises:
      UserError: k is out of range.

    Equivalent: ``sklearn.neighbors.NearestNeighbors(n_neighbors=k).fit(rows).kneighbors()``.
    """
    rows = checks.embedding(rows, "rows")
    if k < 1:
        raise UserError(f"neighbours: expected at least 1, got {k}")
    if k >= len(rows):
        raise UserError(
            f"{k} nearest neighbours of each row need at least {k + 1} rows, got {len(rows):,} rows"
        )
    with double_precision():
        found = _nearest(jnp.asarray(rows, moment_dtype()), k=k, unit=unit)
        return Neighbours(*map(np.asarray, found))


@functools.partial(jax.jit, static_argnames=("k", "unit"))
def _nearest(rows: Float[Array, "n d"], *, k: int, unit: bool) -> tuple[Array, Array]:
    n = len(rows)
    if unit:
        length = jnp.sqrt(jnp.sum(rows * rows, axis=1, keepdims=True))
        rows = rows / jnp.where(length > 0, length, 1)
    rows = rows - rows.mean(axis=0)  # a mean as large as the spread would cost digits
    power = jnp.sum(rows * rows, axis=1)

    def one_tile(place: Int[Array, " tile"]) -> tuple[Array, Array]:
        own = rows[place]
        squared = power[place, None] + power - 2 * multiply(own, rows.T)
        squared = jnp.where(jnp.arange(n) == place[:, None], jnp.inf, squared)
        picked = jnp.sort(lax.top_k(-squared.astype(jnp.float32), min(k + SPARE, n - 1))[1], axis=1)
        # Distances of near rows cancel in the product; of so few they can be taken directly.
        distance = lax.map(lambda pair: jnp.sum((rows[pair[0]] - pair[1]) ** 2, axis=1), (picked, own))
        nearest = jnp.argsort(distance, axis=1)[:, :k]
        return jnp.take_along_axis(picked, nearest, 1), jnp.sqrt(jnp.take_along_axis(distance, nearest, 1))

    places = jnp.minimum(jnp.arange(-(-n // TILE_ROWS) * TILE_ROWS), n - 1).reshape(-1, TILE_ROWS)
    index, distance = lax.map(one_tile, places)
    return index.reshape(-1, k)[:n].astype(jnp.int32), distance.reshape(-1, k)[:n]


def mutual_neighbours(x: Int[np.ndarray, "n k"], y: Int[np.ndarray, "n k"]) -> float:
    """Share of neighbours that two encoders agree on, mean over rows of |Nx(i) ∩ Ny(i)| / k.

    Args:
      x, y: ``nearest_neighbours(..., k, unit=True).index`` of the same photographs.

    References:
      Huh et al., "The Platonic Representation Hypothesis", ICML 2024.
    """
    return float(mutual_null(x, y, np.arange(len(x), dtype=np.int32)[None])[0])


def mutual_null(
    x: Int[np.ndarray, "n k"], y: Int[np.ndarray, "n k"], orders: Int[np.ndarray, "b n"]
) -> Float[np.ndarray, " b"]:
    """The share when row i of x goes with row ``orders[b, i]`` of y."""
    if x.shape != y.shape:
        raise UserError(f"neighbours of the same rows are needed, got shapes {x.shape} and {y.shape}")
    shared = np.asarray(_shared(jnp.asarray(x), jnp.asarray(y), jnp.asarray(orders)))
    return shared / x.size


@jax.jit
def _shared(x: Int[Array, "n k"], y: Int[Array, "n k"], orders: Int[Array, "b n"]) -> Int[Array, " b"]:
    def one(order: Int[Array, " n"]) -> Int[Array, ""]:
        called = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))
        return jnp.sum(x[:, :, None] == called[y[order]][:, None, :])

    return lax.map(one, orders)


def hubness_skewness(index: Int[np.ndarray, "n k"]) -> float:
    """Skewness of how often each row is among the neighbours of others: high where few rows are near most others.

    Equivalent: ``scipy.stats.skew(numpy.bincount(index.ravel(), minlength=n))``. NaN where all are so equally often.

    References:
      Radovanović, Nanopoulos, Ivanović, "Hubs in space", JMLR 2010.
    """
    counts = np.bincount(index.ravel(), minlength=len(index)).astype(np.float64)
    deviation = counts - counts.mean()
    spread = np.sqrt(np.mean(deviation**2))
    return float(np.mean(deviation**3) / spread**3) if spread > 0 else float("nan")


def intrinsic_dimension_twonn(distance: Float[np.ndarray, "n k"], *, discarded: float = 0.1) -> float:
    """Intrinsic dimension by TwoNN, from the ratios μ of the distances to the second and the first neighbour.

    μ follows a Pareto law whose exponent is the dimension: the slope through the origin of −log(1 − F(μ)) against
    log μ, F the empirical distribution, without the largest ratios. Rows with a duplicate (distance 0) do not count.

    Args:
      distance: to the neighbours, nearest first, k ≥ 2; the result is NaN where fewer than two rows count.
      discarded: share of the largest ratios that are left out, above 0.

    Equivalent: ``skdim.id.TwoNN(discard_fraction=discarded)``.

    References:
      Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood information", 2017.
    """
    _require_two(distance)
    first, second = distance[:, 0], distance[:, 1]
    ratio = np.sort(np.log(second[first > 0] / first[first > 0]))
    count = int(len(ratio) * (1 - discarded))
    if count < 2:
        return float("nan")
    ratio, survival = ratio[:count], -np.log1p(-np.arange(1, count + 1) / len(ratio))
    power = float(np.sum(ratio**2))
    return float(np.sum(ratio * survival)) / power if power > 0 else float("nan")


def intrinsic_dimension_mle(distance: Float[np.ndarray, "n k"]) -> float:
    """Maximum-likelihood intrinsic dimension from the k nearest neighbours; NaN where it is undefined.

    1 / d is the mean over rows of 1/(k − 1) Σⱼ log(T_k / Tⱼ), T the distances: the inverses of the estimates of single
    rows are averaged. Rows with a duplicate do not count.

    Equivalent: ``skdim.id.MLE().fit(rows, n_neighbors=k, comb="mle")``.

    References:
      Levina, Bickel, "Maximum likelihood estimation of intrinsic dimension", NIPS 2004.
      MacKay, Ghahramani, "Comments on ...", 2005 (averages of the inverses).
    """
    _require_two(distance)
    used = distance[distance[:, 0] > 0]
    if not len(used):
        return float("nan")
    inverse = np.mean(np.sum(np.log(used[:, -1:] / used[:, :-1]), axis=1) / (used.shape[1] - 1))
    return float(1 / inverse) if inverse > 0 else float("nan")


def _require_two(distance: np.ndarray) -> None:
    if distance.ndim != 2 or distance.shape[1] < 2:
        raise UserError(f"intrinsic dimension needs 2 neighbours or more, got shape {distance.shape}")


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
    ranks = [ranked_cosines(np.asarray(rows)) for rows in checks.embeddings({"x": x, "y": y}).values()]
    return float(np.sum(ranks[0] * ranks[1]) / 2)


def ranked_cosines(rows: ArrayLike) -> Float[np.ndarray, "n n"]:
    """Ranks of the cosines of all pairs of different rows, symmetric with a zero diagonal, centred and scaled.

    ½ Σ of the product of two such matrices is Spearman's correlation.
    """
    from scipy.stats import rankdata

    rows = np.asarray(checks.embedding(rows, "rows"), np.float64)
    if not 3 <= len(rows) <= MOST_ROWS:
        raise UserError(f"RSA ranks all pairs of 3 to {MOST_ROWS:,} rows, got {len(rows):,} rows")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(length > 0, length, 1)
    upper = np.triu_indices(len(rows), 1)
    ranks = rankdata(np.round((unit @ unit.T)[upper] / TIES))
    centred = ranks - ranks.mean()
    full = np.zeros((len(rows), len(rows)))
    with np.errstate(invalid="ignore"):  # cosines that are all equal have no correlation
        full[upper] = centred / np.linalg.norm(centred)
    return full + full.T


def rsa_null(
    x: Float[np.ndarray, "n n"], y: Float[np.ndarray, "n n"], orders: Int[np.ndarray, "b n"]
) -> Float[np.ndarray, " b"]:
    """The correlation when row i of x goes with row ``orders[b, i]`` of y, of ``ranked_cosines`` matrices."""
    with double_precision():
        return np.asarray(_permuted(*map(jnp.asarray, (x, y, orders))))


@jax.jit
def _permuted(x: Array, y: Array, orders: Array) -> Float[Array, " b"]:
    return lax.map(lambda order: jnp.sum(x * y[order][:, order]) / 2, orders)
