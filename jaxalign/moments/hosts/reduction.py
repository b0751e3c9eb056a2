"""Moments summed over processes: one reduction of a D × D block and a few vectors, whatever the number of rows.

The mesh of a process's own devices may hold the matrix in tiles, over its axis ``pairs``. Each tile is then summed with
the same tile of the other processes only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.core.errors import UserError
from jaxalign.core.mesh import AXES, Layout, device_mesh
from jaxalign.core.precision import double_precision
from jaxalign.moments.moments import Moments
from jaxalign.moments.spread import DEVICE, SpreadMoments, on_devices
from jaxalign.moments.sums import Sums
from jaxalign.moments.sums import add as plus

AXIS = "process"
S = TypeVar("S", Moments, SpreadMoments)


@functools.cache
def world(pairs: int) -> Mesh:
    """The first devices of each process, as many as hold a matrix together."""
    devices: dict[int, list[Any]] = {}
    for device in jax.devices():
        devices.setdefault(device.process_index, []).append(device)
    least = min(map(len, devices.values()))
    if least < pairs:
        raise UserError(
            f"{pairs} devices are needed to hold the moments, but one of the processes has {least}."
        )
    return Mesh(np.array([devices[number][:pairs] for number in sorted(devices)]), (AXIS, "pairs"))


def connect(devices: Sequence[Any]) -> None:
    """Has devices meet in every group that a mesh of this process's devices, and a sum over processes, may need.

    Groups can be formed only while JAX's coordination service runs; afterwards they serve all programs.
    """
    for pairs in (count for count in range(1, len(devices) + 1) if len(devices) % count == 0):
        mesh = device_mesh(devices, pairs=pairs)
        if mesh.size > 1:
            jax.block_until_ready(_met(np.ones(mesh.size, np.float32), mesh))
            jax.block_until_ready(summed(SpreadMoments.empty(["none"], [1], mesh)))
        else:
            jax.block_until_ready(summed(Moments.empty(["none"], [1])))


@functools.partial(jax.jit, static_argnums=1)
def _met(one: jax.Array, mesh: Mesh) -> jax.Array:
    def local(one: jax.Array) -> jax.Array:
        return sum(jax.lax.psum(one, axis) for axis in (*AXES, AXES))  # type: ignore[return-value]

    return on_devices(mesh, local, DEVICE, DEVICE)(one)


def summed(own: S) -> S:
    """Moments of the rows of all processes, on every process; all call it, in the same order.

    With w, μ, S of each process and m = Σ w μ / Σ w over processes, the scatter about m is Σ (S + w (μ − m)(μ − m)ᵀ):
    Chan's update for many parts at once, which forms no raw squares. A process sends and receives about 2 D² numbers.

    Args:
      own: of this process's rows; of weight 0 where it has none. In tiles, where it is so on all processes.

    Raises:
      UserError: the matrix lies on more devices than another process has.
    """
    with double_precision():
        return _home(_sum(placed(own)), own)


def placed(own: S) -> S:
    """The moments of all processes side by side, each on its own devices: leaves get an axis of processes in front."""
    mesh = world(_pairs(own))
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]

    def spread(leaf: jax.Array, spec: P) -> jax.Array:
        if spec:
            parts = {shard.device: shard.data for shard in leaf.addressable_shards}
            shards = [parts[device][None] for device in here]
        else:
            # Vectors may lie in parts; the matrix of one device stays on it.
            whole = leaf if leaf.ndim == 2 else np.asarray(leaf)
            shards = [jax.device_put(whole[None], device) for device in here]
        place = NamedSharding(mesh, P(AXIS, *spec))
        return jax.make_array_from_single_device_arrays((mesh.shape[AXIS], *leaf.shape), place, shards)

    return jax.tree.map(spread, own, _specs(own))


def _pairs(moments: Sums) -> int:
    return moments.layout.blocks if isinstance(moments, SpreadMoments) else 1


def _specs(moments: Any) -> Any:
    """How the leaves lie on the devices of one process."""
    return moments.specs if isinstance(moments, SpreadMoments) else jax.tree.map(lambda _: P(), moments)


def _home(total: S, own: S) -> S:
    """The sum of all processes where this process had its part."""
    if isinstance(own, Moments):
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, total)
    assert isinstance(own, SpreadMoments)
    row = Mesh(own.mesh.devices[:1], own.mesh.axis_names)

    def back(leaf: jax.Array, spec: P) -> jax.Array:
        shards = [shard.data for shard in leaf.addressable_shards]
        shape = (len(shards) * shards[0].shape[0], *shards[0].shape[1:]) if spec else shards[0].shape
        one = jax.make_array_from_single_device_arrays(shape, NamedSharding(row, spec), shards)
        return jax.device_put(one, NamedSharding(own.mesh, spec))

    return jax.tree.map(back, total, own.specs)


@jax.jit
def _sum(parts: S) -> S:
    mesh, specs = world(_pairs(parts)), _specs(parts)
    before = jax.tree.map(lambda spec: P(AXIS, *spec), specs)
    return jax.shard_map(_sum_here, mesh=mesh, in_specs=(before,), out_specs=specs)(parts)


def _sum_here(part: Any) -> Any:
    own = jax.tree.map(lambda leaf: leaf[0], part)
    add = functools.partial(jax.lax.psum, axis_name=AXIS)
    weight = add(own.weight)
    mean = add(own.weight * own.mean) / jnp.where(weight > 0, weight, 1)
    step = own.mean - mean
    outer = _tiles_of(own.layout) if isinstance(own, SpreadMoments) else jnp.outer
    scatter, residue = _added_up(*plus(own.scatter, own.residue, outer(step, own.weight * step)))
    return dataclasses.replace(
        own, weight=weight, count=add(own.count), mean=mean, scatter=scatter, residue=residue
    )


def _tiles_of(layout: Layout) -> Any:
    """The product of two vectors as the tiles of one device, with the leading axis that is over devices."""
    number = jax.lax.axis_index("pairs")

    def outer(left: jax.Array, right: jax.Array) -> tuple[jax.Array, ...]:
        rows, columns = (vector.reshape(layout.blocks, layout.width) for vector in (left, right))
        blocks = [(number + k) % layout.blocks for k in range(layout.reach + 1)]
        return tuple(jnp.outer(rows[number], columns[block])[None] for block in blocks)

    return outer


def _added_up(value: Any, residue: Any) -> tuple[Any, Any]:
    """Sums over processes; with a residue, the leading bits without rounding, and what is left of them in the residue.

    Leading bits are multiples of a power of two so large that their sum still has no more than a format's bits.
    """
    if residue is None:
        return jax.lax.psum(value, AXIS), None
    if isinstance(value, tuple):
        return tuple(zip(*map(_added_up, value, residue)))  # type: ignore[return-value]
    format_ = jnp.finfo(value.dtype)
    _, exponent = jnp.frexp(jax.lax.pmax(jnp.abs(value), AXIS))
    spared = jax.lax.axis_size(AXIS).bit_length() - format_.nmant
    unit = jnp.maximum(jnp.ldexp(jnp.ones_like(value), exponent + spared), format_.tiny)
    leading = jnp.round(value / unit) * unit
    return jax.lax.psum(leading, AXIS), jax.lax.psum(residue + (value - leading), AXIS)
