"""The data of a run, checked before any work starts: a store or photographs."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.run.computing import cache_directory
from experiments.run.config import PairwiseConfig
from experiments.run.doubts import doubts
from experiments.run.progress import Progress
from jaxalign.biometrics.comparators import TOP
from jaxalign.core.errors import UserError
from jaxalign.core.people import (
    Split,
    limit_per_person,
    published_split,
    require_repeated_identities,
    trained_people,
)
from jaxalign.core.rows import LazyRows
from jaxalign.data import EmbeddingStore, join
from jaxalign.data.manifest import check_new_names
from jaxalign.data.samples import DIGEST
from jaxalign.report.result_table import COSINE
from jaxalign.version import __version__

if TYPE_CHECKING:  # imported where it is used: most runs read a store and need no encoders
    from jaxalign.vision.encoders import Encoder
    from jaxalign.vision.images import BadImage, Crop, ImageSource

PIXELS, PIXEL_MODEL = "pixels", "pixels:16"  # an encoder for a control, never one to align
CHECKED_ROWS = 8192  # read at once in the search for NaN, infinity and zeros


@dataclasses.dataclass(frozen=True)
class Data:
    """The usable rows of a store.

    Attributes:
      store: opened with the encoders to align, and with the pixels where they are a control.
      encoders: to align.
      rows: indices of the rows that every encoder can be compared on, ascending, shape [n].
      identities: of those rows, shape [n].
      normalize: "l2" or "none".
      images: a number for each of those rows, equal for byte-identical photographs, shape [n]; None where unknown.
      warnings: what a reader of any result must know of the rows.
    """

    store: EmbeddingStore
    encoders: tuple[str, ...]
    rows: np.ndarray
    identities: np.ndarray
    normalize: str
    images: np.ndarray | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def open(cls, config: PairwiseConfig, tell: bool = True) -> "Data":
        """Opens the store of a run, and tells its warnings on standard error, once for every command that opens it.

        ``UserError`` where it is not usable or has rows that are not to be dropped. A process that is not the first of
        a run does not ``tell``.
        """
        store = open_store(config)
        encoders = tuple(name for name in store.encoders if name != PIXELS or "pixels" not in config.controls)
        called = f"store {store.dataset!r}"
        if len(encoders) < 2:
            raise UserError(f"{called}: aligning takes at least two encoders, got {', '.join(encoders)}.")
        unusable = unusable_rows(store, encoders)
        if unusable and config.nonfinite == "fail":
            found = "; ".join(describe_unusable(unusable))
            raise UserError(f"{called}: {found}. --nonfinite=drop leaves them out of every encoder.")
        usable = np.ones(store.rows, bool)
        for rows in itertools.chain(*unusable.values()):
            usable[rows] = False
        rows = np.flatnonzero(usable)
        if len(rows) == 0:
            raise UserError(f"{called}: no row is left after dropping those that cannot be compared.")
        identities = np.asarray(store.identities)[rows]
        require_repeated_identities(identities, called)
        images = image_numbers(store, rows)
        data = cls(store, encoders, rows, identities, config.protocol.normalize, images)
        list(data.score_notes(config))  # refuses; the notes are told by those who measure
        found = [*data._notes(), *doubts(data.take, identities, images, config)]
        return dataclasses.replace(data, warnings=told(found) if tell else tuple(found))

    def _notes(self) -> Iterator[str]:
        """A sentence on rows that are left out, and on copies of photographs."""
        if len(self.rows) < self.store.rows:
            why = "were dropped from every encoder, because of NaN, infinite or all-zero rows"
            yield f"{self.store.rows - len(self.rows):,} of {self.store.rows:,} rows {why}"
        yield from copies_notes(self.images, self.identities)

    def score_notes(self, config: PairwiseConfig) -> Iterator[str]:
        """A sentence on usual scores that are left out; ``UserError`` where such were asked for."""
        by_cohort = ", ".join(name for name in config.scores if name != COSINE)
        if by_cohort and self._people_trained(config) < TOP:
            people = few_people(self._people_trained(config))
            if not config.usual_scores:
                raise UserError(f"store {self.store.dataset!r}, --scores={by_cohort}: {people}.")
            yield f"{self.store.dataset}: the score {by_cohort} is left out: {people}"

    def with_supported_scores(self, config: PairwiseConfig) -> PairwiseConfig:
        """The configuration, by the cosine alone where the usual scores take a larger cohort than there is."""
        few = config.usual_scores and self._people_trained(config) < TOP
        return dataclasses.replace(config, scores=(COSINE,)) if few else config

    def _people_trained(self, config: PairwiseConfig) -> int:
        return trained_people(len(np.unique(self.identities)), config.protocol.train_fraction)

    @property
    def dims(self) -> dict[str, int]:
        """The width of each encoder to align."""
        return {name: self.store.dims[name] for name in self.encoders}

    @property
    def copies(self) -> int:
        """The number of photographs that are copies of an earlier one of the same person."""
        return 0 if self.images is None else count_copies(self.images, self.identities)[0]

    def only(self, encoders: Sequence[str]) -> "Data":
        """The same rows of only these encoders."""
        return dataclasses.replace(self, store=self.store.only(encoders), encoders=tuple(encoders))

    def select(self, rows: np.ndarray) -> dict[str, LazyRows]:
        """Rows by their indices among the usable ones, as float32, of length 1 if asked for; nothing is read yet."""
        return {
            name: prepared(LazyRows.of(self.store[name]), self.normalize).select(self.rows[rows])
            for name in self.encoders
        }

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The same rows as ``select``, in memory."""
        return {name: np.asarray(lazy) for name, lazy in self.select(rows).items()}

    def take_pixels(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of photographs, from 0 to 1, shape [len(rows), numbers]; only where they are a control."""
        return np.asarray(self.store[PIXELS])[self.rows[rows]]

    def split(self, seed: int, train_fraction: float, max_per_person: int) -> Split:
        """Splits people into training and test; the split holds indices among the usable rows."""
        split = published_split(self.identities, seed, train_fraction)
        if max_per_person:
            test = limit_per_person(split.test, self.identities, max_per_person)
            split = dataclasses.replace(split, test=test)
        counts = np.unique(self.identities[split.test], return_counts=True)[1]
        if len(split.train) == 0 or len(split.test) == 0:
            raise UserError(
                f"store {self.store.dataset!r}: {len(np.unique(self.identities))} people cannot be split into "
                f"{train_fraction:g} for training and the rest for testing; one side is empty."
            )
        if len(counts) < 2 or counts.max() < 2:
            raise UserError(
                f"store {self.store.dataset!r}, seed {seed}: the {len(counts)} test people have {len(split.test)} "
                "photographs to test; at least two people are needed, one of them with two photographs."
            )
        return split


def few_people(trained: int) -> str:
    """Why there is no score by a cohort."""
    return f"a cohort takes {TOP} training people or more, and there are {trained:,}"


def told(warnings: Iterable[str]) -> tuple[str, ...]:
    """Prints warnings on standard error; returns them."""
    found = tuple(warnings)
    for warning in found:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return found


def open_store(config: PairwiseConfig) -> EmbeddingStore:
    """Opens the store of a run: the one given, one of photographs embedded now, or both joined."""
    if config.images is None:
        assert config.store is not None
        return EmbeddingStore.open(config.store, encoders=config.models)
    from jaxalign.vision.zoo import shipped

    models, stores = config.models or tuple(f"zoo:{name}" for name in shipped()), []
    if "pixels" in config.controls:
        models = (*models, PIXEL_MODEL)
    if config.store is not None:
        there = EmbeddingStore.open(config.store, verify=False).encoders
        if given := [name for name in models if name in there]:
            stores.append(EmbeddingStore.open(config.store, encoders=given))
        models = tuple(name for name in models if name not in there)
    return join([*stores, cached_store(config, models)] if models else stores)


def image_numbers(store: EmbeddingStore, rows: np.ndarray) -> np.ndarray | None:
    """Of each row, a number that copies of its photograph share; None for a store without digests of photographs."""
    if DIGEST not in store.columns:
        return None
    digests = store.column(DIGEST)[rows].tolist()
    keys = [
        str(row) if digest is None else str(digest).partition("-")[0] for row, digest in enumerate(digests)
    ]
    return np.unique(keys, return_inverse=True)[1]


def count_copies(images: np.ndarray, identities: np.ndarray) -> tuple[int, int]:
    """Photographs that are copies of another one of the same person, and those that several people have."""
    _, person = np.unique(identities, return_inverse=True)
    filed, counts = np.unique(np.stack([images, person], axis=1), axis=0, return_counts=True)
    people_of = np.unique(filed[:, 0], return_counts=True)[1]
    return int(np.sum(counts - 1)), int(np.sum(people_of > 1))


def copies_notes(images: np.ndarray | None, identities: np.ndarray) -> Iterator[str]:
    """A sentence on copies of photographs within a person, one on those across people."""
    copies, shared = (0, 0) if images is None else count_copies(images, identities)
    if copies:
        yield (
            f"{copies:,} of {len(identities):,} photographs are byte-identical copies of another one of the same "
            "person; where the same image is excluded, its copies are too"
        )
    if shared:
        yield f"{shared:,} photographs are byte-identical under several people; some of their people must be wrong"


def prepared(rows: LazyRows, normalize: str) -> LazyRows:
    """Rows as float32; for "l2" scaled to length 1, which is computed in float64."""
    if normalize == "l2":
        return rows.unit()
    return rows.then(lambda part: np.asarray(part, np.float32), dtype=np.float32)


def unusable_rows(store: EmbeddingStore, encoders: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each encoder that has some: its rows with NaN or infinity, and its rows of zeros."""
    found = {}
    for name in encoders:
        bad, zero = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start, rows in LazyRows.of(store[name]).pieces(CHECKED_ROWS):
            bad.append(start + np.flatnonzero(~np.isfinite(rows).all(axis=1)))
            zero.append(start + np.flatnonzero(~rows.any(axis=1)))
        kinds = np.concatenate(bad), np.concatenate(zero)
        if any(map(len, kinds)):
            found[name] = kinds
    return found


def describe_unusable(unusable: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[str]:
    """Which encoder, how many rows, which row first."""
    for name, kinds in unusable.items():
        for rows, what in zip(kinds, ("NaN or infinite values", "all zeros"), strict=True):
            if len(rows):
                noun = "row" if len(rows) == 1 else "rows"
                yield f"encoder {name!r} has {len(rows):,} {noun} of {what} (first: row {rows[0]})"


def cached_store(config: PairwiseConfig, models: Sequence[str]) -> EmbeddingStore:
    """The store of a run's photographs under these encoders; embeds now what the cache lacks.

    The cache has one directory for each set of photographs (what is in them and who, not only where they are) and
    crop, which holds one store for each set of encoders that was missing in a run.
    """
    assert config.images is not None
    from jaxalign.vision.encoders import load_encoder
    from jaxalign.vision.extract import EncoderView, extract
    from jaxalign.vision.images import SourceOptions, open_images

    images, crop = config.images, config.crop
    bad_images = config.bad_images
    cache = cache_directory(config.embedding_cache, "embeddings")
    options = SourceOptions(identity_column=config.identity_column, bad_images=bad_images)
    named, source = named_crop(crop), open_images(images, options)
    encoders = [load_encoder(model) for model in models]
    check_new_names([encoder.name for encoder in encoders])
    report = EmbeddingProgress(source)
    digest = _digest([images, crop, bad_images, __version__, *_contents(source)])
    place = cache / f"{source.dataset}-{digest}"
    noted = _noted(place)
    cuts = crops_for(
        named, source, encoders, report.progress, [info for of in noted.values() for info in of.values()]
    )
    infos = {one.name: EncoderView(crop=cuts[one.name], encoder=one).info() for one in encoders}
    there = _embedded(noted, infos)
    missing = [encoder for encoder in encoders if encoder.name not in there]
    if missing:
        new = place / _digest(json.dumps(infos[encoder.name], sort_keys=True) for encoder in missing)
        with report.progress:
            # Rows with NaN are for --nonfinite to judge, with those of other encoders.
            new_cuts = {encoder.name: cuts[encoder.name] for encoder in missing}
            how: Any = {"bad_images": bad_images, "nonfinite": "keep"}
            extract(source, missing, new, progress=report, crop=new_cuts, **how)
        there |= {encoder.name: new for encoder in missing}
    stores = [
        EmbeddingStore.open(path, encoders=[name for name in there if there[name] == path], verify=False)
        for path in dict.fromkeys(there.values())
    ]
    return join(stores, encoders=list(infos))


def named_crop(text: str) -> "Crop | None":
    """The crop that ``--crop`` names; None for ``auto``."""
    from jaxalign.vision.images import parse_crop

    return None if text.strip() == "auto" else parse_crop(text)


def crops_for(
    named: "Crop | None",
    source: "ImageSource",
    encoders: Sequence["Encoder"],
    progress: Progress,
    noted: Sequence[Mapping[str, Any]] = (),
) -> dict[str, "Crop"]:
    """The crop of each encoder: the one named, or where none is what serves each encoder best, which is told.

    ``noted`` is what manifests say of encoders that have rows of these photographs: these keep their crop.
    """
    if named is not None:
        return {encoder.name: named for encoder in encoders}
    from experiments.run.crops import choose_crops, kept_crops

    crops = kept_crops(encoders, noted)
    for name, crop in crops.items():
        progress.note(f"crop of {name}: {crop}, as its rows have it already")
    left = [encoder for encoder in encoders if encoder.name not in crops]
    for encoder in left:
        if getattr(encoder, "key_points", None) is not None:
            raise UserError(
                f"encoder {encoder.name!r}: its key points are those of one crop; name it by --crop."
            )
    if left:
        progress.show("trying crops on a sample of the photographs")
    for name, choice in choose_crops(source, left).items() if left else ():
        progress.note(f"crop of {name}: {choice}")
        crops[name] = choice.crop
    return crops


def _noted(place: pathlib.Path) -> dict[pathlib.Path, Mapping[str, Mapping[str, Any]]]:
    """What the stores in ``place`` note of their encoders, by path and name.

    Removes stores that are damaged, so that what they held is embedded again.
    """
    found: dict[pathlib.Path, Mapping[str, Mapping[str, Any]]] = {}
    for path in sorted(place.glob("[!.]*/manifest.json")):
        try:
            found[path.parent] = EmbeddingStore.open(path.parent).info
        except UserError:
            shutil.rmtree(path.parent)
    return found


def _embedded(
    noted: Mapping[pathlib.Path, Mapping[str, Mapping[str, Any]]], infos: Mapping[str, Mapping[str, Any]]
) -> dict[str, pathlib.Path]:
    """Of each encoder that a store holds, loaded and fed in the same way: the path of that store."""
    return {
        name: path
        for path, there in noted.items()
        for name, info in infos.items()
        if name in there and {key: there[name].get(key) for key in info} == info
    }


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _contents(source: "ImageSource") -> Iterator[str]:
    """Lines that change when a photograph, its landmarks or its person changes, whatever dates its file has."""
    from jaxalign.vision.images import SyntheticFaces, read_contents

    if isinstance(source, SyntheticFaces):  # to draw them takes longer than to read files
        yield source.fingerprint()
        return
    with contextlib.closing(read_contents(source)) as contents:
        for content in contents:
            digest = getattr(content, "digest", "cannot be read")
            yield json.dumps([content.sample.sample_id, content.sample.identity, digest])


class EmbeddingProgress:
    """Shows the progress of ``extract``: photographs a second, time left, and each photograph that is skipped."""

    def __init__(self, source: "ImageSource"):
        self.progress = Progress(0)
        self.embedded = self.skipped = 0
        self._all = None if source.samples is None else len(source.samples)
        self._started = time.monotonic()
        for note in getattr(source, "notes", ()):
            self.progress.note(f"note: {note}.")

    def __call__(self, done: int, embedded: int, bad: Sequence["BadImage"]) -> None:
        """Takes the counts of ``extract``; shares and times leave out what an earlier run embedded."""
        for image in bad:
            self.progress.note(f"skipped {image.sample.sample_id}: {image.reason}")
        self.embedded, self.skipped = embedded, self.skipped + len(bad)
        now = self.embedded + self.skipped
        if self._all is not None:
            self.progress.total = self._all - (done - now)
        of = "" if self._all is None else f" of {self._all:,}"
        rate = embedded / max(time.monotonic() - self._started, 1e-9)
        self.progress.step(f"{done:,}{of} photographs, {rate:,.0f} a second", now - self.progress.done)
