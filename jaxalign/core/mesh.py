"""Devices as a mesh: rows are dealt over its axis ``data``, the matrix of moments and the pairs over ``pairs``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxalign.core.errors import UserError

AXES = ("data", "pairs")
MATRIX_SHARE = 0.5  # of a device's memory for the matrices; chunks, factors and maps take the rest


def device_mesh(
    devices: Sequence[Any] | None = None,
    *,
    pairs: int | None = None,
    widths: Sequence[int] | None = None,
    matrices: int = 1,
    memory: int | None = None,
) -> Mesh:
    """A mesh of this process's devices.

    By default all devices are on ``data``: each holds the whole matrix. Where ``widths`` are given and ``matrices`` of
    them would take more than half of a device's memory, ``pairs`` is the least divisor of the number of devices that
    makes them fit, or all devices. With b on ``pairs`` a device holds about D² (b/2 + 1) / b² numbers of each matrix.

    Args:
      devices: all local ones if absent.
      pairs: devices on ``pairs``, which must divide their number.
      widths: of the encoders, Σ widths = D.
      matrices: to hold at once: 1, or folds + 1 for cross-validation.
      memory: of a device, bytes; by default what it says of itself (CPUs do not, and count as large enough).

    Raises:
      UserError: there are no devices, or ``pairs`` does not divide their number.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    if not devices:
        raise UserError("devices: expected at least one, got none")
    if pairs is None:
        pairs = _least_pairs(devices, widths, matrices, memory)
    whole = isinstance(pairs, (int, np.integer)) and not isinstance(pairs, bool)
    if not whole or pairs < 1 or len(devices) % pairs:
        raise UserError(
            f"pairs: expected a whole number that divides the number of devices, {len(devices)}, got {pairs!r}"
        )
    return Mesh(np.array(devices).reshape(-1, int(pairs)), AXES)


def check(mesh: object) -> Mesh | None:
    """A caller's mesh with axes in the order of ``AXES``, or None; raises ``UserError`` where it cannot be used."""
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh) or set(mesh.axis_names) != set(AXES):
        got = mesh.axis_names if isinstance(mesh, Mesh) else type(mesh).__name__
        raise UserError(f"mesh: expected a jax.sharding.Mesh with the axes data and pairs, got {got}")
    here = jax.process_index()
    if any(device.process_index != here for device in mesh.devices.flat):
        raise UserError("mesh: expected devices of this process only, got some of another process")
    order = [mesh.axis_names.index(axis) for axis in AXES]
    return Mesh(mesh.devices.transpose(order), AXES)


def _least_pairs(
    devices: Sequence[Any], widths: Sequence[int] | None, matrices: int, memory: int | None
) -> int:
    memory = memory or (devices[0].memory_stats() or {}).get("bytes_limit")
    if widths is None or memory is None:
        return 1
    divisors = [count for count in range(1, len(devices) + 1) if len(devices) % count == 0]
    for count in divisors:
        layout = Layout.of([str(k) for k in range(len(widths))], widths, count)
        if 8 * layout.elements * matrices <= MATRIX_SHARE * memory:
            return count
    return len(devices)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Encoders dealt to blocks of columns of one width, one block for each device of ``pairs``.

    Of the symmetric D × D matrix, cut into b × b tiles, device p holds tiles (p, p), (p, p + 1), ... (p, p + b/2),
    numbers of blocks modulo b: every tile or its transpose is somewhere. For even b the last one is on two devices. No
    encoder is cut; columns of a block beyond its encoders are zero.

    Attributes:
      names, widths: of the encoders.
      blocks: b.
      width: w, columns of a block.
      block: of each encoder.
      start: its first column within the block.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    blocks: int
    width: int
    block: tuple[int, ...]
    start: tuple[int, ...]

    @classmethod
    def of(cls, names: Sequence[str], widths: Sequence[int], blocks: int) -> Layout:
        """The widest encoder first, each goes to the block that is emptiest."""
        filled, block, start = [0] * blocks, [0] * len(widths), [0] * len(widths)
        for k in sorted(range(len(widths)), key=lambda k: -widths[k]):
            block[k] = min(range(blocks), key=filled.__getitem__)
            start[k] = filled[block[k]]
            filled[block[k]] += widths[k]
        return cls(tuple(names), tuple(widths), blocks, max(filled), tuple(block), tuple(start))

    @property
    def reach(self) -> int:
        """Tiles of a device beside that on the diagonal, b/2."""
        return self.blocks // 2

    @property
    def doubled(self) -> bool:
        """Whether the last tile is on two devices."""
        return self.blocks % 2 == 0

    @property
    def kept(self) -> int:
        """Columns of a device's tiles, side by side."""
        return (self.reach + 1) * self.width

    @property
    def elements(self) -> int:
        """Numbers of a matrix on each device."""
        return self.width * self.kept

    @functools.cached_property
    def position(self) -> dict[str, int]:
        """Number of each encoder by name."""
        return {name: k for k, name in enumerate(self.names)}

    def width_of(self, name: str) -> int:
        """Width of an encoder."""
        return self.widths[self.position[name]]

    def block_of(self, name: str) -> int:
        """Block of an encoder."""
        return self.block[self.position[name]]

    def start_of(self, name: str) -> int:
        """First column of an encoder within its block."""
        return self.start[self.position[name]]

    def column(self, name: str) -> int:
        """First column of an encoder when all blocks are side by side."""
        return self.block_of(name) * self.width + self.start_of(name)

    @functools.cached_property
    def columns(self) -> np.ndarray:
        """Where each column of the encoders in order is when all blocks are side by side, shape [D]."""
        starts = map(self.column, self.names)
        return np.concatenate([np.arange(start, start + width) for start, width in zip(starts, self.widths)])

    @functools.cached_property
    def members(self) -> list[list[int]]:
        """Numbers of the encoders of each block, in the order of their columns."""
        members: list[list[int]] = [[] for _ in range(self.blocks)]
        for k in sorted(range(len(self.names)), key=self.start.__getitem__):
            members[self.block[k]].append(k)
        return members

    @functools.cached_property
    def rank(self) -> dict[int, int]:
        """Of each encoder's number, which of its block's encoders it is."""
        return {k: number for members in self.members for number, k in enumerate(members)}

    def holder(self, one: str, other: str) -> tuple[int, str, str]:
        """The device that holds the block of a pair, and which encoder is among its rows, which among its columns."""
        i, j = self.position[one], self.position[other]
        ahead = (self.block[j] - self.block[i]) % self.blocks
        swapped = ahead > self.reach
        if self.doubled and ahead == self.reach:  # on both: every other pair on each
            lower = (self.rank[i] + self.rank[j]) % 2 == 0
            swapped = lower == (self.block[i] > self.block[j])
        row, column = (other, one) if swapped else (one, other)
        return self.block[self.position[row]], row, column
