"""Moves an enrolled gallery from an old network to a new one, without its photographs, if that costs little enough.

  python -m experiments.migrate --calibration=STORE --gallery=STORE --old=arcface --new=adaface --out=moved

The calibration store holds photographs of other people under both networks; the gallery holds rows of the old one.
Candidate maps and scores are compared at --at_fmr (or --at_fpir) on people whom they were not fitted on. The verdict
is `map`, `map_and_reenrol` (map, and enrol a part again), `reenrol` or `stay`. After `map` and `map_and_reenrol` --out
is the moved gallery. After the others nothing is moved, the exit status is 3, and --out says why and what would help:
migration.json for programs, report.html for people, reenrol.csv with the gallery's rows by expected loss.

A gallery that holds the new network's rows too is measured by itself besides. To see what a map would have done on one
store, divide its people as `experiments.pairwise` does: --calibration=S --gallery=S --split=42. Without data, synthetic
people under two bundled encoders show the whole story.
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.run import cli, flags, results
from experiments.run.computing import Compiling, set_compilation_cache
from experiments.run.config import DEMONSTRATION
from experiments.run.data import few_people, image_numbers, prepared, told
from experiments.run.galleries import NO_SPLIT, Given, opened, public
from experiments.run.moving import moved, told_apart
from experiments.run.progress import Progress, duration
from experiments.run.tested import Tested, result_rows, tested_on
from jaxalign.align.saved import NORMALIZED
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.data.manifest import DTYPES
from jaxalign.gallery.choose import METHODS, SCORES, CalibrationRows, Point, ways
from jaxalign.gallery.fingerprint import Fingerprint
from jaxalign.gallery.migration import Migration, described, require_people
from jaxalign.gallery.reenrol import FALSE_ALARM, Ordered, ordered
from jaxalign.gallery.stores import open_gallery
from jaxalign.gallery.stores.kinds import KINDS, Move, same_kind, split_path
from jaxalign.gallery.verdict import WRITTEN
from jaxalign.report.page import require_report_libraries, write_report
from jaxalign.report.part import Part
from jaxalign.report.sections.migration import candidates_table, rates_table
from jaxalign.report.tables import to_text

FMR, FMR_OF_DEMONSTRATION = 1e-3, 1e-2
GATE = 3  # exit status where nothing is moved
CHUNK_ROWS = 4096
OLD, NEW = "arcface_squeeze", "triplet_dense"  # bundled, where no data is given

FLAGS = flags.define(
    Compiling,
    calibration=flags.Flag(
        None,
        "Directory of a store with both networks' rows of the same photographs, of people outside the gallery.",
    ),
    gallery=flags.Flag(
        None,
        "The enrolled rows of the old network: DIR, parquet:FILE, faiss:FILE, qdrant:URL-or-DIR#collection/vector or "
        "postgres:DSN#table.column.",
    ),
    old=flags.Flag(None, "Name of the old network in --calibration, and in a gallery that is a store."),
    new=flags.Flag(None, "Name of the new network in --calibration."),
    at_fmr=flags.Flag(
        None,
        "False match rate to decide at. Without it and --at_fpir: 0.001, or 0.01 where no data is given.",
        kind=float,
    ),
    at_fpir=flags.Flag(
        None,
        "False positive identification rate of searches in the gallery to decide at, instead.",
        kind=float,
    ),
    max_tmr_loss=flags.Flag(
        0.02,
        "Share of true matches that may be lost of those that the old network finds today; compared with the lower end "
        "of the interval.",
    ),
    drop_in=flags.Flag(
        True,
        "Move the gallery into the new network's own coordinates: vector databases compare raw cosines, and neither "
        "probes nor later enrolments need a map then, now or ever. --nodrop_in maps both sides and may use a cohort, "
        "which finds more but needs the map in front of every probe. Both are in the table.",
    ),
    methods=flags.Flag(",".join(METHODS), "Ways to map that are compared, separated by commas."),
    normalize=flags.Flag(
        "l2", "Scale rows to length 1 before anything else (l2), or not (none).", choices=NORMALIZED
    ),
    same_names=flags.Flag(
        "person",
        "What it means when --calibration and --gallery have the same name in the column identity: the same `person`, "
        "which is refused, or nothing (`unrelated` names).",
        choices=("person", "unrelated"),
    ),
    mixed=flags.Flag(
        "refuse",
        "A gallery without a note of a move in which rows look like those of the new network, of the same width: "
        "`refuse` it, or `continue` the move: map only rows nearer to the old network, if calibration people show that "
        "at most 1 in 100 is put on the wrong side.",
        choices=("refuse", "continue"),
    ),
    split=flags.Flag(
        NO_SPLIT,
        "Seed of the published split: calibrate on its training people, take its test people of the same store as the "
        "gallery; -1 for two stores. Example: --split=42",
        least=NO_SPLIT,
    ),
    intervals=flags.Flag(1000, "Resamples of people for intervals of 95 %.", least=100),
    dtype=flags.Flag(None, "Type to store moved rows in; without it that of the gallery.", choices=DTYPES),
    license=flags.Flag(
        None,
        "A note on the license of the maps, such as what the networks and the photographs allow; kept in them.",
    ),
    embedding_cache=flags.Flag(
        "default", "Directory that caches the embeddings of the synthetic photographs."
    ),
    out=flags.Flag(
        "results/migrate", "Where the moved gallery goes, of the same kind as --gallery. Must not exist yet."
    ),
    results=flags.Flag(
        None,
        "Directory for the results where --out is no directory. Without it they are in --out, beside the store.",
    ),
)


def point_of(gallery_size: int) -> Point:
    """The operator's point."""
    at_fmr, at_fpir = FLAGS.at_fmr, FLAGS.at_fpir
    if at_fmr is not None and at_fpir is not None:
        raise UserError("--at_fmr and --at_fpir exclude each other: one point is decided at.")
    for name, value in (("at_fmr", at_fmr), ("at_fpir", at_fpir)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"--{name} takes a number between 0 and 1, got {value:g}.")
    usual = FMR_OF_DEMONSTRATION if FLAGS.calibration is None else FMR
    return Point(at_fmr or usual) if at_fpir is None else Point.of_search(at_fpir, gallery_size)


