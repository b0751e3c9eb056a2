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
from jaxalign.data.samples import DIGEST
from jaxalign.data.store import require_free
from jaxalign.vision.encoders import Encoder
from jaxalign.vision.encoders.encoder import BatchEncoder
from jaxalign.vision.images import (
    BadImage,
    BadImageError,
    Crop,
    ImageSource,
    LandmarkCrop,
    NoCrop,
    Resize,
    Sample,
    View,
    load_batches,
)
from jaxalign.vision.journal import Journal, left_plan
from jaxalign.vision.unchanged import Photograph, read_photographs, require_unchanged

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
    nonfinite: Literal["fail", "keep"] = "fail",
    overwrite: bool = False,
    progress: Told | None = None,
) -> EmbeddingStore:
    """Embeds every photograph of a source with every encoder, decoding each photograph once.

    A run that failed or was killed continues at its last checkpoint (at most 5 s before) when it is repeated;
    one that stopped at a bad photograph may go on by skipping it. Where ``out`` is a store already, the
    encoders that it lacks are added. Rows are used again only after all photographs were read and found to be the
    ones that the rows were made from, with the same people.

    Args:
      source: from ``open_images``.
      encoders: from ``load_encoder``; their names become the store's.
      out: directory of the store.
      crop: what to cut from each photograph before an encoder's own preprocessing; a mapping from names of encoders
        where they differ (others get none).
      dtype: "float16", "float32" or "bfloat16", of the stored rows, which are not normalised.
      bad_images: "fail" stops at the first photograph that cannot be read, "skip" leaves it out.
      nonfinite: "fail" stops at the first row with NaN or infinity that an encoder gives, "keep" stores such rows.
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
    for encoder in encoders:  # before anything is embedded, where the photographs are listed
        if isinstance(encoder, BatchEncoder) and encoder.key_points is not None:
            encoder.key_points.of_all(source.samples or ())
    views = _views(encoders, crop)
    infos = {name: view.info() for name, view in views.items()}
    there = EmbeddingStore.open(path) if (path / MANIFEST).exists() and not overwrite else None
    if there is None:
        require_free(path, overwrite)
    else:
        views = _lacking(there, views, infos, source, bad_images)
        _remove_finished(path, there)
        if not views:
            return there
    listed = source.samples
    plan = {  # an unfinished run of another plan is not continued
        "dataset": source.dataset,
        "samples": None if listed is None else _digest([(one.sample_id, one.identity) for one in listed]),
        "adds_to": None if there is None else _digest(_rows_of(there)),
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
        _require_unchanged_start(journal, source, list(views.values()), bad_images)
        _fill(journal, source, list(views.values()), bad_images, nonfinite, progress)
        if there is not None:  # once more: photographs may have changed meanwhile, or have been streamed
            require_unchanged(_rows_of(there), _done(journal), f"store {there.dataset!r}", _EMBED_AGAIN)
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


def _lacking(
    store: EmbeddingStore,
    views: Mapping[str, EncoderView],
    infos: Mapping[str, Mapping[str, Any]],
    source: ImageSource,
    bad_images: Literal["fail", "skip"],
) -> dict[str, EncoderView]:
    """Those encoders that a store lacks; refuses other photographs than the store's rows were made from."""
    new = {name: view for name, view in views.items() if not _is_there(store, name, infos[name])}
    check_new_names(new, store.encoders)
    made = _rows_of(store)
    found = read_photographs(source, made, list(views.values()), bad_images)
    require_unchanged(made, found, f"store {store.dataset!r}", _EMBED_AGAIN)
    return new


def _is_there(store: EmbeddingStore, name: str, info: Mapping[str, Any]) -> bool:
    """Whether the store has this encoder's rows already; refuses an encoder of the same name that is another."""
    if name not in store:
        return False
    if not _has(store, name, info):
        raise UserError(
            f"store {store.dataset!r} has an encoder {name!r} that was loaded or fed otherwise; give this one "
            "another name (?name=...), or write to another store."
        )
    return True


