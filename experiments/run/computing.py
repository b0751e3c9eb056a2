"""Where a run computes and what it keeps for the next one: devices, compiled programs, places of caches."""

import contextlib
import dataclasses
import glob
import os
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.run import flags
from jaxalign import FoldMoments, device_mesh
from jaxalign.core.errors import UserError
from jaxalign.moments.sharded import ShardedMoments


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiling:
    """Where compiled programs are cached."""

    compilation_cache: str = flags.field(
        "default",
        "Directory that caches compiled programs, so that the next run starts at once. `default` is one per "
        "user (~/.cache/jaxalign, or under XDG_CACHE_HOME), `none` caches nothing.",
    )


def set_compilation_cache(value: str) -> pathlib.Path | None:
    """Makes JAX keep compiled programs in the directory of ``--compilation_cache``, small programs included.

    Returns:
      The directory; None where ``value`` is "none" or the default directory cannot be written.
    """
    if value in ("none", ""):
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    try:
        directory = cache_directory(value, "compiled")
    except UserError:  # a user without a home directory
        return None
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
        if value != "default":
            raise UserError(f"--compilation_cache={value} is not a directory that can be written.")
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _remove_damaged_programs(directory)
    return directory


def _remove_damaged_programs(directory: pathlib.Path) -> None:
    """Deletes cached programs that JAX warns it cannot read: it compiles them again, but never replaces a file."""
    show = warnings.showwarning

    def handle(message: Warning | str, *given: Any, **more: Any) -> None:
        found = re.search(r"reading persistent compilation cache entry for '([^']+)'", str(message))
        if not found:
            show(message, *given, **more)
            return
        for path in directory.glob(f"{glob.escape(found[1])}-*"):
            path.unlink(missing_ok=True)

    warnings.showwarning = handle


def cache_directory(value: str, kind: str) -> pathlib.Path:
    """The directory that a flag names; for "default" the user's own cache of one kind."""
    if value != "default":
        return pathlib.Path(value).expanduser().absolute()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError as error:
        why = "this user has no home directory to cache in"
        raise UserError(f"{why}: set XDG_CACHE_HOME, or give a directory by a flag (see --help).") from error
    return pathlib.Path(base) / "jaxalign" / kind


def chosen_devices(count: int | None) -> list[Any]:
    """The devices of ``--devices``: so many, or where no number is given every accelerator, or one CPU.

    More CPU devices are simulated on the same cores and memory, so that they serve tests only.
    """
    there = jax.local_devices()
    if count is None:
        return there if there[0].platform != "cpu" else there[:1]
    if not 1 <= count <= len(there):
        here = f"the {there[0].platform} devices of this process"
        raise UserError(f"--devices takes a whole number from 1 to {len(there)}, {here}; got {count}.")
    return there[:count]


def mesh_for(devices: Sequence[Any], moments: FoldMoments) -> Mesh | None:
    """The mesh to fit maps on: that of sharded moments, else all devices; None for one device."""
    if isinstance(moments.total, ShardedMoments):
        return moments.total.mesh
    return device_mesh(devices) if len(devices) > 1 else None
