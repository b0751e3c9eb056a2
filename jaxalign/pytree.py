"""Dataclasses as pytrees: configuration and results that pass through ``jit``, ``vmap`` and ``grad``."""

import dataclasses
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
    """Makes a class a frozen dataclass whose fields are leaves, except those made by ``static``."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))
