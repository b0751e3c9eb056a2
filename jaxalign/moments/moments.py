"""Second moments of several encoders, concatenated: all that a closed-form solver reads.

Let Z [n, D] be the embeddings of K encoders for the same n photographs, concatenated. The centred scatter matrix
(Z − μ)ᵀ (Z − μ), [D, D], holds every block that any pair of encoders needs, so one pass over the rows serves all
K (K − 1) ordered pairs. Statistics of chunks, devices and processes merge in any order (Chan's update), and the
statistics of a fold can be subtracted from the total.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign.core import checks
from jaxalign.core.devices import check_mesh, local_mesh
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.core.pytree import pytree
from jaxalign.core.rows import Chunk, LazyRows
from jaxalign.moments.accumulate import DeviceChunk, by_fold
from jaxalign.moments.blocks import EncoderSpan, take
from jaxalign.moments.scatter import Rows, Sums, scatter_of
from jaxalign.moments.sharded import MeshAccumulator, ShardedMoments

LEAST_RING = 64  # rows to which a ring of ``nested_moments`` is padded at least


@pytree
class Moments(Sums):
    """Moments on one device; ``scatter / weight`` is the second moment. For the other attributes see ``Sums``."""

    scatter: Float[Array, "D D"]
    residue: Float[Array, "D D"] | None

    @classmethod
    def empty(cls, names: Sequence[str], widths: Sequence[int], dtype: np.dtype | None = None) -> Moments:
        """Moments of no rows, the start of a sum."""
        dtype = np.dtype(dtype or moment_dtype())
        total = sum(widths)
        with double_precision():
            square = jnp.zeros((total, total), dtype)
            zero = jnp.zeros((), dtype)
            residue = jnp.zeros_like(square) if dtype == np.float32 else None
            return cls(zero, zero, jnp.zeros((total,), dtype), square, residue, tuple(names), tuple(widths))

    @classmethod
    def of(
        cls,
        embeddings: Mapping[str, ArrayLike | LazyRows],
        weights: ArrayLike | None = None,
        *,
        rows: ArrayLike | None = None,
        dtype: np.dtype | None = None,
        chunk_rows: int | None = None,
        mesh: Mesh | None = None,
    ) -> Moments:
        """Moments of arrays in memory or memory-mapped; see ``FoldMoments.of``.

        Args:
          embeddings: per encoder an array [n, d] or ``LazyRows``, of the same photographs in the same order.
          weights: of the rows used, shape [n] or [m], ≥ 0; all one if absent.
          rows: indices of the rows to use, none twice, shape [m]; all n if absent.
          dtype: of the statistics; by default float64, or compensated float32 on a device without it.
          chunk_rows: most rows of a chunk; by default what the devices' memory allows.
          mesh: devices (``device_mesh``) over which the rows are sharded; the first one if absent.

        Returns:
          The moments, on the first device; ``ShardedMoments`` over a mesh with several devices on ``pairs``.

        Raises:
          UserError: shapes, formats, weights, values or the mesh are not usable, or a chunk does not fit the device.
        """
        return _accumulated(embeddings, None, weights, rows, dtype, chunk_rows, mesh).total

    @classmethod
    def gathered(cls, total: Sums) -> Moments:
        """The moments of a mesh on one device."""
        if isinstance(total, Moments):
            return total
        assert isinstance(total, ShardedMoments)
        with double_precision():
            host = map(np.asarray, (total.weight, total.count, total.mean, total.matrix()))
            weight, count, mean, scatter = map(jnp.asarray, host)
            residue = jnp.zeros_like(scatter) if scatter.dtype == np.float32 else None
            return cls(weight, count, mean, scatter, residue, total.names, total.widths)

    def rows_of(self, vector: Float[Array, " D"]) -> Float[Array, " D"]:
        """All entries."""
        return vector

    def product(self, chunk: Rows, center: Array, root: Array) -> Float[Array, "D D"]:
        """See ``Sums``."""
        return scatter_of(chunk, center, root)

    def block(self, row: EncoderSpan, column: EncoderSpan) -> Float[Array, "p q"]:
        """See ``Sums``."""
        return take(self.scatter, row, column)

    def power(self) -> Float[np.ndarray, " D"]:
        """Σ w (z − mean)² of each column, on the host, shape [D]."""
        with double_precision():
            return np.asarray(jnp.diagonal(self.scatter))


@pytree
class FoldMoments:
    """Moments of all rows and, for cross-validation, of each fold.

    Attributes:
      total: of all rows; like the folds' ``ShardedMoments`` over a mesh with several devices on ``pairs``.
      folds: of the rows of each fold; empty without folds.
    """

    total: Any
    folds: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        embeddings: Mapping[str, ArrayLike | LazyRows],
        *,
        fold: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        chunk_rows: int | None = None,
        mesh: Mesh | None = None,
    ) -> FoldMoments:
        """One pass over the rows, in bounded memory: the next chunk is read while one is computed with.

        If the mesh has devices of several processes, each of them calls this with its own share of the rows, which may
        be empty or lack folds, and gets the moments of all rows on its own devices. A fold that a process has rows of
        exists for all.

        Args:
          fold: fold of each row used, integers 0 ... F − 1, shape [n] or [m]; without it there are no folds.
          embeddings, weights, rows, chunk_rows, mesh: as for ``Moments.of``, which also says what is refused.
        """
        return _accumulated(embeddings, fold, weights, rows, None, chunk_rows, mesh)

    def sharded(self, mesh: Mesh) -> FoldMoments:
        """The same moments over a mesh, each as ``ShardedMoments``; a ``UserError`` if they are over another mesh."""
        checked = check_mesh(mesh)
        assert checked is not None
        checked = local_mesh(checked)
        if not isinstance(self.total, ShardedMoments):
            return self._each(lambda part: ShardedMoments.of(part, checked))
        if self.total.mesh != checked:
            raise UserError(
                f"moments are sharded over a mesh of {dict(self.total.mesh.shape)}, "
                f"which is not the mesh given, of {dict(checked.shape)}"
            )
        return self

    def gathered(self) -> FoldMoments:
        """The same moments, each on one device."""
        return self._each(Moments.gathered)

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders, in column order."""
        return self.total.names

    def _each(self, function: Any) -> FoldMoments:
        return FoldMoments(function(self.total), tuple(map(function, self.folds)))


