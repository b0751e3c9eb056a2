"""The door that files of a user come in by: regular files only, text in UTF-8, JSON that can be written again."""

import csv
import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Any

from jaxalign.core.errors import UserError
from jaxalign.core.memory import available_memory

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_file(path: str | os.PathLike[str], expected: str = "a file") -> pathlib.Path:
    """The path, ``~`` expanded, if a regular file is there; nothing is read.

    Raises:
      UserError: it is missing, cannot be reached, or is something else, such as a directory or a pipe.
    """
    path = pathlib.Path(path).expanduser()
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise UserError(f"{path} is not a file but {kind}; expected {expected}.")
    return path


def read_text(path: str | os.PathLike[str], expected: str = "a text file") -> str:
    """The text of a file in UTF-8, a byte order mark left out.

    Raises:
      UserError: as ``regular_file``; or the file is larger than memory, cannot be read, is not UTF-8, or holds NUL,
        which NumPy would leave out of a number.
    """
    path = regular_file(path, expected)
    require_memory(path, 3 * path.stat().st_size)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {expected} in UTF-8 ({first_line(error)}).") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path} is not {expected}: it holds a NUL character (line {line}).")
    return text


def parse_json(text: str | bytes, where: str) -> Any:
    """What a JSON text says; a ``UserError`` that begins with ``where`` if it is none, too deep, or no Unicode."""
    try:
        content = json.loads(text)
        if b"\\u" in (text if isinstance(text, bytes) else text.encode()):
            json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged: it is not JSON ({first_line(error)}).") from error
    return content


def read_json(path: str | os.PathLike[str], expected: str = "a JSON file") -> Any:
    """What a JSON file says; errors as ``read_text`` and ``parse_json``."""
    return parse_json(read_text(path, expected), str(path))


def content_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of what a JSON file of ours says but its own field ``checksum``, however it is laid out."""
    own = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def csv_lines(text: str, path: str | os.PathLike[str]) -> list[tuple[int, list[str]]]:
    """The records of a CSV text with their line numbers, empty lines left out.

    The separator is that of comma, semicolon and tab that the first line has most of. ``path`` is for messages.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max("\t;,", key=first.count) if any(mark in first for mark in "\t;,") else ","
    try:
        reader = csv.reader(text.splitlines(keepends=True), delimiter=separator, skipinitialspace=True)
        return [(reader.line_num, line) for line in reader if line]
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({first_line(error)}).") from error


def require_memory(path: pathlib.Path, size: int) -> None:
    """Refuses a file whose content, of ``size`` bytes in memory by what the file states, is more than there is."""
    free = available_memory()
    if free is not None and size > free:
        raise UserError(
            f"{path} announces {size / 1e9:,.1f} GB of content, {free / 1e9:,.1f} GB of memory are free; it may be "
            "damaged."
        )


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
