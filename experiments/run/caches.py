"""Directories that are kept from one run to the next: compiled programs, embeddings."""

import os
import pathlib

from jaxalign.core.errors import UserError


def set_compilation_cache(value: str) -> pathlib.Path | None:
    """Makes JAX keep compiled programs in a directory, small programs of the CPU included.

    Args:
      value: of ``--compilation_cache``.

    Returns:
      The directory, or None where nothing is kept: asked for, or the directory cannot be written.
    """
    import jax

    if value in ("none", ""):
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    directory = cache_directory(value, "compiled")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        usable = os.access(directory, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        if value != "default":
            raise UserError(f"--compilation_cache={value} is not a directory that can be written.")
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def cache_directory(value: str, kind: str) -> pathlib.Path:
    """The directory that a flag names, or the user's own for what is kept of one kind."""
    if value != "default":
        return pathlib.Path(value).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxalign" / kind