@dataclasses.dataclass(frozen=True)
class _OneDevice:
    """Adds chunks to moments on one device; the first chunk begins them, which saves a pass over [D, D]."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    dtype: np.dtype

    shards = 1

    @property
    def elements(self) -> int:
        return sum(self.widths) ** 2

    def place(self, chunk: Chunk) -> DeviceChunk:
        return jax.device_put(chunk)

    def add(self, sofar: Moments | None, chunk: DeviceChunk) -> Moments:
        if sofar is None:
            return _first(*chunk, self.names, self.widths, self.dtype)
        return _next(sofar, *chunk)


def _accumulated(
    embeddings: Mapping[str, ArrayLike | LazyRows],
    fold: ArrayLike | None,
    weights: ArrayLike | None,
    rows: ArrayLike | None,
    dtype: np.dtype | None,
    chunk_rows: int | None,
    mesh: Mesh | None,
) -> FoldMoments:
    """Checks, one pass over the rows, and the sum over folds."""
    mesh = check_mesh(mesh)
    shared = mesh is not None and mesh.size > local_mesh(mesh).size  # with other processes
    arrays = checks.embeddings(embeddings)
    none_here = shared and rows is not None and np.size(rows) == 0  # another process has rows
    count = next(iter(arrays.values())).shape[0]
    numbers_of_rows = np.zeros(0, np.int64) if none_here else checks.row_numbers(rows, count)
    used = count if numbers_of_rows is None else len(numbers_of_rows)
    weight = checks.weights(weights if used else None, used).astype(np.dtype(dtype or moment_dtype()))
    names, widths = tuple(arrays), tuple(array.shape[1] for array in arrays.values())
    numbers = np.zeros(used, np.int32) if fold is None else checks.folds(fold, used, complete=not shared)
    accumulator = _accumulator(names, widths, weight.dtype, mesh)
    chunk_rows = checks.positive(chunk_rows, "chunk_rows")
    parts = by_fold(arrays, numbers, weight, numbers_of_rows, accumulator, chunk_rows)
    if isinstance(accumulator, MeshAccumulator):
        if shared:
            most = int(np.max(multihost_utils.process_allgather(np.array(len(parts)))))
            parts += [None] * (most - len(parts))
        parts = [accumulator.empty() if part is None else part for part in parts]
        for number, part in enumerate(parts):  # the sums of the devices are freed one after the other
            parts[number] = accumulator.total(part)
    parts = [part for part in parts if part is not None]
    with double_precision():
        total = parts[0] if fold is None else _merge_all(tuple(parts))
    try:
        checks.finite_moments(np.asarray(total.mean), total.power(), arrays, numbers_of_rows)
    except UserError as error:
        if not shared or "must be finite" in str(error):
            raise
        raise UserError("embeddings of another process hold NaN or infinity, or are too large") from error
    return FoldMoments(total, () if fold is None else tuple(parts))


def _accumulator(
    names: tuple[str, ...], widths: tuple[int, ...], dtype: np.dtype, mesh: Mesh | None
) -> _OneDevice | MeshAccumulator:
    if mesh is None or mesh.size == 1:
        return _OneDevice(names, widths, dtype)
    shapes = jax.eval_shape(lambda: Moments.empty(names, widths, dtype))
    if mesh.shape["pairs"] > 1:
        shapes = ShardedMoments.like(shapes, local_mesh(mesh))
    return MeshAccumulator(shapes, mesh)


def chunk_moments(
    chunk: Rows, weights: jax.Array, names: tuple[str, ...], widths: tuple[int, ...], dtype: np.dtype
) -> Moments:
    """Moments of rows that are on the device already; a pure function, for use inside other programs."""
    return Moments.empty(names, widths, dtype).of_rows(chunk, weights)


_first = jax.jit(chunk_moments, static_argnums=(2, 3, 4))


@functools.partial(jax.jit, donate_argnums=0)
def _next(sofar: Moments, chunk: Rows, weights: jax.Array) -> Moments:
    return sofar.plus(sofar.of_rows(chunk, weights))


@jax.jit
def _merge_all(parts: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda one, other: one.plus(other), parts)


def nested_moments(
    embeddings: Mapping[str, ArrayLike], sizes: Sequence[int], fold: np.ndarray | None = None
) -> Iterator[FoldMoments]:
    """Moments of the first ``size`` rows for every size, as ``FoldMoments.of`` gives them; every row is read once.

    Each ring, the rows between two sizes, is summed once and merged into what is inside it.

    Args:
      embeddings: per encoder an array [n, d].
      sizes: ascending numbers of rows, at most n; a ``UserError`` if they do not rise or are too large.
      fold: of each row, integers 0 ... F − 1, shape [n]; None for no folds.
    """
    arrays = {name: np.asarray(array) for name, array in embeddings.items()}
    rows = min(len(array) for array in arrays.values())
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1 or sizes[-1] > rows:
        raise UserError(f"sizes: expected rising numbers from 1 to {rows:,}, got {list(sizes)}.")
    numbers = np.zeros(rows, np.int32) if fold is None else fold[:rows]
    widths = [array.shape[1] for array in arrays.values()]
    so_far = [Moments.empty(tuple(arrays), widths) for _ in range(int(numbers.max()) + 1)]
    for start, stop in zip((0, *sizes[:-1]), sizes):
        for number in range(len(so_far)):
            members = start + np.flatnonzero(numbers[start:stop] == number)
            if len(members):
                so_far[number] = so_far[number].merge(_ring(arrays, members))
        total = functools.reduce(Moments.merge, so_far)
        yield FoldMoments(total, () if fold is None else tuple(so_far))


def _ring(arrays: Mapping[str, np.ndarray], members: np.ndarray) -> Moments:
    """Moments of some rows, padded with rows of no weight, so that rings of like size share a program."""
    size = max(LEAST_RING, 1 << (len(members) - 1).bit_length())
    padded = np.resize(members, size)
    weights = (np.arange(size) < len(members)).astype(np.float64)
    return Moments.of({name: array[padded] for name, array in arrays.items()}, weights)
