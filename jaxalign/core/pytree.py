"""Dataclasses as pytrees: configuration and results that pass through ``jit``, ``vmap`` and ``grad``."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")
Leaf = jax.Array | np.ndarray  # results fetched to the host keep their class and have numpy leaves


def static(**options: Any) -> Any:
    """A dataclass field that is part of the tree's structure: hashable, compared, never traced."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields are leaves, except those made by ``static``.

    ``jax.tree_util.register_dataclass`` would do, but jaxlib (0.10.2) takes the structures of any two dataclasses with
    as many leaves for equal; where their hashes collide, ``jit`` runs the program of the one for the other.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
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
