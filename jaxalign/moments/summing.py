"""Sums of rows dealt over a mesh of devices.

Each device adds its rows to sums of its own, without any communication; when all rows are in, one reduction over
``data`` gives the matrix, and for an even number of blocks one exchange over ``pairs`` the tile that two devices
share, each of which has summed it over half of the rows. What is communicated is as large as a device's part of the
matrix, whatever the number of rows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxalign.core.mesh import Layout
from jaxalign.core.precision import double_precision
from jaxalign.core.rows import Chunk
from jaxalign.moments import sums
from jaxalign.moments.accumulation import DeviceChunk, Placement
from jaxalign.moments.scatter import scatter_row, sliceable
from jaxalign.moments.spread import DEVICE, SpreadMoments, on_devices, specs_of
from jaxalign.moments.sums import Sums

# Of a chunk on each device of several on ``pairs``: one slice, so that no sum of slices is kept beside the matrix.
CHUNK_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Summing:
    """Adds chunks of rows to sums on each device of a mesh, and brings these together.

    Attributes:
      layout: of the matrix.
      mesh: the devices.
      dtype: of the sums.
    """

    layout: Layout
    mesh: Mesh
    dtype: np.dtype

    @property
    def placement(self) -> Placement:
        """How chunks get to the devices."""
        share, elements = self.mesh.shape["data"], self.layout.elements
        if self.layout.blocks == 1:
            return Placement(self._place, share, elements)
        return Placement(self._place, share, elements, spare=1, most_rows=CHUNK_ROWS)

    def _place(self, chunk: Chunk) -> DeviceChunk:
        """Deals the rows over ``data``; rows of zeros of weight zero make their shares equal."""
        devices, rows = self.mesh.shape["data"], len(chunk[1])
        share = -(-rows // devices)
        missing = (sliceable(share) if self.layout.doubled else share) * devices - rows

        def filled(part: np.ndarray) -> np.ndarray:
            return np.pad(part, ((0, missing),) + ((0, 0),) * (part.ndim - 1)) if missing else part

        return jax.device_put(jax.tree.map(filled, chunk), NamedSharding(self.mesh, P("data")))

    def add(self, sofar: Sums | None, chunk: DeviceChunk) -> Sums:
        """Adds a chunk to the sums of every device, which it overwrites, or begins them."""
        static_part = {"layout": self.layout, "mesh": self.mesh}
        if sofar is None:
            return first_chunk(*chunk, **static_part, dtype=self.dtype)
        return next_chunk(sofar, *chunk, **static_part)

    def finish(self, partial: Sums) -> SpreadMoments:
        """One reduction over the devices; the sums of the devices are overwritten."""
        with double_precision():
            return reduced(partial, layout=self.layout, mesh=self.mesh)


@dataclasses.dataclass(frozen=True)
class _Row:
    """The part of the matrix that one device sums, whose columns are those of its block and of the ones after it."""

    layout: Layout
    number: Array  # of the block

    def columns(self, chunk: sums.Rows) -> Array:
        """Rows of all encoders, as the columns of this part."""
        layout = self.layout
        narrow = jnp.result_type(*chunk)
        blocks = []
        for members in layout.members:
            parts = [chunk[k].astype(narrow) for k in members]
            missing = layout.width - sum(part.shape[1] for part in parts)
            parts += [jnp.zeros((chunk[0].shape[0], missing), narrow)] if missing else []
            blocks.append(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1))
        if layout.blocks == 1:
            return blocks[0]
        taken = jnp.take(jnp.stack(blocks), self.kept, axis=0)
        return jnp.moveaxis(taken, 0, 1).reshape(chunk[0].shape[0], layout.kept)

    @property
    def kept(self) -> Array:
        """Numbers of the blocks of its columns."""
        return (self.number + jnp.arange(self.layout.reach + 1)) % self.layout.blocks

    def product(
        self, chunk: sums.Rows, center: Array, root: Array, *, sums: bool
    ) -> tuple[tuple[Array, ...], Array | None]:
        """See ``scatter_row``; of the last tile two devices take half of the rows each."""
        half = self.number // self.layout.reach if self.layout.doubled else None
        return scatter_row(chunk[0], center, root, own=self.layout.width, half=half)

    def outer(self, left: Array, right: Array) -> tuple[Array, ...]:
        """In tiles; of the last one two devices add half each."""
        w, tiles = self.layout.width, self.layout.reach + 1
        parts = [right[k * w : (k + 1) * w] for k in range(tiles)]
        if self.layout.doubled:
            parts[-1] = parts[-1] / 2
        return tuple(jnp.outer(left[:w], part) for part in parts)


def _row(layout: Layout) -> _Row:
    return _Row(layout, jax.lax.axis_index("pairs"))


def _leading(part: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], part)


def _only(stack: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], stack)


@functools.partial(jax.jit, static_argnames=("layout", "mesh", "dtype"))
def first_chunk(chunk: sums.Rows, weights: Array, *, layout: Layout, mesh: Mesh, dtype: np.dtype) -> Sums:
    """Sums of the rows of each device, with a leading axis over all devices."""

    def local(chunk: sums.Rows, weights: Array) -> Sums:
        row = _row(layout)
        return _leading(sums.first_rows((row.columns(chunk),), weights, dtype, row))

    return on_devices(mesh, local, P("data"), DEVICE)(chunk, weights)


@functools.partial(jax.jit, static_argnames=("layout", "mesh"), donate_argnums=0)
def next_chunk(partial: Sums, chunk: sums.Rows, weights: Array, *, layout: Layout, mesh: Mesh) -> Sums:
    """Adds rows to the sums of each device."""

    def local(partial: Sums, chunk: sums.Rows, weights: Array) -> Sums:
        row = _row(layout)
        return _leading(sums.next_rows(_only(partial), (row.columns(chunk),), weights, row))

    return on_devices(mesh, local, (DEVICE, P("data"), P("data")), DEVICE)(partial, chunk, weights)


@functools.partial(jax.jit, static_argnames=("layout", "mesh"), donate_argnums=0)
def reduced(partial: Sums, *, layout: Layout, mesh: Mesh) -> SpreadMoments:
    """The moments of the rows of all devices: one reduction over ``data``, one exchange of a tile over ``pairs``."""

    def local(partial: Sums) -> SpreadMoments:
        part, row = _only(partial), _row(layout)
        weight, count, mean = jax.lax.psum((part.weight, part.count, part.weight * part.mean), "data")
        mean = mean / jnp.where(weight > 0, weight, 1)
        step = part.mean - mean  # scatter about the common mean (Chan)
        between = row.outer(step, part.weight * step)
        scatter, residue = jax.lax.psum(sums.add(part.scatter, part.residue, between), "data")
        if layout.doubled:
            scatter, residue = (_last_tile_summed(layout, tiles) for tiles in (scatter, residue))
        blocks = jax.lax.all_gather(mean[: layout.width], "pairs", tiled=True)
        scatter, residue = _leading((scatter, residue))
        return SpreadMoments(weight, count, blocks, scatter, residue, layout, mesh)

    return on_devices(mesh, local, DEVICE, specs_of(layout, mesh, partial.residue is not None))(partial)


def _last_tile_summed(layout: Layout, tiles: tuple[Array, ...] | None) -> tuple[Array, ...] | None:
    """Adds the other half of the rows to the last tile; the device b/2 further has it, transposed."""
    if tiles is None:
        return None
    across = [(p, (p + layout.reach) % layout.blocks) for p in range(layout.blocks)]
    return *tiles[:-1], tiles[-1] + jax.lax.ppermute(tiles[-1], "pairs", across).T
