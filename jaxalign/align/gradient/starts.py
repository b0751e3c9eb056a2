"""Both ends of a fit by gradient: factors to start from, and the maps and statistics of the factors learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.align.affine import AffineMap
from jaxalign.align.gradient.batches import Axes
from jaxalign.align.gradient.gradient_options import GradientOptions
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
    procrustes = Canonical(whitening=0.0, weighting=0.0, shrinkage=0.0)
    two_sided = procrustes if options.orthogonal else Canonical()
    found = solve(total, dict.fromkeys(ranks, two_sided if options.two_sided else ReducedRank(l2=0.1)))
    fits = {pair: get().at_rank(ranks[pair]) for pair, get in found.items()}
    return {pair: _start_of(fit, pair, axes, options) for pair, fit in fits.items()}


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
    left = source.to_coordinates(np.asarray(fit.source.factors[0]))
    right = target.to_coordinates(np.asarray(fit.target.factors[0]))
    if options.orthogonal:
        return left / source.scale, right / target.scale
    return left / _length(source, left), right / _length(target, right)


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
    (xx, xy, yy), means = _blocks(total, pair)
    source, target = (
        AffineMap((factor,), np.zeros(factor.shape[1]), mean) for factor, mean in zip((left, right), means)
    )
    power_x, power_y = np.sum((xx @ left) * left, axis=0), np.sum((yy @ right) * right, axis=0)
    residual = np.maximum(power_x + power_y - 2 * np.sum((xy @ right) * left, axis=0), 0)
    statistics = _statistics(left, left, ok, residual)
    forth = Fit(source, target, residual, power_y, *statistics, power_x)  # pyright: ignore[reportCallIssue]
    return forth, Fit(target, source, residual, power_x, *statistics, power_y)  # pyright: ignore[reportCallIssue]


def one_sided_fit(total: Moments, pair: Pair, left: np.ndarray, right: np.ndarray, *, ok: bool) -> Fit:
    """x ↦ (x − μx) A B, compared with y − μy, for A [p, r] and B [r, q]."""
    (xx, xy, yy), (mean_x, mean_y) = _blocks(total, pair)
    product, power = left @ right, np.diagonal(yy)
    mapped = np.sum((xx @ product) * product, axis=0)
    residual = np.maximum(power - 2 * np.sum(xy * product, axis=0) + mapped, 0)
    source = AffineMap((left, right), np.zeros(right.shape[1]), mean_x)
    target = AffineMap((), -mean_y, orthogonal=True)
    return Fit(source, target, residual, power, *_statistics(left, product, ok, residual), mapped)  # pyright: ignore[reportCallIssue]


def _blocks(total: Moments, pair: Pair) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Second moments xx, xy, yy and both means, float64 on the host."""
    x, y = map(total.span, pair)
    scatter = [np.asarray(total.scatter[i, j], np.float64) for i, j in ((x, x), (x, y), (y, y))]
    return [part / float(total.weight) for part in scatter], [
        np.asarray(total.mean[span], np.float64) for span in (x, y)
    ]


def _statistics(
    left: np.ndarray, product: np.ndarray, ok: bool, residual: np.ndarray
) -> tuple[np.ndarray, ...]:
    """(Σ σ)² / Σ σ² of the map; the largest σ of its left factor over the smallest that float32 tells from zero; ok."""
    values = np.linalg.svd(left, compute_uv=False)
    used = values[values > values[0] * np.finfo(np.float32).eps * max(left.shape)]
    condition = used[0] / used[-1] if len(used) else np.inf
    values = values if product is left else np.linalg.svd(product, compute_uv=False)
    rank = values.sum() ** 2 / np.sum(values**2) if values.any() else 0.0
    return np.asarray(rank), np.asarray(condition), np.asarray(ok and bool(np.isfinite(residual).all()))
