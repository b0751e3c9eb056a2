"""A new store made from another one's samples, its rows written as they are computed."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxalign.data import arrays, samples
from jaxalign.data.atomic import new_directory, write_atomically, writing
from jaxalign.data.manifest import Manifest, check_info, check_new_names
from jaxalign.data.store import EmbeddingStore, require_free


def write_derived(
    store: EmbeddingStore,
    path: str | os.PathLike[str],
    name: str,
    chunks: Iterable[np.ndarray],
    dim: int,
    dtype: str,
    *,
    info: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> EmbeddingStore:
    """Writes a store with the samples of another and one encoder; it is there whole or not at all.

    Args:
      store: whose samples and data set name are taken over.
      path: of the directory to make.
      name: of the encoder.
      chunks: its rows in order, arrays [c, dim]; no more than one is held.
      dim: width of the rows.
      dtype: to store them in, one of ``manifest.DTYPES``.
      info: what to note of the encoder in the manifest.
      overwrite: replace a store that is there.

    Returns:
      The store, open.

    Raises:
      UserError: something is there already, the name or a value cannot be stored, or the disk refuses.
    """
    path = pathlib.Path(path)
    require_free(path, overwrite)
    check_new_names([name])
    notes = check_info(name, info or {})
    shape, stored = (store.rows, dim), arrays.stored_dtype(dtype)
    with writing(path), new_directory(path) as directory:
        entry = write_atomically(
            directory / f"{name}.npy",
            lambda file: arrays.write_chunks(file, name, chunks, shape, stored),
        )
        entry = dataclasses.replace(entry, info=notes)
        write_atomically(directory / samples.FILE, lambda file: samples.write_table(file, store.table))
        digest = arrays.sha256(directory / samples.FILE)
        Manifest(store.dataset, store.rows, {name: entry}, digest).write(directory)
    return EmbeddingStore.open(path, verify=False)
