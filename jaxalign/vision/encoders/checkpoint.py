"""Weights on disk, as parameters of a Flax module: PyTorch's or Flax's names, without PyTorch."""

import hashlib
import pathlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxalign.vision.encoders.hub import FLAX, SAFETENSORS, SAFETENSORS_INDEX, read_json
from jaxalign.vision.encoders.specification import Specification, first_line

Flat = dict[tuple[str, ...], Any]


def weight_files(specification: Specification, directory: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold the weights: safetensors (one, or several with an index), else Flax's msgpack.

    Raises:
      UserError: there is none of them, or one that the index names is missing.
    """
    if (directory / SAFETENSORS).is_file():
        return [directory / SAFETENSORS]
    if (directory / SAFETENSORS_INDEX).is_file():
        index = read_json(specification, directory, SAFETENSORS_INDEX, "it names the files of the weights.")
        files = [directory / file for file in sorted(set(index.get("weight_map", {}).values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing or not files:
            specification.refuse(
                f"{SAFETENSORS_INDEX} names {', '.join(missing) or 'no file'}, missing in {directory}."
            )
        return files
    if (directory / FLAX).is_file():
        return [directory / FLAX]
    there = [file.name for file in sorted(directory.glob("*.bin"))]
    advice = (
        f"; {', '.join(there)} is there, which needs PyTorch: load it there with from_pretrained and write it with "
        "save_pretrained(directory, safe_serialization=True)"
        if there
        else ""
    )
    specification.refuse(
        f"there are no weights in {directory}: expected {SAFETENSORS}, {SAFETENSORS_INDEX} or {FLAX}{advice}."
    )


def digest(files: Iterable[pathlib.Path]) -> str:
    """SHA-256 over the files' contents in order, in hexadecimal digits."""
    hasher = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()


class Weights:
    """Named arrays of a checkpoint, in PyTorch's or in Flax's naming."""

    def __init__(self, arrays: Flat, flax: bool) -> None:
        self._arrays = arrays
        self._flax = flax

    @classmethod
    def read(
        cls, specification: Specification, files: list[pathlib.Path], prefixes: tuple[str, ...]
    ) -> "Weights":
        """Reads what lies below one of the prefixes (everything for the prefix "").

        Raises:
          UserError: a file is damaged.
        """
        try:
            if files[0].name == FLAX:
                return cls(_msgpack(files[0]), flax=True)
            return cls._safetensors(files, prefixes)
        except Exception as error:  # each reader has its own exceptions for a damaged file
            specification.refuse(
                f"{files[0].parent} holds weights that cannot be read ({first_line(error)})."
            )

    @classmethod
    def _safetensors(cls, files: list[pathlib.Path], prefixes: tuple[str, ...]) -> "Weights":
        from safetensors import safe_open

        arrays: Flat = {}
        flax = False
        for path in files:
            with safe_open(path, framework="np") as file:
                flax = flax or (file.metadata() or {}).get("format") == "flax"
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    if key.startswith(prefixes):
                        arrays[tuple(key.split("."))] = file.get_tensor(key)
        return cls(arrays, flax)

    def kernel(self, *layer: str) -> np.ndarray | None:
        """The kernel of a dense layer, [inputs, outputs], by the layer's name; None where it is not there."""
        if self._flax:
            return self._arrays.get((*layer, "kernel"))
        weight = self._arrays.get((*layer, "weight"))
        return None if weight is None else np.transpose(weight)

    def fit(self, model: Any, below: str) -> tuple[Flat, set[tuple[str, ...]]]:
        """The arrays that a transformers Flax model needs, under its own names, and the names that are missing.

        Args:
          model: an uninitialised transformers Flax model.
          below: the part of the checkpoint that holds it, such as "encoder"; "" for all.

        Raises:
          ValueError: an array has another shape than the model's.
        """
        from flax.traverse_util import flatten_dict

        wanted: dict[Any, Any] = dict(flatten_dict(model.params_shape_tree))
        inside = (
            {name[1:]: array for name, array in self._arrays.items() if name[0] == below}
            if below
            else self._arrays
        )
        found = _flax_names(inside, model) if self._flax else _torch_names(inside, model)
        for name, array in found.items():
            if name in wanted and array.shape != wanted[name].shape:
                raise ValueError(
                    f"{'.'.join(name)} has shape {array.shape}, the model needs {wanted[name].shape}"
                )
        return {name: found[name] for name in wanted if name in found}, set(wanted) - set(found)


def _msgpack(path: pathlib.Path) -> Flat:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    return flatten_dict(msgpack_restore(path.read_bytes()))


def _torch_names(arrays: Mapping[tuple[str, ...], Any], model: Any) -> Flat:
    """Renamed and transposed by transformers' own rules, which need the model's shapes only."""
    from flax.traverse_util import flatten_dict
    from transformers.modeling_flax_pytorch_utils import convert_pytorch_state_dict_to_flax

    if not arrays:
        return {}
    stand_in = types.SimpleNamespace(
        params=model.params_shape_tree, base_model_prefix=model.base_model_prefix
    )
    wanted = flatten_dict(model.params_shape_tree)
    if any(
        "layer_0" in name for name in wanted
    ):  # ResNet's basic layers, which transformers' rules do not cover
        arrays = {_numbered(name): array for name, array in arrays.items()}
    state = {".".join(name): np.asarray(array) for name, array in arrays.items()}
    return flatten_dict(convert_pytorch_state_dict_to_flax(state, stand_in))


def _numbered(name: tuple[str, ...]) -> tuple[str, ...]:
    """(..., "layer", "0", ...) as (..., "layer", "layer_0", ...)."""
    return tuple(
        f"layer_{part}" if before == "layer" and part.isdigit() else part
        for before, part in zip(("", *name), name)
    )


def _flax_names(arrays: Mapping[tuple[str, ...], Any], model: Any) -> Flat:
    """Without the prefix that a model with a head puts before its body."""
    prefix = model.base_model_prefix
    collections = {"params", "batch_stats"} if "batch_stats" in model.params_shape_tree else set()
    renamed: Flat = {}
    for name, array in arrays.items():
        lead, rest = (name[:1], name[1:]) if name[0] in collections else ((), name)
        headed = len(rest) > 1 and rest[0] == prefix and prefix not in model.params_shape_tree
        renamed[lead + (rest[1:] if headed else rest)] = array
    return renamed
