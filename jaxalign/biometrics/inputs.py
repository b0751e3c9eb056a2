"""Rows on their way to the device: checked, padded to one of a few sizes, and scaled to length 1."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxalign.core import checks
from jaxalign.core.devices import padded_width
from jaxalign.core.errors import UserError, UserNote
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.core.rows import LazyRows, in_range, prefetch, unit_rows

PIECE_ROWS = 8192  # of the gallery, read and normalised at once
SAMPLED = 128  # rows of each side that tell whether many are nearly parallel
PARALLEL = 0.99  # a cosine above which rounding in float32 is more than 1e-4 of what cosines differ by
EQUAL = 1 - 1e-12  # of a row with itself or its copy
FEW = 1e-3  # share of nearly parallel pairs up to which they may be photographs of one person
FURTHER = 8  # columns behind the rows for the two of a score that is not the cosine


def checked(array: ArrayLike | LazyRows, name: str, rows: int | None = None) -> LazyRows:
    """Floating rows of the expected number, to be read when they are used; arrays on a CPU are not copied."""
    found = LazyRows.of(checks.embedding_rows(array, name))
    if rows is not None and len(found) != rows:
        raise UserError(f"{name}: expected {rows} rows, one for each identity, got {len(found)}")
    return found


def same_width(probes: LazyRows, gallery: LazyRows) -> None:
    """Refuses rows that cannot be compared."""
    if probes.shape[1] != gallery.shape[1]:
        raise UserError(
            f"probes and gallery must have the same width to be compared, got {probes.shape[1]} and {gallery.shape[1]}"
        )


@contextlib.contextmanager
def orderable(
    probes: ArrayLike | LazyRows, gallery: ArrayLike | LazyRows
) -> Iterator[tuple[LazyRows, LazyRows]]:
    """Both sides as checked rows; where many are nearly parallel in float64, which the block then allows.

    Cosines of rows that share a large mean, all of them or those of a cluster, lie so close to 1 that float32 makes
    many of them equal: at a median of 0.99999 the AUC of 400 rows is 3·10⁻⁴ wrong, at 0.999999 it is .90 instead of
    .998. On a TPU, which has no float64, a ``UserNote`` says so.

    Where this ends: the rows are looked at by a sample, without their people, so a cluster of less than 3 % of the rows
    may be missed, and rounding may then decide the ranks of its rows, and operating points with thresholds inside it.
    To find every cluster takes the product of all rows, which is the evaluation itself.
    """
    left, right = checked(probes, "probes"), checked(gallery, "gallery")
    if not nearly_parallel(left, right):
        yield left, right
    elif moment_dtype() != np.float64:
        warnings.warn(
            f"probes and gallery are nearly parallel ({FEW:.1%} of cosines or more are above {PARALLEL}), and this "
            "device has no float64 to order them by: subtract their means, as fit.source and fit.target do.",
            UserNote,
            stacklevel=4,
        )
        yield left, right
    else:
        with double_precision():
            yield left.then(np.float64, dtype=np.float64), right.then(np.float64, dtype=np.float64)


def nearly_parallel(probes: LazyRows, gallery: LazyRows) -> bool:
    """Whether some rows of either side, drawn at random, say so; False where they cannot be compared."""
    if not len(probes) or not len(gallery) or probes.width != gallery.width:
        return False
    random = np.random.default_rng(0)  # evenly spread rows may all be of one cluster, or each of another
    drawn = (np.sort(random.choice(len(rows), min(len(rows), SAMPLED), False)) for rows in (probes, gallery))
    some = [rows.take(numbers) for rows, numbers in zip((probes, gallery), drawn)]
    with np.errstate(all="ignore"):  # NaN and infinity are refused where all rows are read
        left, right = map(unit_rows, some)
        cosines = left @ right.T
        return bool(np.mean((cosines > PARALLEL) & (cosines < EQUAL)) > FEW)


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of the comparisons: rows [n, d], and how they come to the device."""

    rows: LazyRows
    name: str  # "probes" or "gallery", for the error
    dtype: np.dtype  # of the scores
    zero_rows: str  # "refuse", or "keep" to compare a zero row as one with cosine 0 to everything
    # Of a score that is not the cosine: the length that unit rows are given and two columns behind them, [n, 3].
    columns: np.ndarray | None = None

    @property
    def width(self) -> int:
        """Width of the rows on the device, padding included."""
        return padded_width(self.rows.width) + (0 if self.columns is None else FURTHER)

    @property
    def reach(self) -> Float[np.ndarray, " three"]:
        """The largest absolute values of the columns; sums of their products with the other side's bound the scores."""
        return np.array([1.0, 0, 0]) if self.columns is None else np.abs(self.columns).max(axis=0)

    def read(self, numbers: np.ndarray, size: int) -> np.ndarray:
        """Rows by index on the host, padded with zeros, shape [size, padded width]."""
        buffer = np.zeros((size, padded_width(self.rows.width)), self.dtype)
        rows = self.rows.take(numbers)
        if rows.dtype.itemsize > self.dtype.itemsize:
            rows = in_range(rows)
        part = buffer[: len(numbers), : self.rows.width]
        part[:] = rows
        in_range(part, out=part)
        return buffer

    def unit(self, numbers: np.ndarray, size: int) -> Float[Array, "size width"]:
        """Rows by index on the device, of length 1, padded with zeros."""
        return self.placed(self.read(numbers, size), numbers, None)

    def placed(self, buffer: np.ndarray, numbers: np.ndarray, sharding: Any) -> Float[Array, "*stack width"]:
        """Rows of ``read``, in any number of axes, on the device and of length 1; refuses those without direction."""
        unit, finite, zero = _unit(jax.device_put(buffer, sharding))
        self._check(numbers, finite, zero)
        if self.columns is None:
            return unit
        columns = np.zeros((finite.size, 3), self.dtype)  # of padding rows too, whose scores are 0 exactly
        columns[: len(numbers)] = self.columns[numbers]
        return _extended(unit, jax.device_put(columns.reshape(*finite.shape, 3), sharding))

    def tile(self, start: int, size: int, sharding: Any) -> Float[Array, "size width"]:
        """Rows from ``start`` on, on the device, of length 1, padded with zeros; read in pieces."""
        numbers = np.arange(start, min(start + size, len(self.rows)))
        if size <= PIECE_ROWS:
            return self.placed(self.read(numbers, size), numbers, sharding)
        tile = jnp.zeros((size, self.width), self.dtype, device=sharding)
        starts = range(0, len(numbers), PIECE_ROWS)
        pieces = ((first, numbers[first : first + PIECE_ROWS]) for first in starts)
        read = ((first, part, self.read(part, min(PIECE_ROWS, size - first))) for first, part in pieces)
        for first, part, buffer in prefetch(read):
            tile = _fill(tile, self.placed(buffer, part, sharding), np.int32(first))
        return tile

    def _check(self, numbers: np.ndarray, finite: Array, zero: Array) -> None:
        count = len(numbers)
        bad = ~np.asarray(finite).reshape(-1)[:count], np.asarray(zero).reshape(-1)[:count]
        for found, trouble in zip(bad, ("not finite", "zero")):
            if found.any() and (trouble != "zero" or self.zero_rows == "refuse"):
                places = np.sort(numbers[found])
                shown = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
                raise UserError(
                    f"{self.name}: {len(places)} of {len(self.rows)} rows are {trouble} and have no direction to "
                    f"compare: {shown}"
                )


