"""How well a similarity that is known before any map is fitted predicts the quality of alignment."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxalign.analysis.geometry.clustering import complete, permutation_test
from jaxalign.core.errors import UserError

LEAST_FOR_INTERVAL = 5  # encoders; of fewer most resamples hold too few different pairs


class Prediction(NamedTuple):
    """Rank correlation over pairs of encoders."""

    spearman: float  # over the unordered pairs; NaN where one side is constant
    low: float  # 95 % interval from a bootstrap over encoders; NaN for fewer than ``LEAST_FOR_INTERVAL``
    high: float
    p: float  # of a Mantel test, two-sided: share of exchanges of encoders' names that correlate as much
    pairs: int


def predict(
    similarity: ArrayLike,
    alignability: ArrayLike,
    *,
    resamples: int = 2000,
    permutations: int = 5000,
    seed: int = 0,
) -> Prediction:
    """Spearman's correlation of a similarity with what alignment reaches, over unordered pairs of encoders.

    The interval is a bootstrap over *encoders*, since pairs that share one are not independent: a resample draws as
    many with replacement, and takes the pairs of different encoders among them, as often as they occur.

    Args:
      similarity: of pairs, symmetric, shape [K, K]; the diagonal is not read. Encoders with missing (NaN) entries in
        either are left out, as few as may be.
      alignability: such as rank-1 after alignment, source by target, shape [K, K]; both directions are averaged.
      resamples: of the bootstrap.
      permutations: of the test, where there are more than 10,000 exchanges.
      seed: of both.

    Raises:
      UserError: shapes differ, or there are fewer than three encoders.

    Equivalent: ``scipy.stats.spearmanr`` of the upper triangles.

    References:
      Snijders, Borgatti, "Non-parametric standard errors and tests for network statistics", 1999 (bootstrap).
      Mantel, "The detection of disease clustering and a generalized regression approach", 1967.
    """
    known, reached = (np.asarray(each, np.float64) for each in (similarity, alignability))
    count = len(known)
    if known.shape != (count, count) or reached.shape != known.shape or count < 3:
        raise UserError(
            f"a prediction takes two matrices over at least 3 encoders, got shapes {known.shape} and {reached.shape}"
        )
    kept = complete(range(count), known + reached)
    known, reached, count = known[np.ix_(kept, kept)], reached[np.ix_(kept, kept)], len(kept)
    upper = np.triu_indices(count, 1)
    x, y = known[upper], ((reached + reached.T) / 2)[upper]
    rho = float(weighted_spearman(x, y, np.ones((1, len(x))))[0]) if count >= 3 else float("nan")
    if np.isnan(rho):
        return Prediction(rho, rho, rho, rho, len(x))
    low = high = float("nan")
    if count >= LEAST_FOR_INTERVAL:
        draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
        times = (draws[:, :, None] == np.arange(count)).sum(axis=1)
        samples = weighted_spearman(x, y, times[:, upper[0]] * times[:, upper[1]])
        samples = samples[~np.isnan(samples)]  # resamples with one different pair or constant values
        low, high = map(float, np.quantile(samples, [0.025, 0.975]))
    place = np.zeros((count, count), np.int64)
    place[upper] = place.T[upper] = np.arange(len(x))
    ranks = [_ranks(values, np.ones((1, len(values))))[0] for values in (x, y)]
    ranks_x, ranks_y = (each / np.linalg.norm(each) for each in ranks)

    def absolute(orders: np.ndarray) -> np.ndarray:
        return np.abs(ranks_x[place[orders[:, upper[0]], orders[:, upper[1]]]] @ ranks_y)

    test = permutation_test(absolute, range(count), permutations=permutations, seed=seed)
    return Prediction(rho, low, high, test.p, len(x))


def weighted_spearman(
    x: Float[np.ndarray, " m"], y: Float[np.ndarray, " m"], weights: Float[np.ndarray, "b m"]
) -> Float[np.ndarray, " b"]:
    """Spearman's correlation where item i occurs ``weights[b, i]`` times; NaN where one side is constant."""
    a, b = _ranks(x, weights), _ranks(y, weights)
    product = (weights * a * b).sum(axis=1)
    power = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    usable = power > 1e-12 * np.maximum(weights.sum(axis=1), 1) ** 6
    return np.where(usable, product / np.sqrt(np.where(usable, power, 1)), np.nan)


def _ranks(values: Float[np.ndarray, " m"], weights: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b m"]:
    """Mean ranks of items of which there are so many, centred."""
    ranks = weights @ ((values[:, None] < values) + (values[:, None] == values) / 2)
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    return ranks - (weights * ranks).sum(axis=1, keepdims=True) / total
