"""The data of a run, checked before any work starts: a store or photographs."""

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from experiments.run.config import PairwiseConfig
from experiments.run.doubts import doubts
from experiments.run.photographs import cached_store
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
from jaxalign.data.samples import DIGEST
from jaxalign.report.records import COSINE

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