def sides(probes: LazyRows, gallery: LazyRows, zero_rows: str) -> tuple[Side, Side]:
    """Both sides, to be compared by cosine; scores are float64 if both inputs are and the caller has enabled it."""
    double = probes.dtype == gallery.dtype == np.float64
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(np.float64) if double else np.float32)
    return Side(probes, "probes", dtype, zero_rows), Side(gallery, "gallery", dtype, zero_rows)


@jax.jit
def _unit(rows: Float[Array, "*n d"]) -> tuple[Float[Array, "*n d"], Bool[Array, "*n"], Bool[Array, "*n"]]:
    """Rows over their length (zero rows stay zero), which are finite, and which are zero."""
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    scaled = rows / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(scaled * scaled, axis=-1, keepdims=True))
    # A row with NaN has no length, whether or not XLA's maximum passes over it, and nor has ∞ / ∞.
    return scaled / jnp.where(length > 0, length, 1), jnp.isfinite(length[..., 0]), largest[..., 0] == 0


@jax.jit
def _extended(unit: Float[Array, "*n d"], columns: Float[Array, "*n three"]) -> Float[Array, "*n wider"]:
    """Unit rows times the first column, and the other two behind them."""
    empty = jnp.zeros((*columns.shape[:-1], FURTHER - 2), columns.dtype)
    return jnp.concatenate([unit * columns[..., :1], columns[..., 1:], empty], axis=-1)


@functools.partial(jax.jit, donate_argnums=0)
def _fill(tile: Float[Array, "size d"], rows: Float[Array, "some d"], first: Array) -> Float[Array, "size d"]:
    return jax.lax.dynamic_update_slice_in_dim(tile, rows, first, 0)
