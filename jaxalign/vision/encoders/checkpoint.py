"""Checkpoints: found on the hub or on disk, and their weights read without building the model."""

import hashlib
import pathlib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import parse_json, read_text
from jaxalign.vision.encoders.load import Specification, first_line

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
FLAX = "flax_model.msgpack"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def checkpoint_directory(specification: Specification, revision: str | None) -> pathlib.Path:
    """The directory that holds the checkpoint, downloaded to the hub's cache where it is no local one."""
    target = specification.target
    local = pathlib.Path(target).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        specification.refuse(
            f"{target} is a file; hf: takes a checkpoint's directory or a hub id like org/name."
        )
    if not _HUB_ID.fullmatch(target):
        specification.refuse(f"there is no directory {target}, and it is not a hub id like org/name.")
    import huggingface_hub

    files = [CONFIG, PREPROCESSOR, PROCESSOR, SAFETENSORS, SAFETENSORS_INDEX, "model-*-of-*.safetensors"]
    try:
        for patterns in (files, [*files, FLAX]):
            folder = huggingface_hub.snapshot_download(target, revision=revision, allow_patterns=patterns)
            folder = pathlib.Path(folder)
            if (folder / SAFETENSORS).exists() or (folder / SAFETENSORS_INDEX).exists():
                break
        return folder
    except Exception as error:
        _explain(specification, revision, error)


def read_json(specification: Specification, directory: pathlib.Path, file: str, why: str) -> dict[str, Any]:
    """One of the checkpoint's JSON files, which must hold an object; ``why`` says what it is needed for."""
    path = directory / file
    if not path.is_file():
        specification.refuse(f"{file} is missing in {directory}; {why}")
    try:
        content = parse_json(read_text(path), str(path))
    except UserError as error:
        specification.refuse(str(error))
    if not isinstance(content, dict):
        specification.refuse(f"{path} is expected to hold a JSON object, got {type(content).__name__}.")
    return content


def _explain(specification: Specification, revision: str | None, error: Exception) -> NoReturn:
    """Turns the hub client's errors into one sentence; passes on what is none of them."""
    from huggingface_hub import errors
    from requests.exceptions import RequestException

    target = specification.target
    login = "log in with huggingface-cli login"
    unreached = (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        RequestException,
        ConnectionError,
        TimeoutError,
    )
    sentences = (  # the first that fits
        (
            errors.GatedRepoError,
            f"{target} asks for a licence to be accepted: do that at huggingface.co/{target} and {login}.",
        ),
        (errors.RevisionNotFoundError, f"{target} has no revision {revision!r} on the Hugging Face hub."),
        (
            errors.RepositoryNotFoundError,
            f"the Hugging Face hub has no public repository {target}, and there is no such directory here; check the "
            f"spelling, or {login} if it is private.",
        ),
        (
            unreached,
            f"the Hugging Face hub cannot be reached and its cache here does not hold {target}; give a local directory "
            f"instead, hf:<directory>, with its {CONFIG}, {PREPROCESSOR} and {SAFETENSORS} (copy it from a machine "
            f"that has them: huggingface-cli download {target} --local-dir=<directory>).",
        ),
        (OSError, f"{target} cannot be stored in the hub's cache ({first_line(error)})."),
    )
    for kinds, sentence in sentences:
        if isinstance(error, kinds):
            specification.refuse(sentence)
    raise error


Flat = dict[tuple[str, ...], Any]


def weight_files(specification: Specification, directory: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold the weights: safetensors (one, or several with an index), else Flax's msgpack."""
    if (directory / SAFETENSORS).is_file():
        return [directory / SAFETENSORS]
    if (directory / SAFETENSORS_INDEX).is_file():
        index = read_json(specification, directory, SAFETENSORS_INDEX, "it names the files of the weights.")
        named = index.get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
            specification.refuse(
                f"{directory / SAFETENSORS_INDEX} is damaged: its weight_map names no files."
            )
        files = [directory / file for file in sorted(set(named.values()))]
        missing = ", ".join(file.name for file in files if not file.is_file())
        if missing or not files:
            specification.refuse(f"{SAFETENSORS_INDEX} names {missing or 'no file'}, missing in {directory}.")
        return files
    if (directory / FLAX).is_file():
        return [directory / FLAX]
    there = ", ".join(file.name for file in sorted(directory.glob("*.bin")))
    advice = (
        f"; {there} is there, which needs PyTorch: load it there with from_pretrained and write it with "
        "save_pretrained(directory, safe_serialization=True)"
    )
    specification.refuse(
        f"there are no weights in {directory}: expected {SAFETENSORS}, {SAFETENSORS_INDEX} or {FLAX}"
        f"{advice if there else ''}."
    )


def digest(files: Iterable[pathlib.Path]) -> str:
    """SHA-256 over the files' contents in order, in hexadecimal digits."""
    hasher = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: hasher)
    return hasher.hexdigest()


