"""From photographs to a store of embeddings: every encoder in one decoding pass, resumed after a kill."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.data.arrays import stored_dtype
from jaxalign.data.manifest import DTYPES, check_info, check_new_names
from jaxalign.data.manifest import FILE as MANIFEST
from jaxalign.data.store import require_free
from jaxalign.vision.encoders import Encoder
from jaxalign.vision.images import (
    BadImage,
    BadImageError,
    Batch,
    Crop,
    ImageSource,
    LandmarkCrop,
    NoCrop,
    Resize,
    View,
    load_batches,
)
from jaxalign.vision.journal import Journal

if TYPE_CHECKING:
    import PIL.Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderView(View):
    """A view with the size and resizing of an encoder.

    A crop by landmarks is warped straight to the encoder's input, so that an aligned face is sampled once.
    """

    encoder: Encoder

    @property
    def size(self) -> tuple[int, int]:
        return self.encoder.preprocessing.size

    def facts(self) -> dict[str, Any]:
        return {"crop": self.crop.facts(), "preprocessing": self.encoder.preprocessing.describe()}

    def info(self) -> dict[str, Any]:
        """What a store's manifest says of the encoder: how it was loaded and what it sees, as JSON gives it back."""
        return check_info(self.encoder.name, {"encoder": self.encoder.describe(), "view": self.facts()})

    def apply(self, image: "PIL.Image.Image", points: np.ndarray | None = None) -> np.ndarray:
        if isinstance(self.crop, LandmarkCrop):
            return np.asarray(self.crop.apply(image, Resize(*self.size), points))
        try:
            return self.encoder.prepare(np.asarray(self.crop.apply(image, None, points)))
        except UserError as error:
            raise BadImageError(f"encoder {self.encoder.name!r}: {error}") from error


DIGEST = "digest"  # column of samples.parquet: equal digests, equal photographs
LEAST_BATCH, MOST_BATCH = 64, 256  # photographs handed over at once, where the encoders leave a choice

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

    A run that failed or was killed continues at its last checkpoint (at most 5 s before) when it is repeated;
    one that stopped at a bad photograph may go on by skipping it. Where ``out`` is a store already, the
    encoders that it lacks are added, after the photographs were found to be the same ones.

    Args:
      source: from ``open_images``.
      encoders: from ``load_encoder``; their names become the store's.
      out: directory of the store.
      crop: what to cut from each photograph before an encoder's own preprocessing; a mapping from names of encoders
        where they differ (others get none).
      dtype: "float16", "float32" or "bfloat16", of the stored rows, which are not normalised.
      bad_images: "fail" stops at the first photograph that cannot be read, "skip" leaves it out.
      overwrite: replace a store, or an unfinished one, that is there.
      progress: called with the photographs done, those embedded by this call, and those skipped since the last call.

    Returns:
      The store, open with all its encoders. Its manifest says of each encoder how it was loaded and what it saw, and
      how many photographs were skipped.

    Raises:
      UserError: the photographs, encoders or files cannot be used, or the store's rows are other photographs.
    """
    path = pathlib.Path(os.path.realpath(out))
    if dtype not in DTYPES:
        raise UserError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}.")
    if not encoders:
        raise UserError("extracting needs at least one encoder, got none.")
    check_new_names([encoder.name for encoder in encoders])
    views = _views(encoders, crop)
    infos = {name: view.info() for name, view in views.items()}
    there = None
    if (path / MANIFEST).exists() and not overwrite:
        there = EmbeddingStore.open(path, verify=False)
        views = {name: view for name, view in views.items() if not _is_there(there, name, infos[name])}
        if not views:
            return there
        check_new_names(views, there.encoders)
    else:
        require_free(path, overwrite)
    known = None if there is None else _Known(there)
    listed = source.samples
    plan = {  # an unfinished run of another plan is not continued
        "dataset": source.dataset,
        "samples": None if listed is None else _digest([(one.sample_id, one.identity) for one in listed]),
        "adds_to": None if known is None else _digest(known.rows),
        "encoders": {name: infos[name] for name in views},
        "dtype": dtype,
    }
    dims = {name: view.encoder.dim for name, view in views.items()}
    journal = Journal(path, plan, dims, stored_dtype(dtype), afresh=overwrite)
    with contextlib.closing(journal):
        if journal.bad and bad_images == "fail":
            raise UserError(
                f"{journal.directory} holds an unfinished run that skipped {journal.bad:,} bad photographs: go on "
                "skipping them (bad_images=skip), or delete that directory to begin again."
            )
        _fill(journal, source, list(views.values()), known, bad_images, progress)
        if not journal.rows:
            raise UserError(f"{source.dataset}: none of its {journal.stop:,} photographs can be used.")
        notes = {name: {**infos[name], "skipped": journal.bad} for name in views}
        store = _finished(journal, path, source, notes, there, overwrite)
        journal.remove()
    return store


def _views(encoders: Sequence[Encoder], crop: Crop | Mapping[str, Crop] | None) -> dict[str, EncoderView]:
    names = [encoder.name for encoder in encoders]
    crops = crop if isinstance(crop, Mapping) else dict.fromkeys(names, crop or NoCrop())
    unknown = sorted(set(crops) - set(names))
    if unknown:
        raise UserError(f"crop names {', '.join(unknown)}; the encoders are {', '.join(names)}.")
    return {one.name: EncoderView(crop=crops.get(one.name, NoCrop()), encoder=one) for one in encoders}


def _is_there(store: EmbeddingStore, name: str, info: Mapping[str, Any]) -> bool:
    """Whether the store has this encoder's rows already; refuses an encoder of the same name that is another."""
    if name not in store:
        return False
    if {key: store.info[name].get(key) for key in info} != info:
        raise UserError(
            f"store {store.dataset!r} has an encoder {name!r} that was loaded or fed otherwise; give this one "
            "another name (?name=...), or write to another store."
        )
    return True


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


