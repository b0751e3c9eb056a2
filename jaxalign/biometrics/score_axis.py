"""The score axis on the device: equal bins, and intervals of it that are counted float by float."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxalign.core.pytree import Leaf

BINS = 1 << 16  # equal bins over the range of the scores
INTERVALS = 8  # stretches of the score axis that can be resolved to single floats at once


class Bins(NamedTuple):
    """Equal bins: a score s lies in bin clip(⌊s · scale⌋ − base, 0, BINS − 1), computed alike everywhere."""

    scale: Float[Leaf, ""]
    base: Int[Leaf, ""]


class Intervals(NamedTuple):
    """Disjoint stretches of the score axis, ascending, in the integer order of floats (see ``ordered``).

    A score of order o with first ≤ o ≤ last falls into slot offset + ((o − first) >> shift). A place that is not
    used has the largest integer as ``first``.

    Attributes:
      first, last, offset: shape [intervals].
      shift: shape [intervals]; None where each float has its own slot.
    """

    first: Int[Leaf, " intervals"]
    last: Int[Leaf, " intervals"]
    offset: Int[Leaf, " intervals"]
    shift: Int[Leaf, " intervals"] | None = None

    @classmethod
    def of(
        cls,
        first: np.ndarray,
        last: np.ndarray,
        offset: np.ndarray,
        shift: np.ndarray | None,
        *,
        places: int,
        dtype,
    ) -> "Intervals":
        """Filled up to a fixed number of places, so that programs are shared."""
        integer = np.dtype(np.int64 if dtype == np.float64 else np.int32)
        most = np.iinfo(integer).max

        def filled(values: np.ndarray, fill: int) -> Int[np.ndarray, " intervals"]:
            return np.append(values, [fill] * (places - len(values))).astype(integer)

        return cls(
            filled(first, most),
            filled(last, 0),
            filled(offset, 0),
            None if shift is None else filled(shift, 0),
        )


def ordered(scores: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Integers in the order of the floating-point numbers: neighbours differ by one."""
    wide = scores.dtype == jnp.float64
    bits = lax.bitcast_convert_type(scores, jnp.int64 if wide else jnp.int32)
    top = jnp.iinfo(bits.dtype)
    return bits ^ ((bits >> (top.bits - 1)) & top.max)


def bin_of(scores: Float[Array, "*shape"], bins: Bins) -> Int[Array, "*shape"]:
    """The bin of each score; one multiplication, so that host and device round alike."""
    return jnp.clip(jnp.floor(scores * bins.scale).astype(jnp.int32) - bins.base, 0, BINS - 1)


def slot_of(
    scores: Float[Array, "*shape"], intervals: Intervals, elsewhere: Array | int
) -> Int[Array, "*shape"]:
    """The slot of each score that lies in an interval, ``elsewhere`` for the others."""
    order = jnp.where(scores == 0, 0, ordered(scores))
    last = jnp.full_like(order, jnp.iinfo(order.dtype).min)
    first, shift, offset = (jnp.zeros_like(order) for _ in range(3))
    for k in range(len(intervals.first)):
        reached = order >= intervals.first[k]
        last = jnp.where(reached, intervals.last[k], last)
        if intervals.shift is None:
            offset = jnp.where(reached, intervals.offset[k] - intervals.first[k], offset)
        else:
            first = jnp.where(reached, intervals.first[k], first)
            shift = jnp.where(reached, intervals.shift[k], shift)
            offset = jnp.where(reached, intervals.offset[k], offset)
    slot = offset + (order if intervals.shift is None else (order - first) >> shift)
    return jnp.where(order <= last, slot.astype(jnp.int32), elsewhere)


def no_bins(dtype: np.dtype) -> Bins:
    """A placeholder where nothing is counted along the axis."""
    return Bins(np.ones((), dtype), np.zeros((), np.int32))
