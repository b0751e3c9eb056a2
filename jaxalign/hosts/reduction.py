"""Moments summed over processes: one reduction of a D × D block and a few vectors, whatever the number of rows."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.moments import Moments
from jaxalign.precision import double_precision
from jaxalign.sums import add as plus

AXIS = "process"


@functools.cache
def mesh() -> Mesh:
    """One device of each process."""
    first: dict[int, Any] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    return Mesh(np.array([first[number] for number in sorted(first)]), (AXIS,))


def summed(own: Moments) -> Moments:
    """Moments of the rows of all processes, on every process; all call it, in the same order.

    With w, μ, S of each process and m = Σ w μ / Σ w over processes, the scatter about m is Σ (S + w (μ − m)(μ − m)ᵀ):
    Chan's update for many parts at once, which forms no raw squares. A process sends and receives about 2 D² numbers.

    Args:
      own: of this process's rows; of weight 0 where it has none.
    """
    with double_precision():
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, _sum(placed(own)))


def placed(own: Moments) -> Moments:
    """The moments of all processes side by side, each on its own device: leaves get an axis of processes in front."""
    place = NamedSharding(mesh(), P(AXIS))
    here = next(device for device in mesh().devices if device.process_index == jax.process_index())

    def spread(leaf: jax.Array) -> jax.Array:
        shape = (mesh().size, *leaf.shape)
        return jax.make_array_from_single_device_arrays(shape, place, [jax.device_put(leaf[None], here)])

    return jax.tree.map(spread, own)


@jax.jit
def _sum(parts: Moments) -> Moments:
    return jax.shard_map(_sum_here, mesh=mesh(), in_specs=P(AXIS), out_specs=P())(parts)


def _sum_here(part: Moments) -> Moments:
    own = jax.tree.map(lambda leaf: leaf[0], part)
    add = functools.partial(jax.lax.psum, axis_name=AXIS)
    weight = add(own.weight)
    mean = add(own.weight * own.mean) / jnp.where(weight > 0, weight, 1)
    step = own.mean - mean
    scatter, residue = _added_up(*plus(own.scatter, own.residue, jnp.outer(step, own.weight * step)))
    return Moments(weight, add(own.count), mean, scatter, residue, own.names, own.widths)


def _added_up(value: jax.Array, residue: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Sums over processes; with a residue, the leading bits without rounding, and what is left of them in the residue.

    Leading bits are multiples of a power of two so large that their sum still has no more than a format's bits.
    """
    if residue is None:
        return jax.lax.psum(value, AXIS), None
    format_ = jnp.finfo(value.dtype)
    _, exponent = jnp.frexp(jax.lax.pmax(jnp.abs(value), AXIS))
    spared = jax.lax.axis_size(AXIS).bit_length() - format_.nmant
    unit = jnp.maximum(jnp.ldexp(jnp.ones_like(value), exponent + spared), format_.tiny)
    leading = jnp.round(value / unit) * unit
    return jax.lax.psum(leading, AXIS), jax.lax.psum(residue + (value - leading), AXIS)
