"""How two answers are compared: in what is unique about them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
from clouds import Cloud
from solver_cases import Case, numerical_rank

from jaxalign import Fit

Mapped = Callable[..., Any]  # a map, of ours or of an oracle

PREDICTIONS = 1e-5  # relative, Frobenius: what the project promises against float64 oracles


def relative_error(actual: object, expected: np.ndarray) -> float:
    """‖actual − expected‖ / ‖expected‖; infinite where the actual values are not finite."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape
    if not np.isfinite(actual).all():
        return np.inf
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-300))


def inner_products(source: Mapped, target: Mapped, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All products of mapped rows: what a comparison sees of a two-sided method."""
    return np.asarray(source(x), np.float64) @ np.asarray(target(y), np.float64).T


def cosines(source: Mapped, target: Mapped, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosines of all mapped rows of one side with all of the other."""
    a, b = np.asarray(source(x), np.float64), np.asarray(target(y), np.float64)
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    return a @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def assert_same_comparisons(actual: Any, expected: Any, x: Any, y: Any, relative: float = 1e-9) -> None:
    """Two fits, or two pairs of maps, give the same inner products of mapped rows."""
    products = [
        inner_products(*((sides.source, sides.target) if isinstance(sides, Fit) else sides), x, y)  # pyright: ignore[reportCallIssue]
        for sides in (actual, expected)
    ]
    assert relative_error(*products) <= relative


def assert_agrees(
    case: Case, fit: Fit, cloud: Cloud, weights: np.ndarray | None = None, relative: float = PREDICTIONS
) -> None:
    """The fit agrees with its oracle on the cloud's new rows, in what is unique."""
    source, target = sides = case.oracle(cloud.x, cloud.y, weights)
    cross = oracles.centred(cloud.x, weights)[1].T @ oracles.centred(cloud.y, weights)[1]
    if case.two_sided:
        assert_same_comparisons(fit, sides, cloud.x_new, cloud.y_new, relative)
    elif case.rotates and numerical_rank(cross) < min(cross.shape):
        assert not fit.ok
        assert_best_rotation(case, fit, cloud, weights, cross)
    else:
        assert relative_error(fit.source(cloud.x_new), source(cloud.x_new)) <= relative
        assert relative_error(fit.target(cloud.y_new), target(cloud.y_new)) <= relative


def assert_best_rotation(
    case: Case, fit: Fit, cloud: Cloud, weights: np.ndarray | None, cross: np.ndarray
) -> None:
    """One of many solutions: orthogonal, centred, and as good as any."""
    mean_x, own = oracles.centred(cloud.x, weights)
    matrix = np.asarray(fit.source.matrix(), np.float64)
    np.testing.assert_allclose(np.asarray(fit.source(mean_x)), 0, atol=1e-5)
    gram = matrix @ matrix.T if cross.shape[0] <= cross.shape[1] else matrix.T @ matrix
    scale = float(np.sqrt(gram[0, 0]))
    np.testing.assert_allclose(gram / scale**2, np.eye(len(gram)), atol=1e-9)
    reached, possible = np.sum(matrix * cross) / scale, np.linalg.norm(cross, "nuc")
    np.testing.assert_allclose(reached, possible, rtol=1e-9)
    if case.method == "similarity":
        expected = possible / np.linalg.norm(own @ (matrix / scale)) ** 2
        np.testing.assert_allclose(scale, expected, rtol=1e-9)
    else:
        np.testing.assert_allclose(scale, 1, rtol=1e-9)
