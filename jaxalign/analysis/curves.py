"""Where a curve of quality flattens, and embeddings projected to two dimensions."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def size_for_share(sizes: ArrayLike, quality: ArrayLike, share: float) -> Float[np.ndarray, "*curves"]:
    """The size at which a curve first reaches a share of its last value, interpolated in the logarithm of the size.

    Args:
      sizes: ascending, above 0, shape [S].
      quality: one curve or several, shape [..., S].
      share: of the last value, above 0 and at most 1.

    Returns:
      float64, shape [...]; NaN for a curve whose last value is not above 0, the smallest size (an upper bound) for one
      that starts above the share.
    """
    size, curve = np.log(np.asarray(sizes, np.float64)), np.asarray(quality, np.float64)
    goal = share * curve[..., -1:]
    after = np.argmax(curve >= goal, axis=-1)[..., None]
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(curve, index, -1) for index in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.where(after > before, (goal - low) / (high - low), 0)
    found = np.exp(size[before] + step * (size[after] - size[before]))
    return np.where(goal > 0, found, np.nan)[..., 0]


def smallest_within(sizes: ArrayLike, quality: ArrayLike, margin: float) -> Float[np.ndarray, "*curves"]:
    """The smallest size whose quality is at most ``margin`` below that of the last: float64, shape [...].

    Args:
      sizes: ascending, shape [S].
      quality: one curve or several, shape [..., S]; NaN for one whose last value is NaN.
      margin: such as 0.01 for one point.
    """
    curve = np.asarray(quality, np.float64)
    within = curve >= curve[..., -1:] - margin
    found = np.asarray(sizes, np.float64)[np.argmax(within, axis=-1)]
    return np.where(within.any(axis=-1), found, np.nan)


def logarithmic(first: int, last: int, count: int) -> list[int]:
    """At most ``count`` different whole numbers from ``first`` to ``last``, evenly on a logarithmic scale."""
    return sorted({*np.round(np.geomspace(min(first, last), last, count)).astype(int).tolist(), last})


def powers_of_two(last: int) -> list[int]:
    """1, 2, 4 and so on below ``last``, and ``last``."""
    return [*(2**k for k in range(last.bit_length()) if 2**k < last), last]


def two_dimensions(left: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Projects two sets of rows, which are compared by cosine, on the two leading principal axes of both together.

    Args:
      left, right: shapes [n, p] and [m, q]; the narrower side is padded with zeros, rows are scaled to length 1.

    Returns:
      float64, shapes [n, 2] and [m, 2]; each axis points so that its largest entry is positive.

    Equivalent: ``sklearn.decomposition.PCA(2).fit_transform`` of the unit rows of both, up to sign.
    """
    sides = [np.asarray(side, np.float64) for side in (left, right)]
    width = max(2, *(side.shape[1] for side in sides))
    rows = np.concatenate([np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in sides])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(length > 0, length, 1)
    _, _, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    placed = (rows - rows.mean(axis=0)) @ (axes.T * np.where(signs == 0, 1, signs))
    return placed[: len(sides[0])], placed[len(sides[0]) :]
