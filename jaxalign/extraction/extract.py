"""Photographs through encoders into a store."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxalign.embeddings import EmbeddingStore
from jaxalign.embeddings.manifest import DTYPES, check_new_names
from jaxalign.encoders import Encoder
from jaxalign.errors import UserError
from jaxalign.extraction.journal import Journal
from jaxalign.extraction.view import EncoderView
from jaxalign.images import BadImage, Batch, Crop, ImageSource, NoCrop, load_batches

DIGEST = "digest"  # column of samples.parquet: equal digests, equal photographs
LEAST_BATCH = 64  # photographs decoded ahead, whatever the encoders take at once

Told = Callable[[int, int, Sequence[BadImage]], None]


def extract(
    source: ImageSource,
    encoders: Sequence[Encoder],
    out: str | os.PathLike[str],
    *,
    crop: Crop | Mapping[str, Crop] | None = None,
    dtype: str = "float16",
    bad_images: Literal["fail", "skip"] = "fail",
    overwrite: bool = False,
    progress: Told | None = None,
) -> EmbeddingStore:
    """Embeds every photograph of a source with every encoder, decoding each photograph once.

    A run that was killed goes on at its last checkpoint when it is repeated. Where ``out`` is a store already, the
    encoders that it lacks are added, after the photographs were found to be the same ones.

    Args:
      source: from ``open_images``.
      encoders: from ``load_encoder``; their names become the store's.
      out: directory of the store.
      crop: what to cut from each photograph before an encoder's own preprocessing; a mapping from names of encoders
        where they differ (others get none).
      dtype: "float16" or "float32", of the stored rows, which are not normalised.
      bad_images: "fail" stops at the first photograph that cannot be read, "skip" leaves it out.
      overwrite: replace a store, or an unfinished one, that is there.
      progress: called with the photographs done, those embedded by this call, and those skipped since the last call.

    Returns:
      The store, open with all its encoders. Its manifest says of each encoder how it was loaded and what it saw, and
      how many photographs were skipped.

    Raises:
      UserError: the photographs, encoders or files cannot be used, or the store's rows are other photographs.
    """
    path = pathlib.Path(out)
    if dtype not in DTYPES:
        raise UserError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}.")
    check_new_names([encoder.name for encoder in encoders])
    views = _views(encoders, crop)
    there = EmbeddingStore.open(path, verify=False) if (path / "manifest.json").exists() and not overwrite else None
    views = {name: view for name, view in views.items() if there is None or not _is_there(there, view)}
    if there is not None and not views:
        return there
    plan = {
        "dataset": source.dataset,
        "samples": _digest_of_samples(source),
        "encoders": {name: _info(view) for name, view in views.items()},
        "dtype": dtype,
        "bad_images": bad_images,
    }
    dims = {name: view.encoder.dim for name, view in views.items()}
    journal = Journal.open(path, plan, dims, np.dtype(dtype), afresh=overwrite)
    with contextlib.closing(journal):
        _fill(journal, source, list(views.values()), there, bad_images, progress)
        notes = {name: {**_info(view), "skipped": journal.bad} for name, view in views.items()}
        store = _finished(journal, path, source, notes, there, overwrite)
        journal.remove()
    return store


def _views(encoders: Sequence[Encoder], crop: Crop | Mapping[str, Crop] | None) -> dict[str, EncoderView]:
    crops = crop if isinstance(crop, Mapping) else {encoder.name: crop or NoCrop() for encoder in encoders}
    unknown = set(crops) - {encoder.name for encoder in encoders}
    if unknown:
        raise UserError(f"crop names {', '.join(sorted(unknown))}; the encoders are {', '.join(e.name for e in encoders)}.")
    return {
        encoder.name: EncoderView(crop=crops.get(encoder.name, NoCrop()), encoder=encoder) for encoder in encoders
    }


def _info(view: EncoderView) -> dict[str, Any]:
    return {"encoder": view.encoder.describe(), "view": view.facts()}


def _is_there(store: EmbeddingStore, view: EncoderView) -> bool:
    """Whether the store has this encoder's rows already; refuses an encoder of the same name that is another."""
    name = view.encoder.name
    if name not in store:
        return False
    noted = {key: store.info[name].get(key) for key in ("encoder", "view")}
    if noted != _info(view):
        raise UserError(
            f"store {store.dataset!r} has an encoder {name!r} that was loaded or fed otherwise; give this one another "
            "name (?name=...), or write to another store."
        )
    return True


