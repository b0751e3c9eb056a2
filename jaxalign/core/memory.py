"""How much memory of the host this process may still take."""

import contextlib
import pathlib
from collections.abc import Iterator

CGROUPS = pathlib.Path("/sys/fs/cgroup")
PROC = pathlib.Path("/proc")


def available_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not say.

    The least of what the machine has free, what the limits of its control groups (containers, SLURM) leave, and what
    ``ulimit -v`` leaves of addresses.
    """
    return min(_rooms(), default=None)


def available_addresses() -> int | None:
    """Bytes of addresses that ``ulimit -v`` leaves this process; None without such a limit."""
    with contextlib.suppress(ImportError, OSError, KeyError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            return max(0, limit - 1024 * _table(PROC / "self" / "status")["VmSize"])
    return None


def _rooms() -> Iterator[int]:
    with contextlib.suppress(OSError, KeyError):
        yield 1024 * _table(PROC / "meminfo")["MemAvailable"]
    for limit, usage in _of_control_groups():
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            room = int(limit.read_text()) - int(usage.read_text())
            statistics = _table(limit.with_name("memory.stat"))
            # Pages of files that were read count as used, and are given up when memory is needed.
            yield max(0, room + statistics.get("inactive_file", statistics.get("total_inactive_file", 0)))
    if (addresses := available_addresses()) is not None:
        yield addresses


def _of_control_groups() -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """The files with the limit and the usage of the process's control groups and of those around them."""
    groups = {CGROUPS}
    with contextlib.suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text().splitlines():
            path = CGROUPS / line.split(":", 2)[2].lstrip("/")
            groups |= {path, *(parent for parent in path.parents if parent.is_relative_to(CGROUPS))}
    for group in groups:
        yield group / "memory.max", group / "memory.current"
    for group in groups:
        old = CGROUPS / "memory" / group.relative_to(CGROUPS)
        yield old / "memory.limit_in_bytes", old / "memory.usage_in_bytes"


def _table(file: pathlib.Path) -> dict[str, int]:
    """The whole numbers of a file of the kernel, by the first word of their lines; none where there is no file."""
    text = file.read_text() if file.exists() else ""
    words = [line.replace(":", " ").split() for line in text.splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}
