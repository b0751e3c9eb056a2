"""Rows on their way to the device: checked, put in order, padded to one of a few sizes, and normalised."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxalign.errors import UserError

WIDTH_MULTIPLE = 128


def checked(array: ArrayLike, name: str, rows: int | None = None) -> np.ndarray:
    """A two-dimensional floating array of the expected number of rows; arrays on a CPU are not copied."""
    try:
        values = np.asarray(array)
    except ValueError as error:
        raise UserError(f"{name}: expected an array, got rows of unequal length") from error
    if values.ndim != 2 or min(values.shape) == 0:
        raise UserError(f"{name}: expected an array of shape [rows, width], got shape {values.shape}")
    if rows is not None and len(values) != rows:
        raise UserError(f"{name}: expected {rows} rows, one for each identity, got {len(values)}")
    if values.dtype.kind in "iub":
        return values.astype(np.float32)
    if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
        raise UserError(f"{name}: expected numbers in a floating format, got {values.dtype}")
    return values


def same_width(probes: np.ndarray, gallery: np.ndarray) -> None:
    """Refuses rows that cannot be compared."""
    if probes.shape[1] != gallery.shape[1]:
        raise UserError(
            f"probes and gallery must have the same width to be compared, got {probes.shape[1]} and {gallery.shape[1]}"
        )


def score_dtype(probes: np.ndarray, gallery: np.ndarray) -> np.dtype:
    """float64 where both inputs are and the caller has enabled it, else float32."""
    double = probes.dtype == gallery.dtype == np.float64
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64) if double else np.float32)


@jax.jit
def _unit(rows: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Bool[Array, " n"], Bool[Array, " n"]]:
    """Rows over their length (zero rows stay zero), which are finite, and which are zero."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scaled = rows / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(scaled * scaled, axis=1, keepdims=True))
    return scaled / jnp.where(length > 0, length, 1), jnp.isfinite(largest[:, 0]), largest[:, 0] == 0


def unit_rows(
    array: np.ndarray,
    name: str,
    *,
    padded_rows: int,
    dtype: np.dtype,
    order: np.ndarray | None = None,
    zero_rows: str = "refuse",
) -> Float[Array, "padded_rows padded_width"]:
    """L2-normalised rows on the device, padded with zeros.

    Args:
      array: shape [n, d], floating.
      name: what the rows are, for the error.
      padded_rows: rows of the result; its width is d rounded up to a multiple of 128.
      dtype: format of the result.
      order: the rows to take, in order; all where not given.
      zero_rows: "refuse", or "keep" to compare a zero row as one with cosine 0 to everything.

    Raises:
      UserError: rows with NaN or infinite values, or zero rows.
    """
    width = -(-array.shape[1] // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    count = len(array) if order is None else len(order)
    buffer = np.zeros((padded_rows, width), dtype)
    buffer[:count, : array.shape[1]] = array if order is None else array[order]
    unit, finite, zero = _unit(jnp.asarray(buffer))
    for bad, trouble in ((~np.asarray(finite)[:count], "not finite"), (np.asarray(zero)[:count], "zero")):
        if bad.any() and (trouble != "zero" or zero_rows == "refuse"):
            places = np.flatnonzero(bad) if order is None else np.sort(order[bad])
            shown = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
            raise UserError(
                f"{name}: {len(places)} of {len(array)} rows are {trouble} and have no direction to compare: {shown}"
            )
    return unit
