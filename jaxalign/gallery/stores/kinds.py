"""What galleries of every kind have in common: rows read in chunks, and moved rows written beside them.

A gallery is named by a specification: ``DIR``, ``DIR#encoder``, ``parquet:FILE``, ``parquet:FILE#column``,
``faiss:FILE``, ``qdrant:URL-or-DIR#collection/vector`` or ``postgres:DSN#table.column``.

A move never changes the old rows, and notes beside the new ones where they come from: the *marker*, with the checksum
of the map. Files appear whole or not at all, so a run that was killed is begun again. In Qdrant and PostgreSQL, rows
that have their new vector are left alone, so a run that was killed goes on.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, ClassVar, Final

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.rows import narrowed
from jaxalign.data.atomic import new_file, write_atomically, writing

Transform = Callable[[np.ndarray], Any]  # rows [c, d] float32, or float16 as stored, to rows [c, e]
Rows = tuple[Any, np.ndarray]  # keys of c rows, and the rows [c, d]

KINDS = {
    "parquet": ("parquet", "ParquetGallery"),
    "faiss": ("faiss_index", "FaissGallery"),
    "qdrant": ("qdrant", "QdrantGallery"),
    "postgres": ("postgres", "PostgresGallery"),
}
COMPLETE: Final = "complete"  # state of a marker: every row that there was has been moved,
MOVING: Final = "moving"  # or a run has begun and not ended
CHECKSUM = "checksum"  # of the map, in a note
MIXED = "mixed"  # how rows that were not mapped were told from those that were, in the note of a mixed gallery's move


@dataclasses.dataclass(frozen=True)
class Move:
    """How the rows of a gallery are moved.

    Attributes:
      transform: takes rows [c, d], float32 or, where they are stored so, float16; gives rows [c, width].
      width: of moved rows.
      note: what to keep beside moved rows: ``checksum`` of the map, and where known ``source`` and ``target``, the
        encoders whose rows it takes and in whose space they are afterwards.
      dtype: to store in, "float16", "float32" or "bfloat16"; None for the gallery's own.
      size: rows of a chunk.
      overwrite: replace a file or directory that is there.
      progress: told how many rows are done, after every chunk.
    """

    transform: Transform
    width: int
    note: Mapping[str, Any]
    dtype: str | None = None
    size: int = 4096
    overwrite: bool = False
    progress: Callable[[int], None] | None = None

    def mapped(self, chunks: Iterable[Rows], done: int = 0) -> Iterator[Rows]:
        """The chunks with their rows mapped; ``done`` rows were before them."""
        for keys, rows in chunks:
            moved = np.asarray(self.transform(rows)) if len(rows) else np.zeros((0, self.width), np.float32)
            if moved.shape != (len(rows), self.width):
                raise ValueError(f"the transform gave {moved.shape}, expected {(len(rows), self.width)}")
            yield keys, moved
            done += len(rows)
            if self.progress is not None:
                self.progress(done)

    def only_dtypes(self, specification: str, *names: str) -> None:
        """Refuses types of numbers that a kind of gallery does not store."""
        if self.dtype is not None and self.dtype not in names:
            raise UserError(f"{specification} stores {' or '.join(names)}, not {self.dtype}.")


class Gallery(abc.ABC):
    """Enrolled rows of one encoder, wherever they are; see the subclasses for each kind.

    Attributes:
      specification: as ``open_gallery`` takes it.
      rows: how many there are.
      width: of each row.
      dtype: type that they are stored in.
      marker: what an earlier move noted of these rows, with its ``state``; None where they were never moved.
      unfinished: marker of rows beside these to which a move has begun and not ended; None without such.
    """

    kind: ClassVar[str]
    specification: str
    rows: int
    width: int
    dtype: str
    marker: dict[str, Any] | None = None
    unfinished: dict[str, Any] | None = None

    @classmethod
    @abc.abstractmethod
    def open(cls, specification: str) -> Gallery:
        """Opens a gallery; see ``open_gallery``."""

    @abc.abstractmethod
    def stored_chunks(self, size: int) -> Iterator[Rows]:
        """All rows in an order that stays, ``size`` at a time: their keys, and the rows [c, width], float16 or float32.

        Rows without a vector are left out. Memory does not grow with the gallery.
        """

    def chunks(self, size: int) -> Iterator[Rows]:
        """As ``stored_chunks``, the rows as float32."""
        for keys, rows in self.stored_chunks(size):
            yield keys, rows.astype(np.float32, copy=False)

    def check(self, out: str | None, move: Move) -> None:  # noqa: B027 (most kinds take any)
        """Refuses a move that cannot be made, though its map (the note's checksum) may not be known yet."""

    @abc.abstractmethod
    def move(self, out: str | None, move: Move) -> Gallery:
        """Writes moved rows beside these, going on where a killed run stopped; ``move_gallery`` checks the rest."""

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """Some rows, drawn without replacement, in the gallery's order, shape [min(count, rows), width]."""
        chosen = drawn(self.rows, count, seed)
        found, start = [], 0
        for _, rows in self.chunks(4096):
            found.append(rows[chosen[(chosen >= start) & (chosen < start + len(rows))] - start])
            start += len(rows)
        return np.concatenate(found)

    def identities(self) -> np.ndarray | None:
        """Person of each row, text, shape [rows]; None where the gallery does not say."""
        return None

    def switch(self, out: str | None = None) -> str:
        """Lets programs that ask for the old rows find the new ones; a sentence that says what was done."""
        raise UserError(f"{self.place} has no name to switch: give programs the new path.")

    def roll_back(self, out: str | None = None) -> str:
        """Undoes ``switch``."""
        raise UserError(f"{self.place} was not changed by a move: give programs this path again.")

    def drop_old(self, out: str | None = None) -> str:
        """Deletes the old rows after ``switch``."""
        raise UserError(f"{self.place} is a file of yours: delete it once nothing reads it.")

    def close(self) -> None:  # noqa: B027 (files have nothing to close)
        """Closes the connection, if there is one."""

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    @property
    def place(self) -> str:
        """The specification as messages show it: without a password."""
        return self.specification

    def __repr__(self) -> str:
        state = f", {self.marker['state']}" if self.marker else ""
        return f"{type(self).__name__}({self.place!r}: {self.rows:,} × {self.width} {self.dtype}{state})"


def open_gallery(specification: str) -> Gallery:
    """Opens a gallery where it lives.

    Args:
      specification: ``DIR``, ``DIR#encoder`` (where a store has several), ``parquet:FILE``, ``parquet:FILE#column``,
        ``faiss:FILE``, ``qdrant:URL-or-DIR#collection/vector`` or ``postgres:DSN#table.column``.

    Raises:
      UserError: it is not there, cannot be reached or read, or the client for it is not installed.
    """
    kind = specification.partition(":")[0]
    module, name = KINDS.get(kind, ("directory", "DirectoryGallery"))
    found = importlib.import_module(f"jaxalign.gallery.stores.{module}")
    return getattr(found, name).open(specification)


def same_kind(gallery: Gallery, out: str) -> None:
    """Refuses an ``out`` of another kind: other columns, payload and ids would be lost on the way."""
    kind = out.partition(":")[0]
    if (kind if kind in KINDS else "directory") != gallery.kind:
        raise UserError(f"{out} is of another kind than {gallery.place}; both must be of one kind.")


def split_path(specification: str) -> tuple[pathlib.Path, str | None]:
    """The path and what follows ``#``; a path that is there is not split. The kind in front is left out."""
    kind, _, rest = specification.partition(":")
    text = rest if kind in KINDS else specification
    path, _, part = text.rpartition("#")
    if not path or pathlib.Path(text).expanduser().exists():
        path, part = text, ""
    return pathlib.Path(path).expanduser(), part or None


def pieces_of_file(array: np.memmap, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """All rows of a memory-mapped array, ``size`` at a time: the index of the first one, and a copy of the rows.

    They are read from the file, since pages that a map has touched count as resident memory until others need it.
    """
    with open(str(array.filename), "rb") as file:
        file.seek(array.offset)
        for start in range(0, len(array), size):
            count = min(size, len(array) - start)
            rows = np.frombuffer(file.read(count * array.shape[1] * array.dtype.itemsize), array.dtype)
            yield start, rows.reshape(count, -1)


def rows_of_file(array: np.memmap, chosen: np.ndarray) -> np.ndarray:
    """Rows of a memory-mapped array by index, shape [m, d], read from the file as ``pieces_of_file`` does."""
    row_bytes, found = (
        array.shape[1] * array.dtype.itemsize,
        np.empty((len(chosen), array.shape[1]), array.dtype),
    )
    with open(str(array.filename), "rb", buffering=0) as file:
        for place, row in enumerate(chosen.tolist()):
            file.seek(array.offset + row * row_bytes)
            found[place] = np.frombuffer(file.read(row_bytes), array.dtype)
    return found


def drawn(rows: int, count: int, seed: int) -> np.ndarray:
    """Indices of rows drawn without replacement, in order, shape [min(count, rows)]."""
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, rows), replace=False))