class _Known:
    """The photographs of a store that encoders are added to."""

    def __init__(self, store: EmbeddingStore):
        self.store = f"store {store.dataset!r}"
        digests = store.column(DIGEST).tolist() if DIGEST in store.columns else [None] * store.rows
        self.rows: list[tuple[str, str | None]] = list(zip(store.sample_ids.tolist(), digests))

    def require(self, batch: Batch, row: int) -> None:
        """Refuses a batch, its first photograph at ``row``, that is not what the store has there."""
        for number, (sample, digest) in enumerate(zip(batch.samples, batch.digests), start=row):
            if number >= len(self.rows):
                what = f"{self.store} ends after {len(self.rows):,} rows, the images go on with"
            elif self.rows[number][0] != sample.sample_id:
                what = f"row {number} of {self.store} is {self.rows[number][0]!r}, the images have there"
            elif self.rows[number][1] not in (None, digest):
                what = f"row {number} of {self.store} was made from another version of"
            else:
                continue
            raise UserError(f"{what} {sample.sample_id!r}; {_ONLY_THE_SAME}.")

    def require_end(self, rows: int) -> None:
        """Refuses to end before the store does."""
        if rows != len(self.rows):
            counts = f"{len(self.rows):,} rows, the images {rows:,}"
            raise UserError(f"{self.store} has {counts}; {_ONLY_THE_SAME}.")


_ONLY_THE_SAME = "an encoder can only be added with the same photographs in the same order"


def _fill(
    journal: Journal,
    source: ImageSource,
    views: Sequence[EncoderView],
    known: _Known | None,
    bad_images: Literal["fail", "skip"],
    progress: Told | None,
) -> None:
    """Embeds what the journal lacks; what is done when something fails is kept."""
    size = _batch_size([view.encoder.batch_size for view in views])
    batches = load_batches(source, views, size, bad_images=bad_images, start=journal.stop)
    embedded = 0
    with contextlib.closing(batches):
        try:
            for batch in batches:
                if known is not None:
                    known.require(batch, journal.rows)
                rows = {
                    view.encoder.name: _stored(view.encoder, images, journal.dtype)
                    for view, images in zip(views, batch.images)
                    if len(batch.samples)
                }
                journal.append(batch, rows)
                embedded += len(batch.samples)
                if progress is not None:
                    progress(journal.stop, embedded, batch.bad)
        finally:
            journal.checkpoint()
    if known is not None:
        known.require_end(journal.rows)


def _batch_size(taken: Sequence[int]) -> int:
    """Photographs to hand over at once: a multiple of what each encoder takes, or of the largest."""
    common = math.lcm(*taken)
    unit = common if common <= MOST_BATCH else max(taken)
    return unit * math.ceil(LEAST_BATCH / unit)


def _stored(encoder: Encoder, images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Embeddings in the store's format."""
    rows = np.asarray(encoder.encode(images))
    if rows.shape != (len(images), encoder.dim) or rows.dtype.kind != "f":
        raise UserError(
            f"encoder {encoder.name!r} gives {rows.dtype} {list(rows.shape)} for {len(images)} photographs; expected "
            f"floats [{len(images)}, {encoder.dim}]."
        )
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype)
    if (np.isinf(stored) & np.isfinite(rows)).any():
        remedy = "; choose dtype float32" if dtype == np.float16 else ""
        raise UserError(f"encoder {encoder.name!r} gives values too large for {dtype}{remedy}.")
    return stored


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
