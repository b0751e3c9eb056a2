"""A learned map as a ``Fit``: its factors in float64, and how well it fits the training rows, from their moments."""

from __future__ import annotations

import numpy as np

from jaxalign.affine import AffineMap
from jaxalign.moments import Moments
from jaxalign.pairwise import Pair
from jaxalign.solvers import Fit


def two_sided_fit(
    total: Moments, pair: Pair, left: np.ndarray, right: np.ndarray, *, ok: bool
) -> tuple[Fit, Fit]:
    """Both directions of x ↦ (x − μx) F and y ↦ (y − μy) G.

    Args:
      total: moments of the training rows.
      pair: source and target.
      left, right: F [p, s] and G [q, s].
      ok: whether the numbers can be trusted.
    """
    xx, xy, yy, mean_x, mean_y = blocks(total, pair)
    source = AffineMap((left,), np.zeros(left.shape[1]), mean_x)
    target = AffineMap((right,), np.zeros(right.shape[1]), mean_y)
    power_x, power_y = (np.sum((own @ factor) * factor, axis=0) for own, factor in ((xx, left), (yy, right)))
    residual = np.maximum(power_x + power_y - 2 * np.sum((xy @ right) * left, axis=0), 0)
    rank, condition = np.asarray(_effective_rank(left)), np.asarray(_condition(left))
    good = np.asarray(ok and bool(np.isfinite(residual).all()))
    forth = Fit(source, target, residual, power_y, rank, condition, good)
    return forth, Fit(target, source, residual, power_x, rank, condition, good)


def one_sided_fit(total: Moments, pair: Pair, left: np.ndarray, right: np.ndarray, *, ok: bool) -> Fit:
    """x ↦ (x − μx) A B beside y − μy, for A [p, r] and B [r, q]."""
    xx, xy, yy, mean_x, mean_y = blocks(total, pair)
    source = AffineMap((left, right), np.zeros(right.shape[1]), mean_x)
    mapped, power = xx @ left @ right, np.diagonal(yy)
    product = left @ right
    residual = np.maximum(np.sum(mapped * product, axis=0) - 2 * np.sum(xy * product, axis=0) + power, 0)
    target = AffineMap((), -mean_y, orthogonal=True)
    rank, condition = np.asarray(_effective_rank(product)), np.asarray(_condition(left))
    good = np.asarray(ok and bool(np.isfinite(residual).all()))
    return Fit(source, target, residual, power, rank, condition, good)


def blocks(total: Moments, pair: Pair) -> tuple[np.ndarray, ...]:
    """Second moments xx, xy, yy and both means, float64 on the host."""
    spans = [slice(total.offset(name), total.offset(name) + total.width(name)) for name in pair]
    weight = float(total.weight)
    second = [
        np.asarray(total.scatter[spans[i], spans[j]], np.float64) / weight
        for i, j in ((0, 0), (0, 1), (1, 1))
    ]
    return (*second, *(np.asarray(total.mean[span], np.float64) for span in spans))


def _effective_rank(factor: np.ndarray) -> float:
    """(Σ σ)² / Σ σ² of the singular values."""
    values = np.linalg.svd(factor, compute_uv=False)
    return float(values.sum() ** 2 / np.sum(values**2)) if values.any() else 0.0


def _condition(factor: np.ndarray) -> float:
    values = np.linalg.svd(factor, compute_uv=False)
    used = values[values > values[0] * np.finfo(np.float32).eps * max(factor.shape)]
    return float(used[0] / used[-1]) if len(used) else float("inf")
