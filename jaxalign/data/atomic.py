"""Files and directories that are there whole or not at all, whenever the machine stops."""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

from jaxalign.core.errors import UserError

Result = TypeVar("Result")


def write_atomically(path: pathlib.Path, write: Callable[[IO[bytes]], Result]) -> Result:
    """Writes a file under a temporary name in the same directory, then renames it, over one that is there.

    ``write`` writes the content to the open file; what it returns is returned.
    """
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            result = write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return result


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary directory next to ``path`` to fill, which becomes ``path`` if the body succeeds.

    A directory that is there is replaced. If the body fails, ``path`` is as it was.
    """
    path = pathlib.Path(os.path.realpath(path))  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        sync_directory(temporary)
        _replace_directory(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: pathlib.Path) -> None:
    """Waits until the names in a directory are on disk."""
    with contextlib.suppress(OSError):  # some file systems cannot; the files themselves are on disk
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """Holds a directory so that two programs do not change it at once; the second waits."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(what: pathlib.Path) -> Iterator[None]:
    """Turns what the disk refuses (no space, no permission) into a sentence that names ``what``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} cannot be written: {error.strerror or error}.") from error


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")


def _replace_directory(new: pathlib.Path, path: pathlib.Path) -> None:
    if not path.exists():
        os.rename(new, path)
        return
    old = _beside(path)
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
