"""How much memory a process has had at most, how glibc keeps it, and giving back what is no longer needed."""

import ctypes
import gc
import os
import pathlib
import platform
import resource

# Options of glibc's mallopt, by <malloc.h>: M_ARENA_MAX, and M_MMAP_THRESHOLD and M_TRIM_THRESHOLD with their values.
ARENAS, THRESHOLDS = -8, {-3: 2**25, -1: 2**30}
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


def share_arenas() -> None:
    """Has the threads of this process share one arena for each core, which keep up to 1 GiB that was freed.

    glibc gives up to eight threads a core an arena of their own, whose holes no other thread fills, and returns what is
    freed to the system only to fault it in again a moment later. Where the user's environment says how it is to be done
    (MALLOC_..., GLIBC_TUNABLES) that stays.
    """
    said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not said:
        for option, value in {ARENAS: len(os.sched_getaffinity(0)), **THRESHOLDS}.items():
            ctypes.CDLL(None).mallopt(option, value)


def give_back() -> None:
    """Frees what only cycles hold, and returns freed memory to the system, which glibc keeps for later otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if platform.system() == "Linux" else None
    if trim is not None:
        trim(0)
