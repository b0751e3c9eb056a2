"""Where a process stands among those of one run: named by the caller, or detected by JAX."""

from __future__ import annotations

import dataclasses
import re

from jaxalign.core.errors import UserError

DETECT_SECONDS = 50  # for the name of a pod's first host to resolve


@dataclasses.dataclass(frozen=True)
class Place:
    """One process among several.

    Attributes:
      host, port: where process 0 listens.
      count: of processes.
      index: of this one, from 0.
      devices: numbers of the accelerators of its host that it uses; None for all.
    """

    host: str
    port: int
    count: int
    index: int
    devices: tuple[int, ...] | None = None

    @classmethod
    def of(cls, coordinator: str, count: int, index: int, devices: tuple[int, ...] | None = None) -> Place:
        """A place in words.

        Args:
          coordinator: "host:port" of process 0.
          count: of processes.
          index: of this one, 0 ... count − 1.
          devices: as the attribute.

        Raises:
          UserError: one of them cannot be.
        """
        found = re.fullmatch(r"\[?([^\s\[\]]+?)\]?:([0-9]{1,5})", coordinator.strip())
        if not found or not 0 < int(found[2]) < 2**16:
            raise UserError(
                f"the coordinator is written host:port, such as 10.0.0.1:8476; got '{coordinator}'."
            )
        if count < 1 or not 0 <= index < count:
            raise UserError(
                f"processes are numbered 0 ... {max(count, 1) - 1} where there are {count}; got process {index}."
            )
        return cls(found[1], int(found[2]), count, index, devices)

    @classmethod
    def detected(cls) -> Place:
        """The place that JAX reads from the machine: a TPU pod slice, SLURM, Open MPI or Kubernetes.

        Raises:
          UserError: it finds none of them.
        """
        # What jax.distributed.initialize does without arguments; it cannot be asked without starting, and a start that
        # fails ends the process.
        from jax._src.clusters import ClusterEnv

        try:
            found = ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, DETECT_SECONDS
            )
        except Exception as error:
            raise UserError(f"JAX cannot tell which hosts belong to this run: {error}") from error
        coordinator, count, index, devices = found
        if coordinator is None or count is None or index is None:
            raise UserError(
                "JAX finds neither a TPU pod slice nor SLURM, Open MPI or Kubernetes here; name the coordinator, the "
                "number of processes and this process instead."
            )
        return cls.of(coordinator, count, index, None if devices is None else tuple(devices))

    @property
    def address(self) -> str:
        """Of process 0, as one writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether all processes are on one machine."""
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")
