"""Moments over a mesh of devices: rows of a chunk over its axis ``data``, rows of the matrix over its axis ``pairs``.

Each device adds its part of every chunk to sums of its own, without communication. When all rows are in, one reduction
over ``data`` gives the moments. What is sent is as large as a device's part of the matrix, whatever the number of rows.
The mesh may have devices of several processes: each process then gives its own share of the rows, and gets the moments
of all rows on its own devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxalign.core.devices import local_mesh, matrix_elements, padded_width
from jaxalign.core.precision import double_precision, multiply
from jaxalign.core.pytree import pytree, static
from jaxalign.core.rows import Chunk
from jaxalign.moments.accumulate import DeviceChunk
from jaxalign.moments.blocks import EncoderSpan, take
from jaxalign.moments.scatter import Rows, Sums, add, centred

PAIRS = P("pairs")


@functools.cache
def slots(widths: tuple[int, ...], pairs: int) -> Mapping[int, np.ndarray]:
    """For each padded width the indices of its encoders, shape [K]; −1 pads K to a multiple of ``pairs``."""
    alike: dict[int, list[int]] = {}
    for index, width in enumerate(widths):
        alike.setdefault(padded_width(width), []).append(index)
    return {size: np.array(found + [-1] * (-len(found) % pairs)) for size, found in alike.items()}


@functools.cache
def _columns(widths: tuple[int, ...], pairs: int) -> Mapping[int, np.ndarray]:
    """The column of every row of the row blocks, shapes [K, p]; D, which is none, for padding."""
    starts = np.cumsum((0, *widths))
    found = {}
    for size, indices in slots(widths, pairs).items():
        within = np.arange(size)
        inside = within < np.append(widths, 0)[indices][:, None]
        found[size] = np.where(inside, starts[indices][:, None] + within, starts[-1])
    return found


@pytree
class ShardedMoments(Sums):
    """Moments of which each device on ``pairs`` holds the rows of the matrix that belong to its encoders.

    ``scatter`` has for each padded width p the row blocks of its K encoders, shape [K, p, D], the leading axis sharded
    over ``pairs``. Encoders narrower than p are padded with zero rows, and K with zero blocks.
    """

    scatter: Mapping[int, Float[Array, "K p D"]]
    residue: Mapping[int, Float[Array, "K p D"]] | None
    mesh: Mesh = static(kw_only=True)

    @classmethod
    def like(cls, total: Sums, mesh: Mesh) -> ShardedMoments:
        """Shapes of the moments of the same columns over a mesh, from those on one device."""
        columns, scatter = _columns(total.widths, mesh.shape["pairs"]), total.scatter
        blocks = {size: scatter.update(shape=(*at.shape, len(scatter))) for size, at in columns.items()}
        residue = None if total.residue is None else blocks
        same = total.weight, total.count, total.mean
        return cls(*same, blocks, residue, total.names, total.widths, mesh=mesh)

    @classmethod
    def of(cls, total: Sums, mesh: Mesh) -> ShardedMoments:
        """The moments of one device, sent to the devices of a mesh of this process."""
        matrix, pairs = np.asarray(total.scatter), mesh.shape["pairs"]

        def blocks(columns: np.ndarray) -> Array:
            def part(index: Any) -> np.ndarray:
                rows = columns[index[0]]
                inside = (rows < len(matrix))[..., None]
                return np.where(inside, matrix[np.minimum(rows, len(matrix) - 1)], 0)

            shape = (*columns.shape, len(matrix))
            return jax.make_array_from_callback(shape, NamedSharding(mesh, PAIRS), part)

        with double_precision():
            same = jax.device_put((total.weight, total.count, total.mean), NamedSharding(mesh, P()))
            scatter = {size: blocks(columns) for size, columns in _columns(total.widths, pairs).items()}
            residue = None if total.residue is None else jax.tree.map(jnp.zeros_like, scatter)
        return cls(*same, scatter, residue, total.names, total.widths, mesh=mesh)  # pyright: ignore[reportCallIssue]

    def matrix(self) -> Float[np.ndarray, "D D"]:
        """The scatter matrix on the host."""
        return self._on_host(self.scatter, len(self.mean))

    def power(self) -> Float[np.ndarray, " D"]:
        """Σ w (z − mean)² of each column, on the host, shape [D]."""
        with double_precision():
            return self._on_host(_diagonals(self.scatter, self._index()))

    def _on_host(self, blocks: Mapping[int, Array], *more: int) -> np.ndarray:
        """The rows of blocks [K, p, *more] in the order of columns, shape [D, *more]."""
        found = np.empty((len(self.mean) + 1, *more), self.mean.dtype)
        for size, index in self._index().items():
            found[index] = np.asarray(blocks[size])
        return found[:-1]

    def rows_of(self, vector: Float[Array, " D *c"]) -> Mapping[int, Array]:
        """The entries for the rows of every block, shapes [K, p, *c]."""

        def rows(index: np.ndarray) -> Array:
            return self._placed(jnp.take(vector, index, axis=0, mode="fill", fill_value=0), PAIRS)

        return {size: rows(index) for size, index in self._index().items()}

    def product(self, chunk: Rows, center: Array, root: Array) -> Mapping[int, Array]:
        """See ``Sums``: each encoder's columns times all columns."""
        columns = self._placed(centred(chunk, center, root), P())
        own = self.rows_of(columns)
        return {size: self._placed(multiply(rows, columns.T), PAIRS) for size, rows in own.items()}

    def block(self, row: EncoderSpan, column: EncoderSpan) -> Float[Array, "p q"]:
        """The block of a pair whose first encoder is on this device; inside ``shard_map``."""
        return take(self.scatter[row.size][row.slot], None, column)

    def place(self, name: str) -> tuple[int, int]:
        """The device on ``pairs`` that holds an encoder, and the index of its row block there."""
        pairs, number = self.mesh.shape["pairs"], self.names.index(name)
        alike = slots(self.widths, pairs)[padded_width(self.widths[number])]
        return divmod(int(np.flatnonzero(alike == number)[0]), len(alike) // pairs)

    def specs(self) -> Self:
        """How the leaves are sharded."""
        scatter, residue = (jax.tree.map(lambda _: PAIRS, part) for part in (self.scatter, self.residue))
        same: Any = P()
        return dataclasses.replace(self, weight=same, count=same, mean=same, scatter=scatter, residue=residue)

    def _index(self) -> Mapping[int, np.ndarray]:
        return _columns(self.widths, self.mesh.shape["pairs"])

    def _placed(self, array: Array, spec: P) -> Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, spec))


