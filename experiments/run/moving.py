"""A migration carried out: the maps in both directions as files, and the moved gallery."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.run.data import told
from experiments.run.galleries import Given, public
from experiments.run.progress import Progress
from jaxalign.gallery.choose import COSINE, Mover
from jaxalign.gallery.map_file import GalleryMap
from jaxalign.gallery.migration import Migration, Rates, plain_rates
from jaxalign.gallery.move import affine_transform, move_gallery
from jaxalign.gallery.reenrol import Ordered
from jaxalign.gallery.stores.kinds import KINDS, MIXED


def told_apart(given: Given, migration: Migration, listed: Ordered) -> dict[str, Any] | None:
    """How rows of a mixed gallery were told apart, told to the user; None where all are the old network's.

    Raises:
      UserError: they cannot be told apart well enough.
    """
    if given.sides is None:
        return None
    wrong = given.sides.wrong(migration.calibration, migration.choice.movers[migration.way])
    counts = {name: listed.count(name) for name in ("kept", "unclear")}
    note = (
        f"Of {given.gallery.rows:,} gallery rows, {counts['kept']:,} look like {given.sides.new.encoder}'s and stay as "
        f"they are; {counts['unclear']:,} are like neither network's rows, or like both. reenrol.csv flags them "
        f"(kept, unclear). {given.sides.told(wrong)}."
    )
    given.notes.extend(told([note]))
    return {**counts, "wrong": {kind: of._asdict() for kind, of in wrong.items()}}


def moved(
    values: Any,
    given: Given,
    migration: Migration,
    mover: Mover,
    place: pathlib.Path,
    progress: Progress,
    mixed: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Writes the maps in both directions into ``place`` and moves the gallery; the names of what was written."""
    (old, new), way = migration.calibration.names, migration.way
    progress.show("maps")
    there = gallery_map(values, given, migration, mover, migration.rates["mapped"], migration.native)
    back = gallery_map(values, given, migration, *migration.back, names=(new, old))
    (place / "maps").mkdir()
    names = {"map": "maps/old_to_new.safetensors", "map_back": "maps/new_to_old.safetensors"}
    for map_, name in zip((there, back), names.values()):
        map_.save(place / name)
    leads_to = new if way.drop_in else f"{old}+{new}"
    note: dict[str, Any] = {"checksum": there.checksum, "source": old, "target": leads_to}
    note |= {"threshold": migration.threshold.estimate, **way._asdict()}
    note |= {MIXED: mixed} if mixed else {}
    width = there.gallery.out_dim + (0 if way.score == COSINE else 2)
    progress.total, progress.done = given.gallery.rows, 0
    transform = lambda rows: there.vectors(rows, old, check=False)  # noqa: E731
    if way.score == COSINE:  # the same, in one program
        scaled = {"normalize_input": values.normalize == "l2", "normalize": True}
        transform = affine_transform(there.gallery, given.gallery, **scaled)
    if given.sides is not None:
        transform = given.sides.keeping(transform)
    directory = values.out.partition(":")[0] not in KINDS
    out = f"{place / 'store'}#{leads_to}" if directory else values.out
    move_gallery(
        *(given.gallery, out, transform, width, note),
        dtype=values.dtype,
        progress=lambda done: progress.step("rows mapped", done - progress.done),
    )
    if directory:  # the store is the directory itself, with the results beside it
        for file in (place / "store").iterdir():
            file.rename(place / file.name)
        (place / "store").rmdir()
    return {**names, "gallery": public(values.out)}


def gallery_map(
    values: Any,
    given: Given,
    migration: Migration,
    mover: Mover,
    rates: Rates,
    native: tuple[np.ndarray, np.ndarray],
    names: tuple[str, str] | None = None,
) -> GalleryMap:
    """A fitted way with what it reaches, as a file that explains itself; from old to new without ``names``."""
    source, target = names or migration.calibration.names
    checksums = {name: given.store.checksums[name] for name in (source, target)}
    about: dict[str, Any] = {"dataset": given.store.dataset, "checksums": checksums}
    about |= {"license": values.license} if values.license else {}
    # Only what does not depend on the gallery, so that a move that was cut short goes on though rows were added.
    known = {name: rate for name, rate in rates.items() if name.startswith("tmr@") and not rate.reason}
    about |= {"rates": plain_rates(known)} if known else {}
    scored: dict[str, Any] = {}
    if mover.score is not None:
        scored = {"options": {"top": mover.score.rule.top}, "cohort": mover.cohort}
    return GalleryMap.of(
        mover.fit,
        source=source,
        target=target,
        method=mover.way.method,
        normalize=values.normalize,
        rows=(given.side(source), given.side(target)),
        identities=given.identities,
        score=mover.way.score,
        drop_in=mover.way.drop_in,
        thresholds=tuple(migration.thresholds(rates)),
        native=native,
        about=about,
        **scored,
    )
