"""A learned map as a ``Fit``: its factors in float64, and how well it fits the training rows, from their moments."""

from __future__ import annotations

import numpy as np

from jaxalign.align.affine import AffineMap
from jaxalign.align.gradient.own_moments import OwnMoments
from jaxalign.align.solvers import Fit, Pair
from jaxalign.moments.moments import Moments


def two_sided_fit(
    own: tuple[OwnMoments, OwnMoments],
    covariance: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    *,
    ok: bool,
) -> tuple[Fit, Fit]:
    """Both directions of x ↦ (x − μx) F and y ↦ (y − μy) G.

    Args:
      own: moments of the training rows of source and target.
      covariance: of the mapped rows, column by column, shape [s].
      left, right: F [p, s] and G [q, s].
      ok: whether the numbers can be trusted.
    """
    source, target = (
        AffineMap((factor,), np.zeros(factor.shape[1]), of.mean) for factor, of in zip((left, right), own)
    )
    power_x, power_y = (
        np.sum((of.second @ factor) * factor, axis=0) for factor, of in zip((left, right), own)
    )
    residual = np.maximum(power_x + power_y - 2 * covariance, 0)
    values = np.linalg.svd(left, compute_uv=False)
    rank, condition = np.asarray(_effective_rank(values)), np.asarray(_condition(values, max(left.shape)))
    good = np.asarray(ok and bool(np.isfinite(residual).all()))
    forth = Fit(source, target, residual, power_y, rank, condition, good)
    return forth, Fit(target, source, residual, power_x, rank, condition, good)


def covariance_of(total: Moments, pair: Pair, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the mapped rows, column by column, from moments: the diagonal of Fᵀ C_xy G."""
    return np.sum((blocks(total, pair)[1] @ right) * left, axis=0)


def one_sided_fit(total: Moments, pair: Pair, left: np.ndarray, right: np.ndarray, *, ok: bool) -> Fit:
    """x ↦ (x − μx) A B beside y − μy, for A [p, r] and B [r, q]."""
    xx, xy, yy, mean_x, mean_y = blocks(total, pair)
    source = AffineMap((left, right), np.zeros(right.shape[1]), mean_x)
    mapped, power = xx @ left @ right, np.diagonal(yy)
    product = left @ right
    residual = np.maximum(np.sum(mapped * product, axis=0) - 2 * np.sum(xy * product, axis=0) + power, 0)
    target = AffineMap((), -mean_y, orthogonal=True)
    rank = np.asarray(_effective_rank(np.linalg.svd(product, compute_uv=False)))
    condition = np.asarray(_condition(np.linalg.svd(left, compute_uv=False), max(left.shape)))
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


def _effective_rank(values: np.ndarray) -> float:
    """(Σ σ)² / Σ σ² of singular values."""
    return float(values.sum() ** 2 / np.sum(values**2)) if values.any() else 0.0


def _condition(values: np.ndarray, size: int) -> float:
    """The largest singular value over the smallest that float32 tells from zero in a matrix with so many rows."""
    used = values[values > values[0] * np.finfo(np.float32).eps * size]
    return float(used[0] / used[-1]) if len(used) else float("inf")
