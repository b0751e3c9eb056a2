"""How the comparisons of a large test set are cut into pieces that one device computes at once."""

import dataclasses
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Int

from jaxalign.core.pytree import Leaf

LANES = 64  # columns that are counted side by side; a tile of the gallery is a multiple of it
MATES_AT_ONCE = (
    4  # mated scores of a probe that are compared with its row in one go; four counts share an int32
)
STRIP_ROWS = 256  # probes of one matrix product
BLOCK_SCORES = 1 << 19  # scores that are counted at once: they stay in the cache
SEGMENT_SCORES = 1 << 30  # scores of one call, so that an int32 count cannot overflow
SEGMENT_ROWS = 1 << 14  # probes of one call, so that few are on a device however small the gallery is
SAMPLE_SCORES = 1 << 25  # scores of the sample of probes that are looked at beforehand


class MateTable(NamedTuple):
    """Gallery rows of each probe's mates, in chunks of four per block of probes.

    Attributes:
      index: gallery rows, shape [..., chunks, block, MATES_AT_ONCE]; unused places hold 0 and are never read back.
      first: each block's first chunk, shape [..., blocks].
      chunks: each block's number of chunks, shape [..., blocks].
    """

    index: Int[Leaf, "*stack chunks block four"]
    first: Int[Leaf, "*stack blocks"]
    chunks: Int[Leaf, "*stack blocks"]


def padded(rows: int, multiple: int = LANES) -> int:
    """The next of a few sizes (eight an octave), so that test sets of like size share a compiled program."""
    step = max(multiple, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


@dataclasses.dataclass(frozen=True, eq=False)
class Tiling:
    """Pieces of a test set. In each round every device scores one segment of probes against one tile of the gallery.

    Attributes:
      probes, gallery: numbers of rows.
      devices: that score segments side by side.
      strip, block: probes of one product, and probes that are counted at once; each divides the one before.
      segment: probes of one device in one round; ``rounds`` of them on each device hold all probes. The last ones may
        hold none.
      tile: rows of a tile of the gallery; ``tiles`` of them hold all rows, the last is filled up with zeros.
      sample: probes that are looked at beforehand.
      table: mates of every segment, on the host, two leading axes [rounds, devices].
      genuine_place: where the scores of the plan's genuine list lie in tables of scores, flattened.
    """

    probes: int
    gallery: int
    devices: int
    strip: int
    block: int
    segment: int
    rounds: int
    tile: int
    tiles: int
    sample: int
    table: MateTable
    genuine_place: np.ndarray

    @classmethod
    def of(
        cls,
        probes: int,
        gallery: int,
        devices: int,
        gallery_rows: int,
        positions: np.ndarray,
        mates: np.ndarray,
    ) -> Self:
        """Cuts a test set.

        Args:
          probes, gallery: numbers of rows.
          devices: to spread the probes over.
          gallery_rows: most rows of the gallery on a device at once.
          positions, mates: of each genuine pair the probe's position in the order, ascending, and the gallery row.
        """
        tiles = -(-gallery // gallery_rows)
        tile = padded(-(-gallery // tiles))
        strip, block = STRIP_ROWS, power_of_two(BLOCK_SCORES // tile, 8, STRIP_ROWS)
        most = max(strip, min(SEGMENT_ROWS, SEGMENT_SCORES // tile) // strip * strip)
        rounds = -(-probes // (devices * most))
        segment = padded(-(-probes // (devices * rounds)), strip)
        rounds = -(-probes // (devices * segment))
        sample = power_of_two(min(probes // 16, SAMPLE_SCORES // tile), STRIP_ROWS, 1 << 12)
        table, place = _tables(positions, mates, rounds * devices, segment, block)
        table = MateTable(*(part.reshape(rounds, devices, *part.shape[1:]) for part in table))
        return cls(
            probes, gallery, devices, strip, block, segment, rounds, tile, tiles, sample, table, place
        )  # fmt: skip

    def positions(self, number: int) -> slice:
        """Positions of a round's probes in the order."""
        size = self.devices * self.segment
        return slice(number * size, min((number + 1) * size, self.probes))

    def strips(self, number: int) -> np.ndarray:
        """Strips that hold probes, of each device's segment in a round, shape [devices], int32."""
        first = self.positions(number).start + np.arange(self.devices) * self.segment
        return (-(-np.clip(self.probes - first, 0, self.segment) // self.strip)).astype(np.int32)

    @property
    def padding_columns(self) -> int:
        """Gallery rows that are zeros."""
        return self.tile * self.tiles - self.gallery

    @property
    def padding(self) -> int:
        """Scores that are counted but belong to padding rows: all are 0 exactly."""
        rows = sum(int(self.strips(number).sum()) for number in range(self.rounds)) * self.strip
        return rows * self.tile * self.tiles - self.probes * self.gallery


def power_of_two(number: int, least: int, most: int) -> int:
    """The largest power of two up to a number, between two others."""
    return int(min(most, max(least, 1 << max(number, 1).bit_length() - 1)))


def _tables(
    positions: np.ndarray, mates: np.ndarray, segments: int, segment: int, block: int
) -> tuple[MateTable, np.ndarray]:
    """Mate tables of all segments, stacked, and each genuine pair's place in them."""
    blocks = segment // block
    within = np.arange(len(positions)) - np.searchsorted(positions, positions)
    number = positions // block  # block over all segments: segments are whole blocks
    most = np.zeros(segments * blocks, np.int64)
    np.maximum.at(most, number, within + 1)
    chunks = (-(-most // MATES_AT_ONCE)).reshape(segments, blocks)
    first = np.cumsum(chunks, axis=1) - chunks
    rows = padded(int(max(1, chunks.sum(axis=1).max())), 16)
    chunk = (number // blocks) * rows + first.reshape(-1)[number] + within // MATES_AT_ONCE
    place = (chunk * block + positions % block) * MATES_AT_ONCE + within % MATES_AT_ONCE
    index = np.zeros(segments * rows * block * MATES_AT_ONCE, np.int32)
    index[place] = mates
    index = index.reshape(segments, rows, block, MATES_AT_ONCE)
    return MateTable(index, first.astype(np.int32), chunks.astype(np.int32)), place
