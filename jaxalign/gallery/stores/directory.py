"""Galleries in jaxalign's own stores: one encoder of a directory, moved to a new directory."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.rows import prefetch
from jaxalign.data import EmbeddingStore
from jaxalign.data.derive import write_derived
from jaxalign.data.manifest import check_encoder_name
from jaxalign.data.store import require_free
from jaxalign.gallery.stores.kinds import (
    COMPLETE,
    Gallery,
    Move,
    Rows,
    as_note,
    drawn,
    pieces_of_file,
    rows_of_file,
    same_move,
    split_path,
    swept,
)


class DirectoryGallery(Gallery):
    """``DIR``, or ``DIR#encoder`` where the store has several; the marker is what the manifest notes of the encoder.

    A move writes a new directory with the same samples and one encoder, ``DIR#name`` to call it otherwise, which is
    there whole or not at all.
    """

    kind = "directory"

    def __init__(self, specification: str, store: EmbeddingStore, encoder: str):
        self.specification, self.store, self.encoder = specification, store, encoder
        self.rows, self.width, self.dtype = store.rows, store.dims[encoder], str(store[encoder].dtype)
        noted = store.info[encoder]
        self.marker = {**noted, "state": COMPLETE} if "translated_from" in noted else None

    @classmethod
    def open(cls, specification: str) -> DirectoryGallery:
        path, encoder = split_path(specification)
        store = EmbeddingStore.open(path, encoders=encoder and [encoder])
        if len(store) > 1:
            raise UserError(
                f"{path} has {len(store)} encoders; choose one as {path}#{store.encoders[0]} "
                f"(there are {', '.join(store.encoders)})."
            )
        return cls(specification, store, store.encoders[0])

    def stored_chunks(self, size: int) -> Iterator[Rows]:
        for start, rows in pieces_of_file(self.store[self.encoder], size):
            wide = rows if rows.dtype == np.float16 else rows.astype(np.float32, copy=False)
            yield self.store.sample_ids[start : start + len(rows)], wide

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        return rows_of_file(self.store[self.encoder], drawn(self.rows, count, seed)).astype(
            np.float32, copy=False
        )

    def identities(self) -> np.ndarray:
        return self.store.identities

    def move(self, out: str | None, move: Move) -> DirectoryGallery:
        path, name = split_path(out or "")
        name = check_encoder_name(name or self.encoder)
        if os.path.realpath(path) == os.path.realpath(self.store.path):
            raise UserError(f"{path} is the store to translate; choose another path for the new one.")
        source = {"encoder": self.encoder, "sha256": self.store.checksums[self.encoder]}
        info: dict[str, Any] = as_note({"translated_from": source, **move.note})
        dtype = move.dtype or self.dtype
        if not move.overwrite and _holds(path, name, info, dtype):
            with swept(pathlib.Path(os.path.realpath(path))):
                return self.open(f"{path}#{name}")
        require_free(path, move.overwrite)
        chunks = (rows for _, rows in prefetch(move.mapped(prefetch(self.stored_chunks(move.size)))))
        made = write_derived(
            self.store, path, name, chunks, move.width, dtype, info=info, overwrite=move.overwrite
        )
        return DirectoryGallery(f"{path}#{name}", made, name)


def _holds(path: os.PathLike[str], name: str, info: dict[str, Any], dtype: str) -> bool:
    """Whether a directory is what this move writes, so that a run that was killed at its very end has ended."""
    try:
        store = EmbeddingStore.open(path, verify=False)
    except UserError:
        return False
    return store.encoders == (name,) and same_move(store.info[name], info) and str(store[name].dtype) == dtype
