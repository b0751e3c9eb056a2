"""The blocks of the moments that one encoder, or one pair of encoders, needs.

A block is as large as the encoder's padded width: columns beyond the encoder's own are zero, so that encoders of like
width share a compiled program. A zero column has no variance and no covariance; what a solver counts or averages over
columns goes by ``width``.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.core.devices import padded_width
from jaxalign.core.pytree import Leaf, pytree, static
from jaxalign.moments.scatter import Sums

Width = Int[Leaf, ""] | int


@pytree
class OwnMoments:
    """Moments of one encoder alone; columns beyond its ``width`` are zero."""

    scatter: Float[Array, "p p"]  # Σ w (x − μ)ᵀ (x − μ)
    mean: Float[Array, " p"]  # μ
    weight: Float[Array, ""]  # Σ w
    count: Float[Array, ""]  # number of rows
    width: Width


@pytree
class CrossMoments:
    """Moments between a source encoder and a target; columns beyond their widths are zero."""

    xy: Float[Array, "p q"]  # Σ w (x − μx)ᵀ (y − μy)
    power_y: Float[Array, " q"]  # Σ w (y − μy)² for each target column
    mean_x: Float[Array, " p"]  # μx
    mean_y: Float[Array, " q"]  # μy
    weight: Float[Array, ""]  # Σ w
    width_x: Width
    width_y: Width


@pytree
class EncoderSpan:
    """Where the columns of an encoder are, or of a stack of encoders of one padded width."""

    start: Int[Leaf, "*n"]  # first column
    width: Int[Leaf, "*n"]  # number of columns
    slot: Int[Leaf, "*n"]  # index of its row block on its device (sharded moments only)
    size: int = static()  # padded width
    padded: bool = static(default=True)  # whether any width is smaller than ``size``

    @classmethod
    def stack(cls, total: Sums, names: Sequence[str]) -> EncoderSpan:
        """Several encoders of one padded width."""
        starts, widths = np.array([(total.offset(name), total.width(name)) for name in names]).T
        slots = np.array([total.place(name)[1] for name in names])
        size = padded_width(int(widths[0]))
        return cls(starts, widths, slots, size, bool((widths < size).any()))

    def at(self, index: int | Sequence[int]) -> EncoderSpan:
        """One of a stack, or several."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def take(array: Array, *encoders: EncoderSpan | None) -> Array:
    """The entries of one encoder along each axis of an array, padded with zeros; all of the axis for None."""
    short = [max(0, each.size - side) if each else 0 for each, side in zip(encoders, array.shape)]
    array = jnp.pad(array, [(0, more) for more in short]) if any(short) else array
    sizes = [each.size if each else side for each, side in zip(encoders, array.shape)]
    # Near the right edge a block of the padded width begins before the encoder's first column.
    firsts = [
        jnp.minimum(each.start, side - each.size) if each else 0 for each, side in zip(encoders, array.shape)
    ]
    part = jax.lax.dynamic_slice(array, firsts, sizes)
    for axis, (each, first) in enumerate(zip(encoders, firsts)):
        if each is not None and each.padded:
            part = jnp.roll(part, first - jnp.asarray(each.start), axis)
            inside = jnp.arange(each.size) < jnp.asarray(each.width)
            part = jnp.where(jnp.expand_dims(inside, range(1, part.ndim - axis)), part, 0)
    return part


def own_moments(total: Sums, encoder: EncoderSpan) -> OwnMoments:
    """Moments of one encoder."""
    mean = take(total.mean, encoder)
    return OwnMoments(total.block(encoder, encoder), mean, total.weight, total.count, encoder.width)


def cross_moments(
    total: Sums, power: Float[Leaf, " D"], source: EncoderSpan, target: EncoderSpan
) -> CrossMoments:
    """Moments between two encoders; ``power`` is Σ w (z − mean)² of all columns, as ``total.power()``."""
    means = take(total.mean, source), take(total.mean, target)
    xy, power_y = total.block(source, target), take(jnp.asarray(power), target)
    return CrossMoments(xy, power_y, *means, total.weight, source.width, target.width)


def transposed(cross: CrossMoments, power_x: Array) -> CrossMoments:
    """The moments of the reverse direction; ``power_x`` is Σ w (x − μx)² for each source column."""
    return CrossMoments(
        cross.xy.T, power_x, cross.mean_y, cross.mean_x, cross.weight, cross.width_y, cross.width_x
    )
