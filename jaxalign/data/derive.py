"""Stores made from other stores: with other rows, and several concatenated by sample id."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.data import arrays
from jaxalign.data.atomic import new_directory, write_atomically, writing
from jaxalign.data.manifest import EncoderEntry, Manifest, check_info, check_new_names
from jaxalign.data.store import EmbeddingStore, finish_store, require_free


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
    """Writes and opens a store with the samples of another and one encoder; it is there whole or not at all.

    Args:
      store: whose samples and data set name are taken over.
      path: of the directory to make.
      name: of the encoder.
      chunks: its rows in order, arrays [c, dim]; no more than one is held.
      dim, dtype: width of the rows, and the type to store them in, one of ``manifest.DTYPES``.
      info: what to note of the encoder in the manifest.
      overwrite: replace a store that is there.

    Raises:
      UserError: something is there already, the name or a value cannot be stored, or the disk refuses.
    """
    path = pathlib.Path(path).expanduser()
    check = functools.partial(require_free, path, overwrite)
    check()
    check_new_names([name])
    notes = check_info(name, info or {})
    shape, stored = (store.rows, dim), arrays.stored_dtype(dtype)
    with writing(path), new_directory(path, check=check, overwrite=overwrite) as directory:
        entry = write_atomically(
            directory / f"{name}.npy",
            lambda file: arrays.write_chunks(file, name, chunks, shape, stored),
        )
        finish_store(directory, store.dataset, store.table, {name: dataclasses.replace(entry, info=notes)})
    manifest = Manifest.read(path)
    where = f"store {store.dataset!r}"
    mapped = arrays.open_array(path, name, manifest.encoders[name], store.rows, where, verify=False)
    return EmbeddingStore(
        path, manifest, store.table, {name: mapped}
    )  # the samples were checked when they were read


def join(stores: Sequence[EmbeddingStore], encoders: Sequence[str] | None = None) -> EmbeddingStore:
    """The encoders of several stores in one, rows matched by sample id.

    Args:
      stores: open ones; the first gives the name, the other columns and the order of rows. Photographs that one of
        them lacks are left out.
      encoders: their order; without it, store by store.

    Returns:
      A store that is on disk nowhere as a whole: where stores have other rows than the first, theirs are in memory.

    Raises:
      UserError: an encoder's name occurs twice, a photograph has two people, or no photograph is in all stores.
    """
    first = stores[0]
    if len(stores) == 1 and encoders is None:
        return first
    for number, store in enumerate(stores):
        check_new_names(store.encoders, [name for other in stores[:number] for name in other.encoders])
    rows = [{name: row for row, name in enumerate(store.sample_ids.tolist())} for store in stores]
    common = [name for name in rows[0] if all(name in of for of in rows[1:])]
    if not common:
        raise UserError(
            f"stores {' and '.join(repr(store.dataset) for store in stores)} have no sample id in common; theirs begin "
            f"with {' and '.join(repr(str(store.sample_ids[0])) for store in stores)}."
        )
    chosen = [np.array([of[name] for name in common]) for of in rows]
    for store, numbers in zip(stores[1:], chosen[1:]):
        differ = np.flatnonzero(store.identities[numbers] != first.identities[chosen[0]])
        if len(differ):
            name = common[differ[0]]
            people = first.identities[rows[0][name]], store.identities[numbers[differ[0]]]
            raise UserError(
                f"stores {first.dataset!r} and {store.dataset!r} have {len(differ):,} photographs under two people "
                f"(first: {name!r} is {str(people[0])!r} and {str(people[1])!r})."
            )
    mapped, entries = {}, {}
    for store, numbers in zip(stores, chosen):
        whole = len(numbers) == store.rows and (numbers == np.arange(store.rows)).all()
        for name in store.encoders:
            array = store[name]
            mapped[name] = array if whole else np.asarray(array)[numbers]
            info = dict(store.info[name])
            entries[name] = EncoderEntry(store.dims[name], str(array.dtype), store.checksums[name], info)
    manifest = Manifest(first.dataset, len(common), entries)
    ordered = {name: mapped[name] for name in encoders or mapped}
    return EmbeddingStore(first.path, manifest, first.table.take(chosen[0]), ordered)
