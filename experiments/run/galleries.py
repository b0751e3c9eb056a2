"""The calibration store and the gallery of a migration, opened and checked before any work starts."""

import contextlib
import dataclasses
import functools
import pathlib
import re
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.run import flags
from experiments.run.config import DEMONSTRATION, PairwiseConfig
from experiments.run.data import describe_unusable, image_numbers, prepared, told, unusable_rows
from experiments.run.doubts import doubts
from experiments.run.photographs import cached_store
from jaxalign.core.errors import UserError
from jaxalign.core.people import published_split, require_repeated_identities
from jaxalign.core.rows import LazyRows
from jaxalign.data import EmbeddingStore
from jaxalign.gallery.doctor import LEAST_MIXED, Networks
from jaxalign.gallery.fingerprint import Fingerprint
from jaxalign.gallery.mixed import Sides
from jaxalign.gallery.move import refuse_moved
from jaxalign.gallery.stores import Gallery, open_gallery
from jaxalign.gallery.stores.kinds import KINDS, split_path

SAMPLE = 4096  # gallery rows that must look like the old network's
NO_SPLIT = -1
PASSWORD = re.compile(r"(?<=://)([^/@:#]*:)[^@#]+(?=@)|(password=)[^\s#]+")  # of a server's address


def public(text: str) -> str:
    """The text of a flag as files and messages may show it: without a password."""
    return PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", text)


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What was opened and checked.

    Attributes:
      store, rows: the calibration store, and its rows that are used.
      gallery: the enrolled rows.
      tested: store and rows where the gallery's people have both networks' rows; None where they have not.
      notes: what a reader must know.
      sides: what tells rows of a mixed gallery apart; None where all rows are the old network's.
    """

    store: EmbeddingStore
    rows: np.ndarray
    gallery: Gallery
    tested: tuple[EmbeddingStore, np.ndarray] | None
    notes: list[str]
    sides: Sides | None = None

    def side(self, name: str) -> LazyRows:
        """The calibration rows of one network as it gives them."""
        return LazyRows.of(self.store[name]).select(self.rows)

    @functools.cached_property
    def size(self) -> int:
        """People in the gallery, or its rows where it names nobody."""
        people = self.gallery.identities()
        return self.gallery.rows if people is None else len(np.unique(people))

    @property
    def identities(self) -> np.ndarray:
        """Of the calibration rows."""
        return np.asarray(self.store.identities)[self.rows]


@contextlib.contextmanager
def opened(values: Any, old: str, new: str, require: Callable[[Given], object]) -> Iterator[Given]:
    """Opens what the flags of ``experiments.migrate`` name, checks what needs no fit, and calls ``require``."""
    if values.calibration is None:
        if values.gallery is not None:
            raise UserError(
                "--calibration is missing: a store with both networks' rows of people outside --gallery."
            )
        of_faces = {"images": DEMONSTRATION["images"], "models": f"zoo:{old},zoo:{new}", "controls": "none"}
        of_faces |= {"embedding_cache": values.embedding_cache}
        config = PairwiseConfig.from_flags(types.SimpleNamespace(**of_faces))
        store, seed = cached_store(config, config.models or ()), 42
    else:
        store = EmbeddingStore.open(values.calibration, encoders=[old, new])
        seed = values.split
        if seed == NO_SPLIT:
            with open_gallery(_of_old(flags.required(values, "gallery"), old)) as gallery:
                given = Given(store, np.arange(store.rows), gallery, _both(gallery, old, new), [])
                yield checked(values, given, old, new, require)
            return
        if values.gallery not in (None, values.calibration):
            raise UserError("--split divides the people of one store; leave --gallery out.")
    split = published_split(store.identities, seed)
    rows, test = np.sort(split.train), split.test
    with tempfile.TemporaryDirectory() as place:
        part = {name: np.asarray(store[name])[test] for name in (old, new)}
        columns: dict[str, Any] = {"identities": store.identities[test], "sample_ids": store.sample_ids[test]}
        EmbeddingStore.create(pathlib.Path(place) / "gallery", part, **columns, dataset=store.dataset)
        with open_gallery(f"{place}/gallery#{old}") as gallery:
            yield checked(values, Given(store, rows, gallery, (store, test), []), old, new, require)


def _of_old(specification: str, old: str) -> str:
    """A store's directory with the name of the old network, where that is left out."""
    path, part = split_path(specification)
    plain = specification.partition(":")[0] not in KINDS and part is None
    return f"{specification}#{old}" if plain and (path / "manifest.json").exists() else specification


