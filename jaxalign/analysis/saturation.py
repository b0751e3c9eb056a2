"""Where a curve of quality against size flattens."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def size_for_share(sizes: ArrayLike, quality: ArrayLike, share: float) -> Float[np.ndarray, "*curves"]:
    """The size at which a curve first reaches a share of its final value.

    Between two sizes the curve is taken as straight in the logarithm of the size. A curve that starts above the share
    gives the smallest size, which is then an upper bound.

    Args:
      sizes: ascending, above 0, shape [S].
      quality: one curve or several, shape [..., S].
      share: of the last value, above 0 and at most 1.

    Returns:
      float64, shape [...]; NaN for a curve whose last value is not above 0.
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
    """The smallest size whose quality is at most ``margin`` below that of the last.

    Args:
      sizes: ascending, shape [S].
      quality: one curve or several, shape [..., S].
      margin: such as 0.01 for one point.

    Returns:
      float64, shape [...]; NaN for a curve whose last value is NaN.
    """
    curve = np.asarray(quality, np.float64)
    within = curve >= curve[..., -1:] - margin
    found = np.asarray(sizes, np.float64)[np.argmax(within, axis=-1)]
    return np.where(within.any(axis=-1), found, np.nan)


def logarithmic(first: int, last: int, count: int) -> list[int]:
    """Whole numbers from ``first`` to ``last``, evenly on a logarithmic scale, at most ``count``, none twice."""
    return sorted({*np.round(np.geomspace(min(first, last), last, count)).astype(int).tolist(), last})


def powers_of_two(last: int) -> list[int]:
    """1, 2, 4 and so on below ``last``, and ``last``."""
    return [*(2**k for k in range(last.bit_length()) if 2**k < last), last]