def _remove_finished(path: pathlib.Path, store: EmbeddingStore) -> None:
    """Removes the journal of a run that was killed after its store was whole, and what is left of a removed one."""
    plan = left_plan(path)
    if plan is None:
        return
    infos = plan.get("encoders", {})
    if not all(name in store and _has(store, name, info) for name, info in infos.items()):
        return  # that run did not end
    dims = {name: store.dims[name] for name in infos}
    with contextlib.closing(
        Journal(path, plan, dims, stored_dtype(plan.get("dtype", DTYPES[0])), afresh=not plan)
    ) as journal:
        if _done(journal) == _rows_of(store):
            journal.remove()


def _has(store: EmbeddingStore, name: str, info: Mapping[str, Any]) -> bool:
    return {key: store.info[name].get(key) for key in info} == info


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _rows_of(store: EmbeddingStore) -> list[Photograph]:
    """The photographs of a store; one that was not made from photographs is trusted to name them as they are."""
    if DIGEST not in store.columns:
        return [Photograph(name, None, None) for name in store.sample_ids.tolist()]
    columns = store.sample_ids, store.identities, store.column(DIGEST)
    return [Photograph(*row) for row in zip(*(column.tolist() for column in columns))]


def _done(journal: Journal) -> list[Photograph]:
    return [Photograph(name, identity, digest) for name, identity, _, digest in journal.samples()]


def _require_unchanged_start(
    journal: Journal, source: ImageSource, views: Sequence[EncoderView], bad_images: Literal["fail", "skip"]
) -> None:
    """Refuses to go on where an unfinished run embedded other photographs than there are now."""
    if journal.stop:
        made, remedy = _done(journal), "delete that directory, or overwrite, to embed all of them again"
        found = read_photographs(source, made, views, bad_images, stop=journal.stop)
        require_unchanged(made, found, f"the unfinished run in {journal.directory}", remedy)


_EMBED_AGAIN = "overwrite the store to embed all of them again, or write to another one"


def _fill(
    journal: Journal,
    source: ImageSource,
    views: Sequence[EncoderView],
    bad_images: Literal["fail", "skip"],
    nonfinite: Literal["fail", "keep"],
    progress: Told | None,
) -> None:
    """Embeds what the journal lacks; what is done when something fails is kept."""
    size = _batch_size([view.encoder.batch_size for view in views])
    batches = load_batches(source, views, size, bad_images=bad_images, start=journal.stop)
    embedded = 0
    with contextlib.closing(batches):
        try:
            for batch in batches:
                rows = {
                    view.encoder.name: _stored(view.encoder, images, batch.samples, journal.dtype)
                    for view, images in zip(views, batch.images)
                    if len(batch.samples)
                }
                if nonfinite == "fail":
                    _require_finite(rows, [sample.sample_id for sample in batch.samples])
                journal.append(batch, rows)
                embedded += len(batch.samples)
                if progress is not None:
                    progress(journal.stop, embedded, batch.bad)
        finally:
            journal.checkpoint()


def _require_finite(rows: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    for encoder, found in rows.items():
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise UserError(
                f"encoder {encoder!r} gives NaN or infinity for {len(bad):,} of {len(names):,} photographs (first: "
                f"{names[bad[0]]!r}); remove these photographs, or keep such rows (bad_images=skip)."
            )


def _batch_size(taken: Sequence[int]) -> int:
    """Photographs to hand over at once: a multiple of what each encoder takes, or of the largest."""
    common = math.lcm(*taken)
    unit = common if common <= MOST_BATCH else max(taken)
    return unit * math.ceil(LEAST_BATCH / unit)


def _stored(encoder: Encoder, images: np.ndarray, samples: Sequence[Sample], dtype: np.dtype) -> np.ndarray:
    """Embeddings in the store's format."""
    if isinstance(encoder, BatchEncoder) and encoder.key_points is not None:
        rows = encoder.encode(images, encoder.key_points.of_all(samples))
    else:
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
    told = {sample.sample_id: sample.further for sample in source.samples or ()}
    for column in told.get(names[0], ()):
        columns[column] = [told[name][column] for name in names]
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
