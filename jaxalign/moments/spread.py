"""Moments over a mesh of devices: tiles of the matrix over ``pairs``; see ``mesh.Layout``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxalign.core.errors import UserError
from jaxalign.core.mesh import AXES, Layout
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.core.pytree import pytree, static
from jaxalign.moments import sums
from jaxalign.moments.sums import Sums

DEVICE = P(AXES)  # one part of the leading axis for each device
PAIRS = P("pairs")


@pytree
class SpreadMoments(Sums):
    """Moments of which each device of a mesh's axis ``pairs`` holds some tiles.

    Blocks of ``layout.width`` columns stand side by side, each filled up with zero columns.

    Attributes:
      mean: shape [b w], on every device.
      scatter: b/2 + 1 tiles of each device, shapes [b, w, w], spread over the leading axis.
      residue: what rounding lost from them, in float32 only.
      layout: which columns are where.
      mesh: the devices.
    """

    mean: Float[Array, " B"]
    scatter: tuple[Float[Array, "b w w"], ...]
    residue: tuple[Float[Array, "b w w"], ...] | None
    layout: Layout = static()
    mesh: Mesh = static()

    @classmethod
    def empty(cls, names: Sequence[str], widths: Sequence[int], mesh: Mesh) -> SpreadMoments:
        """Moments of no rows."""
        layout, dtype = Layout.of(names, widths, mesh.shape["pairs"]), moment_dtype()
        shape = layout.blocks, layout.width, layout.width
        residue = dtype == np.float32
        with double_precision():
            zero, mean = np.zeros((), dtype), np.zeros(layout.blocks * layout.width, dtype)
            tiles = (np.zeros(shape, dtype),) * (layout.reach + 1)
            host = cls(zero, zero, mean, tiles, tiles if residue else None, layout, mesh)  # type: ignore[arg-type]
            places = jax.tree.map(
                functools.partial(NamedSharding, mesh),
                specs_of(layout, mesh, residue),
                is_leaf=lambda leaf: isinstance(leaf, P),
            )
            return jax.device_put(host, places)

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
                scatter = (jax.device_put(whole.scatter[None], NamedSharding(mesh, PAIRS)),)
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
            return np.asarray(_diagonals(self.scatter[0])).reshape(-1)[self.layout.columns]

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
                return self.scatter[0].addressable_shards[0].data[0], mean
        square = np.zeros((layout.blocks, layout.width) * 2, self.mean.dtype)
        for k, tiles in enumerate(self.scatter):
            for p, tile in enumerate(np.asarray(tiles)):
                q = (p + k) % layout.blocks
                square[p, :, q], square[q, :, p] = tile, tile.T
        flat = square.reshape(layout.blocks * layout.width, -1)
        return flat[np.ix_(columns, columns)], mean

    @property
    def specs(self) -> SpreadMoments:
        """How the leaves are spread."""
        return specs_of(self.layout, self.mesh, self.residue is not None)


def specs_of(layout: Layout, mesh: Mesh, residue: bool) -> SpreadMoments:
    """How the leaves of moments of a layout are spread over a mesh."""
    same: Any = P()  # on every device
    tiles: Any = (PAIRS,) * (layout.reach + 1)
    return SpreadMoments(same, same, same, tiles, tiles if residue else None, layout, mesh)


def on_devices(mesh: Mesh, local: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """A function of the devices' parts, as one of all of them."""
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


class _Tiles:
    """All tiles of spread moments, as arrays that the compiler spreads."""

    def __init__(self, layout: Layout):
        self.layout = layout

    def product(self, *_: Any, **__: Any) -> Any:
        """Never asked for: rows are added before sums are brought together."""
        raise NotImplementedError

    def outer(self, left: Array, right: Array) -> tuple[Array, ...]:
        """The tiles of all devices."""
        blocks = np.arange(self.layout.blocks)
        rows, columns = (vector.reshape(len(blocks), self.layout.width) for vector in (left, right))
        return tuple(
            rows[:, :, None] * columns[(blocks + k) % len(blocks)][:, None, :]
            for k in range(self.layout.reach + 1)
        )


@jax.jit
def _merge(a: SpreadMoments, b: SpreadMoments) -> SpreadMoments:
    return sums.merged(a, b, _Tiles(a.layout))


@jax.jit
def _diagonals(scatter: Array) -> Array:
    return jnp.diagonal(scatter, axis1=1, axis2=2)


def _tiles(square: np.ndarray, layout: Layout, sharding: NamedSharding) -> tuple[Array, ...]:
    """Tiles of a matrix on the host, sent to their devices."""
    place = np.full((layout.blocks, layout.width), -1)
    place.flat[layout.columns] = np.arange(len(square))

    def part(index: Any, k: int) -> np.ndarray:
        p = index[0].start or 0
        rows, columns = place[p], place[(p + k) % layout.blocks]
        return np.where((rows[:, None] >= 0) & (columns >= 0), square[np.ix_(rows, columns)], 0)[None]

    shape = layout.blocks, layout.width, layout.width
    return tuple(
        jax.make_array_from_callback(shape, sharding, lambda index, k=k: part(index, k))
        for k in range(layout.reach + 1)
    )
