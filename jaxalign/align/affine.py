"""The affine map that every solver returns: a product of factors and a bias."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from jaxalign.align.saved import NORMALIZED, SIDES, read_map, write_map
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply, usual_promotion
from jaxalign.core.pytree import Leaf, Shown, pytree, static
from jaxalign.core.rows import LazyRows

ROWS_STEP = 256  # pieces of lazy rows are padded to a multiple, so that few programs serve all of them


@pytree
class AffineMap(Shown):
    """The map ``y = (x − center) @ F1 @ ... @ Fk + bias``; one factor when dense, two when low-rank, none for a shift.

    A frozen pytree: works under ``jit``, ``vmap``, ``grad`` and ``shard_map``. A stack of maps is an ``AffineMap``
    whose leaves have a leading axis. The centre is separate from the bias because real embeddings have means as
    large as their standard deviation, and the difference of two large products loses digits.

    Attributes:
      factors: matrices, shapes [d_in, r1], [r1, r2], ..., [.., d_out]; may be empty (then d_in = d_out).
      bias: shape [d_out].
      center: subtracted before the factors, shape [d_in]; None for the origin.
      orthogonal: whether the product of the factors has orthonormal rows or columns (its inverse is the transpose).
    """

    factors: tuple[Float[Leaf, "..."], ...]
    bias: Float[Leaf, "*stack out"]
    center: Float[Leaf, "*stack in"] | None = None
    orthogonal: bool = static(default=False)

    @property
    def in_dim(self) -> int:
        """Width of the rows that the map takes."""
        return self.factors[0].shape[-2] if self.factors else self.bias.shape[-1]

    @property
    def out_dim(self) -> int:
        """Width of the rows that the map gives."""
        return self.bias.shape[-1]

    @property
    def rank(self) -> int:
        """Upper bound of the rank that the factors' shapes allow."""
        return min([self.out_dim, *(min(factor.shape[-2:]) for factor in self.factors)])

    @property
    def dtype(self) -> np.dtype:
        """Number format of the map."""
        return np.dtype(self.bias.dtype)

    @overload
    def apply(self, x: LazyRows) -> LazyRows: ...
    @overload
    def apply(self, x: Float[Leaf, "*rows in"]) -> Float[jax.Array, "*rows out"]: ...
    def apply(self, x: Any) -> Any:
        """Maps rows.

        The products are taken in the map's own format (float64 for fitted maps, even where the caller has not
        enabled it); only the result is rounded. Inside a caller's ``jit`` the caller's formats hold.

        Args:
          x: shape [..., d_in], any floating format; or ``LazyRows``.

        Returns:
          Mapped rows, shape [..., d_out]: float64 for float64 rows, float32 for all narrower formats. Lazy rows
          stay lazy and are mapped as they are read.

        Raises:
          UserError: the width of ``x`` is not ``in_dim``.
        """
        if not isinstance(x, (jax.Array, LazyRows)):
            x = checks.array_of(x, "rows")
        if np.shape(x)[-1:] != (self.in_dim,):
            raise UserError(f"the map takes rows of width {self.in_dim}, got an array of shape {np.shape(x)}")
        if isinstance(x, LazyRows):
            wide = x.dtype == np.float64
            return x.then(self._map_piece, width=self.out_dim, dtype=np.float64 if wide else np.float32)
        if isinstance(x, Tracer) or isinstance(self.bias, Tracer):
            return _apply(self, x)
        with double_precision():
            x = x if isinstance(x, jax.Array) else checks.native(x)
            plain = jax.tree.map(
                lambda leaf: leaf if isinstance(leaf, jax.Array) else checks.native(leaf), self
            )
            plain = dataclasses.replace(plain, orthogonal=False)  # so that maps of one shape share a program
            return _apply_rounded(plain, x, np.dtype(np.float64 if x.dtype == np.float64 else np.float32))

    __call__ = apply

    def apply_on_host(self, x: Float[np.ndarray, "n in"]) -> Float[np.ndarray, "n out"]:
        """``apply`` by NumPy: for a few rows, whose product takes less time than a program for it to be compiled."""
        rows = np.asarray(x, np.float64)
        if self.center is not None:
            rows = rows - np.asarray(self.center)
        for factor in self.factors:
            rows = rows @ np.asarray(factor)
        return (rows + np.asarray(self.bias)).astype(np.float64 if x.dtype == np.float64 else np.float32)

    def _map_piece(self, rows: np.ndarray) -> np.ndarray:
        padded = np.pad(rows, ((0, -len(rows) % ROWS_STEP), (0, 0)))
        return np.asarray(self.apply(padded))[: len(rows)]

    def then(self, other: "AffineMap") -> "AffineMap":
        """The composition ``other(self(x))``, without forming products of the factors."""
        if other.in_dim != self.out_dim:
            raise UserError(f"the second map takes width {other.in_dim}, the first gives {self.out_dim}")
        square = self.in_dim == self.out_dim == other.out_dim
        with double_precision():
            bias = _apply(other, self.bias[..., None, :])[..., 0, :]
        one_shifts = not self.factors or not other.factors
        orthogonal = self.orthogonal and other.orthogonal and (square or one_shifts)
        return AffineMap((*self.factors, *other.factors), bias, self.center, orthogonal)

    def inverse(self) -> "AffineMap":
        """The map back: the exact transpose when orthogonal, the pseudo-inverse of each factor otherwise.

        For a product of full-rank factors through a narrow middle this is the pseudo-inverse of the product.
        Equivalent: ``numpy.linalg.pinv``.
        """
        with double_precision():
            invert = _transpose if self.orthogonal else _pseudo_inverse
            factors = tuple(invert(factor) for factor in reversed(self.factors))
            origin = np.zeros(self.bias.shape[:-1] + (self.in_dim,), self.dtype)
            bias = origin if self.center is None else self.center
            return AffineMap(factors, bias, self.bias, self.orthogonal)

    def matrix(self) -> Float[jax.Array, "*stack in out"]:
        """The product of the factors, shape [d_in, d_out]."""
        with double_precision():
            return _product(self)

    def astype(self, dtype: Any) -> "AffineMap":
        """The same map in another number format; float32 may cost maps of a nearly collinear source four digits."""
        with double_precision():
            return jax.tree.map(lambda leaf: leaf.astype(dtype), self)

    def __repr__(self) -> str:
        """Widths, rank and format in one line; of a stack of maps its shape as well."""
        if not all(hasattr(leaf, "shape") and np.ndim(leaf) for leaf in (*self.factors, self.bias)):
            return "AffineMap(of other leaves)"  # as while a tree of maps is mapped
        stack = "".join(f"{size} × " for size in self.bias.shape[:-1])
        rank = f", rank {self.rank}" if self.rank < min(self.in_dim, self.out_dim) else ""
        kind = ", orthogonal" if self.orthogonal else ""
        return f"AffineMap({stack}{self.in_dim} → {self.out_dim}{rank}{kind}, {self.bias.dtype})"

    def save(
        self,
        path: str | os.PathLike,
        metadata: Mapping[str, Any] | None = None,
        *,
        source: str | None = None,
        target: str | None = None,
        side: str | None = None,
        normalize: str | None = None,
    ) -> None:
        """Writes the map as safetensors with a checksum, under a temporary name that is renamed.

        What the file says, ``experiments.apply`` and ``experiments.export`` hold to: rows of another encoder, or scaled
        in another way, are refused.

        Args:
          path: of the file.
          metadata: further notes, anything JSON can hold.
          source, target: names of the encoders of the pair; they and ``side`` are given together.
          side: what the map does: "to_target", as those of ``fit_affine`` (rows of ``source`` into ``target``'s own
            coordinates), or "source" or "target" (rows of that end into the space where the pair is compared).
          normalize: how rows were scaled before the fit: "l2" to length 1, or "none".

        Raises:
          UserError: JSON cannot hold the metadata, or a name is not one of these.
        """
        named = {"source": source, "target": target, "side": side}
        if any(named.values()) and not all(named.values()):
            raise UserError(
                "save: source, target and side say together what the map does; give all three or none"
            )
        if side not in (*SIDES, None) or normalize not in (*NORMALIZED, None):
            raise UserError(
                f"save: side is one of {', '.join(SIDES)} and normalize one of {', '.join(NORMALIZED)}, got {side!r} "
                f"and {normalize!r}"
            )
        named |= {"encoder": target if side == "target" else source, "normalize": normalize}
        about = {**(metadata or {}), **{name: value for name, value in named.items() if value is not None}}
        try:
            texts = {"orthogonal": json.dumps(bool(self.orthogonal)), "metadata": json.dumps(about)}
        except (TypeError, ValueError) as error:
            raise UserError(f"metadata: expected a mapping that JSON can hold ({error})") from error
        write_map(pathlib.Path(path), self.tensors(), texts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "AffineMap":
        """Reads what ``save`` wrote. Raises ``UserError`` for a file that is not one, or that was damaged."""
        return cls.load_with_metadata(path)[0]

    @classmethod
    def load_with_metadata(cls, path: str | os.PathLike) -> tuple["AffineMap", dict[str, Any]]:
        """Reads a map and the metadata that was saved with it."""
        tensors, texts = read_map(pathlib.Path(path))
        if not isinstance(texts.get("metadata"), dict) or set(texts) != {"orthogonal", "metadata"}:
            raise UserError(f"{path} is no saved affine map: parts are missing or unknown")
        try:
            return cls.of_tensors(tensors, texts["orthogonal"]), texts["metadata"]
        except UserError as error:
            raise UserError(f"{path} is no saved affine map that can be used: {error}") from error

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays by the names that files have them under, for ``of_tensors``."""
        arrays = {**{f"factor{k}": factor for k, factor in enumerate(self.factors)}, "bias": self.bias}
        if self.center is not None:
            arrays["center"] = self.center
        return {name: np.asarray(array) for name, array in arrays.items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, np.ndarray], orthogonal: Any) -> "AffineMap":
        """The map that ``tensors`` gave; a ``UserError`` for what is none."""
        numbered = [f"factor{k}" for k in range(sum(name.startswith("factor") for name in tensors))]
        wrong = set(numbered) | {"bias"} | ({"center"} & set(tensors)) != set(tensors)
        if wrong or not isinstance(orthogonal, bool):
            raise UserError("parts are missing or unknown")
        factors = tuple(tensors[name] for name in numbered)
        map_ = cls(factors, tensors["bias"], tensors.get("center"), orthogonal)
        if problem := map_.problem():
            raise UserError(problem)
        return map_

    def problem(self) -> str | None:
        """What is wrong with the arrays, if anything: their formats, shapes or values."""
        leaves = jax.tree.leaves(self)
        if any(leaf.dtype.kind != "f" and leaf.dtype.name != "bfloat16" for leaf in leaves):
            return "its numbers are not in a floating format"
        stack = self.bias.shape[:-1]
        if not self.bias.ndim or any(factor.ndim != len(stack) + 2 for factor in self.factors):
            return "its bias or a factor has too few or too many dimensions"
        ends = [factor.shape[-2:] for factor in self.factors]
        chained = all(left[1] == right[0] for left, right in zip(ends, [*ends[1:], (self.out_dim, 0)]))
        if not chained or any(factor.shape[:-2] != stack for factor in self.factors):
            return f"shapes {[factor.shape for factor in self.factors]} and {self.bias.shape} do not fit together"
        if self.center is not None and self.center.shape != (*stack, self.in_dim):
            return f"its center has shape {self.center.shape} instead of {(*stack, self.in_dim)}"
        if not all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in leaves):
            return "it holds NaN or infinite values"
        return None


@functools.partial(jax.jit, inline=True)
def _apply(map_: AffineMap, x: Leaf) -> jax.Array:
    with usual_promotion():
        x = jnp.asarray(x).astype(jnp.result_type(x.dtype, map_.bias.dtype, jnp.float32))
        if map_.center is not None:
            x = x - _as_row(map_.center)
        for factor in map_.factors:
            x = multiply(x, factor)
        return x + _as_row(map_.bias)


@functools.partial(jax.jit, static_argnames="dtype")
def _apply_rounded(map_: AffineMap, x: Leaf, dtype: np.dtype) -> jax.Array:
    return _apply(map_, x).astype(dtype)


def _as_row(vector: Leaf) -> Leaf:
    return vector if vector.ndim == 1 else vector[..., None, :]


@jax.jit
def _product(map_: AffineMap) -> jax.Array:
    return functools.reduce(multiply, map_.factors, jnp.eye(map_.in_dim, dtype=map_.bias.dtype))


_transpose = jax.jit(jnp.matrix_transpose)
_pseudo_inverse = jax.jit(jnp.linalg.pinv)