def _both(gallery: Gallery, old: str, new: str) -> tuple[EmbeddingStore, np.ndarray] | None:
    """The gallery's store and rows, where it is one that holds usable rows of both networks."""
    path, _ = split_path(gallery.specification)
    if gallery.kind != "directory" or not {old, new} <= set(EmbeddingStore.open(path, verify=False).encoders):
        return None
    store = EmbeddingStore.open(path, encoders=[old, new])
    return None if unusable_rows(store, [old, new]) else (store, np.arange(store.rows))


def checked(values: Any, given: Given, old: str, new: str, require: Callable[[Given], object]) -> Given:
    """Raises ``UserError`` for rows that cannot be used, and people who are on both sides."""
    store, gallery = given.store, given.gallery
    if unusable := unusable_rows(store, [old, new]):
        raise UserError(f"store {store.dataset!r}: {'; '.join(describe_unusable(unusable))}.")
    require_repeated_identities(given.identities, f"store {store.dataset!r}")
    refuse_moved(gallery, {"source": old, "checksum": ""})
    if gallery.width != store.dims[old]:
        raise UserError(
            f"{gallery.place} has rows of width {gallery.width}, {old} in --calibration gives width "
            f"{store.dims[old]}."
        )
    people = gallery.identities()
    if people is None:
        given.notes.append(
            "The gallery names no people, so nobody checked that they are others than --calibration's."
        )
    elif values.same_names == "person":
        both = np.intersect1d(people, given.identities)
        if len(both):
            raise UserError(
                f"{len(both):,} people are in --calibration and in the gallery (first: {str(both[0])!r}); maps are "
                "judged by people outside it. If equal names are different people, give --same_names=unrelated."
            )
    require(given)
    fingerprints = [
        Fingerprint.of(given.side(name), given.identities, encoder=name, normalize=values.normalize)
        for name in (old, new)
    ]
    rows = gallery.sample(SAMPLE)
    if not np.isfinite(rows).all():
        raise UserError(f"{gallery.place} holds NaN or infinite values; experiments.doctor lists the rows.")
    if values.mixed == "continue" and fingerprints[0].width == fingerprints[1].width:
        given = dataclasses.replace(given, sides=Sides(*fingerprints), tested=None)
        _require_both(given, rows, values.drop_in)
    else:
        networks = Networks([print_ for print_ in fingerprints if print_.width == gallery.width])
        networks.add(rows[rows.any(axis=1)])
        if mixed := networks.mixed():
            raise UserError(
                f"{gallery.place}: {mixed}, of {len(rows):,} rows drawn; experiments.doctor with --map counts all. "
                f"Move rows of {old} alone: those of {new} stand beside the moved ones as they are. --mixed=continue "
                "tells the rows apart where that can be done."
            )
        if problem := fingerprints[0].problem(rows, fingerprints[1]):
            raise UserError(f"{gallery.place}: {problem}.")
    if values.calibration is not None:  # the demonstration's own rows are right

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            sides = {name: prepared(given.side(name), values.normalize) for name in (old, new)}
            return {name: np.asarray(side.select(rows)) for name, side in sides.items()}

        given.notes.extend(told(doubts(read, given.identities, image_numbers(store, given.rows))))
    return given


def _require_both(given: Given, rows: np.ndarray, drop_in: bool) -> None:
    """Raises ``UserError`` where a move of a mixed gallery cannot go on: the rows drawn must be of both networks."""
    sides, place = given.sides, given.gallery.place
    assert sides is not None
    if not drop_in:
        raise UserError(
            "--mixed=continue needs a drop-in map: two-sided ones move the new network's rows, too."
        )
    kept = sides.of(rows)[0]
    for print_, other, part in ((sides.old, sides.new, rows[~kept]), (sides.new, sides.old, rows[kept])):
        if len(part) <= LEAST_MIXED * len(rows):
            raise UserError(
                f"{place}: {len(part):,} of {len(rows):,} rows drawn look like {print_.encoder}'s, no more than "
                "mistakes may be; --mixed=continue is for galleries that hold rows of both networks."
            )
        if problem := print_.problem(part, other):
            raise UserError(f"{place}: {problem}.")
