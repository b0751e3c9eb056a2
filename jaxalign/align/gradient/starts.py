"""Both ends of a fit by gradient: factors to start from, and the maps and statistics of the factors learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.align.affine import AffineMap
from jaxalign.align.gradient.batches import Axes
from jaxalign.align.gradient.options import GradientOptions
from jaxalign.align.solve import solve
from jaxalign.align.solvers import Canonical, Fit, Pair, ReducedRank, fit_shared_space
from jaxalign.moments.moments import Moments

SMALL = 0.01  # of factors of a product that start at random: near the saddle at zero, which Adam leaves fast
Factors = tuple[np.ndarray, np.ndarray]


def pair_starts(
    total: Moments, ranks: Mapping[Pair, int], options: GradientOptions, axes: Mapping[str, Axes]
) -> dict[Pair, Factors]:
    """Both factors of every pair in principal coordinates, shapes [p, r] and [q, r] or [r, q]."""
    if options.start == "random":
        random = np.random.default_rng(options.seed)
        return {pair: _random(random, total, pair, rank, options) for pair, rank in ranks.items()}
    if not options.two_sided:
        solver = ReducedRank(l2=0.1)
    elif options.orthogonal:
        solver = Canonical(whitening=0.0, weighting=0.0, shrinkage=0.0)
    else:
        solver = Canonical()
    found = solve(total, dict.fromkeys(ranks, solver))
    return {
        pair: _start_of(located.fit().at_rank(ranks[pair]), pair, axes, options)
        for pair, located in found.items()
    }


def _random(
    random: np.random.Generator, total: Moments, pair: Pair, rank: int, options: GradientOptions
) -> Factors:
    p, q = map(total.width, pair)
    if not options.two_sided:
        size = SMALL / np.sqrt(rank)
        return size * random.normal(size=(p, rank)), size * random.normal(size=(rank, q))
    left, right = (random.normal(size=(width, rank)) / np.sqrt(rank) for width in (p, q))
    return (np.linalg.qr(left)[0], np.linalg.qr(right)[0]) if options.orthogonal else (left, right)


def _start_of(fit: Fit, pair: Pair, axes: Mapping[str, Axes], options: GradientOptions) -> Factors:
    source, target = axes[pair[0]], axes[pair[1]]
    if not options.two_sided:
        left, right = (np.asarray(factor) for factor in fit.source.factors)
        left, right = source.to_coordinates(left), right @ target.vectors / target.scale
        # Columns of A and rows of B of one length, which one learning rate suits best.
        a, b = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
        ratio = np.sqrt(np.divide(b, a, out=np.ones_like(a), where=(a > 0) & (b > 0)))
        return left * ratio, right / ratio[:, None]
    factors = []
    for own, map_ in ((source, fit.source), (target, fit.target)):
        factor = own.to_coordinates(np.asarray(map_.factors[0]))
        factors.append(factor / own.scale if options.orthogonal else factor / _length(own, factor))
    return factors[0], factors[1]


def joint_starts(
    total: Moments,
    rank: int,
    options: GradientOptions,
    axes: Mapping[str, Axes],
    closed_form: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """A factor [p, rank] of every encoder in principal coordinates; mapped rows have mean squared length 1."""
    names = list(axes)
    if options.start == "random":
        random = np.random.default_rng(options.seed)
        factors = {name: random.normal(size=(total.width(name), rank)) for name in names}
    else:
        space = fit_shared_space(_only(total, names), rank=rank, **closed_form).on_host()
        factors = {name: axes[name].to_coordinates(np.asarray(space[name].factors[0])) for name in names}
    return {name: factor / _length(axes[name], factor) for name, factor in factors.items()}


def _length(axes: Axes, factor: np.ndarray) -> float:
    """Root of the mean squared length of the mapped rows."""
    return float(np.sqrt(np.sum(axes.variance[:, None] * factor**2))) or 1.0


def _only(total: Moments, names: Sequence[str]) -> Moments:
    """The moments of some encoders."""
    columns = np.concatenate([np.arange(total.width(name)) + total.offset(name) for name in names])
    return dataclasses.replace(
        total,
        mean=total.mean[columns],
        scatter=total.scatter[np.ix_(columns, columns)],
        residue=None if total.residue is None else total.residue[np.ix_(columns, columns)],
        names=tuple(names),
        widths=tuple(map(total.width, names)),
    )


def two_sided_fits(
    total: Moments, pair: Pair, left: np.ndarray, right: np.ndarray, *, ok: bool
) -> tuple[Fit, Fit]:
    """Both directions of x ↦ (x − μx) F and y ↦ (y − μy) G, for F [p, s] and G [q, s]."""
    xx, xy, yy, mean_x, mean_y = _blocks(total, pair)
    source = AffineMap((left,), np.zeros(left.shape[1]), mean_x)
    target = AffineMap((right,), np.zeros(right.shape[1]), mean_y)
    power_x, power_y = np.sum((xx @ left) * left, axis=0), np.sum((yy @ right) * right, axis=0)
    residual = np.maximum(power_x + power_y - 2 * np.sum((xy @ right) * left, axis=0), 0)
    values = np.linalg.svd(left, compute_uv=False)
    statistics = _effective_rank(values), _condition(values, max(left.shape)), _good(ok, residual)
    forth = Fit(source, target, residual, power_y, *statistics)
    return forth, Fit(target, source, residual, power_x, *statistics)


def one_sided_fit(total: Moments, pair: Pair, left: np.ndarray, right: np.ndarray, *, ok: bool) -> Fit:
    """x ↦ (x − μx) A B, compared with y − μy, for A [p, r] and B [r, q]."""
    xx, xy, yy, mean_x, mean_y = _blocks(total, pair)
    product, power = left @ right, np.diagonal(yy)
    explained = 2 * np.sum(xy * product, axis=0) - np.sum((xx @ product) * product, axis=0)
    residual = np.maximum(power - explained, 0)
    rank = _effective_rank(np.linalg.svd(product, compute_uv=False))
    condition = _condition(np.linalg.svd(left, compute_uv=False), max(left.shape))
    source = AffineMap((left, right), np.zeros(right.shape[1]), mean_x)
    target = AffineMap((), -mean_y, orthogonal=True)
    return Fit(source, target, residual, power, rank, condition, _good(ok, residual))


def _blocks(total: Moments, pair: Pair) -> tuple[np.ndarray, ...]:
    """Second moments xx, xy, yy and both means, float64 on the host."""
    spans = [slice(total.offset(name), total.offset(name) + total.width(name)) for name in pair]
    second = [
        np.asarray(total.scatter[spans[i], spans[j]], np.float64) / float(total.weight)
        for i, j in ((0, 0), (0, 1), (1, 1))
    ]
    return (*second, *(np.asarray(total.mean[span], np.float64) for span in spans))


def _good(ok: bool, residual: np.ndarray) -> np.ndarray:
    return np.asarray(ok and bool(np.isfinite(residual).all()))


def _effective_rank(values: np.ndarray) -> np.ndarray:
    """(Σ σ)² / Σ σ² of singular values."""
    return np.asarray(values.sum() ** 2 / np.sum(values**2) if values.any() else 0.0)


def _condition(values: np.ndarray, size: int) -> np.ndarray:
    """The largest singular value over the smallest that float32 tells from zero in a matrix with so many rows."""
    used = values[values > values[0] * np.finfo(np.float32).eps * size]
    return np.asarray(used[0] / used[-1] if len(used) else np.inf)
