"""The processes of one run, seen from one of them; a single process is the case of one."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxalign.core.devices import AXES, device_mesh
from jaxalign.core.errors import UserError
from jaxalign.moments.hosts.links import Links
from jaxalign.moments.hosts.place import Place
from jaxalign.moments.hosts.shares import Pair, share, share_of_pairs
from jaxalign.moments.moments import FoldMoments

START_SECONDS = 60


class Hosts:
    """The processes of a run.

    Attributes:
      index: of this process, from 0.
      count: of processes.
      links: between them; None for one process.
    """

    def __init__(self, links: Links | None = None):
        self.links = links
        self.index, self.count = (0, 1) if links is None else (links.place.index, links.place.count)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes results."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes at process 0; None elsewhere. Values are what JSON can hold."""
        return [value] if self.links is None else self.links.gather(value)

    def spread(self, value: Any = None) -> Any:
        """The value of process 0, everywhere."""
        return value if self.links is None else self.links.spread(value)

    def agree(self, value: Any, compare: Callable[[Any, Any, int], str | None]) -> None:
        """Compares something of all processes with process 0's.

        Args:
          value: of this process.
          compare: of process 0's value, another's and that one's number: what differs, as a sentence, or None.

        Raises:
          UserError: on every process, with the first difference.
        """
        if self.links is None:
            return
        values = self.gather(value) or []
        for number, other in enumerate(values):
            sentence = compare(values[0], other, number)
            if sentence is not None:
                self.links.refuse(sentence)
        self.spread()

    def start(self, devices: Callable[[], Sequence[Any]] = jax.local_devices) -> None:
        """Starts JAX among the processes; before anything asks JAX for devices, and by all of them.

        Args:
          devices: those of this process that it will use; called when JAX may be asked.

        Raises:
          UserError: the processes do not come together, or have not as many devices each.
        """
        if self.links is None:
            return
        _start(self.links)
        used = devices()
        self.agree(len(used), _compare_devices)
        with _silent_standard_output():
            connect(used)
        jax.distributed.shutdown()

    def remove_if_lost(self, directory: pathlib.Path) -> None:
        """Has a directory removed where another process's end ends this one."""
        if self.links is not None:
            self.links.scratch.append(directory)

    def share(self, count: int) -> slice:
        """Which of ``count`` things are this process's."""
        return share(count, self.index, self.count)

    def pairs(self, pairs: Sequence[Pair], whole: str) -> list[Pair]:
        """This process's of the ordered pairs, see ``share_of_pairs``."""
        return share_of_pairs(pairs, self.index, self.count, whole)

    def moments(
        self,
        of: Callable[[slice, np.ndarray | None, Mesh | None], FoldMoments],
        rows: int,
        fold: np.ndarray | None,
        mesh: Mesh | None = None,
    ) -> FoldMoments:
        """Moments of rows of which every process reads its share only.

        Args:
          of: the moments of a part of the rows, with the folds of that part, over a mesh.
          rows: how many there are in all.
          fold: of each of them, 0 ... F − 1, shape [rows], or None.
          mesh: this process's devices over which rows are sharded, None for one device.

        Raises:
          UserError: the processes' meshes hold the matrix on different numbers of devices.
        """
        mine = self.share(rows)
        if self.links is None:
            return of(mine, fold, mesh)
        pairs = 1 if mesh is None else mesh.shape["pairs"]
        self.agree(pairs, _compare_devices)
        here = [jax.local_devices()[:1]] if mesh is None else mesh.devices
        return of(mine, None if fold is None else fold[mine], world(len(here), pairs))


ALONE = Hosts()


def _compare_devices(first: int, other: int, number: int) -> str | None:
    if first == other:
        return None
    return (
        f"process 0 uses {first} device{'s' * (first > 1)} and process {number} uses {other}; give every process as "
        "many devices of one kind."
    )


def world(data: int, pairs: int) -> Mesh:
    """The first devices of every process, as many on each axis as each process uses."""
    devices: dict[int, list[Any]] = {}
    for device in jax.devices():
        devices.setdefault(device.process_index, []).append(device)
    used = [devices[number][: data * pairs] for number in sorted(devices)]
    if any(len(each) < data * pairs for each in used):
        raise UserError(f"{data * pairs} devices are needed of every process, but one of them has fewer.")
    return device_mesh([device for each in used for device in each], pairs=pairs)


def connect(devices: Sequence[Any]) -> None:
    """Has devices meet in every group that a mesh of this process's devices, or of all processes, may need.

    Groups can be formed only while JAX's coordination service runs; afterwards they serve all programs.
    """
    rows = {name: np.eye(3, 2) for name in "ab"}
    for pairs in (count for count in range(1, len(devices) + 1) if len(devices) % count == 0):
        for data in {1, len(devices) // pairs}:
            FoldMoments.of(rows, mesh=world(data, pairs))
        mesh = device_mesh(devices, pairs=pairs)
        jax.block_until_ready(_met(np.ones(mesh.size, np.float32), mesh))


@functools.partial(jax.jit, static_argnums=1)
def _met(one: jax.Array, mesh: Mesh) -> jax.Array:
    def local(one: jax.Array) -> jax.Array:
        return sum(jax.lax.psum(one, axis) for axis in (*AXES, AXES))  # type: ignore[return-value]

    return jax.shard_map(local, mesh=mesh, in_specs=P(AXES), out_specs=P(AXES), check_vma=False)(one)


def _start(links: Links) -> None:
    """Starts JAX's distributed runtime among processes that are linked; before anything else asks JAX for devices.

    When the processes' devices have met, its coordination service is ended: from then on only collectives are needed,
    and the service would answer the end of a process with a stack trace instead of a sentence.
    """
    place = links.place
    port = links.spread(_free_port(place) if place.index == 0 else None)
    host = f"[{place.host}]" if ":" in place.host else place.host
    jax.distributed.initialize(
        f"{host}:{port}",
        place.count,
        place.index,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        coordinator_bind_address=f"{host}:{port}" if place.is_loopback else None,
        initialization_timeout=START_SECONDS,
    )


def _free_port(place: Place) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1" if place.is_loopback else "", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _silent_standard_output() -> Iterator[None]:
    """Gloo says on standard output, which belongs to results, that it is connected."""
    sys.stdout.flush()
    before = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(nowhere)