@jax.jit
def _diagonals(scatter: Mapping[int, Array], columns: Mapping[int, Array]) -> Mapping[int, Array]:
    return {
        size: jnp.take_along_axis(blocks, columns[size][..., None], axis=2, mode="clip")[..., 0]
        for size, blocks in scatter.items()
    }


@dataclasses.dataclass(frozen=True)
class MeshAccumulator:
    """Adds chunks of this process's rows to sums on each of its devices; ``total`` brings the sums together."""

    shapes: Any  # of the moments: ``ShardedMoments.like`` on this process's devices, or moments of one device
    mesh: Mesh  # the devices, those of other processes included

    @property
    def shards(self) -> int:
        """Devices of this process on ``data``."""
        return local_mesh(self.mesh).shape["data"]

    @property
    def elements(self) -> int:
        """See ``Accumulator``."""
        return matrix_elements(self.shapes.widths, self.mesh.shape["pairs"])

    def place(self, chunk: Chunk) -> DeviceChunk:
        """Shards the rows over ``data``: arrays get a leading axis of devices; rows of weight zero pad the shares."""
        shards, rows = self.shards, len(chunk[1])
        share = -(-rows // shards)

        def divided(part: np.ndarray) -> np.ndarray:
            padded = np.pad(part, [(0, share * shards - rows)] + [(0, 0)] * (part.ndim - 1))
            return padded.reshape(shards, share, *part.shape[1:])

        sharding = NamedSharding(local_mesh(self.mesh), P("data"))
        return jax.device_put(jax.tree.map(divided, chunk), sharding)

    def add(self, sofar: Any, chunk: DeviceChunk) -> Any:
        """See ``Accumulator``."""
        return add_chunk(self.empty() if sofar is None else sofar, *chunk)

    @property
    def partial(self) -> Any:
        """Shapes of the sums of the devices of this process, with a leading axis over ``data``."""
        mesh = local_mesh(self.mesh)

        def leading(leaf: Any, spec: P) -> jax.ShapeDtypeStruct:
            sharding = NamedSharding(mesh, P("data", *spec))
            return jax.ShapeDtypeStruct((mesh.shape["data"], *leaf.shape), leaf.dtype, sharding=sharding)

        return jax.tree.map(leading, self.shapes, self.shapes.specs())

    def empty(self) -> Any:
        """Sums of no rows on each device."""
        with double_precision():
            return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, device=leaf.sharding), self.partial)

    def total(self, partial: Any) -> Any:
        """The moments of the rows of all devices, and of all processes, on the devices of this process.

        The sums of the devices are overwritten. All processes call this, in the same order.
        """
        specs = self.shapes.specs()
        with double_precision():
            if jax.process_count() > 1:
                partial = _on_mesh(partial, jax.tree.map(lambda spec: P("data", *spec), specs), self.mesh)
            found = reduced(partial, mesh=self.mesh)
            if not isinstance(found, ShardedMoments):
                return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, found)
            mesh = self.shapes.mesh
            return found if found.mesh == mesh else _on_mesh(found, found.specs(), mesh)


