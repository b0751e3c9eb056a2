"""Dataclasses as pytrees: configuration and results that pass through ``jit``, ``vmap`` and ``grad``."""

import dataclasses
import html
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")
Leaf = jax.Array | np.ndarray  # results fetched to the host keep their class and have numpy leaves


class Shown:
    """What notebooks show as its ``repr``."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def static(**options: Any) -> Any:
    """A dataclass field that is part of the tree's structure: hashable, compared, never traced."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields are leaves, except those made by ``static``.

    ``jax.tree_util.register_dataclass`` would do, but jaxlib (0.10.2) takes the structures of any two dataclasses with
    as many leaves for equal; where their hashes collide, ``jit`` runs the program of the one for the other.
    """
    made = dataclasses.dataclass(frozen=True, eq=False)(cls)
    made.__eq__, made.__hash__, made.__getstate__ = _equal, _hash, _state
    fields = dataclasses.fields(made)  # pyright: ignore[reportArgumentType]
    fixed = tuple(field.name for field in fields if field.metadata.get("static"))
    leaves = tuple(field.name for field in fields if not field.metadata.get("static"))
    keys = tuple(map(jax.tree_util.GetAttrKey, leaves))

    def flatten(node: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(node, name) for name in leaves), tuple(getattr(node, name) for name in fixed)

    def flatten_with_keys(node: T) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        values, rest = flatten(node)
        return tuple(zip(keys, values)), rest

    def unflatten(rest: tuple[Any, ...], values: Iterable[Any]) -> T:
        return made(**dict(zip(fixed, rest)), **dict(zip(leaves, values)))

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def _equal(self: Any, other: object) -> bool:
    """Whether both are of one class and structure, and all leaves of one format, shape and value."""
    if self is other:
        return True
    if type(self) is not type(other) or jax.tree.structure(self) != jax.tree.structure(other):
        return False
    return all(_equal_leaves(*both) for both in zip(jax.tree.leaves(self), jax.tree.leaves(other)))


def _equal_leaves(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer):  # pyright: ignore[reportAttributeAccessIssue]
        return False  # not known while a program is traced
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and np.array_equal(one, other)


def _state(self: Any) -> dict[str, Any]:
    """For pickle, with numpy leaves: JAX's arrays of float64 come back as float32 where that is not enabled."""
    known = lambda leaf: isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)  # noqa: E731  # pyright: ignore[reportAttributeAccessIssue]
    return vars(jax.tree.map(lambda leaf: np.asarray(leaf) if known(leaf) else leaf, self))


def _hash(self: Any) -> int:
    """Equal for equal objects; a function of the structure alone, so that maps can be compiled by ``jax.jit(map)``."""
    return hash(
        (type(self), jax.tree.structure(self), tuple(np.shape(leaf) for leaf in jax.tree.leaves(self)))
    )
