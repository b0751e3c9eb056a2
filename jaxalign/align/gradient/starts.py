"""Where the factors of a pair start, in principal coordinates: from a closed form, or at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxalign.align.gradient.axes import Axes
from jaxalign.align.gradient.objectives import PairWeights
from jaxalign.align.gradient.options import GradientOptions
from jaxalign.align.solve import solve
from jaxalign.align.solvers import Canonical, Fit, Pair, ReducedRank
from jaxalign.core.errors import UserError
from jaxalign.moments.moments import Moments

SMALL = 0.01  # of factors of a product that start at random: near the saddle at zero, which Adam leaves fast
Start = tuple[np.ndarray, np.ndarray]


def starting_factors(
    total: Moments | None, pairs: list[Pair], settings: GradientOptions, axes: Mapping[str, Axes]
) -> dict[Pair, Start]:
    """Both factors of every pair in principal coordinates, shapes [p, r] and [q, r] or [r, q]."""
    widths = {name: len(own.mean) for name, own in axes.items()}
    ranks = {pair: rank_of(widths, pair, settings.rank) for pair in pairs}
    if settings.start == "random":
        random = np.random.default_rng(settings.seed)
        return {
            pair: _random_factors(random, widths, pair, ranks[pair], settings.orthogonal)
            if settings.two_sided
            else random_product(random, widths, pair, ranks[pair])
            for pair in pairs
        }
    assert total is not None  # closed forms read it
    plain = {"whitening": 0.0, "weighting": 0.0, "shrinkage": 0.0} if settings.orthogonal else {}
    solver = Canonical(**plain) if settings.two_sided else ReducedRank(l2=0.1)
    found = solve(total, dict.fromkeys(pairs, solver))
    return {
        pair: _start_of(at.fit().at_rank(ranks[pair]), pair, axes, settings) for pair, at in found.items()
    }


def _start_of(fit: Fit, pair: Pair, axes: Mapping[str, Axes], settings: GradientOptions) -> Start:
    source, target = axes[pair[0]], axes[pair[1]]
    if not settings.two_sided:
        left, right = (np.asarray(factor) for factor in fit.source.factors)
        return balanced(source.to_coordinates(left), right @ target.vectors / target.scale)
    factors = []
    for own, map_ in ((source, fit.source), (target, fit.target)):
        factor = own.to_coordinates(np.asarray(map_.factors[0]))
        if settings.orthogonal:
            factor = factor / own.scale
        else:
            factor = factor / (np.sqrt(np.sum(own.variance[:, None] * factor**2)) or 1.0)
        factors.append(factor)
    return factors[0], factors[1]


def balanced(left: np.ndarray, right: np.ndarray) -> Start:
    """The same product with columns of A and rows of B of one length, which one learning rate suits best."""
    a, b = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    ratio = np.sqrt(np.divide(b, a, out=np.ones_like(a), where=(a > 0) & (b > 0)))
    return left * ratio, right / ratio[:, None]


def _random_factors(
    random: np.random.Generator, widths: Mapping[str, int], pair: Pair, rank: int, orthonormal: bool
) -> Start:
    left, right = (random.normal(size=(widths[name], rank)) / np.sqrt(rank) for name in pair)
    return (np.linalg.qr(left)[0], np.linalg.qr(right)[0]) if orthonormal else (left, right)


def random_product(random: np.random.Generator, widths: Mapping[str, int], pair: Pair, rank: int) -> Start:
    """A [p, r] and B [r, q] at random, of a size that one learning rate suits."""
    p, q = (widths[name] for name in pair)
    size = SMALL / np.sqrt(rank)
    return size * random.normal(size=(p, rank)), size * random.normal(size=(rank, q))


def rank_of(widths: Mapping[str, int], pair: Pair, rank: int | str | None) -> int:
    """The rank of one pair; full where None. Raises ``UserError`` where it has none so large."""
    most = min(widths[name] for name in pair)
    if rank is None or rank == "full":
        return most
    if int(rank) > most:
        raise UserError(f"rank: at most {most} for {pair[0]} → {pair[1]} (the narrower width), got {rank}")
    return int(rank)


def stacked(
    widths: tuple[int, int], starts: list[Start], log_scale: np.float32, two_sided: bool
) -> PairWeights:
    """Starts of one padded shape; columns beyond a pair's rank are zero and stay so."""
    rank = max(left.shape[1] for left, _ in starts)
    lefts = np.zeros((len(starts), widths[0], rank), np.float32)
    rights = np.zeros((len(starts), *((widths[1], rank) if two_sided else (rank, widths[1]))), np.float32)
    for (left, right), into_left, into_right in zip(starts, lefts, rights):
        into_left[: left.shape[0], : left.shape[1]] = left
        into_right[: right.shape[0], : right.shape[1]] = right
    return PairWeights(lefts, rights, np.full(len(starts), log_scale))


def without_padding(learnt: PairWeights, number: int, start: Start) -> Start:
    """Factors of one pair, float64, as large as those that it started from."""
    left, right = (
        np.asarray(part[number], np.float64)[: first.shape[0], : first.shape[1]]
        for part, first in zip((learnt.left, learnt.right), start)
    )
    return left, right
