"""Segments of probes side by side on several devices, each against the whole tile of the gallery.

No program here exchanges anything between devices: counts are summed on the host, in whole numbers, once after the
last segment. Programs that wait for each other could not be started from several threads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "segments"


def mesh_of(devices: Sequence[Any] | None) -> Mesh:
    """A mesh of these devices; of the one that JAX computes on, where there are none."""
    chosen = list(jnp.zeros(()).devices()) if devices is None else list(devices)
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def each(mesh: Mesh) -> NamedSharding:
    """Where arrays lie that have a leading axis [devices], a part on each."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Where arrays lie that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def on_each(function: Callable[[Any, Any], Any], mesh: Mesh, own: Any, common: Any) -> Any:
    """``function(own part, common)`` on every device; ``own`` and the result have a leading axis [devices]."""

    def local(own: Any, common: Any) -> Any:
        mine = function(jax.tree.map(lambda leaf: leaf[0], own), common)
        return jax.tree.map(lambda leaf: leaf[None], mine)

    parts, whole = PartitionSpec(AXIS), PartitionSpec()
    spread = jax.shard_map(local, mesh=mesh, in_specs=(parts, whole), out_specs=parts, check_vma=False)
    return spread(own, common)


def by_device(array: jax.Array, mesh: Mesh) -> list[jax.Array]:
    """What each device of a mesh has of an array, still there."""
    found = {shard.device: shard.data for shard in array.addressable_shards}
    return [found[device] for device in mesh.devices.flat]
