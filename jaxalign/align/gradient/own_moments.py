"""Mean and second moment of each encoder alone: maps that start at random need no more of the rows than these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.core import checks
from jaxalign.moments.moments import Moments
from jaxalign.moments.scatter import scatter_of


class OwnMoments(NamedTuple):
    """One encoder's mean [p] and second moment about it [p, p], in float64, on the host."""

    mean: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, total: Moments, name: str) -> OwnMoments:
        """From moments on the host."""
        start = total.offset(name)
        span = slice(start, start + total.width(name))
        second = np.asarray(total.scatter[span, span], np.float64) / float(total.weight)
        return cls(np.asarray(total.mean[span], np.float64), second)


def means_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the columns, float64."""
    return {name: np.asarray(np.mean(array, axis=0, dtype=np.float64)) for name, array in arrays.items()}


def centred(
    arrays: Sequence[np.ndarray], means: Sequence[np.ndarray], width: int
) -> Float[np.ndarray, "k n {width}"]:
    """Rows less their mean, subtracted in float64 and then rounded to float32; columns that are filled up are zero."""
    stack = np.zeros((len(arrays), len(arrays[0]), width), np.float32)
    for array, mean, place in zip(arrays, means, stack):
        np.subtract(array, mean, out=place[:, : len(mean)], dtype=np.float64, casting="same_kind")
    return stack


@jax.jit
def second_moments(stack: Float[Array, "k n width"]) -> Float[Array, "k width width"]:
    """Of centred rows: the blocks on the diagonal of ``Moments``, which takes all of them.

    In float32: they choose the axes and the scale that gradients see, which any orthonormal axes serve, and rates of
    explained variance. No map is made by dividing by them.
    """
    center, root = jnp.zeros(stack.shape[2], jnp.float32), jnp.ones(stack.shape[1], jnp.float32)
    return jax.lax.map(lambda rows: scatter_of((rows,), center, root)[0] / len(rows), stack)


def check_finite(own: Mapping[str, OwnMoments], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ``UserError`` as ``Moments.of`` does."""
    means = np.concatenate([of.mean for of in own.values()])
    checks.finite_moments(means, np.concatenate([np.diagonal(of.second) for of in own.values()]), arrays)