def as_note(marker: Mapping[str, Any]) -> dict[str, Any]:
    """A marker as it is after JSON; a ``UserError`` where JSON cannot hold it."""
    try:
        return json.loads(json.dumps(dict(marker), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"what is noted of a move must fit JSON ({error}).") from error


def same_move(there: Mapping[str, Any] | None, marker: Mapping[str, Any]) -> bool:
    """Whether rows that are there were written by the same map from the same rows, those of a mixed gallery or all."""
    if there is None or bool(there.get(MIXED)) != bool(marker.get(MIXED)):
        return False
    return all(there.get(key) == marker.get(key) for key in (CHECKSUM, "translated_from"))


def may_be_same_move(there: Mapping[str, Any] | None, note: Mapping[str, Any]) -> bool:
    """Whether rows that are there were moved from the note's source: what can be known before the map is fitted."""
    return there is not None and there.get("source") == note.get("source")


def file_marker(path: pathlib.Path, move: Move) -> dict[str, Any]:
    """The marker of rows that come from a file: the note, and which file it was."""
    about = path.stat()
    source = {"file": path.name, "bytes": about.st_size, "mtime_ns": about.st_mtime_ns}
    return as_note({**move.note, "translated_from": source})


def require_new_file(source: pathlib.Path, path: pathlib.Path, overwrite: bool) -> None:
    """Refuses to write over what is there, except over a file if asked to, and never over the gallery itself."""
    if os.path.realpath(source) == os.path.realpath(path):
        raise UserError(f"{path} is the gallery to move; choose another path for the new one.")
    if path.exists() and not (overwrite and path.is_file()):
        raise UserError(f"{path} exists and is left alone; choose another path.")


@contextlib.contextmanager
def swept(path: pathlib.Path, *beside: pathlib.Path) -> Iterator[None]:
    """Reserves a path; removes what killed runs left of it, or of files ``beside``, their lock among it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, *beside):
        yield


def write_new_file(path: pathlib.Path, write: Callable[[IO[bytes]], object], *beside: pathlib.Path) -> None:
    """Writes a file that is there whole or not at all; see ``swept``."""
    with swept(path, *beside):
        write_atomically(path, write)


def as_stored(rows: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """Rows in C order as the type to store; a ``UserError`` where a value is beyond it."""
    narrow, beyond = narrowed(rows, dtype)
    if beyond:
        raise UserError(f"{what}: some mapped values are beyond what {dtype} holds.")
    return narrow
