"""Moments over a mesh of devices: rows dealt over ``data``, tiles of the matrix over ``pairs``; see ``mesh.Layout``.

Each device adds its rows to sums of its own, without any communication; when all rows are in, one reduction over
``data`` gives the matrix, and for an even number of blocks one exchange over ``pairs`` the tile that two devices
share, each of which has summed it over half of the rows. What is communicated is as large as a device's part of the
matrix, whatever the number of rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxalign import sums
from jaxalign.accumulation import DeviceChunk, Placement
from jaxalign.errors import UserError
from jaxalign.mesh import AXES, Layout
from jaxalign.precision import double_precision
from jaxalign.pytree import pytree, static
from jaxalign.scatter import scatter_row, sliceable
from jaxalign.streaming import Chunk
from jaxalign.sums import Sums

DEVICE = P(AXES)  # one part of the leading axis for each device
PAIRS = P("pairs")


@pytree
class SpreadMoments(Sums):
    """Moments of which each device of a mesh's axis ``pairs`` holds some tiles.

    Blocks of ``layout.width`` columns stand side by side, each filled up with zero columns.

    Attributes:
      mean: shape [b w], on every device.
      scatter: for each device its tiles side by side, shape [b, w, (b/2 + 1) w], spread over the leading axis.
      layout: which columns are where.
      mesh: the devices.
    """

    mean: Float[Array, " B"]
    scatter: Float[Array, "b w m"]
    residue: Float[Array, "b w m"] | None
    layout: Layout = static()
    mesh: Mesh = static()

    @classmethod
    def of_whole(cls, whole: Sums, layout: Layout, mesh: Mesh) -> SpreadMoments:
        """The matrix of another device, or of the host, cut into tiles and sent to where they belong."""
        everywhere = NamedSharding(mesh, P())
        size = layout.blocks * layout.width
        with double_precision():
            mean = np.zeros(size, whole.mean.dtype)
            mean[layout.columns] = np.asarray(whole.mean)
            weight, count, mean = jax.device_put((whole.weight, whole.count, mean), everywhere)
            if layout.blocks == 1 and np.array_equal(layout.columns, np.arange(size)):
                scatter = jax.device_put(whole.scatter[None], NamedSharding(mesh, PAIRS))
            else:
                scatter = _tiles(np.asarray(whole.scatter), layout, NamedSharding(mesh, PAIRS))
            return cls(weight, count, mean, scatter, None, layout, mesh)

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders."""
        return self.layout.names

    @property
    def widths(self) -> tuple[int, ...]:
        """Their widths."""
        return self.layout.widths

    def width(self, name: str) -> int:
        """Width of an encoder."""
        return self.layout.width_of(name)

    def offset(self, name: str) -> int:
        """First column of an encoder among the columns of ``power``."""
        return sum(self.widths[: self.layout.position[name]])

    def power(self) -> np.ndarray:
        """Σ w (z − mean)² of each column, on the host, encoders in order, shape [D]."""
        with double_precision():
            return np.asarray(_diagonals(self.scatter)).reshape(-1)[self.layout.columns]

    def merge(self, other: SpreadMoments) -> SpreadMoments:
        """Moments of the rows of both, on the same mesh."""
        if (self.layout, self.mesh) != (other.layout, other.mesh):
            raise UserError(
                f"moments of the same encoders on the same mesh are needed, got {', '.join(self.names)} "
                f"and {', '.join(other.names)}"
            )
        with double_precision():
            return _merge(self, other)

    def whole_matrix(self) -> tuple[Array | np.ndarray, np.ndarray]:
        """The scatter matrix [D, D] on one device, or on the host, and the mean [D], encoders in order."""
        columns, layout = self.layout.columns, self.layout
        mean = np.asarray(self.mean)[columns]
        if layout.blocks == 1 and np.array_equal(columns, np.arange(len(mean))):
            with double_precision():
                return self.scatter.addressable_shards[0].data[0], mean
        square = np.zeros((layout.blocks, layout.width) * 2, self.scatter.dtype)
        for shard in self.scatter.addressable_shards:
            p = shard.index[0].start or 0
            tiles = np.asarray(shard.data)[0].reshape(layout.width, layout.reach + 1, layout.width)
            for k in range(layout.reach + 1):
                q = (p + k) % layout.blocks
                square[p, :, q], square[q, :, p] = tiles[:, k], tiles[:, k].T
        flat = square.reshape(layout.blocks * layout.width, -1)
        return flat[np.ix_(columns, columns)], mean

    @property
    def specs(self) -> SpreadMoments:
        """How the leaves are spread."""
        return _specs(self.layout, self.mesh, self.residue is not None)


