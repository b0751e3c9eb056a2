"""Encoders of transformers' Flax classes, without PyTorch."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.vision.encoders.base import DEFAULT_BATCH
from jaxalign.vision.encoders.checkpoint import (
    CONFIG,
    PREPROCESSOR,
    Flat,
    Weights,
    checkpoint_directory,
    digest,
    read_json,
    weight_files,
)
from jaxalign.vision.encoders.jax_encoder import JaxEncoder, under_options
from jaxalign.vision.encoders.load import Settings, Specification, first_line
from jaxalign.vision.encoders.preprocessor import read_preprocessing

CUBIC = -0.75  # the kernel's parameter in PyTorch; JAX and Pillow have −0.5


def resample_positions(positions: np.ndarray, patches: int) -> np.ndarray:
    """Resamples the square grid of patch positions [1, 1 + k², d] bicubically; the class token's, the first, stays.

    Equivalent: ``torch.nn.functional.interpolate(grid, size=(patches, patches), mode="bicubic", align_corners=False)``.
    """
    grid = round((positions.shape[1] - 1) ** 0.5)
    if grid == patches:
        return positions
    weights = _cubic(grid, patches)
    old = positions[0, 1:].reshape(grid, grid, -1).astype(np.float64)
    new = np.einsum("ih,jw,hwd->ijd", weights, weights, old, optimize=True)
    resampled = np.concatenate([positions[0, :1], new.reshape(patches * patches, -1)])
    return resampled[None].astype(np.float32)


def _cubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Row i has the weights of the old samples in new sample i; samples beyond the border repeat the last one."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(centre).astype(int)
    weights = np.zeros((new, old))
    for step in range(-1, 3):
        distance = np.abs(centre - (first + step))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        index = np.clip(first + step, 0, old - 1)
        np.add.at(weights, (np.arange(new), index), np.where(distance <= 1, near, far))
    return weights


POOLINGS = ("cls", "mean", "pooler", "projected")
# transformers' Flax class for each kind of vision network, and what its users take as the embedding.
CLASSES = {
    "beit": ("FlaxBeitModel", "pooler"),
    "clip_vision_model": ("FlaxCLIPVisionModel", "pooler"),
    "dinov2": ("FlaxDinov2Model", "cls"),
    "regnet": ("FlaxRegNetModel", "pooler"),
    "resnet": ("FlaxResNetModel", "pooler"),
    "vit": ("FlaxViTModel", "cls"),
}
# Models with a vision network inside: where its configuration and its weights are, and where its projection is.
WRAPPERS = {
    "clip": ("vision_config", "", "visual_projection"),
    "vision-text-dual-encoder": ("vision_config", "vision_model", "visual_projection"),
    "vision-encoder-decoder": ("encoder", "encoder", None),
}
KINDS = tuple(sorted((*CLASSES, *WRAPPERS)))


def load_huggingface(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``hf:<hub id or local directory>?pooling=&dtype=&name=&batch=&revision=``."""
    specification.only("pooling", "dtype", "name", "batch", "revision")
    dtype = specification.dtype(settings)
    specification.batch_size(settings, DEFAULT_BATCH)  # refused before anything is downloaded
    specification.choice("pooling", POOLINGS, POOLINGS[0])
    specification.require_installed("transformers", "flax", "PIL")
    import transformers

    directory = checkpoint_directory(specification, specification.options.get("revision"))
    vision, wrapper = _read_config(specification, directory)
    files = weight_files(specification, directory)
    expected: dict[str, Any] = {"model_type": vision.model_type, "image_size": _image_size(vision)}
    preprocessing = read_preprocessing(directory, **expected, specification=specification)
    size = preprocessing.size
    module, variables, projection = _load_tower(specification, vision, wrapper, files, size, dtype)
    pooling, apply = _pooled(specification, vision.model_type, module, variables, projection, size)
    params = {"variables": variables} | ({"projection": projection} if pooling == "projected" else {})

    def facts() -> dict[str, str]:
        checksums = {"weights_sha256": digest(files), "config_sha256": digest([directory / CONFIG])}
        kind = {"class": CLASSES[vision.model_type][0], "transformers": transformers.__version__}
        return {**kind, "pooling": pooling, **checksums}

    name = pathlib.PurePath(specification.target).name
    return under_options(specification, settings, name, (apply, params, preprocessing), facts)


def _read_config(specification: Specification, directory: pathlib.Path) -> tuple[Any, str | None]:
    """The vision network's configuration and, for a model with a vision network inside, the model's kind."""
    content = read_json(specification, directory, CONFIG, "without it the checkpoint's class is not known.")
    kind = content.get("model_type")
    if kind not in KINDS:
        specification.refuse(_no_flax_class(f"model_type {kind!r}"))
    from transformers import AutoConfig

    try:
        vision = config = AutoConfig.from_pretrained(directory, local_files_only=True)
        if kind in WRAPPERS:
            vision = getattr(config, WRAPPERS[kind][0])
        _image_size(vision)
    except Exception as error:
        specification.refuse(f"{CONFIG} is not understood by transformers ({first_line(error)}).")
    if kind not in WRAPPERS:
        return config, None
    if vision.model_type not in tuple(CLASSES):  # a list there has no hash
        specification.refuse(_no_flax_class(f"a vision network of model_type {vision.model_type!r}"))
    return vision, kind


