"""One run shared by several processes, usually one on each host: agreement, shares of the work, moments of all rows.

``jax.distributed`` starts the processes, and they communicate by JAX's collectives alone. Every exchange begins with
an array of one shape, in which each process says that it goes on or that it failed: a process that fails between two
exchanges tells the others at the next one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxalign.core.devices import device_mesh
from jaxalign.core.errors import UserError
from jaxalign.moments.moments import FoldMoments

START_SECONDS = 50  # until all processes must have come together
Pair = tuple[str, str]

# What one process does: pairs that share a factorisation, or both directions if one decomposition gives both.
WHOLE: dict[str, Callable[[Pair], Hashable]] = {
    "pair": lambda pair: pair,
    "source": lambda pair: pair[0],
    "unordered": frozenset,
}


class Hosts:
    """The processes of a run, seen from one of them; without arguments a single process.

    All processes call ``gather``, ``broadcast``, ``agree`` and ``moments`` in the same order.

    Attributes:
      index: of this process, from 0.
      count: of processes.
    """

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count
        self._ended = self._summing = False

    @classmethod
    def start(
        cls, coordinator: str | None = None, count: int | None = None, index: int | None = None
    ) -> Hosts:
        """Starts JAX among the processes, before this process uses JAX for anything else.

        Args:
          coordinator: "host:port" at which process 0 listens. If all three are absent, JAX reads them from the
            machine: a TPU pod slice, SLURM, Open MPI or Kubernetes.
          count, index: of processes, and of this one.

        Raises:
          UserError: JAX finds none of these, or cannot start here. If not all processes come within
            ``START_SECONDS``, this process is ended with exit status 2: JAX would abort it.
        """
        where = f"the coordinator {coordinator}" if coordinator else "the coordinator"
        late = f"not all processes reached {where} within {START_SECONDS:g} s."
        watch = threading.Timer(START_SECONDS, end_process, [late, 2])
        watch.daemon = True
        watch.start()
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        try:
            jax.distributed.initialize(coordinator, count, index, initialization_timeout=START_SECONDS + 60)
        except ValueError as error:
            raise UserError(
                f"JAX finds neither a TPU pod slice nor SLURM, Open MPI or Kubernetes here ({error}). Name the "
                "coordinator, the number of processes and this process instead."
            ) from error
        except jax.errors.JaxRuntimeError as error:
            raise UserError(f"process {index} of {count} cannot start at {coordinator}: {error}") from error
        finally:
            watch.cancel()
        return cls(jax.process_index(), jax.process_count())

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes results."""
        return self.index == 0

    def gather(self, value: Any = None) -> list[Any] | None:
        """The values of all processes at process 0, None elsewhere; a ``UserError`` if another process failed.

        Values are what JSON can hold.
        """
        values = self._exchanged({"value": value})
        return values if self.first else None

    def broadcast(self, value: Any = None) -> Any:
        """The value of process 0, everywhere; raises as ``gather``."""
        return self._exchanged({"value": value if self.first else None})[0]

    def agree(self, value: Any, compare: Callable[[Any, Any, int], str | None]) -> None:
        """Compares the values of all processes with process 0's.

        ``compare`` takes process 0's value, another's and that one's index, and says in a sentence what differs, or
        None. The first difference is a ``UserError`` on every process.
        """
        values = self._exchanged({"value": value})
        for number, other in enumerate(values):
            sentence = compare(values[0], other, number)
            if sentence is not None:
                self._ended = True
                raise UserError(sentence)

    def fail(self, sentence: str) -> None:
        """Tells the other processes at their next exchange that this one failed, and why."""
        if self._ended:
            return
        if self._summing:  # the others are in a sum and not in an exchange: they see that this process ended
            end_process(sentence, 2)
        try:
            self._exchanged({"failed": sentence})
        except UserError:
            return  # this one's sentence, or that of another process which failed as well
        except jax.errors.JaxRuntimeError:
            end_process(sentence, 2)

    def share(self, count: int) -> slice:
        """Which of ``count`` things, in order, are this process's; shares differ by one thing at most."""
        return slice(self.index * count // self.count, (self.index + 1) * count // self.count)

    def pairs(self, pairs: Sequence[Pair], whole: str) -> list[Pair]:
        """This process's share of ordered pairs, in the order given; every pair is in exactly one share.

        ``whole`` is what is not divided, a key of ``WHOLE``; shares differ by one of these at most.
        """
        groups = list(dict.fromkeys(map(WHOLE[whole], pairs)))
        mine = set(groups[self.share(len(groups))])
        return [pair for pair in pairs if WHOLE[whole](pair) in mine]

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
          mesh: of this process's first devices, in their order, over which rows are sharded; None for one device. The
            processes' meshes have one shape, or it is a ``UserError``.
        """
        mine = self.share(rows)
        if self.count == 1:
            return of(mine, fold, mesh)
        shape = [1, 1] if mesh is None else list(mesh.devices.shape)
        self.agree(shape, _compare_devices)
        owned = [[each for each in jax.devices() if each.process_index == k] for k in range(self.count)]
        devices = [device for theirs in owned for device in theirs[: shape[0] * shape[1]]]
        self._summing = True
        found = of(mine, None if fold is None else fold[mine], device_mesh(devices, pairs=shape[1]))
        self._summing = False
        return found

    def _exchanged(self, message: dict[str, Any]) -> list[Any]:
        """The values of the messages of all processes."""
        if self.count == 1:
            return [message.get("value")]
        text = json.dumps(message).encode()
        longest = int(np.max(multihost_utils.process_allgather(np.array(len(text), np.int32))))
        room = 1 << (longest - 1).bit_length()  # few lengths, each of which is a program
        texts = multihost_utils.process_allgather(np.frombuffer(text.ljust(room), np.uint8))
        messages = [json.loads(bytes(np.asarray(row, np.uint8))) for row in texts]
        for number, other in enumerate(messages):
            if "failed" in other:
                self._ended = True
                raise UserError(f"process {number} of {self.count}: {other['failed']}")
        return [other["value"] for other in messages]


ALONE = Hosts()


def end_process(sentence: str, status: int) -> NoReturn:
    """Ends this process at once, without the barrier at which JAX would wait for the others."""
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(status)


def _compare_devices(first: list[int], other: list[int], number: int) -> str | None:
    if first == other:
        return None
    return (
        f"process 0 shards rows over {first[0]} and moments over {first[1]} devices, process {number} over {other[0]} "
        f"and {other[1]}; give every process as many devices of one kind."
    )