def main(_: Sequence[str]) -> int:
    """Checks, measures, decides, and moves the gallery if the gate holds."""
    started = time.monotonic()
    demonstration = FLAGS.calibration is None and FLAGS.gallery is None
    old, new = FLAGS.old or (OLD if demonstration else ""), FLAGS.new or (NEW if demonstration else "")
    point_of(2)
    for name, value in (("old", old), ("new", new)):
        if not value:
            flags.required(FLAGS, name)
    if old == new:
        raise UserError(f"--old and --new are both {old}.")
    if not 0 <= FLAGS.max_tmr_loss <= 1:
        raise UserError(f"--max_tmr_loss takes a share from 0 to 1, got {FLAGS.max_tmr_loss:g}.")
    methods = flags.words("methods", FLAGS.methods, METHODS, "method")
    require_report_libraries()
    set_compilation_cache(FLAGS.compilation_cache)
    place = result_directory()
    results.check_output(place, overwrite=False)

    def require(given: Given) -> None:
        """What is known before anything is measured."""
        same_kind(given.gallery, FLAGS.out)
        widths = [given.store.dims[name] for name in (old, new)]
        for way in (way for way in ways(methods) if way.drop_in == FLAGS.drop_in):
            given.gallery.check(FLAGS.out, Move(np.asarray, way.width(*widths), {"source": old}, FLAGS.dtype))
        require_people(given.identities, point_of(given.size))

    with opened(FLAGS, old, new, require) as given, Progress(0) as progress:
        size = given.size
        sides = [prepared(given.side(name), FLAGS.normalize) for name in (old, new)]
        images = image_numbers(given.store, given.rows)
        calibration = CalibrationRows.of((old, new), sides[0], sides[1], given.identities, images)
        if calibration.scores != SCORES:
            few = few_people(calibration.least_people)
            given.notes.extend(
                told([f"Candidates by the score cohort are left out: {few} beside one of the folds."])
            )
        if given.sides is not None:  # before the fits, which may take minutes
            given.sides.wrong(calibration)
        how: dict[str, Any] = {"drop_in": FLAGS.drop_in, "max_loss": FLAGS.max_tmr_loss, "methods": methods}
        how |= {"normalize": FLAGS.normalize, "resamples": FLAGS.intervals, "progress": progress.show}
        migration = Migration.of(calibration, point_of(size), gallery_size=max(2, size), **how)
        text = write(given, migration, place, progress, started)
        progress.clear()
        print(text)
    moved = migration.verdict.name in WRITTEN
    what = f"the moved gallery {public(FLAGS.out)}" if moved else "why nothing is moved"
    print(f"Wrote {place}: {what}, in {duration(time.monotonic() - started)}.")
    return 0 if moved else GATE


def result_directory() -> pathlib.Path:
    """Where the results go; refuses an output that exists."""
    kind = FLAGS.out.partition(":")[0]
    if kind not in KINDS:
        if FLAGS.results is not None:
            raise UserError("--results is for an --out that is no directory; leave it out.")
        return pathlib.Path(FLAGS.out)
    if FLAGS.results is None:
        raise UserError(
            f"--results is missing: {public(FLAGS.out)} is no directory, so the results need one."
        )
    path, _ = split_path(FLAGS.out)
    if kind in ("parquet", "faiss") and path.exists() and not moved_before():
        raise UserError(f"--out={FLAGS.out} exists; choose another place for the moved gallery.")
    return pathlib.Path(FLAGS.results)