class Weights:
    """Named arrays of a checkpoint below one of the prefixes (all for the prefix ""), in PyTorch's or Flax's naming."""

    def __init__(self, specification: Specification, files: list[pathlib.Path], prefixes: tuple[str, ...]):
        from flax.serialization import msgpack_restore
        from flax.traverse_util import flatten_dict
        from safetensors import safe_open

        self._arrays: Flat = {}
        self._flax = files[0].name == FLAX
        try:
            if self._flax:
                self._arrays = flatten_dict(msgpack_restore(files[0].read_bytes()))
                return
            for path in files:
                with safe_open(path, framework="np") as file:
                    self._flax = self._flax or (file.metadata() or {}).get("format") == "flax"
                    names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 (no mapping)
                    self._arrays |= {tuple(name.split(".")): file.get_tensor(name) for name in names}
        except Exception as error:  # each reader has its own exceptions for a damaged file
            parent = files[0].parent
            specification.refuse(f"{parent} holds weights that cannot be read ({first_line(error)}).")

    def kernel(self, layer: str) -> np.ndarray | None:
        """The kernel of a dense layer, [inputs, outputs], by the layer's name; None where it is not there."""
        if self._flax:
            return self._arrays.get((layer, "kernel"))
        weight = self._arrays.get((layer, "weight"))
        return None if weight is None else np.transpose(weight)

    def fit(self, model: Any, below: str) -> tuple[Flat, set[tuple[str, ...]]]:
        """The arrays that a Flax model needs, under its names, and the names that are missing.

        Args:
          model: an uninitialised transformers Flax model.
          below: the part of the checkpoint that holds it, such as "encoder"; "" for all.

        Raises:
          ValueError: an array has another shape than the model's.
        """
        from flax.traverse_util import flatten_dict

        wanted: dict[Any, Any] = dict(flatten_dict(model.params_shape_tree))
        inside = self._arrays
        if below:
            inside = {name[1:]: array for name, array in inside.items() if name[0] == below}
        found = _flax_names(inside, model) if self._flax else _torch_names(inside, model, wanted)
        for name, array in found.items():
            if name in wanted and array.shape != wanted[name].shape:
                expected = f"the model needs {wanted[name].shape}"
                raise ValueError(f"{'.'.join(name)} has shape {array.shape}, {expected}")
        return {name: found[name] for name in wanted if name in found}, set(wanted) - set(found)


def _torch_names(arrays: Flat, model: Any, wanted: Mapping[tuple[str, ...], Any]) -> Flat:
    """Renamed and transposed by transformers' own rules, which need the model's shapes only."""
    from flax.traverse_util import flatten_dict
    from transformers.modeling_flax_pytorch_utils import convert_pytorch_state_dict_to_flax

    if not arrays:
        return {}
    # ResNet's basic layers are not covered by transformers' rules.
    if any("layer_0" in name for name in wanted):
        arrays = {_numbered(name): array for name, array in arrays.items()}
    state = {".".join(name): np.asarray(array) for name, array in arrays.items()}
    shapes = types.SimpleNamespace(params=model.params_shape_tree, base_model_prefix=model.base_model_prefix)
    return flatten_dict(convert_pytorch_state_dict_to_flax(state, shapes))


def _numbered(name: tuple[str, ...]) -> tuple[str, ...]:
    """(..., "layer", "0", ...) as (..., "layer", "layer_0", ...)."""
    return tuple(
        f"layer_{part}" if before == "layer" and part.isdigit() else part
        for before, part in zip(("", *name), name)
    )


def _flax_names(arrays: Flat, model: Any) -> Flat:
    """Without the prefix that a model with a head puts before its body."""
    prefix = model.base_model_prefix
    collections = {"params", "batch_stats"} if "batch_stats" in model.params_shape_tree else set()
    renamed: Flat = {}
    for name, array in arrays.items():
        lead, rest = (name[:1], name[1:]) if name[0] in collections else ((), name)
        headed = len(rest) > 1 and rest[0] == prefix and prefix not in model.params_shape_tree
        renamed[lead + (rest[1:] if headed else rest)] = array
    return renamed
