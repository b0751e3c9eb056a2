"""Who is who in one test set, and how its comparisons are divided into pieces for a device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from jaxalign.core.errors import UserError
from jaxalign.core.names import labels
from jaxalign.core.pytree import Leaf

SORTED_SCORES = 1 << 25  # test sets with up to so many scores (128 MiB in float32) are sorted
LANES = 64  # a tile of the gallery has a multiple of so many rows
MATES_AT_ONCE = 4  # mates of a probe that are compared with its row of scores in one step
STRIP_ROWS = 256  # probes of one matrix product
BLOCK_SCORES = 1 << 19  # scores that are counted in one step, so that they stay in the cache
SEGMENT_ROWS = 1 << 12  # probes of one call
SEGMENT_SCORES = 1 << 30  # scores of one call, so that no int32 count overflows


class MateTable(NamedTuple):
    """Gallery rows of each probe's mates, in chunks of ``MATES_AT_ONCE`` for each block of probes."""

    index: Int[Leaf, "*stack chunks block four"]  # gallery rows; 0 where a probe has no more mates
    first: Int[Leaf, "*stack blocks"]  # each block's first chunk
    chunks: Int[Leaf, "*stack blocks"]  # each block's number of chunks


def padded(rows: int, multiple: int = LANES) -> int:
    """The next of a few sizes (eight an octave), so that test sets of similar size share a compiled program."""
    step = max(multiple, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


@dataclasses.dataclass(frozen=True, eq=False)
class Tiling:
    """Pieces of a test set. One call scores one segment of probes on each device with one tile of the gallery.

    ``rounds`` calls hold all probes; the last segments may be empty. ``tiles`` hold all rows of the gallery; the last
    one is padded with zeros.
    """

    probes: int
    gallery: int
    devices: int
    strip: int  # probes of one product
    block: int  # probes that are counted in one step; divides the strip
    segment: int  # probes of one device in one call; a multiple of the strip
    rounds: int
    tile: int  # rows of a tile
    tiles: int
    table: MateTable  # mates of every segment, on the host, with two leading axes [rounds, devices]
    genuine_index: np.ndarray  # of each genuine comparison of the plan, in the flattened index of ``table``

    @classmethod
    def of(cls, plan: EvaluationPlan, devices: int, gallery_rows: int) -> Self:
        """Divides a test set among devices, each of which has at most ``gallery_rows`` of the gallery at once."""
        probes, gallery = plan.probes, plan.gallery
        tiles = -(-gallery // min(gallery_rows, SEGMENT_SCORES // STRIP_ROWS))
        tile = padded(-(-gallery // tiles))
        strip = STRIP_ROWS
        block = int(min(strip, max(8, 1 << max(BLOCK_SCORES // tile, 1).bit_length() - 1)))
        most = max(strip, min(SEGMENT_ROWS, SEGMENT_SCORES // tile) // strip * strip)
        rounds = -(-probes // (devices * most))
        segment = padded(-(-probes // (devices * rounds)), strip)
        rounds = -(-probes // (devices * segment))
        table, index = _tables(plan, rounds * devices, segment, block)
        table = MateTable(*(part.reshape(rounds, devices, *part.shape[1:]) for part in table))
        return cls(probes, gallery, devices, strip, block, segment, rounds, tile, tiles, table, index)

    def positions(self, number: int) -> slice:
        """Positions of the probes of a round in the plan's order."""
        size = self.devices * self.segment
        return slice(number * size, min((number + 1) * size, self.probes))

    def strips(self, number: int) -> np.ndarray:
        """Strips of each device's segment that hold probes in a round, shape [devices], int32."""
        first = self.positions(number).start + np.arange(self.devices) * self.segment
        return (-(-np.clip(self.probes - first, 0, self.segment) // self.strip)).astype(np.int32)

    @property
    def padding_columns(self) -> int:
        """Gallery rows that are padding: their scores are 0 exactly."""
        return self.tile * self.tiles - self.gallery

    @property
    def padding(self) -> int:
        """Scores of padding rows on either side: all are counted, and all are 0 exactly."""
        rows = sum(int(self.strips(number).sum()) for number in range(self.rounds)) * self.strip
        return rows * self.tile * self.tiles - self.probes * self.gallery


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """Who is who in a test set: computed once, used for every pair of encoders and every method.

    Probes are ordered by their number of mates, so that each block of probes costs as many comparisons as
    its mates need. The 'genuine' lists hold one entry for each pair of a probe and a gallery row of the same
    person, the same image included, sorted by position.
    """

    probes: int  # n
    gallery: int  # m
    probe_codes: np.ndarray  # identities as integers, shape [n]
    gallery_codes: np.ndarray  # shape [m]
    names: np.ndarray  # the identity of each code, ascending, shape [people]
    own: np.ndarray  # the gallery row that is the same image as each probe, −1 for none, shape [n]
    order: np.ndarray  # the probe at each sorted position, shape [n]
    genuine_probe: np.ndarray
    genuine_gallery: np.ndarray
    genuine_own: np.ndarray  # whether both are the same image
    image: np.ndarray  # the first gallery row that is the same image as each gallery row, shape [m]
    kept_scores: int  # test sets of up to so many scores are sorted, larger ones are counted
    _tilings: dict[tuple[int, int], Tiling] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        probe_identities: Sequence | np.ndarray,
        gallery_identities: Sequence | np.ndarray | None = None,
        *,
        own: ArrayLike | None = None,
        images: Sequence | np.ndarray | None = None,
        kept_scores: int | None = None,
    ) -> Self:
        """Lays out a test set.

        Args:
          probe_identities: one label for each probe, length n: text (compared in its normal form) or numbers.
          gallery_identities: one for each gallery row, length m, of the same kind; the probes' own where not given.
          own: for each probe the gallery row that is the same image, −1 for none; 0 ... n − 1 where
            ``gallery_identities`` is not given, else none.
          images: an image's number or name for each row, length n: rows of one person with the same are copies of one
            image. Instead of ``gallery_identities`` and ``own``.
          kept_scores: test sets of up to so many scores are sorted in memory (128 MiB by default).

        Raises:
          UserError: no rows, a label that is missing or of another kind, or ``own`` of a wrong shape, out of range or
            naming another person's image.
        """
        *codes, names = _codes(probe_identities, gallery_identities)
        image = np.arange(len(codes[1]))
        if images is not None:
            if gallery_identities is not None or own is not None:
                raise UserError(
                    "images: rows have an image each where probes and gallery are the same, without own"
                )
            own = image = first_copies(images, codes[0])
        default = np.arange(len(codes[0])) if gallery_identities is None else np.full(len(codes[0]), -1)
        own_rows = default if own is None else _checked_own(own, *codes)
        order, probe, mate = _mates(*codes)
        kept = SORTED_SCORES if kept_scores is None else kept_scores
        sizes, genuine = map(len, codes), (probe, mate, own_rows[probe] == image[mate])
        return cls(*sizes, *codes, names, own_rows, order, *genuine, image, kept)  # pyright: ignore[reportCallIssue]

    @functools.cached_property
    def position(self) -> np.ndarray:
        """Position of each probe in the order, shape [n]."""
        return np.argsort(self.order)

    @functools.cached_property
    def genuine_position(self) -> np.ndarray:
        """Positions of the genuine list's probes, ascending."""
        return self.position[self.genuine_probe]

    @functools.cached_property
    def impostor_mask(self) -> np.ndarray:
        """Which comparisons are of two people, shape [n, m], probes in the order."""
        return self.probe_codes[self.order][:, None] != self.gallery_codes

    @property
    def people(self) -> int:
        """Number of people on either side."""
        return int(max(self.probe_codes.max(), self.gallery_codes.max())) + 1

    @property
    def impostor(self) -> int:
        """Number of impostor comparisons: every pair of a probe and a gallery row of another person."""
        return self.probes * self.gallery - len(self.genuine_own)

    def is_sorted(self, gallery_rows: int) -> bool:
        """Whether all scores are sorted in memory if so many gallery rows may be on a device at once."""
        return gallery_rows >= self.gallery and padded(self.probes) * padded(self.gallery) <= self.kept_scores

    def tiling(self, devices: int, gallery_rows: int) -> Tiling:
        """How the comparisons are divided where scores are counted; computed once."""
        key = devices, min(gallery_rows, self.gallery)
        if key not in self._tilings:
            self._tilings[key] = Tiling.of(self, *key)
        return self._tilings[key]


def _codes(
    probes: Sequence | np.ndarray, gallery: Sequence | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Identities of both sides as integers, and the identity of each integer."""
    what = "identities of probes and gallery"
    sides = labels(what, probes) if gallery is None else labels(what, probes, gallery)
    left, right, both = sides[0], sides[-1], np.concatenate(sides)
    names, codes = np.unique(both, return_inverse=True)
    codes = codes.astype(np.int64)
    return codes[: len(left)], codes[-len(right) :], names


def _checked_own(own: ArrayLike, probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The gallery rows of the same images, int64."""
    rows = np.asarray(own)
    if rows.shape != probes.shape or rows.dtype.kind not in "iu":
        raise UserError(
            f"own: expected one gallery row (or −1) for each of {len(probes)} probes, "
            f"got {rows.dtype} of shape {rows.shape}"
        )
    if rows.min() < -1 or rows.max() >= len(gallery):
        raise UserError(f"own: expected rows from −1 to {len(gallery) - 1}, got {rows.min()} to {rows.max()}")
    wrong = int(np.sum((rows >= 0) & (gallery[rows] != probes)))
    if wrong:
        raise UserError(f"own: {wrong} of {len(probes)} probes name a gallery row of another person")
    return rows.astype(np.int64)


def first_copies(images: Sequence | np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The first row of the same person and image as each row, int64, shape [n]."""
    keys = np.asarray(images)
    if keys.shape != codes.shape or keys.dtype.kind not in "iuUS":
        raise UserError(
            f"images: expected a whole number or text for each of {len(codes)} rows, got {keys.dtype} of shape "
            f"{keys.shape}"
        )
    numbers = np.unique(keys, return_inverse=True)[1]
    pairs = np.stack([codes, numbers], axis=1)
    _, first, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)].astype(np.int64)


def _mates(probe_codes: np.ndarray, gallery_codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probes by number of mates, and the genuine list: probe and gallery row."""
    by_person = np.argsort(gallery_codes, kind="stable")
    size = np.bincount(gallery_codes, minlength=int(probe_codes.max()) + 1)
    start = np.cumsum(size) - size
    mates = size[probe_codes]
    order = np.argsort(mates, kind="stable")
    counts = mates[order]
    probe = np.repeat(order, counts)
    within = np.arange(len(probe)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order, probe, by_person[start[probe_codes[probe]] + within]


def _tables(plan: EvaluationPlan, segments: int, segment: int, block: int) -> tuple[MateTable, np.ndarray]:
    """Mate tables of all segments, stacked, and the index of each genuine comparison in them."""
    positions, blocks = plan.genuine_position, segment // block
    within = np.arange(len(positions)) - np.searchsorted(positions, positions)
    number = positions // block  # of the block over all segments, each of which has whole blocks
    most = np.zeros(segments * blocks, np.int64)
    np.maximum.at(most, number, within + 1)
    chunks = (-(-most // MATES_AT_ONCE)).reshape(segments, blocks)
    first = np.cumsum(chunks, axis=1) - chunks
    rows = padded(int(max(1, chunks.sum(axis=1).max())), 16)
    chunk = (number // blocks) * rows + first.reshape(-1)[number] + within // MATES_AT_ONCE
    place = (chunk * block + positions % block) * MATES_AT_ONCE + within % MATES_AT_ONCE
    index = np.zeros(segments * rows * block * MATES_AT_ONCE, np.int32)
    index[place] = plan.genuine_gallery
    index = index.reshape(segments, rows, block, MATES_AT_ONCE)
    return MateTable(index, first.astype(np.int32), chunks.astype(np.int32)), place
