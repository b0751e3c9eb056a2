"""Embeddings of a few people in two dimensions, for looking at: principal axes of both sides together."""

import numpy as np
from numpy.typing import ArrayLike


def two_dimensions(left: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Projects two sets of rows that are compared by cosine on the two leading principal axes of both.

    Args:
      left, right: shapes [n, p] and [m, q]; the narrower side is filled up with zeros, rows are scaled to length 1.

    Returns:
      float64, shapes [n, 2] and [m, 2]; each axis points so that its largest entry is positive.

    Equivalent: ``sklearn.decomposition.PCA(2).fit_transform`` of the unit rows of both, up to sign.
    """
    sides = [np.asarray(side, np.float64) for side in (left, right)]
    width = max(2, *(side.shape[1] for side in sides))
    rows = np.concatenate([np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in sides])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(length > 0, length, 1)
    centred = rows - rows.mean(axis=0)
    # A few rows of many columns: their inner products hold the same axes in a far smaller matrix.
    power, weights = np.linalg.eigh(centred @ centred.T)
    power = np.where(power > np.finfo(power.dtype).eps * len(rows) * power[-1], power, 0)
    weights, length = weights[:, :-3:-1], np.sqrt(power[:-3:-1])
    axes = weights.T @ centred  # times their lengths, of which only the signs are used
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    placed = weights * (length * np.where(signs == 0, 1, signs))
    placed = np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))
    return placed[: len(sides[0])], placed[len(sides[0]) :]
