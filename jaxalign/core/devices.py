"""Devices: a mesh of them to shard work over, and independent programs run concurrently on the cores of a CPU."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from threadpoolctl import ThreadpoolController

from jaxalign.core.checks import is_whole
from jaxalign.core.errors import UserError

Item = TypeVar("Item")

AXES = ("data", "pairs")
LANES = 128  # widths are padded to a multiple: that of a TPU's vector lanes, and of most encoders' widths
MATRIX_SHARE = 0.5  # of a device's memory for the matrices; chunks, factors and maps take the rest
MOST_WORKERS = 16  # each holds the moments of one source


def padded_width(width: int) -> int:
    """The next multiple of ``LANES``: encoders padded to one width share compiled programs."""
    return -(-width // LANES) * LANES


def device_mesh(
    devices: Sequence[Any] | None = None,
    *,
    pairs: int | None = None,
    widths: Sequence[int] | None = None,
    matrices: int = 1,
    memory: int | None = None,
) -> Mesh:
    """A mesh that shards rows over its axis ``data``, and encoders and their pairs over its axis ``pairs``.

    By default all devices are on ``data``: each holds the whole matrix of moments. Where ``widths`` are given and
    ``matrices`` of them would take more than half of a device's memory, ``pairs`` is the smallest divisor of the number
    of devices that makes them fit, or all devices. With b devices on ``pairs`` each holds about D² / b numbers of each
    matrix.

    Args:
      devices: all devices of this process if absent; ``jax.devices()`` for those of all processes.
      pairs: devices on ``pairs``; must divide their number.
      widths: of the encoders, Σ widths = D.
      matrices: how many are in memory at once: 1, or folds + 1 for cross-validation.
      memory: of a device, bytes; by default what the device reports (CPUs report none, and count as large enough).

    Raises:
      UserError: there are no devices, or ``pairs`` does not divide their number.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    if not devices:
        raise UserError("devices: expected at least one, got none")
    if pairs is None:
        pairs = _least_pairs(devices, widths, matrices, memory)
    if not is_whole(pairs, 1) or len(devices) % pairs:
        raise UserError(f"pairs: expected a divisor of the number of devices, {len(devices)}, got {pairs!r}")
    return Mesh(np.array(devices).reshape(-1, int(pairs)), AXES)


def check_mesh(mesh: object) -> Mesh | None:
    """A caller's mesh with axes in the order of ``AXES``, or None.

    Raises:
      UserError: the axes are others, or the devices that hold a matrix together belong to several processes.
    """
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh) or set(mesh.axis_names) != set(AXES):
        got = mesh.axis_names if isinstance(mesh, Mesh) else type(mesh).__name__
        raise UserError(f"mesh: expected a jax.sharding.Mesh with the axes data and pairs, got {got}")
    devices = mesh.devices.transpose([mesh.axis_names.index(axis) for axis in AXES])
    owners = [{device.process_index for device in row} for row in devices]
    if any(len(owner) > 1 for owner in owners) or {jax.process_index()} not in owners:
        raise UserError("mesh: expected devices of this process, each row of the axis pairs in one process")
    return Mesh(devices, AXES)


def local_mesh(mesh: Mesh) -> Mesh:
    """The part of a mesh whose devices belong to this process."""
    return Mesh(np.array([row for row in mesh.devices if row[0].process_index == jax.process_index()]), AXES)


def matrix_elements(widths: Iterable[int], pairs: int) -> int:
    """Numbers of a matrix of moments [D, D] on each of ``pairs`` devices that hold it together."""
    widths = list(widths)
    counts = Counter(map(padded_width, widths))
    rows = sum(-(-count // pairs) * size for size, count in counts.items())
    return (rows if pairs > 1 else sum(widths)) * sum(widths)


def _least_pairs(devices: list[Any], widths: Sequence[int] | None, matrices: int, memory: int | None) -> int:
    memory = memory or (devices[0].memory_stats() or {}).get("bytes_limit")
    if widths is None or memory is None:
        return 1
    divisors = (count for count in range(1, len(devices) + 1) if len(devices) % count == 0)
    room = MATRIX_SHARE * memory / (8 * matrices)
    return next((count for count in divisors if matrix_elements(widths, count) <= room), len(devices))


def concurrently(
    function: Callable[[Item], Any], items: Sequence[Item], most: int = MOST_WORKERS
) -> Iterator[Any]:
    """Yields ``map(function, items)``; on a CPU one item for each core at a time, ``most`` at most.

    Decompositions run in LAPACK, whose threads spin after every call and keep the products that follow from their
    cores, so LAPACK has one thread meanwhile. JAX's settings of the caller's thread do not reach ``function``.
    """

    def work(item: Item) -> Any:
        return jax.block_until_ready(function(item))

    threads = at_once(len(items), most)
    if threads < 2:
        yield from map(work, items)
        return
    with _lapack().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, items)


@functools.cache
def _lapack() -> ThreadpoolController:
    """The threads of the libraries that decompositions run in, found once: finding them takes milliseconds."""
    # jaxlib imports this at its first decomposition, where two threads may block each other; and a limit applies
    # only to libraries that are loaded.
    import scipy.linalg  # noqa: F401

    return ThreadpoolController()


def at_once(items: int, most: int = MOST_WORKERS) -> int:
    """How many of so many items ``concurrently`` works on at a time."""
    return min(cores(), items, most) if jax.default_backend() == "cpu" else 1


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