def _no_flax_class(what: str) -> str:
    return (
        f"{CONFIG} has {what}, for which transformers has no Flax vision class; there are {', '.join(KINDS)}. Another "
        "way is to export it to ONNX and give onnx:<file>, or to write python:<module>:<callable>."
    )


def _image_size(config: Any) -> tuple[int, int] | None:
    size = getattr(config, "image_size", None)
    return None if size is None else (int(np.ravel(size)[0]), int(np.ravel(size)[-1]))


def _load_tower(
    specification: Specification,
    vision: Any,
    wrapper: str | None,
    files: list[pathlib.Path],
    size: tuple[int, int],
    dtype: str,
) -> tuple[Any, Any, np.ndarray | None]:
    """The vision network's Flax module, its variables, and the projection that a wrapper has behind it."""
    import transformers
    from flax.traverse_util import unflatten_dict

    class_name = CLASSES[vision.model_type][0]
    _, below, head = WRAPPERS[wrapper] if wrapper else (None, "", "visual_projection")
    body = below or ("vision_model" if vision.model_type == "clip_vision_model" else "")
    # transformers tells users of Flax classes to move on; which versions we work with is our business, not theirs.
    logger = logging.getLogger("transformers.modeling_flax_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model = getattr(transformers, class_name)(vision, dtype=jnp.dtype(dtype), _do_init=False)
    except Exception as error:  # transformers' own class fails on RegNet's X layers, for one
        specification.refuse(
            f"transformers cannot build {class_name} from this {CONFIG} ({first_line(error)}); another way is to "
            "export the checkpoint to ONNX and give onnx:<file>."
        )
    finally:
        logger.setLevel(level)
    prefixes = (f"{body}.", f"{head}.") if body else ("",)  # text towers and decoders are not read
    weights = Weights(specification, files, prefixes)
    try:
        params, missing = weights.fit(model, below)
    except ValueError as error:
        specification.refuse(f"the weights do not fit {CONFIG}: {error}.")
    module = model.module
    lacking = {name for name in missing if "pooler" not in name}
    if lacking:
        specification.refuse(
            f"{len(lacking)} of {len(model.required_params)} arrays that {class_name} needs are not in the "
            f"checkpoint, among them {'.'.join(min(lacking))}."
        )
    if missing:  # checkpoints with a classifier have no pooler, and random weights would be no embedding
        module = module.clone(add_pooling_layer=False)
    module, params = _at_size(specification, vision, module, params, size)
    tree = unflatten_dict(params)
    variables = tree if "batch_stats" in tree else {"params": tree}
    return module, variables, weights.kernel(head) if head else None


def _at_size(
    specification: Specification, vision: Any, module: Any, params: Flat, size: tuple[int, int]
) -> tuple[Any, Flat]:
    """Position embeddings at the size that the preprocessor makes: DINOv2 resamples its own, the others refuse."""
    trained = _image_size(vision)
    if trained is None or trained == size:
        return module, params
    if vision.model_type != "dinov2" or size[0] != size[1]:
        specification.refuse(
            f"the preprocessor makes pictures of {size[0]} × {size[1]} pixels, the network takes {trained[0]} × "
            f"{trained[1]}; {CONFIG} and {PREPROCESSOR} are of different checkpoints."
        )
    key = ("embeddings", "position_embeddings")
    # Flax's own resampling has another cubic kernel than the one the weights were trained with (off by 1e-2).
    patches = size[0] // vision.patch_size
    params = {**params, key: resample_positions(np.asarray(params[key], np.float32), patches)}
    config = type(vision).from_dict({**vision.to_dict(), "image_size": size[0]})
    return module.clone(config=config), params


def _pooled(
    specification: Specification,
    kind: str,
    module: Any,
    variables: Any,
    projection: np.ndarray | None,
    size: tuple[int, int],
) -> tuple[str, Callable[[Any, Array], Array]]:
    """The chosen pooling, and the function of (weights, pixels)."""

    def outputs(variables: Any, pixels: Float[Array, "n height width 3"]) -> Any:
        return module.apply(variables, pixels, deterministic=True)

    shapes = jax.eval_shape(outputs, variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    tokens = shapes.last_hidden_state.ndim == 3
    pooler = shapes.pooler_output is not None
    flags = {"cls": tokens, "mean": True, "pooler": pooler, "projected": pooler and projection is not None}
    there = [name for name in POOLINGS if flags[name]]
    class_name, usual = CLASSES[kind]
    default = next(name for name in ("projected", usual, "cls", "mean") if name in there)
    pooling = specification.choice("pooling", POOLINGS, default)
    if pooling not in there:
        lacks = f"{class_name} with these weights has no pooling {pooling!r}"
        specification.refuse(f"{lacks}; it has {', '.join(there)}.")

    def apply(params: Any, pixels: Float[Array, "n height width 3"]) -> Float[Array, "n dim"]:
        result = outputs(params["variables"], pixels)
        hidden = result.last_hidden_state
        if pooling == "cls":
            return hidden[:, 0]
        if pooling == "mean":
            return hidden[:, 1:].mean(1) if tokens else hidden.mean((2, 3))
        pooled = result.pooler_output.reshape(pixels.shape[0], -1)
        return pooled @ params["projection"] if pooling == "projected" else pooled

    return pooling, apply
