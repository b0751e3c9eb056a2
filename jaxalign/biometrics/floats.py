"""Floating-point numbers as integers in the same order, so that every single one can be counted and found."""

import numpy as np


def ordered(scores: np.ndarray) -> np.ndarray:
    """Integers (int64) in the order of the floating-point numbers; both zeros are 0. As ``score_axis.ordered``."""
    scores = scores + np.zeros((), scores.dtype)
    bits = scores.view(np.int64 if scores.dtype == np.float64 else np.int32)
    top = np.iinfo(bits.dtype)
    return (bits ^ ((bits >> (top.bits - 1)) & top.max)).astype(np.int64)


def from_ordered(order: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The floating-point number of an order."""
    integers = np.asarray(order).astype(np.int64 if dtype == np.float64 else np.int32)
    top = np.iinfo(integers.dtype)
    return (integers ^ ((integers >> (top.bits - 1)) & top.max)).view(dtype)
