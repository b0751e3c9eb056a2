"""Covariances of mapped rows, for where moments of pairs of encoders were not taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.align.gradient.objectives import PairMember, PairWeights
from jaxalign.align.gradient.rows import Rows
from jaxalign.core.precision import multiply

SLICE_ROWS = 1024  # mapped at once: they stay in the cache, and their float32 sum loses little


def covariances(rows: Rows, members: PairMember, weights: PairWeights) -> Float[np.ndarray, "k s"]:
    """Mean of (x F) ∘ (y G) over all rows, for each of some two-sided problems, float64.

    Both sides have mean zero, so that it is the diagonal of Fᵀ C_xy G at the cost of two thin products.
    """
    p, q = members.widths
    sums = _sums(rows.coordinates[p], rows.coordinates[q], members, weights)
    return np.asarray(sums, np.float64).sum(axis=1) / rows.coordinates[p].shape[1]


@jax.jit
def _sums(x: Array, y: Array, members: PairMember, weights: PairWeights) -> Float[Array, "k slices s"]:
    count = x.shape[1]
    size = min(SLICE_ROWS, count)

    def of_slice(member: PairMember, own: PairWeights, number: Array) -> Array:
        start = jnp.minimum(number * size, count - size)
        new = (
            start + jnp.arange(size) >= number * size
        )  # the last slice reaches back to rows that were counted
        u, v = (
            multiply(jax.lax.dynamic_slice(rows, (place, start, 0), (1, size, rows.shape[2]))[0], factor)
            for rows, place, factor in ((x, member.source, own.left), (y, member.target, own.right))
        )
        return jnp.sum(jnp.where(new[:, None], u * v, 0), axis=0)

    slices = jnp.arange(-(-count // size))
    of_pair = lambda of: jax.lax.map(lambda number: of_slice(of[0], of[1], number), slices)  # noqa: E731
    return jax.lax.map(of_pair, (members, weights))
