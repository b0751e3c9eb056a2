"""The processes of one run, seen from one of them; a single process is the case of one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxalign.moments.hosts.links import Links
from jaxalign.moments.hosts.place import Place
from jaxalign.moments.hosts.reduction import connect, summed
from jaxalign.moments.hosts.shares import Pair, share, share_of_pairs
from jaxalign.moments.moments import FoldMoments, Moments
from jaxalign.moments.spread import SpreadMoments

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
        of: Callable[[slice, np.ndarray | None], FoldMoments],
        rows: int,
        fold: np.ndarray | None,
        widths: Mapping[str, int],
        mesh: Mesh | None = None,
    ) -> FoldMoments:
        """Moments of rows of which every process reads its share only.

        Args:
          of: the moments of a part of the rows, with the folds of that part.
          rows: how many there are in all.
          fold: of each of them, 0 ... F − 1, shape [rows], or None.
          widths: of the encoders, in column order.
          mesh: that ``of`` deals its rows over, None for one device.

        Raises:
          UserError: the processes' meshes hold the matrix on different numbers of devices.
        """
        mine = self.share(rows)
        if self.links is None:
            return of(mine, fold)
        pairs = 1 if mesh is None else mesh.shape["pairs"]
        self.agree(pairs, _compare_devices)
        names = list(widths), list(widths.values())
        empty = Moments.empty(*names) if mesh is None or pairs == 1 else SpreadMoments.empty(*names, mesh)
        parts, sums = list(_of_part(of, mine, fold, empty)), []
        while parts:  # each is freed when it is summed
            sums.append(summed(parts.pop(0)))
        return FoldMoments(_total(sums), () if fold is None else tuple(sums))


ALONE = Hosts()


def _of_part(
    of: Callable[[slice, np.ndarray | None], FoldMoments],
    mine: slice,
    fold: np.ndarray | None,
    empty: Any,
) -> Iterator[Any]:
    """The moments of each fold among a part of the rows, which may lack some folds or be empty."""
    if fold is None:
        yield of(mine, None).total if mine.start < mine.stop else empty
        return
    here = np.unique(fold[mine])
    found: Mapping[int, Any] = {}
    if len(here) == 1:
        found = {int(here[0]): of(mine, None).total}
    elif len(here):
        found = dict(zip(here.tolist(), of(mine, np.searchsorted(here, fold[mine])).folds))
    for number in range(int(fold.max()) + 1):
        yield found.get(number, empty)


def _compare_devices(first: int, other: int, number: int) -> str | None:
    if first == other:
        return None
    return (
        f"process 0 uses {first} device{'s' * (first > 1)} and process {number} uses {other}; give every process as "
        "many devices of one kind."
    )


def _total(parts: Sequence[Any]) -> Any:
    total, *rest = parts
    for part in rest:
        total = total.merge(part)
    return total


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
