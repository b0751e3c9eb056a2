"""Files and directories that are there whole or not at all, whenever the machine stops."""

import contextlib
import ctypes
import errno
import glob
import logging
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

from jaxalign.core.errors import UserError

Result = TypeVar("Result")
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # why a directory cannot be renamed to a name in use
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
UNFINISHED = ".unfinished"  # ends the names of temporary files and directories
ABANDONED_SECONDS = (
    60.0  # after which a temporary file that nobody has locked belongs to a program that is gone
)
ATTEMPTS = 100
_unfinished: set[pathlib.Path] = set()  # what this process would leave if it ended now


def write_atomically(path: pathlib.Path, write: Callable[[IO[bytes]], Result]) -> Result:
    """Writes a file under a temporary name in the same directory, then renames it, over one that is there.

    ``write`` writes the content to the open file; what it returns is returned. The file is locked meanwhile, for
    ``remove_abandoned``.
    """
    with temporary_name(path) as temporary:
        with open(temporary, "xb") as file:
            _lock(file.fileno())
            result = write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    sync_directory(path.parent)
    return result


@contextlib.contextmanager
def new_directory(
    path: pathlib.Path, *, check: Callable[[], object], overwrite: bool = False
) -> Iterator[pathlib.Path]:
    """Gives a temporary directory next to ``path`` to fill, which becomes ``path`` if the body succeeds.

    If the body fails, ``path`` is as it was. Temporary directories of the same path that killed programs have left are
    removed, with a warning of the logger.

    Args:
      path: of the directory to make.
      check: raises ``UserError`` if what is at ``path`` may not be replaced; called at the start and before the end.
      overwrite: replace a directory that is there, in one step where the system can. Otherwise only an empty one is.

    Raises:
      UserError: another program is making ``path``, or something that may not be replaced is there.
    """
    path = pathlib.Path(os.path.realpath(path))  # a link stays a link
    with claimed(path) as alone:
        check()
        if alone:
            remove_left(path.parent, glob.escape(path.name))
        with temporary_name(path) as temporary:
            temporary.mkdir()
            yield temporary
            sync_directory(temporary)
            check()
            _rename_directory(temporary, path, overwrite)
    sync_directory(path.parent)


@contextlib.contextmanager
def new_file(path: pathlib.Path, *beside: pathlib.Path) -> Iterator[None]:
    """Claims the name of a file that the block writes, by ``write_atomically`` or under a ``temporary_name``.

    What killed programs have left of it, or of files that are written ``beside`` it, is removed first.

    Raises:
      UserError: another program is writing the file, there is no such directory, or the disk refuses.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: {os.strerror(errno.ENOENT)}.")
    with writing(path), claimed(path) as alone:
        for file in (path, *beside) if alone else ():
            remove_left(path.parent, glob.escape(file.name))
        yield


@contextlib.contextmanager
def claimed(path: pathlib.Path) -> Iterator[bool]:
    """Reserves a name, so that two programs do not make one directory; by a locked file beside it, which is removed.

    Gives whether the file system can lock, so that nobody else has the name.

    Raises:
      UserError: another program has reserved it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        alone = _lock(descriptor)
        if alone is False:
            os.close(descriptor)
            raise UserError(f"another program is writing {path}; wait until it ends, or choose another path.")
        with contextlib.suppress(FileNotFoundError):  # who had it before has removed it just now
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                break
        os.close(descriptor)
    _unfinished.add(lock)
    try:
        yield bool(alone)
    finally:
        lock.unlink(missing_ok=True)
        _unfinished.discard(lock)
        os.close(descriptor)


def remove_unfinished() -> None:
    """Removes what this process has not finished; for a program that is about to end without unwinding.

    Another thread may still be writing into a directory: it is emptied until it is gone.
    """
    for path in list(_unfinished):
        for _ in range(ATTEMPTS):
            _remove(path)
            if not path.exists():
                break


def remove_left(directory: pathlib.Path, name: str = "*") -> None:
    """Removes temporary files and directories that killed programs have left, with a warning of the logger.

    Args:
      directory: to look in.
      name: pattern of what they were to become, which no other program may be making now.
    """
    for left in _left(directory, name):
        if not (left / "lock").exists():  # it is not such a name, but embeddings that are to be continued
            _remove_left(left)


def remove_abandoned(directory: pathlib.Path) -> None:
    """The same for temporary files in a directory that other programs may be writing in now.

    Removes those that no program has locked and that were not written to for a minute; none where the file system
    cannot lock.
    """
    for left in _left(directory):
        with contextlib.suppress(OSError):  # its program has renamed or removed it just now
            if not left.is_file() or time.time() - left.stat().st_mtime < ABANDONED_SECONDS:
                continue
            with open(left, "r+b") as file:
                if _lock(file.fileno()):
                    _remove_left(left)


def _left(directory: pathlib.Path, name: str = "*") -> Iterator[pathlib.Path]:
    return directory.glob(f".{name}.{'[0-9a-f]' * 8}{UNFINISHED}")


def _remove_left(left: pathlib.Path) -> None:
    _remove(left)
    logging.getLogger(__name__).warning("removed %s, which a killed program had left", left)


def sync_directory(path: pathlib.Path) -> None:
    """Waits until the names in a directory are on disk."""
    with contextlib.suppress(OSError):  # some file systems cannot; the files themselves are on disk
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[bool]:
    """Holds a directory so that two programs do not change it at once; the second waits. Gives whether it could."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # of Windows, for directories
        yield False
        return
    try:
        yield bool(_lock(descriptor, wait=True))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(what: pathlib.Path) -> Iterator[None]:
    """Turns what the disk refuses (no space, no permission) into a sentence that names ``what``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def temporary_name(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A free name beside ``path``; what has this name when the block ends is removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    _unfinished.add(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _unfinished.discard(temporary)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(descriptor: int, wait: bool = False) -> bool | None:
    """Locks an open file: False if another program has locked it, None where that is not possible."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # not on this system, or not on this file system
        return None
    return True


def _rename_directory(new: pathlib.Path, path: pathlib.Path, overwrite: bool) -> None:
    """Renames ``new``; what ``overwrite`` replaces gets its name."""
    try:
        os.rename(new, path)  # replaces an empty directory at most
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        if not overwrite:
            raise UserError(f"{path} was made by another program meanwhile, and is left as it is.") from error
        if not _exchanged(new, path):
            with temporary_name(path) as old:
                os.rename(path, old)
                try:
                    os.rename(new, path)
                except BaseException:
                    os.rename(old, path)
                    raise


def _exchanged(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Exchanges two names in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old one
        return False
    names = os.fsencode(one), os.fsencode(other)
    return renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0
