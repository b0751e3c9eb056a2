"""Examines a gallery and changes nothing: rows that no search can use, an unfinished move, rows of another network."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.gallery.stores.kinds import MOVING, Gallery

CHUNK_ROWS = 4096
UNIT = 2e-3  # by how much the length of a row that was scaled to 1 may be off; float16 rounds by less
FEW: Final = 0.01  # share of rows of length 1 in a gallery of unscaled rows that chance does not give
LIMIT = 0.001  # false-alarm rate of the limit within which a row looks like an encoder's
LEAST_MIXED = 0.01  # share of rows that makes a gallery one of two encoders
# Of log-likelihoods, beyond which a row is one encoder's and not the other's. Were rows normal with the moments of the
# calibration, at most the share LIMIT of them would be so much likelier to be the other's.
CLEARLY = -np.log(LIMIT)
DRIFT = 0.01, 5  # false-alarm rate, and how many times it the rows beyond that limit may be


class Fingerprinted(Protocol):
    """What is asked of a ``Fingerprint``."""

    @property
    def encoder(self) -> str: ...
    @property
    def limits(self) -> Mapping[float, float]: ...
    @property
    def width(self) -> int: ...
    def distances(self, rows: np.ndarray) -> np.ndarray: ...
    def likelihoods_at(self, distances: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was found in a gallery.

    Attributes:
      gallery: as messages call it.
      rows, width, dtype: how many rows were read, their width, and the type they are stored in.
      unit: share of the rows whose length is 1; None where all are zero or not finite.
      nonfinite, zero, duplicate: rows that hold NaN or infinity, rows of zeros, and other rows whose numbers all equal
        those of an earlier row.
      marker: what an earlier move noted of these rows; None without one.
      unfinished: what a move that has not ended noted of the rows beside these.
      looks_like: by encoder of a map, how many rows look like its rows; empty without a map.
      unlike: rows that look like neither.
      findings: what is wrong, a sentence each; none for a healthy gallery.
    """

    gallery: str
    rows: int
    width: int
    dtype: str
    unit: float | None
    nonfinite: int
    zero: int
    duplicate: int
    marker: Mapping[str, Any] | None
    unfinished: Mapping[str, Any] | None
    looks_like: Mapping[str, int]
    unlike: int | None
    findings: tuple[str, ...]


