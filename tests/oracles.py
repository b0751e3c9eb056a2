"""What every closed-form method must give, in float64 numpy, scipy and scikit-learn; never our own code.

An oracle takes training rows and gives two functions of new rows, one for each side, into the space where the cosine
is taken: ``source, target = ridge(x, y, weights, l2=0.1)``; compare ``source(x_new)`` with ``target(y_new)``.
Everything is computed from the rows themselves: no second moments of uncentred columns, no merging.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.linalg
from sklearn.covariance import shrunk_covariance
from sklearn.linear_model import Ridge

Rows = Callable[[np.ndarray], np.ndarray]
Sides = tuple[Rows, Rows]
Weights = np.ndarray | None
Numbers = Sequence[float] | np.ndarray


def centred(rows: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean, and centred rows times the root of their weight."""
    rows = np.asarray(rows, np.float64)
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
    # The mean of differences to a row loses nothing where the mean is large against the spread.
    mean = rows[0] + np.average(rows - rows[0], axis=0, weights=weights)
    return mean, (rows - mean) * np.sqrt(weights)[:, None]


def second_moments(
    arrays: Mapping[str, np.ndarray], weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and centred scatter of the columns of several encoders, concatenated."""
    mean, rest = centred(
        np.hstack([np.asarray(part).astype(np.float64) for part in arrays.values()]), weights
    )
    return mean, rest.T @ rest


def padded(width: int) -> Rows:
    """Rows with zeros appended up to a width."""
    return lambda rows: np.pad(np.asarray(rows, np.float64), ((0, 0), (0, width - rows.shape[1])))


def linear_map(mean: np.ndarray, matrix: np.ndarray) -> Rows:
    """``(rows − mean) @ matrix``."""
    return lambda rows: (np.asarray(rows, np.float64) - mean) @ matrix


def one_sided(x: np.ndarray, y: np.ndarray, weights: Weights, matrix: np.ndarray) -> Sides:
    mean_x, mean_y = centred(x, weights)[0], centred(y, weights)[0]
    return linear_map(mean_x, matrix), linear_map(mean_y, np.eye(len(mean_y)))


def identity(x: np.ndarray, y: np.ndarray, weights: Weights = None) -> Sides:
    width = max(x.shape[1], y.shape[1])
    return padded(width), padded(width)


def translation(x: np.ndarray, y: np.ndarray, weights: Weights = None) -> Sides:
    width = max(x.shape[1], y.shape[1])
    mean_x, mean_y = centred(x, weights)[0], centred(y, weights)[0]
    return linear_map(mean_x, np.eye(len(mean_x), width)), linear_map(mean_y, np.eye(len(mean_y), width))


def rotation(x: np.ndarray, y: np.ndarray, weights: Weights = None) -> np.ndarray:
    """The (semi-)orthogonal W of largest tr(Wᵀ Xᵀ Y)."""
    cross = centred(x, weights)[1].T @ centred(y, weights)[1]
    if cross.shape[0] == cross.shape[1]:
        return scipy.linalg.orthogonal_procrustes(centred(x, weights)[1], centred(y, weights)[1])[0]
    left, _, right = scipy.linalg.svd(cross, full_matrices=False, lapack_driver="gesvd")
    return left @ right


def orthogonal(x: np.ndarray, y: np.ndarray, weights: Weights = None) -> Sides:
    return one_sided(x, y, weights, rotation(x, y, weights))


def similarity(x: np.ndarray, y: np.ndarray, weights: Weights = None) -> Sides:
    matrix = rotation(x, y, weights)
    turned = centred(x, weights)[1] @ matrix
    scale = np.sum(turned * centred(y, weights)[1]) / np.sum(turned**2)
    return one_sided(x, y, weights, scale * matrix)


def linear(x: np.ndarray, y: np.ndarray, weights: Weights = None) -> Sides:
    matrix = np.linalg.lstsq(centred(x, weights)[1], centred(y, weights)[1], rcond=None)[0]
    return one_sided(x, y, weights, matrix)


def ridge(x: np.ndarray, y: np.ndarray, weights: Weights = None, *, l2: float | Numbers) -> Sides:
    model = Ridge(alpha=np.asarray(l2, np.float64) if np.ndim(l2) else l2, solver="svd")  # pyright: ignore
    mean_x, mean_y = centred(x, weights)[0], centred(y, weights)[0]
    # Shifting by a row changes nothing in exact arithmetic and keeps scikit-learn's own centring precise.
    model.fit(np.asarray(x, np.float64) - mean_x, np.asarray(y, np.float64) - mean_y, sample_weight=weights)
    return one_sided(x, y, weights, np.atleast_2d(model.coef_).T)


def reduced_rank(
    x: np.ndarray, y: np.ndarray, weights: Weights = None, *, l2: float, rank: int | None = None
) -> Sides:
    """W of rank ≤ r: ridge as least squares on augmented rows, whose fitted values are then truncated."""
    own, other = centred(x, weights)[1], centred(y, weights)[1]
    own = np.vstack([own, np.sqrt(l2) * np.eye(own.shape[1])])
    other = np.vstack([other, np.zeros((own.shape[1], other.shape[1]))])
    full = np.linalg.lstsq(own, other, rcond=None)[0]
    right = scipy.linalg.svd(own @ full, full_matrices=False)[2][:rank]
    return one_sided(x, y, weights, full @ right.T @ right)


def whitener(rows: np.ndarray, weight: float, whitening: float, shrinkage: float) -> np.ndarray:
    """C^(−q/2), C the shrunk second moment of centred, root-weighted rows of this total weight."""
    values, vectors = scipy.linalg.eigh(shrunk_covariance(rows.T @ rows / weight, shrinkage=shrinkage))
    return (vectors * values ** (-whitening / 2)) @ vectors.T


def canonical(
    x: np.ndarray,
    y: np.ndarray,
    weights: Weights = None,
    *,
    whitening: float = 0.5,
    weighting: float = 0.25,
    shrinkage: float = 0.05,
    rank: int | None = None,
) -> Sides:
    """The partially whitened canonical map: both sides move."""
    (mean_x, own), (mean_y, other) = centred(x, weights), centred(y, weights)
    weight = float(len(x) if weights is None else np.sum(weights))
    white_x = whitener(own, weight, whitening, shrinkage)
    white_y = whitener(other, weight, whitening, shrinkage)
    left, agreement, right = scipy.linalg.svd((own @ white_x).T @ (other @ white_y), full_matrices=False)
    kept = agreement > 1e-12 * agreement[0]
    importance = np.where(kept, (agreement / agreement[0]) ** weighting, 0.0)[:rank]
    return (
        linear_map(mean_x, white_x @ left[:, :rank] * importance),
        linear_map(mean_y, white_y @ right.T[:, :rank] * importance),
    )


def shared_space(
    embeddings: Mapping[str, np.ndarray],
    weights: Weights = None,
    *,
    rank: int,
    whitening: float = 0.75,
    weighting: float = 0.75,
    shrinkage: float = 0.05,
) -> dict[str, Rows]:
    """One map for each encoder into a space for all."""
    mean, rows, transform = {}, {}, {}
    for name, array in embeddings.items():
        mean[name], rows[name] = centred(array, weights)
        weight = float(len(array) if weights is None else np.sum(weights))
        transform[name] = whitener(rows[name], weight, whitening, shrinkage)
        # The mean squared norm of the training rows becomes 1.
        transform[name] = transform[name] * np.sqrt(weight) / np.linalg.norm(rows[name] @ transform[name])
    white = {name: rows[name] @ transform[name] for name in embeddings}
    agreement = np.block([[white[i].T @ white[j] * (i != j) for j in embeddings] for i in embeddings])
    values, vectors = scipy.linalg.eigh(agreement)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    importance = (np.maximum(values, 0) / values[0]) ** weighting
    pieces = np.split(vectors, np.cumsum([rows[name].shape[1] for name in embeddings])[:-1])
    matrices = {name: transform[name] @ piece * importance for name, piece in zip(embeddings, pieces)}
    return {name: linear_map(mean[name], matrix) for name, matrix in matrices.items()}


# Back to the target's own coordinates -----------------------------------------------------------------------------


def to_target(sides: Sides, y_mean: np.ndarray, width: int) -> Rows:
    """x to y's own coordinates: the target's side undone by its pseudo-inverse."""
    source, target = sides
    origin = target(np.zeros((1, width)))
    matrix = target(np.eye(width)) - origin
    return lambda rows: (source(rows) - target(y_mean[None])) @ np.linalg.pinv(matrix) + y_mean


# Choosing a setting: loops over folds, with a refit for each ------------------------------------------------------


def squared_errors(
    fit: Callable[..., Sides], x: np.ndarray, y: np.ndarray, weights: Weights, held_out: np.ndarray
) -> np.ndarray:
    """Weighted mean squared error of each target column on the held-out rows, after a fit on the others, [q]."""
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    source, target = fit(x[~held_out], y[~held_out], weights[~held_out])
    squares = (source(x[held_out]) - target(y[held_out])) ** 2
    return np.average(squares, axis=0, weights=weights[held_out])


def fold_errors(
    fits: Sequence[Callable[..., Sides]],
    x: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    weights: Weights = None,
) -> np.ndarray:
    """Errors by fold, candidate and target column, shape [F, L, q]."""
    held_out = [folds == fold for fold in range(folds.max() + 1)]
    return np.array([[squared_errors(fit, x, y, weights, rows) for fit in fits] for rows in held_out])


def ridge_fold_errors(
    x: np.ndarray, y: np.ndarray, folds: np.ndarray, grid: Numbers, weights: Weights = None
) -> np.ndarray:
    """Held-out errors of every penalty, shape [F, L, q]."""
    fits = [functools.partial(ridge, l2=float(l2)) for l2 in grid]
    return fold_errors(fits, x, y, folds, weights)


def rank_fold_errors(
    x: np.ndarray, y: np.ndarray, folds: np.ndarray, ranks: Sequence[int] | np.ndarray, l2: float
) -> np.ndarray:
    """Held-out errors of every rank, shape [F, R, q]."""
    fits = [functools.partial(reduced_rank, l2=l2, rank=rank) for rank in ranks]
    return fold_errors(fits, x, y, folds)


def generalised_errors(x: np.ndarray, y: np.ndarray, grid: Numbers) -> np.ndarray:
    """Generalised cross-validation n Σ‖y − ŷ‖² / (n − tr H)², H with the mean in it, shape [L, q]."""
    errors = []
    for l2 in grid:
        rows = len(x)
        model = Ridge(alpha=float(l2), solver="svd").fit(x, y)
        hat = Ridge(alpha=float(l2), solver="svd").fit(x, np.eye(rows)).predict(x)
        residual = y - model.predict(x)
        errors.append(rows * np.sum(residual**2, axis=0) / (rows - np.trace(hat)) ** 2)
    return np.array(errors)


def best(errors: np.ndarray, fold_weights: np.ndarray) -> int:
    """The candidate of smallest mean error over held-out rows; errors [F, L]."""
    return int(np.argmin(np.average(errors, axis=0, weights=fold_weights)))


def simplest_within_one_standard_error(
    errors: np.ndarray, fold_weights: np.ndarray, *, simplest_is_last: bool
) -> int:
    """The simplest candidate no worse than the best by more than the best's standard error over folds."""
    mean = np.average(errors, axis=0, weights=fold_weights)
    chosen = best(errors, fold_weights)
    allowed = mean[chosen] + np.std(errors[:, chosen], ddof=1) / np.sqrt(len(errors))
    candidates = np.flatnonzero(mean <= allowed)
    return int(candidates[-1] if simplest_is_last else candidates[0])
