"""Moments over a mesh of devices: tiles of the matrix over ``pairs``; see ``mesh.Layout``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxalign import sums
from jaxalign.errors import UserError
from jaxalign.mesh import AXES, Layout
from jaxalign.precision import double_precision
from jaxalign.pytree import pytree, static
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
        return specs_of(self.layout, self.mesh, self.residue is not None)


def specs_of(layout: Layout, mesh: Mesh, residue: bool) -> SpreadMoments:
    same: Any = P()  # on every device
    tiles: Any = PAIRS
    return SpreadMoments(same, same, same, tiles, tiles if residue else None, layout, mesh)


def on_devices(mesh: Mesh, local: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """A function of the devices' parts, as one of all of them."""
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


class _Tiles:
    """All tiles of spread moments, as arrays that the compiler spreads."""

    def __init__(self, layout: Layout):
        self.layout = layout

    def products(self, *_: Any, **__: Any) -> Any:
        """Never asked for: rows are added before sums are brought together."""
        raise NotImplementedError

    def factors(self, left: Array, right: Array) -> tuple[Array, Array]:
        """For every device the rows of its block and the columns of its tiles."""
        layout = self.layout
        blocks = (np.arange(layout.blocks)[:, None] + np.arange(layout.reach + 1)) % layout.blocks
        rows, columns = (vector.reshape(layout.blocks, layout.width) for vector in (left, right))
        return rows, columns[blocks].reshape(layout.blocks, layout.kept)


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
