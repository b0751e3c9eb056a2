"""The identity structure of one test set, laid out once for every embedding that is evaluated on it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from jaxalign.errors import UserError

LANES = 64  # columns that are counted side by side; the padded gallery is a multiple of it
MATES_AT_ONCE = (
    4  # mated scores of a probe that are compared with its row in one go; four counts share an int32
)
STRIP_ROWS = 256  # probes of one matrix product when the scores are not kept
KEPT_SCORES = 1 << 25  # up to so many scores (128 MiB in float32) are kept and sorted
BLOCK_SCORES = 1 << 19  # scores that are counted at once: they stay in the cache
SEGMENT_SCORES = 1 << 30  # scores of one call, so that an int32 count cannot overflow


class MateTable(NamedTuple):
    """Gallery rows of each probe's mates, in chunks of four per block of probes.

    Attributes:
      index: gallery rows, shape [chunks, block, MATES_AT_ONCE]; unused places hold 0 and are never read back.
      first: each block's first chunk, shape [blocks].
      chunks: each block's number of chunks, shape [blocks].
    """

    index: Int[Array, "chunks block four"]
    first: Int[Array, " blocks"]
    chunks: Int[Array, " blocks"]


def padded(rows: int, multiple: int = LANES) -> int:
    """The next of a few sizes (eight an octave), so that test sets of like size share a compiled program."""
    step = max(multiple, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """Who is who in a test set: computed once, used for every pair of encoders and every method.

    Probes are ordered by their number of mates, so that each block of probes costs as many comparisons as
    its mates need. Attributes are host arrays except the mate tables; 'genuine' lists hold one entry for each
    pair of a probe and a gallery row of the same person, the probe's own photograph included.

    Attributes:
      probes, gallery: numbers of rows, n and m.
      probe_codes, gallery_codes: identities as integers, shapes [n] and [m].
      own: each probe's own photograph in the gallery, −1 where it is not there, shape [n].
      order: the probe at each sorted position, shape [n].
      genuine_probe, genuine_gallery, genuine_own, genuine_place: the genuine list, sorted by position;
        ``genuine_place`` is where its score lies in the concatenated outputs of the segments.
      tables: one mate table for each segment of ``segment`` probes.
    """

    probes: int
    gallery: int
    probe_codes: np.ndarray
    gallery_codes: np.ndarray
    own: np.ndarray
    order: np.ndarray
    genuine_probe: np.ndarray
    genuine_gallery: np.ndarray
    genuine_own: np.ndarray
    genuine_place: np.ndarray
    tables: tuple[MateTable, ...]
    segment: int
    strip: int
    block: int
    gallery_padded: int
    kept: bool

    @functools.cached_property
    def position(self) -> np.ndarray:
        """Where each probe stands in the order, shape [n]."""
        position = np.empty(self.probes, np.int64)
        position[self.order] = np.arange(self.probes)
        return position

    @functools.cached_property
    def genuine_position(self) -> np.ndarray:
        """Positions of the genuine list's probes, ascending."""
        return self.position[self.genuine_probe]

    @functools.cached_property
    def impostor_mask(self) -> np.ndarray:
        """Which comparisons are of two people, shape [n, m], probes in the order."""
        return self.probe_codes[self.order][:, None] != self.gallery_codes

    @property
    def sample(self) -> int:
        """Probes whose scores are looked at beforehand where scores are not kept: about one in sixteen."""
        return _power_of_two(min(self.probes // 16, KEPT_SCORES // self.gallery_padded), STRIP_ROWS, 1 << 12)

    @property
    def genuine(self) -> int:
        """Genuine comparisons, the same photograph with itself not counted."""
        return int(np.sum(~self.genuine_own))

    @property
    def impostor(self) -> int:
        """Impostor comparisons: every pair of a probe and a gallery row of another person."""
        return self.probes * self.gallery - len(self.genuine_own)

    @classmethod
    def of(
        cls,
        probe_identities: Sequence | np.ndarray,
        gallery_identities: Sequence | np.ndarray | None = None,
        *,
        own: ArrayLike | None = None,
        kept_scores: int | None = None,
    ) -> Self:
        """Lays a test set out.

        Args:
          probe_identities: one label for each probe, length n, of any type that can be compared.
          gallery_identities: one for each gallery row, length m; the probes' own where not given.
          own: for each probe the gallery row that is the same photograph, −1 for none; 0 ... n − 1 where
            ``gallery_identities`` is not given, else none.
          kept_scores: up to so many scores are kept in memory and sorted (128 MiB by default).

        Raises:
          UserError: no rows, or ``own`` of a wrong shape, out of range or naming another person's photograph.
        """
        codes_p, codes_g, own_rows = _identities(probe_identities, gallery_identities, own)
        n, m = len(codes_p), len(codes_g)
        m_padded = padded(m)
        kept = padded(n) * m_padded <= (KEPT_SCORES if kept_scores is None else kept_scores)
        block = _power_of_two(BLOCK_SCORES // m_padded, 8, STRIP_ROWS)
        if kept:
            block = min(block, _power_of_two(n, 8, STRIP_ROWS))
            segment = strip = padded(n, block)
        else:
            strip = STRIP_ROWS
            segment = min(padded(n, strip), max(strip, SEGMENT_SCORES // m_padded // strip * strip))
        order, probe, mate, within = _mates(codes_p, codes_g)
        tables, place = _tables(order, probe, mate, within, n, segment, block)
        return cls(
            probes=n,
            gallery=m,
            probe_codes=codes_p,
            gallery_codes=codes_g,
            own=own_rows,
            order=order,
            genuine_probe=probe,
            genuine_gallery=mate,
            genuine_own=own_rows[probe] == mate,
            genuine_place=place,
            tables=tables,
            segment=segment,
            strip=strip,
            block=block,
            gallery_padded=m_padded,
            kept=kept,
        )


def _power_of_two(number: int, least: int, most: int) -> int:
    return int(min(most, max(least, 1 << max(number, 1).bit_length() - 1)))


def _identities(
    probes: Sequence | np.ndarray, gallery: Sequence | np.ndarray | None, own: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integer codes of both sides and the checked own photographs."""
    left = np.asarray(probes)
    right = left if gallery is None else np.asarray(gallery)
    for labels, name in ((left, "probe_identities"), (right, "gallery_identities")):
        if labels.ndim != 1 or len(labels) == 0:
            raise UserError(
                f"{name}: expected one identity for each row, at least one, got shape {labels.shape}"
            )
    if left is right:
        codes = np.unique(left, return_inverse=True)[1].astype(np.int64)
        left_codes = right_codes = codes
    else:
        codes = np.unique(np.concatenate([left, right]), return_inverse=True)[1].astype(np.int64)
        left_codes, right_codes = codes[: len(left)], codes[len(left) :]
    if own is None:
        rows = np.arange(len(left)) if gallery is None else np.full(len(left), -1)
    else:
        rows = np.asarray(own)
        if rows.shape != left.shape or rows.dtype.kind not in "iu":
            raise UserError(
                f"own: expected one gallery row (or −1) for each of {len(left)} probes, "
                f"got {rows.dtype} of shape {rows.shape}"
            )
    rows = rows.astype(np.int64)
    if rows.min() < -1 or rows.max() >= len(right):
        raise UserError(
            f"own: expected gallery rows from −1 to {len(right) - 1}, got {rows.min()} to {rows.max()}"
        )
    wrong = int(np.sum((rows >= 0) & (right_codes[rows] != left_codes)))
    if wrong:
        raise UserError(
            f"own: {wrong} of {len(left)} probes name a gallery row of another person as their own photograph"
        )
    return left_codes, right_codes, rows


def _mates(
    probe_codes: np.ndarray, gallery_codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probes by number of mates, and the genuine list: probe, gallery row, number within the probe."""
    people = int(max(probe_codes.max(), gallery_codes.max())) + 1
    by_person = np.argsort(gallery_codes, kind="stable")
    size = np.bincount(gallery_codes, minlength=people)
    start = np.cumsum(size) - size
    mates = size[probe_codes]
    order = np.argsort(mates, kind="stable")
    counts = mates[order]
    probe = np.repeat(order, counts)
    within = np.arange(len(probe)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order, probe, by_person[start[probe_codes[probe]] + within], within


def _tables(
    order: np.ndarray,
    probe: np.ndarray,
    mate: np.ndarray,
    within: np.ndarray,
    n: int,
    segment: int,
    block: int,
) -> tuple[tuple[MateTable, ...], np.ndarray]:
    """Mate tables of all segments, of one shape, and each genuine pair's place in their concatenation."""
    segments = -(-n // segment)
    blocks = segment // block
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    spot = position[probe]
    number = spot // block  # block over all segments: segments are whole blocks
    most = np.zeros(segments * blocks, np.int64)
    np.maximum.at(most, number, within + 1)
    chunks = (-(-most // MATES_AT_ONCE)).reshape(segments, blocks)
    first = np.cumsum(chunks, axis=1) - chunks
    rows = padded(int(max(1, chunks.sum(axis=1).max())), 16)
    chunk = (number // blocks) * rows + first.reshape(-1)[number] + within // MATES_AT_ONCE
    place = (chunk * block + spot % block) * MATES_AT_ONCE + within % MATES_AT_ONCE
    index = np.zeros(segments * rows * block * MATES_AT_ONCE, np.int32)
    index[place] = mate
    index = index.reshape(segments, rows, block, MATES_AT_ONCE)
    as_device = lambda array: jnp.asarray(array, jnp.int32)  # noqa: E731
    tables = tuple(MateTable(*map(as_device, (index[s], first[s], chunks[s]))) for s in range(segments))
    return jax.block_until_ready(tables), place