def _digest_of_samples(source: ImageSource) -> str | None:
    """Stands for the list of photographs, so that an unfinished run is not continued with another list."""
    if source.samples is None:
        return None
    names = "\n".join(f"{sample.sample_id}\t{sample.identity}" for sample in source.samples)
    return hashlib.sha256(names.encode()).hexdigest()


def _fill(
    journal: Journal,
    source: ImageSource,
    views: Sequence[EncoderView],
    there: EmbeddingStore | None,
    bad_images: Literal["fail", "skip"],
    progress: Told | None,
) -> None:
    """Embeds what the journal lacks."""
    size = max(LEAST_BATCH, *(view.encoder.batch_size for view in views))
    batches = load_batches(source, views, size, bad_images=bad_images, start=journal.stop)
    known = None if there is None else _photographs(there)
    embedded = 0
    with contextlib.closing(batches):
        for batch in batches:
            if known is not None:
                _require_same(batch, journal.rows, known, there)
            rows = {
                view.encoder.name: _stored(view.encoder, images, journal.dtype)
                for view, images in zip(views, batch.images)
                if len(batch.samples)
            }
            journal.append(batch.samples, batch.digests, rows, batch.bad, batch.stop)
            embedded += len(batch.samples)
            if progress is not None:
                progress(journal.stop, embedded, batch.bad)
    if known is not None and there is not None and journal.rows != there.rows:
        raise UserError(
            f"store {there.dataset!r} has {there.rows:,} rows, the images {journal.rows:,}; an encoder can only be "
            "added with the same photographs."
        )


def _photographs(store: EmbeddingStore) -> list[tuple[str, str | None]]:
    digests = store.column(DIGEST) if DIGEST in store.columns else [None] * store.rows
    return list(zip(store.sample_ids.tolist(), list(digests)))


def _require_same(batch: Batch, row: int, known: list[tuple[str, str | None]], store: EmbeddingStore | None) -> None:
    for number, (sample, digest) in enumerate(zip(batch.samples, batch.digests), start=row):
        name, noted = known[number] if number < len(known) else (None, None)
        if sample.sample_id != name or (noted is not None and digest != noted):
            what = f"{name!r}" if name != sample.sample_id else "another version of it"
            dataset = "" if store is None else repr(store.dataset)
            raise UserError(
                f"row {number} of store {dataset} is {what}, the images have {sample.sample_id!r} there; an encoder can "
                "only be added with the same photographs in the same order."
            )


def _stored(encoder: Encoder, images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Embeddings in the store's format."""
    rows = encoder.encode(images)
    if dtype == np.float16 and np.abs(rows[np.isfinite(rows)]).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(f"encoder {encoder.name!r} gives values too large for float16; choose dtype float32.")
    return rows.astype(dtype)


def _finished(
    journal: Journal,
    path: pathlib.Path,
    source: ImageSource,
    notes: Mapping[str, Mapping[str, Any]],
    there: EmbeddingStore | None,
    overwrite: bool,
) -> EmbeddingStore:
    arrays = journal.embeddings()
    if there is not None:
        return there.add_encoders(arrays, notes)
    names, identities, paths, digests = zip(*journal.samples())
    columns: dict[str, Any] = {DIGEST: list(digests)}
    if any(file is not None for file in paths):
        columns["path"] = list(paths)
    return EmbeddingStore.create(
        path,
        arrays,
        list(identities),
        sample_ids=list(names),
        dataset=source.dataset,
        columns=columns,
        overwrite=overwrite,
        encoder_info=notes,
    )
