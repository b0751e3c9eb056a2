"""From a store to the rows that one split trains and tests on; every check of them before any work starts."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.run.caches import cache_directory
from experiments.run.config import PairwiseConfig
from jaxalign.core.errors import UserError
from jaxalign.core.lazy_rows import LazyRows
from jaxalign.core.splits import Split, limit_per_person, published_split, require_repeated_identities
from jaxalign.data import EmbeddingStore, join

PIXELS, PIXEL_MODEL = "pixels", "pixels:16"  # a control, no encoder to align
CHECKED_ROWS = 8192  # looked at once for NaN, infinity and zeros


@dataclasses.dataclass(frozen=True)
class Data:
    """The usable rows of a store.

    Attributes:
      store: opened with the encoders to align, and the pixels where they are a control.
      encoders: to align.
      rows: numbers of the rows that every encoder can be compared on, ascending, shape [n].
      identities: of those rows, shape [n].
      normalize: "l2" or "none".
    """

    store: EmbeddingStore
    encoders: tuple[str, ...]
    rows: np.ndarray
    identities: np.ndarray
    normalize: str

    @classmethod
    def open(cls, config: PairwiseConfig) -> "Data":
        """Opens and checks the store of a run.

        Raises:
          UserError: the store is not usable, an encoder is not in it, fewer than two are asked for, nobody
            has two photographs, or there are rows that cannot be compared and they are not to be dropped.
        """
        store = open_store(config)
        encoders = tuple(name for name in store.encoders if name != PIXELS or "pixels" not in config.controls)
        if len(encoders) < 2:
            raise UserError(
                f"store {store.dataset!r}: aligning takes at least two encoders, got {', '.join(encoders)}."
            )
        unusable = unusable_rows(store, encoders)
        if unusable and config.nonfinite == "fail":
            raise UserError(
                describe_unusable(store, unusable) + " --nonfinite=drop leaves them out of every encoder."
            )
        bad = np.unique(
            np.concatenate([np.empty(0, np.int64), *(row for kinds in unusable.values() for row in kinds)])
        )
        rows = np.setdiff1d(np.arange(store.rows), bad)
        identities = np.asarray(store.identities)[rows]
        if len(rows) == 0:
            raise UserError(
                f"store {store.dataset!r}: no row is left after dropping those that cannot be compared."
            )
        require_repeated_identities(identities, f"store {store.dataset!r}")
        return cls(store, encoders, rows, identities, config.protocol.normalize)

    @property
    def dropped(self) -> int:
        """How many rows of the store are not used."""
        return self.store.rows - len(self.rows)

    def describe_dropped(self) -> str:
        """One sentence about the rows that are not used."""
        return (
            f"{self.dropped:,} of {self.store.rows:,} rows were dropped from every encoder, because of NaN, "
            "infinite or all-zero rows"
        )

    def only(self, encoders: Sequence[str]) -> "Data":
        """The same rows of only these encoders."""
        return dataclasses.replace(self, store=self.store.only(encoders), encoders=tuple(encoders))

    @property
    def lazy(self) -> dict[str, LazyRows]:
        """All rows of the store, of every encoder, as float32, of length 1 if asked for; nothing is read yet."""
        return {name: prepared(LazyRows.of(self.store[name]), self.normalize) for name in self.encoders}

    def select(self, rows: np.ndarray) -> dict[str, LazyRows]:
        """Some of ``lazy``.

        Args:
          rows: positions among the usable rows.
        """
        return {name: lazy.select(self.rows[rows]) for name, lazy in self.lazy.items()}

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The same in memory."""
        return {name: np.asarray(lazy) for name, lazy in self.select(rows).items()}

    def take_pixels(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of photographs, from 0 to 1, shape [len(rows), numbers]; there where they are a control."""
        return np.asarray(self.store[PIXELS])[self.rows[rows]]

    def split(self, seed: int, train_fraction: float, max_per_person: int) -> Split:
        """People split into training and test, as positions among the usable rows.

        Raises:
          UserError: a side is empty, or no test person has two photographs.
        """
        split = published_split(self.identities, seed, train_fraction)
        test = split.test
        if max_per_person:
            test = limit_per_person(test, self.identities, max_per_person)
        people = len(np.unique(self.identities))
        counts = np.unique(self.identities[test], return_counts=True)[1]
        if len(split.train) == 0 or len(test) == 0:
            raise UserError(
                f"store {self.store.dataset!r}: {people} people cannot be split into {train_fraction:g} for "
                "training and the rest for testing; one side is empty."
            )
        if len(counts) < 2 or counts.max() < 2:
            raise UserError(
                f"store {self.store.dataset!r}, seed {seed}: the {len(counts)} test people have {len(test)} "
                "photographs to test, which gives no genuine or no impostor comparison; at least two people "
                "are needed, one of them with two photographs."
            )
        return dataclasses.replace(split, test=test)


def open_store(config: PairwiseConfig) -> EmbeddingStore:
    """The store of a run: the one given, photographs embedded now, or both side by side."""
    if config.images is None:
        assert config.store is not None
        return EmbeddingStore.open(config.store, encoders=config.models)
    from experiments.run.photographs import bundled_models, cached_store  # encoders take a while to import

    models, stores = config.models or bundled_models(), []
    if "pixels" in config.controls:
        models = (*models, PIXEL_MODEL)
    if config.store is not None:
        there = EmbeddingStore.open(config.store, verify=False).encoders
        if given := [name for name in models if name in there]:
            stores.append(EmbeddingStore.open(config.store, encoders=given))
        models = tuple(name for name in models if name not in there)
    if models:
        cache = cache_directory(config.embedding_cache, "embeddings")
        how = {"crop": config.crop, "bad_images": config.bad_images, "cache": cache}
        stores.append(cached_store(config.images, models, **how))
    return join(stores)


def prepared(rows: LazyRows, normalize: str) -> LazyRows:
    """Rows as float32, scaled to length 1 for "l2"; the scaling in float64."""
    return rows.unit() if normalize == "l2" else rows.then(_float32, dtype=np.float32)


def _float32(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, np.float32)


def unusable_rows(
    store: EmbeddingStore, encoders: Sequence[str]
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Per encoder that has some: rows with NaN or infinity, and rows of all zeros; one pass, a chunk at a time."""
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


def describe_unusable(store: EmbeddingStore, unusable: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """One sentence: which encoder, how many rows, which first."""
    parts = []
    for name, kinds in unusable.items():
        for rows, what in zip(kinds, ("NaN or infinite values", "all zeros"), strict=True):
            if len(rows):
                noun = "row" if len(rows) == 1 else "rows"
                parts.append(f"encoder {name!r} has {len(rows):,} {noun} of {what} (first: row {rows[0]})")
    return f"store {store.dataset!r}: " + "; ".join(parts) + "."
