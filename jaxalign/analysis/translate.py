"""Translates a gallery into another encoder's space: applies an affine map to the rows of a store."""

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxalign.align.affine import AffineMap
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows, explained_memory_error, prefetch, rows_that_fit, unit_rows
from jaxalign.data import EmbeddingStore
from jaxalign.data.derive import write_derived
from jaxalign.data.manifest import DTYPES, check_encoder_name
from jaxalign.data.store import require_free

CHUNK_BYTES = 2**24  # of rows as float64, in which they are mapped


def translate(
    store: EmbeddingStore,
    encoder: str,
    map: AffineMap,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    dtype: str = "float16",
    normalize_input: bool = False,
    normalize: bool = False,
    chunk_rows: int | None = None,
    info: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> EmbeddingStore:
    """Maps every row of an encoder and writes a new store with the same samples, which it opens.

    Memory does not grow with the gallery: rows are read, mapped and written a chunk at a time, products in the map's
    own format.

    Args:
      store: open; ``encoder`` is one of its encoders.
      encoder: whose rows are mapped, shape [n, map.in_dim].
      map: one map, no stack.
      out: directory of the store to make; it is there whole or not at all.
      name: of the encoder in the new store; without it ``encoder``.
      dtype: to store in: "float16", "float32" or "bfloat16".
      normalize_input: scale rows to length 1 before the map, for maps that were fitted on such rows.
      normalize: scale mapped rows to length 1. Rows of zeros stay zeros.
      chunk_rows: rows of a chunk; without it what the device's memory allows.
      info: what else to note of the encoder in the manifest.
      overwrite: replace a store that is at ``out``.
      progress: told how many rows are done, after every chunk.

    Raises:
      UserError: widths differ, something is at ``out``, a mapped value does not fit ``dtype``, or a chunk does not
        fit the device.
    """
    rows = store[encoder]
    name = check_encoder_name(encoder if name is None else name)
    if dtype not in DTYPES:
        raise UserError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}.")
    if map.bias.ndim != 1:
        raise UserError(f"a gallery is translated by one map, got a stack of shape {map.bias.shape[:-1]}.")
    if map.in_dim != store.dims[encoder]:
        raise UserError(
            f"the map takes rows of width {map.in_dim}, encoder {encoder!r} of store {store.dataset!r} has width "
            f"{store.dims[encoder]}."
        )
    if os.path.realpath(out) == os.path.realpath(store.path):
        raise UserError(f"{out} is the store to translate; choose another path for the new one.")
    require_free(pathlib.Path(out), overwrite)
    row_bytes = 8 * max(map.in_dim, map.out_dim)
    fitting = rows_that_fit(CHUNK_BYTES // row_bytes, 4 * row_bytes)
    size = min(checks.positive(chunk_rows, "chunk_rows") or fitting, store.rows)
    given = LazyRows.of(rows).unit() if normalize_input else LazyRows.of(rows)

    def mapped() -> Iterator[np.ndarray]:
        for start, part in prefetch(given.pieces(size)):
            with explained_memory_error(f"mapped rows of width {map.in_dim:,} to {map.out_dim:,}", len(part)):
                chunk = np.asarray(map(part))
            yield unit_rows(chunk) if normalize else chunk
            if progress is not None:
                progress(start + len(part))

    note = {"translated_from": {"encoder": encoder, "sha256": store.checksums[encoder]}, **(info or {})}
    return write_derived(store, out, name, mapped(), map.out_dim, dtype, info=note, overwrite=overwrite)
