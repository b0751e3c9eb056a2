"""Which devices of this process a driver uses, and how moments lie on them."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxalign import FoldMoments, device_mesh
from jaxalign.core.errors import UserError
from jaxalign.moments.sharded import ShardedMoments


def chosen(count: int | None) -> list[Any]:
    """The devices of ``--devices``: so many, or where none is named every accelerator, or one CPU.

    Devices that are simulated on one CPU share its cores and its memory, so that they serve tests only.

    Raises:
      UserError: this process has not so many.
    """
    there = jax.local_devices()
    if count is None:
        return there if there[0].platform != "cpu" else there[:1]
    if not 1 <= count <= len(there):
        raise UserError(
            f"--devices takes a whole number from 1 to {len(there)}, the {there[0].platform} devices of this process; "
            f"got {count}."
        )
    return there[:count]


def mesh_for(devices: Sequence[Any], moments: FoldMoments) -> Mesh | None:
    """The mesh to fit maps on: where the moments lie, else all devices; None for one device."""
    if isinstance(moments.total, ShardedMoments):
        return moments.total.mesh
    return device_mesh(devices) if len(devices) > 1 else None


def mesh_of(devices: Sequence[Any], widths: Iterable[int], fold: np.ndarray | None) -> Mesh | None:
    """The mesh to sum moments on; None for one device.

    Args:
      devices: to use.
      widths: of the encoders.
      fold: of the training rows; each fold's moments are held beside the total.
    """
    matrices = 1 if fold is None else 2 + int(fold.max())
    return device_mesh(devices, widths=[*widths], matrices=matrices) if len(devices) > 1 else None
