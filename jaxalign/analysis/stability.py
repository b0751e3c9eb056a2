"""Stability of maps: fits on two halves of the people, round trips A → B → A, and detours A → B → C.

Each number is a function of sums over test rows (``MEASURES``), so that a resample of people is a weighted sum.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign.align.affine import AffineMap
from jaxalign.align.all_pairs import Pair, PairwiseMaps
from jaxalign.align.solvers import Fit
from jaxalign.core.devices import concurrently
from jaxalign.core.precision import double_precision, multiply
from jaxalign.moments.moments import Moments


def effective_rank(map_: AffineMap, total: Moments, source: str) -> float:
    """How many dimensions the mapped rows fill: (Σ s)² / Σ s² of their variances s along their own principal axes.

    With S the second moment of ``source`` and W the map, which may be padded, that is tr(F)² / ‖F‖²_F of F = Wᵀ S W.
    """
    own = total.span(source)
    scatter = np.asarray(total.scatter)[own, own]
    factors = [np.asarray(factor, np.float64) for factor in map_.factors]
    matrix = functools.reduce(np.matmul, factors, np.eye(map_.in_dim))[: len(scatter)]
    mapped = matrix.T @ scatter @ matrix
    square = float(np.sum(mapped**2))
    return float(np.trace(mapped)) ** 2 / (square if square > 0 else 1)


def row_differences(left: ArrayLike, right: ArrayLike, center: ArrayLike) -> Float[np.ndarray, "n 2"]:
    """For each row the squared distance between two images of it, and the mean of their squared distances to a centre.

    The agreement of two maps on rows is 1 − √(Σ first / Σ second): 1 for equal maps, near 1 − √2 for unrelated ones of
    like size. That is the relative Frobenius distance of the maps, taken in the second moment of the rows.

    Args:
      left, right: images of the same rows, shape [n, d].
      center: of the space, shape [d].
    """
    with double_precision():
        return np.asarray(_differences(*map(jnp.asarray, (left, right, center))))


@jax.jit
def _differences(left: Array, right: Array, center: Array) -> Float[Array, "n 2"]:
    one, other, middle = (array.astype(jnp.float64) for array in (left, right, center))
    squared = [jnp.sum(part**2, axis=1) for part in (one - other, one - middle, other - middle)]
    return jnp.stack([squared[0], (squared[1] + squared[2]) / 2], axis=1)


def agreement_of_sums(sums: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape"]:
    """1 − √(apart / size) from sums of ``row_differences``; NaN where the size is zero."""
    return 1 - np.sqrt(ratio_of_sums(sums))


def ratio_of_sums(sums: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape"]:
    """A mean, from the sum of values and their number; NaN where there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


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
    scores = [_scores(*map(jnp.asarray, sides)) for sides in (one, other)]
    found = [_correlation(*scores), _correlation(*map(_ranks, scores))]
    return np.asarray(found[0], np.float64), np.asarray(found[1], np.float64)


@jax.jit
def _scores(probes: Float[Array, "n d"], gallery: Float[Array, "m d"]) -> Float[Array, "n m"]:
    unit = [side / jnp.linalg.norm(side, axis=1, keepdims=True) for side in (probes, gallery)]
    return multiply(unit[0], unit[1].T)


@jax.jit
def _correlation(left: Float[Array, "n m"], right: Float[Array, "n m"]) -> Float[Array, " n"]:
    left, right = (side - side.mean(axis=1, keepdims=True) for side in (left, right))
    return jnp.sum(left * right, axis=1) / jnp.sqrt(jnp.sum(left**2, axis=1) * jnp.sum(right**2, axis=1))


def _ranks(scores: Float[Array, "n m"]) -> Float[np.ndarray, "n m"]:
    """Rank of each float32 score in its row, centred around 0; equal scores in their order.

    Sorts whole numbers that hold the score above and the column below: faster than ``numpy.argsort``.
    """
    bits = (np.asarray(scores) + 0).view(np.int32)  # −0.0 becomes 0.0
    columns = np.arange(bits.shape[1])
    keys = (np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) << 32) | columns
    keys.sort(axis=1)
    ranks = np.empty(bits.shape, np.float32)
    np.put_along_axis(ranks, keys & 0xFFFFFFFF, (columns - len(columns) / 2).astype(np.float32)[None], axis=1)
    return ranks


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "map_agreement": agreement_of_sums,
    "score_agreement": ratio_of_sums,
    "ranking_agreement": ratio_of_sums,
    "round_trip": agreement_of_sums,
    "three_way": agreement_of_sums,
}


class Apart(NamedTuple):
    """What one number of a pair is computed from."""

    pair: Pair
    measure: str  # a name in ``MEASURES``
    via: str  # the third encoder of "three_way"; "" elsewhere
    rows: Float[np.ndarray, "n 2"]  # of each test row; ``MEASURES[measure]`` of their sums is the result


def between(one: PairwiseMaps, other: PairwiseMaps, tested: Mapping[str, np.ndarray]) -> Iterator[Apart]:
    """Agreement of two fits of every pair, on the test rows [n, d] of every encoder.

    "map_agreement": of the images of rows in the target's coordinates, see ``row_differences``. "score_agreement" and
    "ranking_agreement": Pearson's and Spearman's correlation of each probe's scores, see ``compare_scores``.
    """

    def compare(pair: Pair) -> list[Apart]:
        fits = one[pair], other[pair]
        rows, gallery = (tested[name] for name in pair)
        sides = [(fit.source(rows), fit.target(gallery)) for fit in fits]
        images = [np.asarray(_image(fit, rows, side[0])) for fit, side in zip(fits, sides)]
        center = np.mean([image.mean(axis=0, dtype=np.float64) for image in images], axis=0)
        found = {"map_agreement": row_differences(images[0], images[1], center)}
        for name, correlations in zip(("score_agreement", "ranking_agreement"), compare_scores(*sides)):
            found[name] = np.stack([correlations, np.ones(len(rows))], axis=1)
        return [Apart(pair, name, "", numbers) for name, numbers in found.items()]

    for found in concurrently(compare, list(one)):
        yield from found


def _image(fit: Fit, rows: np.ndarray, mapped: Array) -> Array:
    """Rows in the target's coordinates; where the target is only shifted, mapped rows are shifted back."""
    return fit.to_target(restore_variance=False)(rows) if fit.two_sided else fit.target.inverse()(mapped)


def around(maps: PairwiseMaps, tested: Mapping[str, np.ndarray]) -> Iterator[Apart]:
    """Round trips A → B → A against the rows, and A → B → C against A → C for every B between, where maps are there.

    ``tested`` are test rows of every encoder, shape [n, d].
    """
    to = dict(zip(maps, concurrently(lambda pair: maps[pair].to_target(restore_variance=False), list(maps))))
    names = list(dict.fromkeys(name for pair in maps for name in pair))

    def from_source(source: str) -> list[Apart]:
        rows = tested[source]
        image = {target: np.asarray(to[source, target](rows)) for target in names if (source, target) in to}
        found = []
        for target, direct in image.items():
            if (target, source) in to:
                apart = row_differences(rows, to[target, source](direct), rows.mean(axis=0))
                found.append(Apart((source, target), "round_trip", "", apart))
            for via in image:
                if (via, target) in to:
                    apart = row_differences(to[via, target](image[via]), direct, direct.mean(axis=0))
                    found.append(Apart((source, target), "three_way", via, apart))
        return found

    for found in concurrently(from_source, names):
        yield from found