def _on_mesh(sums: Any, specs: Any, mesh: Mesh) -> Any:
    """The same arrays as parts of a larger mesh, or as what this process has of them."""

    def array(leaf: Array, spec: P) -> Array:
        shape = (mesh.shape["data"], *leaf.shape[1:]) if tuple(spec)[:1] == ("data",) else leaf.shape
        shards = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), shards)

    found = jax.tree.map(array, sums, specs)
    return dataclasses.replace(found, mesh=mesh) if isinstance(found, ShardedMoments) else found


@functools.partial(jax.jit, donate_argnums=0)
def add_chunk(partial: Any, rows: Rows, weights: Float[Array, "n c"]) -> Any:
    """Adds the rows of each device to its sums; without communication."""

    def added(sums: Sums, rows: Rows, weights: Array) -> Sums:
        return sums.plus(sums.of_rows(rows, weights))

    return jax.vmap(added, spmd_axis_name="data")(partial, rows, weights)


@functools.partial(jax.jit, donate_argnums=0, static_argnames="mesh")
def reduced(partial: Any, *, mesh: Mesh) -> Any:
    """Moments of the rows of all devices, from one reduction over ``data``.

    With w, μ, S of each device and m = Σ w μ / Σ w, the scatter about m is Σ (S + w (μ − m)ᵀ (μ − m)): Chan's update
    for many parts at once, which forms no raw squares.
    """
    weight = partial.weight.sum()
    mean = (partial.weight[:, None] * partial.mean).sum(0) / jnp.where(weight > 0, weight, 1)

    def about_common_mean(part: Sums) -> tuple[Any, Any]:
        step = part.mean - mean
        return add(part.scatter, part.residue, part.outer(step, part.weight * step))

    scatter, residue = jax.vmap(about_common_mean, spmd_axis_name="data")(partial)
    if residue is None:
        scatter = jax.tree.map(lambda leaf: leaf.sum(0), scatter)
    else:
        both = jax.tree.map(_sum_with_loss, scatter, residue)
        scatter, residue = jax.tree.transpose(jax.tree.structure(scatter), jax.tree.structure((0, 0)), both)
    found = dataclasses.replace(
        partial, weight=weight, count=partial.count.sum(), mean=mean, scatter=scatter, residue=residue
    )
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), found.specs())
    return jax.lax.with_sharding_constraint(found, shardings)


def _sum_with_loss(value: Float[Array, "n ..."], residue: Float[Array, "n ..."]) -> tuple[Array, Array]:
    """The sum of the leading bits, which rounds nothing, and of what is left of each number.

    Leading bits are multiples of a power of two so large that their sum still has no more than a format's bits.
    """
    format_ = jnp.finfo(value.dtype)
    _, exponent = jnp.frexp(jnp.abs(value).max(0))
    spared = len(value).bit_length() - format_.nmant
    unit = jnp.maximum(jnp.ldexp(jnp.ones_like(value[0]), exponent + spared), format_.tiny)
    leading = jnp.round(value / unit) * unit
    return leading.sum(0), (residue + (value - leading)).sum(0)
