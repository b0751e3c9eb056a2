"""The blocks of side-by-side moments that one encoder, or one pair of encoders, needs.

A block may be larger than the encoder: columns beyond its width are zero then, so that encoders of like width share a
compiled program (``padded_width``). A zero column has no variance and no covariance; what a solver counts or averages
over columns goes by ``width``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.core.pytree import Leaf, pytree, static
from jaxalign.moments.moments import Moments

LANES = 128  # widths are filled up to a multiple: that of a TPU's vector lanes, and of most encoders' widths
FEW_COLUMNS = 2560  # blocks of so many columns in all are read by one gather
Width = Int[Leaf, ""] | int


@pytree
class OwnMoments:
    """Moments of one encoder alone.

    Attributes:
      scatter: Σ w (x − μ)ᵀ (x − μ), shape [p, p].
      mean: μ, shape [p].
      weight: Σ w, shape [].
      count: number of rows, shape [].
      width: columns of the encoder, ≤ p; those that follow are zero.
    """

    scatter: Float[Array, "p p"]
    mean: Float[Array, " p"]
    weight: Float[Array, ""]
    count: Float[Array, ""]
    width: Width


@pytree
class CrossMoments:
    """Moments between a source encoder and one target, or several targets' columns side by side.

    Attributes:
      xy: Σ w (x − μx)ᵀ (y − μy), shape [p, q].
      power_y: Σ w (y − μy)² for each target column, shape [q].
      mean_x, mean_y: shapes [p], [q].
      weight: Σ w, shape [].
      width_x, width_y: columns of the encoders, ≤ p and ≤ q; those that follow are zero.
    """

    xy: Float[Array, "p q"]
    power_y: Float[Array, " q"]
    mean_x: Float[Array, " p"]
    mean_y: Float[Array, " q"]
    weight: Float[Array, ""]
    width_x: Width
    width_y: Width


def padded_width(width: int) -> int:
    """The next multiple of ``LANES``."""
    return -(-width // LANES) * LANES


@pytree
class Columns:
    """Where the columns of one encoder, or of several side by side, are among all columns.

    Attributes:
      starts: first columns, shape [K].
      widths: of each encoder the number of columns, shape []; None where it is the size of its block.
      sizes: of the blocks; columns beyond the width are zero there.
      gathered: whether all blocks are read in one operation.
    """

    starts: Int[Leaf, " K"]
    widths: tuple[Int[Leaf, ""] | None, ...]
    sizes: tuple[int, ...] = static()
    gathered: bool = static(default=False)

    @classmethod
    def of(cls, total: Moments, names: Iterable[str]) -> Columns:
        """Of these encoders, each in a block of its padded width."""
        names = list(names)
        widths = tuple(map(total.width, names))
        sizes = tuple(map(padded_width, widths))
        starts = np.array([total.offset(name) for name in names])
        # A slice for each encoder runs faster, one gather for all is compiled faster: what counts where they are small.
        if sizes != widths and sum(sizes) <= FEW_COLUMNS:
            return cls(starts, tuple(map(np.array, widths)), sizes, gathered=True)
        return cls(starts, tuple(None if w == size else np.array(w) for w, size in zip(widths, sizes)), sizes)

    @classmethod
    def exactly(cls, start: int, width: int) -> Columns:
        """Of one encoder, without padding."""
        return cls(np.array([start]), (None,), (width,))

    @property
    def width(self) -> Width:
        """Columns that are not padding."""
        return sum(size if width is None else width for width, size in zip(self.widths, self.sizes))

    def parts(self) -> list[Columns]:
        """The encoders one by one, or all in one where they are read in one operation."""
        if self.gathered:
            return [self]
        return [
            Columns(self.starts[k : k + 1], (width,), (size,))
            for k, (width, size) in enumerate(zip(self.widths, self.sizes))
        ]

    def take(self, array: Array, axis: int) -> Array:
        """The blocks' entries along an axis, side by side."""
        taken = [part._take(array, axis) for part in self.parts()]
        return taken[0] if len(taken) == 1 else jnp.concatenate(taken, axis)

    def _take(self, array: Array, axis: int) -> Array:
        if self.widths == (None,):
            return jax.lax.dynamic_slice_in_dim(array, self.starts[0], self.sizes[0], axis)
        within = np.concatenate([np.arange(size) for size in self.sizes])
        block = np.repeat(np.arange(len(self.sizes)), self.sizes)
        starts, widths = jnp.asarray(self.starts), jnp.stack([jnp.asarray(width) for width in self.widths])
        index = jnp.where(within < widths[block], starts[block] + within, array.shape[axis])
        return jnp.take(array, index, axis, mode="fill", fill_value=0)


def own_moments(total: Moments, columns: Columns) -> OwnMoments:
    """Moments of the encoder of these columns."""
    scatter = columns.take(columns.take(total.scatter, 0), 1)
    return OwnMoments(scatter, columns.take(total.mean, 0), total.weight, total.count, columns.width)


def cross_moments(total: Moments, source: Columns, target: Columns) -> CrossMoments:
    """Moments between an encoder and one target, or several side by side."""
    xy = target.take(source.take(total.scatter, 0), 1)
    power = target.take(total.scatter.diagonal(), 0)
    means = source.take(total.mean, 0), target.take(total.mean, 0)
    return CrossMoments(xy, power, *means, total.weight, source.width, target.width)


class Beside(NamedTuple):
    """Several encoders' columns side by side, the narrowest encoder first, so that programs are shared.

    Attributes:
      names: the encoders.
      widths: of the encoders.
      columns: where they are among all columns.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    columns: Columns

    @classmethod
    def of(cls, total: Moments, names: Iterable[str]) -> Beside:
        """Orders encoders by width."""
        ordered = tuple(sorted(names, key=total.width))
        return cls(ordered, tuple(map(total.width, ordered)), Columns.of(total, ordered))

    @property
    def places(self) -> dict[str, slice]:
        """Where each encoder's columns stand when their blocks are side by side."""
        starts = np.cumsum((0, *self.columns.sizes)).tolist()
        return {
            name: slice(start, start + width) for name, start, width in zip(self.names, starts, self.widths)
        }


def transposed(cross: CrossMoments, power_x: Array) -> CrossMoments:
    """The moments of the reverse direction; ``power_x`` is Σ w (x − μx)² for each source column."""
    return CrossMoments(
        cross.xy.T, power_x, cross.mean_y, cross.mean_x, cross.weight, cross.width_y, cross.width_x
    )
