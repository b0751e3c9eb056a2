"""How much memory a process has had at most, and giving back what it no longer needs."""

import ctypes
import gc
import pathlib
import platform
import resource

STATUS = pathlib.Path("/proc/self/status")


def peak_gigabytes() -> float:
    """Peak resident memory of this process.

    On Linux from /proc: what ``getrusage`` says of a process that another one started is at least what that one had.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def give_back() -> None:
    """Frees what only cycles hold, and returns freed memory to the system, which glibc keeps for later otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if platform.system() == "Linux" else None
    if trim is not None:
        trim(0)
