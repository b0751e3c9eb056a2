"""How much memory a process has had at most, how glibc keeps it, and giving back what is no longer needed."""

import ctypes
import gc
import os
import pathlib
import platform
import resource

# glibc gives every thread an arena of its own, whose holes no other thread fills, and returns what is freed to the
# system only to fault it in again a moment later. Names and values of <malloc.h>.
ONE_ARENA = {"M_ARENA_MAX": (-8, 1), "M_MMAP_THRESHOLD": (-3, 2**25), "M_TRIM_THRESHOLD": (-1, 2**30)}
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


def share_one_arena() -> None:
    """Has all threads of this process take memory from one arena, which keeps up to 1 GiB that was freed.

    Where the user's environment says how glibc is to do it (MALLOC_..., GLIBC_TUNABLES) that stays.
    """
    said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not said:
        for option, value in ONE_ARENA.values():
            ctypes.CDLL(None).mallopt(option, value)


def give_back() -> None:
    """Frees what only cycles hold, and returns freed memory to the system, which glibc keeps for later otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if platform.system() == "Linux" else None
    if trim is not None:
        trim(0)
