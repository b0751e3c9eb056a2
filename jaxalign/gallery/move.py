"""Moves a gallery into another encoder's space, wherever it lives: old rows stay, mapped rows are written beside them.

>>> gallery = open_gallery("parquet:faces.parquet")
>>> transform = affine_transform(map, gallery, normalize_input=True)
>>> move_gallery(gallery, "parquet:moved.parquet", transform, map.out_dim, {"checksum": checksum(map)})
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.align.affine import ROWS_STEP, AffineMap
from jaxalign.core import checks
from jaxalign.core.errors import UserError, UserNote
from jaxalign.core.precision import double_precision
from jaxalign.core.rows import explained_memory_error, rows_that_fit
from jaxalign.data.manifest import DTYPES
from jaxalign.gallery.stores.kinds import CHECKSUM, MOVING, Gallery, Move, Transform, open_gallery, same_kind

CHUNK_BYTES = 2**23  # of rows as float64, in which they are mapped: those of 2**24 take a third more time


def move_gallery(
    gallery: Gallery,
    out: str | None,
    transform: Transform,
    width: int,
    note: Mapping[str, Any],
    *,
    dtype: str | None = None,
    chunk_rows: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Gallery:
    """Maps every row of a gallery and writes the new rows, which it opens; the old rows are not changed.

    Memory does not grow with the gallery. Killed at any moment, the same call ends the move: nothing is lost, doubled
    or mapped twice. Files are begun again and appear whole; Qdrant and PostgreSQL go on with the rows that lack their
    new vector, and leave alone those that have one.

    Args:
      gallery: open.
      out: specification of the new rows, of the gallery's kind; ``DIR#name`` names the encoder. None for the usual
        place in Qdrant and PostgreSQL, which is beside the old vectors.
      transform: takes rows [c, d], float32 or, where they are stored so, float16; gives rows [c, width]; every row
        independently of the others.
      width: of mapped rows.
      note: the marker that is kept beside the new rows, anything JSON can hold. ``checksum`` is the map's; ``source``
        and ``target``, where given, name the encoders whose rows go in and in whose space they come out.
      dtype: to store in: "float16", "float32" or "bfloat16"; None for the gallery's own.
      chunk_rows: rows of a chunk; without it what the device's memory allows.
      overwrite: replace the file or the store that is at ``out``.
      progress: told how many rows are done, after every chunk.

    Raises:
      UserError: the rows were moved before, or by another map; something is at ``out``; a mapped value does not fit
        ``dtype``; or the server refuses.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}.")
    if not isinstance(note.get(CHECKSUM), str):
        raise UserError(f"the note of a move needs the map's {CHECKSUM}, got {note.get(CHECKSUM)!r}.")
    if out is not None:
        same_kind(gallery, out)
    refuse_moved(gallery, note)
    row_bytes = 8 * max(gallery.width, width)
    fitting = rows_that_fit(CHUNK_BYTES // row_bytes, 4 * row_bytes)
    size = min(checks.positive(chunk_rows, "chunk_rows") or fitting, max(1, gallery.rows))
    return gallery.move(out, Move(transform, width, note, dtype, size, overwrite, progress))


def refuse_moved(gallery: Gallery, note: Mapping[str, Any]) -> None:
    """Refuses rows that this map has moved before, rows whose move has not ended, and rows of another encoder."""
    marker = gallery.marker
    if marker is None:
        return
    if marker["state"] == MOVING:
        raise UserError(
            f"{gallery.place} holds rows that an unfinished move wrote; name the old rows to go on."
        )
    if marker.get(CHECKSUM) == note[CHECKSUM]:
        raise UserError(
            f"{gallery.place} holds rows that this map has moved already; they are not mapped twice."
        )
    holds, takes = marker.get("target"), note.get("source")
    if holds and takes and holds != takes:
        raise UserError(f"{gallery.place} was moved to {holds} before, and this map takes rows of {takes}.")
    if not holds:
        warnings.warn(
            f"{gallery.place} was moved before by a map that does not say where it leads; whether this one takes such "
            "rows cannot be checked.",
            UserNote,
            stacklevel=3,
        )


def affine_transform(
    map: AffineMap, gallery: Gallery, *, normalize_input: bool = False, normalize: bool = False
) -> Transform:
    """What ``move_gallery`` does to rows for one affine map.

    Args:
      map: one map, no stack.
      gallery: whose rows it is for.
      normalize_input: scale rows to length 1 before the map, for maps that were fitted on such rows.
      normalize: scale mapped rows to length 1. Rows of zeros stay zeros.

    Raises:
      UserError: the map is a stack, or takes rows of another width.
    """
    if map.bias.ndim != 1:
        raise UserError(f"a gallery is translated by one map, got a stack of shape {map.bias.shape[:-1]}.")
    if map.in_dim != gallery.width:
        raise UserError(
            f"the map takes rows of width {map.in_dim}, {gallery.place} has width {gallery.width}."
        )

    def transform(rows: np.ndarray) -> np.ndarray:
        if normalize_input and rows.dtype != np.float16:
            rows = rows.astype(np.float64)  # XLA takes float32's subnormal numbers for 0
        padded = np.pad(rows, ((0, -len(rows) % ROWS_STEP), (0, 0))) if len(rows) % ROWS_STEP else rows
        what = f"mapped rows of width {map.in_dim:,} to {map.out_dim:,}"
        with explained_memory_error(what, len(rows)), double_precision():
            return np.asarray(_mapped(map, padded, normalize_input, normalize))[: len(rows)]

    return transform


@functools.partial(jax.jit, static_argnums=(2, 3))
def _mapped(map: AffineMap, rows: jax.Array, normalize_input: bool, normalize: bool) -> jax.Array:
    """Rows of any format scaled, mapped and scaled in float64; rounded to float32 after each step."""
    if normalize_input:
        rows = _unit(rows.astype(jnp.float64)).astype(jnp.float32)
    mapped = map(rows.astype(jnp.float64)).astype(jnp.float32)
    return _unit(mapped.astype(jnp.float64)).astype(jnp.float32) if normalize else mapped


def _unit(rows: jax.Array) -> jax.Array:
    """``unit_rows`` in a program."""
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(length == 0, 1, length)


def checksum(map: AffineMap, *settings: object) -> str:
    """Checksum of a map and of what else decides about mapped rows, 64 hexadecimal digits."""
    digest = hashlib.sha256(repr((map.in_dim, map.out_dim, *settings)).encode())
    for leaf in jax.tree.leaves(map):
        digest.update(np.ascontiguousarray(leaf, np.float64).tobytes())
    return digest.hexdigest()


def switch(specification: str, out: str | None = None) -> str:
    """Lets programs that ask for ``specification`` find the moved rows; a sentence says what was done.

    PostgreSQL: one transaction renames ``column`` to ``column_old`` and the new column to ``column``. Qdrant: the alias
    leads to the new collection, in one step.

    Args:
      specification: of the old rows.
      out: where ``move_gallery`` wrote the new ones; None for the usual place.

    Raises:
      UserError: the move has not ended, rows were added since, or the gallery is a file, which has no name to switch.
    """
    with open_gallery(specification) as gallery:
        return gallery.switch(out)


def roll_back(specification: str, out: str | None = None) -> str:
    """Undoes ``switch``; the old rows are found again as they were, bit for bit. Arguments and errors as ``switch``."""
    with open_gallery(specification) as gallery:
        return gallery.roll_back(out)


def drop_old(specification: str, out: str | None = None) -> str:
    """Deletes the old rows, for good; only after ``switch``. Arguments and errors as ``switch``."""
    with open_gallery(specification) as gallery:
        return gallery.drop_old(out)
