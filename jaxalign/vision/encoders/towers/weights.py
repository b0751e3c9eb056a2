"""A tower's weights from the tensors of a checkpoint, by name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import nnx

from jaxalign.vision.encoders.load import Specification
from jaxalign.vision.encoders.tensors import Tensor

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_FUSED = re.compile(r"(.*\.)qkv[._](weight|bias)")


def own_names(
    tensors: Mapping[str, Tensor], prefix: str, names: Sequence[tuple[str, str]]
) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under the tower's names; query, key and value are told apart.

    Args:
      tensors: of the checkpoint.
      prefix: a pattern.
      names: patterns and replacements, applied in order to what follows the prefix.
    """
    found: dict[str, Tensor] = {}
    for given, tensor in tensors.items():
        start = re.match(prefix, given)
        if start is None or 0 in tensor.shape:
            continue
        name = given[start.end() :]
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        if fused := _FUSED.fullmatch(name):
            above, last = fused.groups()
            parts = zip(("query", "key", "value"), tensor.thirds(), strict=True)
            found |= {f"{above}{part}.{last}": third for part, third in parts}
        else:
            found[name] = tensor
    return found


def edge_of(
    specification: Specification, tensors: Mapping[str, Tensor], name: str, axes: int, axis: int = 0
) -> int:
    """The length of a tensor along an axis; a network cannot be without it, and it has this many axes."""
    if name not in tensors or len(tensors[name].shape) != axes:
        got = f"got shape {tensors[name].shape}" if name in tensors else "there is none"
        specification.refuse(
            f"expected a tensor {name} with {axes} axes, {got}; the checkpoint is incomplete."
        )
    return tensors[name].shape[axis]


def filled(
    specification: Specification,
    build: Callable[[nnx.Rngs], nnx.Module],
    tensors: Mapping[str, Tensor],
    spare: str = "",
) -> tuple[Callable[[Any], Any], Any]:
    """A module whose weights are read from a checkpoint when they are put on a device.

    Args:
      specification: that errors name.
      build: makes the module, given its source of keys; it is never run, only its shapes are asked.
      tensors: of the checkpoint, under the module's names.
      spare: pattern of names that may be there for nothing.

    Returns:
      A function that gives the module with some weights, and the weights: a pytree of ``Tensor``.

    Raises:
      UserError: tensors are missing, left over, or of another shape.
    """
    keys = cast(nnx.Rngs, _OneKey(jax.random.key(0)))
    graph, shapes = nnx.split(nnx.eval_shape(lambda: build(keys)))
    used: set[str] = set()
    missing: list[str] = []

    def find(path: tuple[Any, ...], leaf: Any) -> Tensor | None:
        *above, last = (str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        name = ".".join([*above, {"kernel": "weight", "scale": "weight"}.get(last, last)])
        if name not in tensors:
            missing.append(name)
            return None
        used.add(name)
        return _fitted(specification, tensors[name], leaf.shape, last == "kernel")

    weights = jax.tree_util.tree_map_with_path(find, shapes)
    if missing:
        there, first = len(used) + len(missing), _as_in_file(min(missing), tensors)
        specification.refuse(
            f"{len(missing)} of {there} tensors that the network needs are not in the checkpoint, among them {first}; "
            "it is incomplete, or of another network than its configuration says."
        )
    left = sorted(name for name in set(tensors) - used if not re.fullmatch(spare, name))
    if left:
        specification.refuse(
            f"the checkpoint holds {tensors[left[0]].name}, one of {len(left)} tensors that the network has no place "
            "for."
        )
    return lambda weights: nnx.merge(graph, weights), weights


class _OneKey(NamedTuple):
    """One key for every layer: where only shapes are asked, counting keys would take most of the time."""

    key: jax.Array

    def params(self) -> jax.Array:
        return self.key


def _as_in_file(name: str, tensors: Mapping[str, Tensor]) -> str:
    """What a missing tensor would be called in the file, where another layer has its like; else the tower's name."""
    like = re.compile(_NUMBER.sub(r"\\d+", re.escape(name).replace(r"\.", ".")))
    for there, tensor in tensors.items():
        if like.fullmatch(there):
            between, numbers = _NUMBER.split(tensor.name), _NUMBER.findall(name)
            return "".join(itertools.chain(*itertools.zip_longest(between, numbers, fillvalue="")))
    return name


def _fitted(specification: Specification, tensor: Tensor, shape: tuple[int, ...], kernel: bool) -> Tensor:
    """A tensor in Flax's layout: kernels are transposed, axes of length 1 do not count."""
    order = {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(tensor.shape)) if kernel else None
    if kernel and len(tensor.shape) == 2 < len(shape):  # patches as one long row: rows, columns, channels
        flat = _fitted(specification, tensor, (int(np.prod(shape[:-1])), shape[-1]), kernel)
        return flat.then(shape, lambda array: array.reshape(shape))
    turned = tuple(tensor.shape[axis] for axis in order) if order else tensor.shape
    if [edge for edge in turned if edge != 1] != [edge for edge in shape if edge != 1]:
        wanted = tuple(shape[axis] for axis in np.argsort(order)) if order else shape
        specification.refuse(
            f"the tensor {tensor.name} has shape {tensor.shape}, and the network needs {wanted}."
        )
    return tensor.then(shape, lambda array: (np.transpose(array, order) if order else array).reshape(shape))
