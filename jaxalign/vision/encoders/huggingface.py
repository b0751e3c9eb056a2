"""Vision towers of checkpoints in the Hugging Face hub's format, in JAX."""

import functools
import importlib
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from jaxalign.vision.encoders.checkpoint import (
    CONFIG,
    PREPROCESSOR,
    checkpoint_directory,
    digest,
    read_json,
    weight_files,
)
from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.encoder import DEFAULT_BATCH
from jaxalign.vision.encoders.face_encoder import load_directory
from jaxalign.vision.encoders.jax_encoder import JaxEncoder, under_options
from jaxalign.vision.encoders.load import Settings, Specification
from jaxalign.vision.encoders.preprocessor import read_preprocessing
from jaxalign.vision.encoders.tensors import Tensor, digest_tensors, list_tensors
from jaxalign.vision.encoders.tower_families import (
    FAMILIES,
    KINDS,
    POOLINGS,
    TOWERS,
    WRAPPERS,
    Family,
    Wrapper,
)


def load_huggingface(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``hf:<hub id or local directory>?pooling=&layer=&flip=&keypoints=&dtype=&name=&batch=&revision=``."""
    specification.only("pooling", "layer", "flip", "keypoints", "dtype", "name", "batch", "revision")
    specification.dtype(settings)
    specification.batch_size(settings, DEFAULT_BATCH)  # refused before anything is downloaded
    specification.choice("pooling", POOLINGS, POOLINGS[0])
    _asked_layer(specification)
    specification.require_installed("flax", "PIL")
    directory = checkpoint_directory(specification)
    content = read_json(specification, directory, CONFIG, "without it the checkpoint's kind is not known.")
    if "conf" in content and "model_type" not in content:  # as CVLface writes it
        return load_directory(specification, settings, directory, content)
    for option in ("flip", "keypoints"):
        if option in specification.options:
            specification.refuse(f"{option} is for face networks; this is none.")
    found = _found(specification, content)
    files = weight_files(specification, directory, f"{found.prefix}|{found.projection or found.prefix}")
    network = _network(specification, found, list_tensors(specification, files))
    image = {"model_type": found.kind, "image_size": network.size}
    preprocessing = read_preprocessing(directory, **image, specification=specification)
    _require_size(specification, network, preprocessing.size)

    def facts() -> dict[str, Any]:
        checksums = {
            "weights_sha256": digest_tensors(jax.tree.leaves(network.params)),
            "config_sha256": digest([directory / CONFIG]),
        }
        return {"model_type": found.kind, "pooling": network.pooling, "layer": network.layer, **checksums}

    name = pathlib.PurePath(specification.target).name
    return under_options(specification, settings, name, (network.apply, network.params, preprocessing), facts)


class _FoundTower(NamedTuple):
    kind: str  # model_type of the tower
    config: Config  # of the tower
    family: Family
    wrapper: Wrapper | None

    @property
    def prefix(self) -> str:
        """Pattern of what stands before the names of the tower's tensors."""
        return self.wrapper.prefix if self.wrapper else self.family.prefix

    @property
    def projection(self) -> str:
        """Name of the layer behind the tower's pooled output; "" without one."""
        return self.wrapper.projection if self.wrapper else self.family.projection


def _found(specification: Specification, content: dict[str, Any]) -> _FoundTower:
    """The tower that config.json, with this content, asks for."""
    config = Config(specification, content)
    if "quantization_config" in content:
        config.refuse("the checkpoint is quantised; give the one in 16 or 32 bits.")
    kind = content.get("model_type")
    wrapper = WRAPPERS.get(kind) if isinstance(kind, str) else None
    if wrapper is not None:
        config = config.part(wrapper.inside)
        named = config.values.get("model_type")
        kind = wrapper.kind or (TOWERS.get(named, named) if isinstance(named, str) else named)
    if not isinstance(kind, str) or kind not in FAMILIES:
        config.refuse(
            f"model_type is {kind!r}, and there is no vision tower for it; there are {', '.join(KINDS)}. Another "
            "way is to export it to ONNX and give onnx:<file>, or to write python:<module>:<callable>."
        )
    return _FoundTower(kind, config, FAMILIES[kind], wrapper)


class _LoadedTower(NamedTuple):
    apply: Callable[[Any, Array], Array]
    params: Any
    size: tuple[int, int]  # (height, width) of the pictures that it was trained on
    resampled: bool  # whether it takes others
    pooling: str
    layer: int | None


def _network(specification: Specification, found: _FoundTower, tensors: dict[str, Tensor]) -> _LoadedTower:
    """The tower with its weights, and the chosen layer and pooling as a function of (weights, pixels)."""
    from jaxalign.vision.encoders.towers.weights import filled, own_names

    tower = importlib.import_module(f"jaxalign.vision.encoders.towers.{found.family.tower}")
    wrapper, usual = found.wrapper, found.family.pooling
    inside = own_names(tensors, found.prefix, tower.NAMES)
    config = tower.read(found.kind, found.config, inside)
    module, weights = filled(
        specification, functools.partial(tower.Tower, config), inside, found.family.spare
    )
    whole = specification.options.get("pooling", "").lower() in ("pooler", "projected")
    layer = _layer(specification, config.layers, wrapper.layer if wrapper and not whole else None)
    head = _projection(specification, found, tensors)
    there = [name for name in config.poolings if layer is None or name in ("cls", "mean")]
    there += ["projected"] if "pooler" in there and head is not None else []
    preferred = (wrapper.pooling if wrapper else "", "projected", usual, "cls", "mean")
    pooling = specification.choice("pooling", POOLINGS, next(name for name in preferred if name in there))
    if pooling not in there:
        at = "" if layer is None else f" at layer {layer}"
        specification.refuse(
            f"{found.kind} with these weights has no pooling {pooling!r}{at}; it has {', '.join(there)}."
        )

    def apply(params: Any, pixels: Float[Array, "n height width 3"]) -> Float[Array, "n dim"]:
        features = module(params["tower"])(pixels, layer)
        if pooling == "cls":
            return features.tokens[:, 0]
        if pooling == "mean":
            return features.tokens[:, features.leading :].mean(1)
        return features.pooled @ params["projection"] if pooling == "projected" else features.pooled

    params = {"tower": weights} | ({"projection": head} if pooling == "projected" else {})
    return _LoadedTower(apply, params, config.size, bool(config.resampled), pooling, layer)


def _projection(
    specification: Specification, found: _FoundTower, tensors: dict[str, Tensor]
) -> Tensor | None:
    """The layer that a model has behind the tower's pooled output, [inputs, outputs]."""
    weight = tensors.get(f"{found.projection}.weight")
    if weight is None:
        return None
    if len(weight.shape) != 2:
        specification.refuse(f"the tensor {weight.name} has shape {weight.shape}, expected two axes.")
    return weight.then(weight.shape[::-1], lambda array: array.T)


def _asked_layer(specification: Specification) -> int | None:
    text = specification.options.get("layer")
    if text is not None and not re.fullmatch("-?[0-9]{1,3}", text):
        specification.refuse(f"layer is a whole number such as 6 or -2, got {text!r}.")
    return None if text is None else int(text)


def _layer(specification: Specification, layers: int, usual: int | None) -> int | None:
    """How many layers are computed: counted from the end where the number is negative, None for the whole network."""
    asked = _asked_layer(specification)
    layer = usual if asked is None else asked
    if layer is None:
        return None
    if not -layers - 1 <= layer <= layers:
        specification.refuse(
            f"layer {layer} is not there; there are 0 (what enters the first) to {layers} (what leaves the last), and "
            f"-1 to {-layers - 1} from the end."
        )
    return layer if layer >= 0 else layers + 1 + layer


def _require_size(specification: Specification, network: _LoadedTower, size: tuple[int, int]) -> None:
    """Networks with learned positions take other sizes of pictures only where they were made to."""
    trained = network.size
    if size != trained and not network.resampled:
        specification.refuse(
            f"the preprocessor makes pictures of {size[0]} × {size[1]} pixels, the network takes {trained[0]} × "
            f"{trained[1]}; {CONFIG} and {PREPROCESSOR} are of different checkpoints."
        )