def _specs(layout: Layout, mesh: Mesh, residue: bool) -> SpreadMoments:
    same: Any = P()  # on every device
    tiles: Any = PAIRS
    return SpreadMoments(same, same, same, tiles, tiles if residue else None, layout, mesh)


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
        return Placement(self._place, self.mesh.shape["data"], self.layout.elements)

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
    ) -> tuple[Array, Array | None]:
        half = self.number // self.layout.reach if self.layout.doubled else None
        return scatter_row(chunk[0], center, root, own=self.layout.width, half=half)

    def outer(self, left: Array, right: Array) -> Array:
        # Of the last tile that two devices share, each adds half.
        w = self.layout.width
        if self.layout.doubled:
            right = right.at[-w:].multiply(0.5)
        return jnp.outer(left[:w], right)


def _row(layout: Layout) -> _Row:
    return _Row(layout, jax.lax.axis_index("pairs"))


def _leading(part: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], part)


def _only(stack: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], stack)


def on_devices(mesh: Mesh, local: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """A function of the devices' parts, as one of all of them."""
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


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
        scatter, residue = sums.add(part.scatter, part.residue, row.outer(step, part.weight * step))
        scatter, residue = jax.lax.psum((scatter, residue), "data")
        if layout.doubled:
            scatter, residue = jax.tree.map(functools.partial(_last_tile_summed, layout), (scatter, residue))
        blocks = jax.lax.all_gather(mean[: layout.width], "pairs", tiled=True)
        spread = SpreadMoments(weight, count, blocks, scatter, residue, layout, mesh)
        return dataclasses.replace(spread, scatter=scatter[None], residue=_leading(residue))

    return on_devices(mesh, local, DEVICE, _specs(layout, mesh, partial.residue is not None))(partial)


def _last_tile_summed(layout: Layout, scatter: Array) -> Array:
    """Adds the other half of the rows to the last tile; the device b/2 further has it, transposed."""
    half = layout.reach
    across = [(p, (p + half) % layout.blocks) for p in range(layout.blocks)]
    last = scatter[:, -layout.width :]
    both = last + jax.lax.ppermute(last, "pairs", across).T
    return jax.lax.dynamic_update_slice(scatter, both, (0, half * layout.width))


class _Tiles:
    """All tiles of spread moments, as arrays that the compiler spreads."""

    def __init__(self, layout: Layout):
        self.layout = layout

    def product(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("rows are added before sums are brought together")

    def outer(self, left: Array, right: Array) -> Array:
        layout = self.layout
        blocks = (np.arange(layout.blocks)[:, None] + np.arange(layout.reach + 1)) % layout.blocks
        rows, columns = (vector.reshape(layout.blocks, layout.width) for vector in (left, right))
        return rows[:, :, None] * columns[blocks].reshape(layout.blocks, 1, layout.kept)


@jax.jit
def _merge(a: SpreadMoments, b: SpreadMoments) -> SpreadMoments:
    return sums.merged(a, b, _Tiles(a.layout))


@jax.jit
def _diagonals(scatter: Array) -> Array:
    return jnp.diagonal(scatter[:, :, : scatter.shape[1]], axis1=1, axis2=2)


def _tiles(square: np.ndarray, layout: Layout, sharding: NamedSharding) -> Array:
    """Tiles of a matrix on the host, sent to their devices."""
    size = layout.blocks * layout.width
    place = np.full(size, -1)
    place[layout.columns] = np.arange(len(square))

    def part(index: Any) -> np.ndarray:
        p = index[0].start or 0
        rows = place[p * layout.width :][: layout.width]
        blocks = [(p + k) % layout.blocks for k in range(layout.reach + 1)]
        columns = np.concatenate([place[q * layout.width :][: layout.width] for q in blocks])
        taken = square[np.ix_(rows, columns)]
        return np.where((rows[:, None] >= 0) & (columns >= 0), taken, 0)[None]

    return jax.make_array_from_callback((layout.blocks, layout.width, layout.kept), sharding, part)
