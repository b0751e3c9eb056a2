"""Checks of arguments before any work starts; each failure is a ``UserError`` of one sentence."""

from collections.abc import Mapping
from typing import TypeGuard

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxalign.core.errors import UserError
from jaxalign.core.names import labels
from jaxalign.core.rows import LazyRows, as_array


def array_of(values: object, name: str) -> np.ndarray:
    """Values as an array; memory-mapped arrays stay memory-mapped."""
    if isinstance(values, Tracer):
        raise UserError(
            f"{name}: fits and evaluations cannot run inside jit, vmap or grad; call them outside"
        )
    return as_array(values, name)


def is_whole(value: object, least: int) -> TypeGuard[int]:
    """Whether a value is a whole number, not a truth value, of at least ``least``."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def seed(value: object) -> None:
    """Requires a whole number ≥ 0."""
    if not is_whole(value, 0):
        raise UserError(f"seed: expected a whole number of at least 0, got {value!r}")


def positive(value: object, name: str) -> int | None:
    """Requires a whole number ≥ 1, or None."""
    if value is None:
        return None
    if not is_whole(value, 1):
        raise UserError(f"{name}: expected a whole number of at least 1, or None, got {value!r}")
    return int(value)


def rank(value: object) -> None:
    """Requires a rank ≥ 1, or None for full rank."""
    positive(value, "rank")


def embedding(array: ArrayLike, name: str) -> np.ndarray:
    """One encoder's rows as a two-dimensional array of floats; memory-mapped arrays stay memory-mapped."""
    array = array_of(array, name)
    if array.ndim != 2 or min(array.shape) == 0:
        raise UserError(f"{name}: expected an array of shape [rows, width], neither 0, got {array.shape}")
    if array.dtype.kind in "iub":
        return array.astype(np.float32)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UserError(f"{name}: expected numbers in a floating format, got {array.dtype}")
    return native(array)


def native(array: np.ndarray) -> np.ndarray:
    """The array in a format that JAX knows: in the machine's byte order, and float64 for wider ones."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def embedding_rows(array: ArrayLike | LazyRows, name: str) -> np.ndarray | LazyRows:
    """As ``embedding``; lazy rows stay lazy."""
    if not isinstance(array, LazyRows):
        return embedding(array, name)
    embedding(array.array[:1], name)
    return array


def embeddings(arrays: Mapping[str, ArrayLike | LazyRows]) -> dict[str, np.ndarray | LazyRows]:
    """Several encoders' rows of the same photographs."""
    if not isinstance(arrays, Mapping):
        raise UserError(f"expected a mapping from encoders to their embeddings, got {type(arrays).__name__}")
    if not arrays:
        raise UserError("expected the embeddings of at least one encoder, got none")
    checked = {
        str(name): embedding_rows(array, f"embeddings of {str(name)!r}") for name, array in arrays.items()
    }
    rows = {name: array.shape[0] for name, array in checked.items()}
    if len(set(rows.values())) > 1:
        raise UserError(f"every encoder must have the same rows in the same order, got row counts {rows}")
    return checked


def weights(values: ArrayLike | None, rows: int) -> np.ndarray:
    """Row weights as float64, shape [rows]; ones by default."""
    if values is None:
        return np.ones(rows)
    array = array_of(values, "weights")
    if array.dtype.kind not in "iuf":
        raise UserError(f"weights: expected numbers, got {array.dtype}")
    array = array.astype(np.float64)
    if array.shape != (rows,):
        raise UserError(f"weights: expected shape [{rows}], one for each row, got {array.shape}")
    bad = int(np.sum(~(np.isfinite(array) & (array >= 0))))
    if bad or not array.sum() > 0:
        raise UserError(f"weights: expected finite numbers ≥ 0, not all zero; {bad} of {rows} are not")
    return array


def folds(values: ArrayLike, rows: int, *, complete: bool = True) -> np.ndarray:
    """The fold of each row, ≥ 0, shape [rows]; if ``complete``, of F ≥ 2 folds none of which is empty."""
    array = np.asarray(values)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise UserError(f"fold: expected integers of shape [{rows}], got {array.dtype} of {array.shape}")
    found = np.unique(array)
    if (found < 0).any() or (complete and (len(found) < 2 or found[-1] != len(found) - 1)):
        raise UserError(f"fold: expected 0 ... F − 1 with F of at least 2, no fold empty, got {found[:10]}")
    return array


def row_numbers(values: ArrayLike | None, rows: int) -> np.ndarray | None:
    """Row indices, each from 0 to ``rows`` − 1 and none twice, shape [m]; None for all rows."""
    if values is None:
        return None
    array = array_of(values, "rows")
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        raise UserError(f"rows: expected at least one whole number [m], got {array.dtype} of {array.shape}")
    if array.min() < 0 or array.max() >= rows or np.bincount(array).max() > 1:
        raise UserError(f"rows: expected numbers from 0 to {rows - 1:,}, none twice")
    return array


def finite_moments(
    mean: np.ndarray,
    variance: np.ndarray,
    arrays: Mapping[str, np.ndarray | LazyRows],
    rows: np.ndarray | None = None,
) -> None:
    """Requires finite column statistics; otherwise names the encoders whose rows hold NaN or infinite values."""
    if np.isfinite(mean).all() and np.isfinite(variance).all():
        return
    found = []
    for name, array in arrays.items():
        parts = (part for _, part in LazyRows.of(array, rows).pieces(4096))
        count = sum(int((~np.isfinite(part).all(axis=1)).sum()) for part in parts)
        found += [f"{name!r} in {count:,} rows"] if count else []
    if found:
        raise UserError(f"embeddings must be finite; NaN or infinite values are in {', '.join(found)}")
    raise UserError("embeddings are too large: their squares overflow; divide them by a constant")


def penalty(l2: object, *, zero_allowed: bool = False, scalar: bool = False) -> None:
    """Requires a finite penalty above 0 (or ≥ 0); traced values pass."""
    if isinstance(l2, Tracer):
        return
    values = np.asarray(l2)
    good = values.dtype.kind in "iuf" and np.isfinite(values).all() and not (scalar and values.ndim)
    if not good or not (values >= 0 if zero_allowed else values > 0).all():
        least = "≥ 0" if zero_allowed else "above 0 (method 'linear' is the limit at 0)"
        raise UserError(f"l2: expected a finite penalty {least}, got {l2}")


def whitening_settings(whitening: object, weighting: object, shrinkage: object) -> None:
    """Requires exponents and shrinkages in their ranges; traced values pass."""
    ranges = {"whitening": (whitening, 1.0), "weighting": (weighting, np.inf), "shrinkage": (shrinkage, 1.0)}
    for name, (value, most) in ranges.items():
        if isinstance(value, Tracer):
            continue
        number = np.asarray(value)
        if number.ndim or number.dtype.kind not in "iuf" or not (0 <= number <= most and np.isfinite(number)):
            limit = "≥ 0" if most == np.inf else f"from 0 to {most:g}"
            raise UserError(f"{name}: expected a number {limit}, got {value!r}")


def identities(values: ArrayLike, rows: int) -> np.ndarray:
    """The identity of each row, shape [rows]: text in its normal form, or numbers; see ``names.labels``."""
    if isinstance(values, Tracer):
        array_of(values, "identities")
    array = labels("identities", values)[0]  # pyright: ignore
    if array.shape != (rows,):
        raise UserError(f"identities: expected one identity for each of {rows} rows, got shape {array.shape}")
    return array