def moved_before() -> bool:
    """Whether the file at --out has moved rows of the old network.

    A run that was killed between its gallery and its results has left such a file, and is begun again by the same
    command: ``move_gallery`` then keeps the file if the map that wrote it is the same.
    """
    with contextlib.suppress(UserError), open_gallery(FLAGS.out) as gallery:
        return gallery.marker is not None and gallery.marker.get("source") == (FLAGS.old or OLD)
    return False


def write(given: Given, migration: Migration, place: pathlib.Path, progress: Progress, started: float) -> str:
    """Writes everything, the gallery and the maps only if the gate holds; returns the text for the terminal."""
    (old, new), gallery = migration.calibration.names, given.gallery
    mover = migration.mover()
    progress.show("rows by expected loss")
    how = {"encoder": old, "normalize": FLAGS.normalize}
    fingerprint = Fingerprint.of(migration.calibration.old, given.identities, **how)

    def chunks() -> Iterator[tuple[Any, np.ndarray]]:
        for keys, rows in gallery.chunks(CHUNK_ROWS):
            yield keys, np.asarray(prepared(LazyRows.of(rows), FLAGS.normalize))

    listed = ordered(migration.losses.order(), mover, fingerprint, chunks(), given.sides)
    mixed = told_apart(given, migration, listed)
    tested = None
    if given.tested is not None:
        progress.show("the gallery's own people")
        try:
            tested = tested_on(migration, mover, *given.tested, FLAGS.normalize, FLAGS.intervals)
        except UserError as error:
            given.notes.append(f"The gallery's own people could not be measured: {error}")
    progress.show("rates of the way back")
    content = {**contents(given, migration, listed, tested), "mixed": mixed}
    with results.writer(place) as write:
        write.csv("reenrol.csv", ("sample_id", "expected_loss", "reason", "flags"), listed.lines())
        del listed  # the keys of a large gallery, which the move needs no more
        if migration.verdict.name in WRITTEN:
            content["files"] = moved(FLAGS, given, migration, mover, write.directory, progress, mixed)
        rows = list(result_rows(migration, given.store.dataset, tested))
        write.table(rows)
        write.text("migration.json", json.dumps(results.plain(content), indent=1, ensure_ascii=False) + "\n")
        values = {name: FLAGS[name].value for name in FLAGS}
        options = {name: public(value) if isinstance(value, str) else value for name, value in values.items()}
        record: dict[str, Any] = {"command": [public(word) for word in sys.argv]}
        record |= {"warnings": given.notes, "seconds": round(time.monotonic() - started, 1)}
        write.config("migrate", options, store=_described(given), **record)
        config = json.loads((write.directory / "config.json").read_text(encoding="utf-8"))
        part = Part("migrate", "migrate", config, rows, migration=content)
        with write.trying("the page with its figures and tables"):
            write_report([part], write.directory, title=f"jaxalign: {old} → {new}")
    return to_text(
        [rates_table(content), candidates_table(content)], title=f"{content['verdict']}: {content['reason']}"
    )


def contents(given: Given, migration: Migration, listed: Ordered, tested: Tested | None) -> dict[str, Any]:
    """What migration.json holds."""
    old, new = migration.calibration.names
    people = given.gallery.identities()
    return {
        "old": old,
        "new": new,
        **described(migration),
        "max_tmr_loss": FLAGS.max_tmr_loss,
        "helps": migration.helps(FLAGS.max_tmr_loss),
        "unlike": {
            "false_alarm": FALSE_ALARM,
            "flagged": {sign: listed.count(sign) for sign in ("distance", "hubness")},
        },
        "calibration": {
            "dataset": given.store.dataset,
            "rows": len(given.rows),
            "people": len(np.unique(given.identities)),
        },
        "gallery": {
            "specification": public(FLAGS.gallery or FLAGS.calibration or DEMONSTRATION["images"]),
            "rows": given.gallery.rows,
            "people": None if people is None else len(np.unique(people)),
        },
        "tested": None if tested is None else tested.plain(),
        "files": {},
        "notes": given.notes,
    }


def _described(given: Given) -> dict[str, Any]:
    store = given.store
    of = {"path": store.path, "dataset": store.dataset, "rows": store.rows, "rows_used": len(given.rows)}
    return {**of, "dims": store.dims, "checksums": store.checksums}


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
