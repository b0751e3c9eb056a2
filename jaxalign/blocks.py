"""The blocks of side-by-side moments that one encoder, or one pair of encoders, needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.moments import Moments
from jaxalign.pytree import Leaf, pytree


@pytree
class OwnMoments:
    """Moments of one encoder alone.

    Attributes:
      scatter: Σ w (x − μ)ᵀ (x − μ), shape [p, p].
      mean: μ, shape [p].
      weight: Σ w, shape [].
      count: number of rows, shape [].
    """

    scatter: Float[Array, "p p"]
    mean: Float[Array, " p"]
    weight: Float[Array, ""]
    count: Float[Array, ""]


@pytree
class CrossMoments:
    """Moments between a source encoder and one target, or several targets' columns side by side.

    Attributes:
      xy: Σ w (x − μx)ᵀ (y − μy), shape [p, q].
      power_y: Σ w (y − μy)² for each target column, shape [q].
      mean_x, mean_y: shapes [p], [q].
      weight: Σ w, shape [].
    """

    xy: Float[Array, "p q"]
    power_y: Float[Array, " q"]
    mean_x: Float[Array, " p"]
    mean_y: Float[Array, " q"]
    weight: Float[Array, ""]


Offset = Int[Leaf, ""] | int


def own_moments(total: Moments, offset: Offset, width: int) -> OwnMoments:
    """Moments of the encoder whose columns start at ``offset`` (may be traced, so that one program serves many)."""
    scatter = jax.lax.dynamic_slice(total.scatter, (offset, offset), (width, width))
    return OwnMoments(scatter, _part(total.mean, offset, width), total.weight, total.count)


def cross_moments(total: Moments, source: Offset, target: Offset, p: int, q: int) -> CrossMoments:
    """Moments between two encoders of widths ``p`` and ``q`` whose columns start at ``source`` and ``target``."""
    xy = jax.lax.dynamic_slice(total.scatter, (source, target), (p, q))
    power = _part(total.scatter.diagonal(), target, q)
    return CrossMoments(xy, power, _part(total.mean, source, p), _part(total.mean, target, q), total.weight)


class Beside(NamedTuple):
    """Several encoders' columns side by side, the narrowest encoder first, so that programs are shared.

    Attributes:
      names: the encoders.
      starts: first columns among all columns, shape [K].
      widths: of the encoders.
    """

    names: tuple[str, ...]
    starts: Int[Leaf, " K"]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, total: Moments, names: Iterable[str]) -> Beside:
        """Orders encoders by width."""
        ordered = tuple(sorted(names, key=total.width))
        return cls(
            ordered, np.array([total.offset(name) for name in ordered]), tuple(map(total.width, ordered))
        )

    @property
    def spans(self) -> dict[str, slice]:
        """Where each encoder's columns stand."""
        edges = np.cumsum((0, *self.widths)).tolist()
        return {name: slice(start, stop) for name, start, stop in zip(self.names, edges[:-1], edges[1:])}


def cross_moments_beside(
    total: Moments, source: Offset, starts: Int[Array, " K"], p: int, widths: tuple[int, ...]
) -> CrossMoments:
    """Moments between one encoder and several targets side by side."""
    parts = [cross_moments(total, source, start, p, q) for start, q in zip(starts, widths)]
    xy = jnp.concatenate([part.xy for part in parts], axis=1)
    power, mean = (jnp.concatenate([getattr(part, name) for part in parts]) for name in ("power_y", "mean_y"))
    return CrossMoments(xy, power, parts[0].mean_x, mean, total.weight)


def _part(vector: Float[Array, " D"], offset: Offset, width: int) -> Float[Array, " w"]:
    return jax.lax.dynamic_slice(vector, (offset,), (width,))


def transposed(cross: CrossMoments, power_x: Array) -> CrossMoments:
    """The moments of the reverse direction; ``power_x`` is Σ w (x − μx)² for each source column."""
    return CrossMoments(cross.xy.T, power_x, cross.mean_y, cross.mean_x, cross.weight)