def examine(
    gallery: Gallery,
    fingerprints: Mapping[str, Fingerprinted] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Examination:
    """Reads every row once, in bounded memory but for 8 bytes a row, by which equal rows are found.

    Without fingerprints nothing is said about networks: rows of one network fall into groups by themselves, such as
    sexes, so that no statistic of the rows alone tells two networks from one.

    Args:
      gallery: open.
      fingerprints: of a map, ``source`` and ``target``; those of another width than the gallery's say nothing.
      progress: told how many rows are read.
    """
    known = [print_ for print_ in (fingerprints or {}).values() if print_.width == gallery.width]
    counts: dict[str, int] = {"nonfinite": 0, "zero": 0, "unit": 0}
    first: dict[str, object] = {}
    networks, digests, rows, findings = Networks(known), bytearray(), 0, []
    try:
        for keys, chunk in gallery.chunks(CHUNK_ROWS):
            with np.errstate(over="ignore", invalid="ignore"):
                lengths = np.linalg.norm(chunk.astype(np.float64), axis=1)
            found = {
                "nonfinite": ~np.isfinite(lengths),
                "zero": lengths == 0,
                "unit": np.abs(lengths - 1) <= UNIT,
            }
            for name, here in found.items():
                counts[name] += int(here.sum())
                if here.any():
                    first.setdefault(name, keys[int(np.argmax(here))])
            given = chunk[np.isfinite(lengths) & (lengths > 0)]
            networks.add(given)
            for row in given:
                digests += hashlib.blake2b(row.tobytes(), digest_size=8).digest()
            rows += len(chunk)
            if progress is not None:
                progress(rows)
    except UserError as error:  # rows of another width, or damage
        findings.append(str(error))
    usable = len(digests) // 8
    duplicate = usable - len(np.unique(np.frombuffer(digests, np.uint64)))
    findings += [
        f"{counts[name]:,} {_rows(counts[name])} {what} (first: {str(first[name])!r})."
        for name, what in (("nonfinite", "NaN or infinity"), ("zero", "nothing but zeros"))
        if counts[name]
    ]
    if duplicate:
        findings.append(f"{duplicate:,} {_rows(duplicate)} the same numbers as an earlier one.")
    findings += _of_lengths(counts["unit"], usable)
    findings += _of_moves(gallery)
    widths = {print_.width for print_ in (fingerprints or {}).values()}
    if widths and not known:
        findings.append(f"the map is about rows of width {' and '.join(map(str, sorted(widths)))}.")
    findings += networks.findings()
    return Examination(
        gallery.place,
        rows,
        gallery.width,
        gallery.dtype,
        counts["unit"] / usable if usable else None,
        counts["nonfinite"],
        counts["zero"],
        duplicate,
        gallery.marker,
        gallery.unfinished,
        networks.looks_like,
        networks.unlike if known else None,
        tuple(findings),
    )


def nearest(known: Sequence[Fingerprinted], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row [n, d]: the likelier encoder's number, whether it is so clearly, and the distance from its mean."""
    distances = np.array([print_.distances(rows) for print_ in known])
    likelihoods = np.array([print_.likelihoods_at(of) for print_, of in zip(known, distances)])
    likely = np.argmax(likelihoods, axis=0)
    with np.errstate(invalid="ignore"):  # rows of zeros lie infinitely far from both
        clear = np.ptp(likelihoods, axis=0) > CLEARLY
    return likely, clear, distances[likely, np.arange(len(rows))]


class Networks:
    """Counts whose rows the rows of a gallery look like: the likelier encoder's, if they lie within its limit."""

    def __init__(self, known: Sequence[Fingerprinted]):
        self.known = known
        self.looks_like = {print_.encoder: 0 for print_ in known}
        self.clearly = dict(self.looks_like)
        self.far, self.unlike, self.rows = 0, 0, 0

    def add(self, rows: np.ndarray) -> None:
        """Counts further rows, finite ones that are not zero."""
        if not self.known or not len(rows):
            return
        likely, clear, distances = nearest(self.known, rows)
        self.rows += len(rows)
        for number, print_ in enumerate(self.known):
            here = likely == number
            within = here & (distances <= print_.limits[LIMIT])
            self.looks_like[print_.encoder] += int(within.sum())
            self.clearly[print_.encoder] += int(np.sum(within & clear))
            self.unlike += int(np.sum(here & ~within))
            self.far += int(np.sum(here & (distances > print_.limits[DRIFT[0]])))

    def mixed(self) -> str | None:
        """That rows of two networks are mixed, with the counts, as a sentence without its full stop; None otherwise."""
        found = [name for name, count in self.clearly.items() if count > LEAST_MIXED * self.rows]
        parts = " and ".join(f"{self.looks_like[name]:,} like rows of {name}" for name in found)
        return f"rows of two networks are mixed: {parts}" if len(found) > 1 else None

    def findings(self) -> list[str]:
        found = [f"{mixed}."] if (mixed := self.mixed()) else []
        rate, times = DRIFT
        if self.far > max(1, times * rate * self.rows):
            found.append(
                f"{self.far / self.rows:.1%} of the rows are less like the calibration's than all but {rate:.0%} of "
                "its own people's: the gallery has drifted from it, or is of another network."
            )
        return found


def _of_lengths(unit: int, rows: int) -> list[str]:
    """Whether rows that were scaled to length 1 and others are mixed."""
    if rows // 2 < unit < rows:
        return [f"{rows - unit:,} {_rows(rows - unit)} another length than 1, which the others have."]
    if FEW * rows < unit <= rows // 2:
        return [f"{unit:,} {_rows(unit)} length 1, which the others have not."]
    return []


def _of_moves(gallery: Gallery) -> list[str]:
    found = []
    if gallery.marker is not None and gallery.marker["state"] == MOVING:
        found.append("a move that wrote these rows has not ended; run it again.")
    if gallery.unfinished is not None:
        done = f"{gallery.unfinished.get('rows', 0):,} of {gallery.rows:,}"
        found.append(f"a move has not ended: {done} rows have been written beside these; run it again.")
    return found


def _rows(count: int) -> str:
    return "row holds" if count == 1 else "rows hold"
