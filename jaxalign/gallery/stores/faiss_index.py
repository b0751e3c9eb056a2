"""Galleries in flat FAISS indexes, read and written without FAISS: their rows lie in the file one after the other.

A flat index is a header, the number of its values and the values as float32. An ``IndexIDMap`` is a header, such an
index, and the ids as int64. The new file has the bytes of the old one with another width and other values, so that ids
and metric stay; memory does not grow with the index, which FAISS would read whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import struct
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import read_json, regular_file
from jaxalign.core.rows import prefetch
from jaxalign.data.arrays import sha256
from jaxalign.data.atomic import write_atomically
from jaxalign.gallery.stores.kinds import (
    COMPLETE,
    Gallery,
    Move,
    Rows,
    as_stored,
    drawn,
    file_marker,
    pieces_of_file,
    require_new_file,
    rows_of_file,
    same_move,
    split_path,
    swept,
    write_new_file,
)

FLAT, MAPS = (b"IxFI", b"IxF2", b"IxFl"), (b"IxMp", b"IxM2")
COMMON = struct.Struct("<4siqqq?i")  # mark, width, rows, two numbers of no use, trained, metric
COUNT = struct.Struct("<Q")


class FaissGallery(Gallery):
    """``faiss:FILE``: an ``IndexFlatIP`` or ``IndexFlatL2``, or an ``IndexIDMap`` over one.

    FAISS has no place for a note, so the marker is in ``FILE.jaxalign.json``, with the checksum of the index that it
    is about. A move writes a new file of float32.
    """

    kind, dtype = "faiss", "float32"

    def __init__(self, specification: str, path: pathlib.Path):
        self.specification, self.path = specification, regular_file(path, "a FAISS index")
        self.headers = _headers(path)
        _, self.width, self.rows, *_ = COMMON.unpack_from(self.headers[-1])
        start, tail = sum(map(len, self.headers)) + COUNT.size, len(self.headers) > 1
        size = start + 4 * self.rows * self.width
        expected = size + tail * (COUNT.size + 8 * self.rows)
        if min(self.width, self.rows) < 1 or path.stat().st_size != expected:
            raise UserError(f"{path} is damaged: {self.rows:,} rows of {self.width:,} do not fill its bytes.")
        self.array = np.memmap(path, "<f4", "r", start, (self.rows, self.width))
        self.ids = np.memmap(path, "<i8", "r", size + COUNT.size, self.rows) if tail else np.arange(self.rows)
        self.marker = _noted(path)

    @classmethod
    def open(cls, specification: str) -> FaissGallery:
        path, part = split_path(specification)
        if part:
            raise UserError(f"{path} holds one index without a name; leave '#{part}' out.")
        return cls(specification, path)

    def stored_chunks(self, size: int) -> Iterator[Rows]:
        for start, rows in pieces_of_file(self.array, size):
            yield self.ids[start : start + len(rows)], rows

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        return rows_of_file(self.array, drawn(self.rows, count, seed))

    def check(self, out: str | None, move: Move) -> None:
        move.only_dtypes(self.specification, "float32")

    def move(self, out: str | None, move: Move) -> FaissGallery:
        if out is None:
            raise UserError("a FAISS index is moved to a new file: give faiss:FILE.")
        self.check(out, move)
        path, _ = split_path(out)
        marker = file_marker(self.path, move)
        if path.exists() and not move.overwrite and same_move(_noted(path), marker):
            with swept(path, _beside(path)):
                return self.open(out)
        require_new_file(self.path, path, move.overwrite)
        write = functools.partial(self._write, path=path, move=move, marker=marker)
        write_new_file(path, write, _beside(path))
        return self.open(out)

    def _write(self, file: IO[bytes], path: pathlib.Path, move: Move, marker: dict[str, Any]) -> None:
        digest = hashlib.sha256()

        def write(content: Any) -> None:
            digest.update(content)
            file.write(content)

        for header in self.headers:
            write(header[:4] + struct.pack("<i", move.width) + header[8:])
        write(COUNT.pack(self.rows * move.width))
        for _, rows in move.mapped(prefetch(self.stored_chunks(move.size))):
            write(as_stored(rows, "<f4", self.specification).data)
        if len(self.headers) > 1:
            write(COUNT.pack(self.rows))
            write(self.ids.data)
        text = json.dumps({"sha256": digest.hexdigest(), "marker": marker}, indent=1) + "\n"
        write_atomically(_beside(path), lambda beside: beside.write(text.encode()))


def _headers(path: pathlib.Path) -> list[bytes]:
    """What stands before the number of values: the header of an ``IndexIDMap``, if it is one, and the flat index's."""
    with open(path, "rb") as file:
        head, found, start = file.read(2 * (COMMON.size + 4)), [], 0
    while (
        len(head) >= start + COMMON.size and head[start : start + 4] in MAPS[: len(MAPS) * (not found)] + FLAT
    ):
        mark, *_, metric = COMMON.unpack_from(head, start)
        stop = start + COMMON.size + 4 * (metric > 1)  # these metrics have a number of their own
        found.append(head[start:stop])
        if mark in FLAT:
            return found
        start = stop
    raise UserError(
        f"{path} is no flat FAISS index, nor an IndexIDMap over one; only those hold rows as they were."
    )


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.jaxalign.json")


def _noted(path: pathlib.Path) -> dict[str, Any] | None:
    """The marker that is noted of this very index; None without one, or where the index was replaced since."""
    if not _beside(path).exists():
        return None
    noted = read_json(_beside(path))
    if not isinstance(noted, dict) or not isinstance(noted.get("marker"), dict):
        raise UserError(f"{_beside(path)} is damaged: it holds no marker of a move.")
    return {**noted["marker"], "state": COMPLETE} if noted.get("sha256") == sha256(path) else None
