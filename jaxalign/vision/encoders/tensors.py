"""The tensors of a checkpoint's files: listed at once, read one at a time, so that no more is in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxalign.vision.encoders.load import Specification, first_line

FLOATS = ("F64", "F32", "F16", "BF16")
# The names that Flax gives to parameters, as PyTorch calls them.
_FLAX = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file in PyTorch's layout; it is read each time that an array is made of it.

    Attributes:
      name: in the file.
      shape: of the tensor.
      load: reads it.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.load(), dtype=dtype)

    def then(self, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """The same tensor, changed after it is read."""
        return dataclasses.replace(self, shape=shape, load=lambda: change(self.load()))

    def thirds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of a tensor in which they lie one after the other."""
        size = self.shape[0] // 3
        query, key, value = (
            self.then((size, *self.shape[1:]), lambda array, i=i: array[i * size : (i + 1) * size])
            for i in range(3)
        )
        return query, key, value


def list_tensors(specification: Specification, files: Iterable[pathlib.Path]) -> dict[str, Tensor]:
    """All tensors of the files by name, in PyTorch's naming and layout whoever wrote them.

    Args:
      specification: that errors name.
      files: safetensors, or one of Flax's msgpack.

    Raises:
      UserError: a file is damaged, or only a part of it is here.
    """
    found: dict[str, Tensor] = {}
    for path in files:
        try:
            found |= _msgpack(path) if path.suffix == ".msgpack" else _safetensors(specification, path)
        except Exception as error:  # each reader has its own exceptions for a damaged file
            specification.refuse(
                f"{path} holds weights that cannot be read, download it again ({first_line(error)})."
            )
    return found


def digest_tensors(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over names, formats, shapes and values, in hexadecimal digits; reads each tensor once."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.load())
        hasher.update(f"{tensor.name} {array.dtype} {array.shape}".encode())
        hasher.update(array.view(np.uint8).data if array.size else b"")
    return hasher.hexdigest()


def _safetensors(specification: Specification, path: pathlib.Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    def tensor(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
        def read() -> np.ndarray:
            if kind not in FLOATS:
                specification.refuse(
                    f"{name} in {path} is of type {kind}, so the checkpoint is quantised; give the one in 16 or "
                    "32 bits."
                )
            with safe_open(path, framework="np") as file:  # closed at once: mapped pages count as memory
                return file.get_tensor(name)

        return Tensor(name, shape, read)

    with safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        found = {
            name: tensor(name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
        }
        return _from_flax(found) if (file.metadata() or {}).get("format") == "flax" else found


def _msgpack(path: pathlib.Path) -> dict[str, Tensor]:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    flat = flatten_dict(msgpack_restore(path.read_bytes()), sep=".")
    arrays: dict[str, np.ndarray] = {str(name): np.asarray(array) for name, array in flat.items()}
    return _from_flax(
        {name: Tensor(name, array.shape, lambda array=array: array) for name, array in arrays.items()}
    )


def _from_flax(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flax's names and layout as PyTorch's: kernels are transposed, collections are not named."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        *above, last = re.sub(r"\blayer_(\d+)", r"\1", name).split(".")
        above = above[1:] if above and above[0] in ("params", "batch_stats") else above
        shape = tensor.shape
        if last == "kernel" and len(shape) in (2, 4):
            order = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
            turned = tuple(shape[axis] for axis in order)
            tensor = tensor.then(turned, lambda array, order=order: np.transpose(array, order))
        found[".".join([*above, _FLAX.get(last, last)])] = tensor
    return found
