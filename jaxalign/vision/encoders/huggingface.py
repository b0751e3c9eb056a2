"""``hf:``: vision checkpoints in Hugging Face's format, run by transformers' Flax classes."""

import contextlib
import dataclasses
import importlib.util
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.vision.encoders.checkpoint import Flat, Weights, digest, weight_files
from jaxalign.vision.encoders.hub import CONFIG, checkpoint_directory, read_json
from jaxalign.vision.encoders.jax_encoder import DEFAULT_BATCH, JaxEncoder
from jaxalign.vision.encoders.positions import resample_positions
from jaxalign.vision.encoders.processors import preprocessing_of
from jaxalign.vision.encoders.specification import Settings, Specification, first_line

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


@dataclasses.dataclass(frozen=True)
class _Tower:
    """A vision network and its weights, before a pooling is chosen."""

    kind: str
    module: Any
    params: Flat
    projection: np.ndarray | None

    def variables(self) -> dict[str, Any]:
        from flax.traverse_util import unflatten_dict

        params = unflatten_dict(self.params)
        return params if "batch_stats" in params else {"params": params}


def load_huggingface(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``hf:<hub id or local directory>?pooling=&dtype=&name=&batch=&revision=``.

    Raises:
      UserError: anything about the checkpoint or an option that does not fit, in one sentence.
    """
    specification.only("pooling", "dtype", "name", "batch", "revision")
    dtype = specification.dtype(settings)
    batch_size = specification.batch_size(settings, DEFAULT_BATCH)
    specification.choice("pooling", POOLINGS, POOLINGS[0])
    _check_installed(specification)
    directory = checkpoint_directory(specification, specification.options.get("revision"))
    config, wrapper = _read_config(specification, directory)
    vision = _vision(config, wrapper)
    files = weight_files(specification, directory)
    preprocessing = preprocessing_of(specification, directory, vision.model_type, _pair(vision, "image_size"))
    tower = _load_tower(specification, config, wrapper, files, preprocessing.size, dtype)
    pooling, apply, params = _pooled(specification, tower, preprocessing.size)
    return JaxEncoder(
        specification.name(pathlib.PurePath(specification.target).name),
        apply,
        params,
        preprocessing,
        batch_size=batch_size,
        dtype=dtype,
        devices=settings.devices,
        facts=lambda: {
            "form": "hf",
            "class": CLASSES[tower.kind][0],
            "pooling": pooling,
            "weights_sha256": digest(files),
            "config_sha256": digest([directory / CONFIG]),
        },
    )


def _check_installed(specification: Specification) -> None:
    for package in ("transformers", "flax", "PIL"):
        if importlib.util.find_spec(package) is None:
            specification.refuse(f"{package} is not installed; hf: needs pip install 'jaxalign[encoders]'.")


def _read_config(specification: Specification, directory: pathlib.Path) -> tuple[Any, str | None]:
    """The configuration and, for a model with a vision network inside, its kind."""
    content = read_json(specification, directory, CONFIG, "without it the checkpoint's class is not known.")
    kind = content.get("model_type")
    if kind not in KINDS:
        specification.refuse(_no_flax_class(f"model_type {kind!r}"))
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        specification.refuse(f"{CONFIG} is not understood by transformers ({first_line(error)}).")
    wrapper = kind if kind in WRAPPERS else None
    inside = _vision(config, wrapper).model_type
    if inside not in CLASSES:
        specification.refuse(_no_flax_class(f"a vision network of model_type {inside!r}"))
    return config, wrapper


def _no_flax_class(what: str) -> str:
    return (
        f"{CONFIG} has {what}, for which transformers has no Flax vision class; there are {', '.join(KINDS)}. Another "
        "way is to export it to ONNX and give onnx:<file>, or to write python:<module>:<callable>."
    )


def _vision(config: Any, wrapper: str | None) -> Any:
    """The vision network's own configuration."""
    return getattr(config, WRAPPERS[wrapper][0]) if wrapper else config


def _pair(config: Any, key: str) -> tuple[int, int] | None:
    value = getattr(config, key, None)
    if value is None:
        return None
    return (int(value), int(value)) if np.ndim(value) == 0 else (int(value[0]), int(value[1]))


def _load_tower(
    specification: Specification,
    config: Any,
    wrapper: str | None,
    files: list[pathlib.Path],
    size: tuple[int, int],
    dtype: str,
) -> _Tower:
    """Reads the vision network's weights into its Flax class."""
    import transformers

    vision = _vision(config, wrapper)
    kind = vision.model_type
    _, below, head = WRAPPERS[wrapper] if wrapper else (None, "", "visual_projection")
    body = below or ("vision_model" if kind == "clip_vision_model" else "")
    flax_class = getattr(transformers, CLASSES[kind][0])
    try:
        with _no_deprecation_warning():
            model = flax_class(vision, dtype=jnp.dtype(dtype), _do_init=False)
    except Exception as error:  # transformers' own class fails on RegNet's X layers, for one
        specification.refuse(
            f"transformers cannot build {CLASSES[kind][0]} from this {CONFIG} ({first_line(error)}); another way is to "
            "export the checkpoint to ONNX and give onnx:<file>."
        )
    prefixes = (f"{body}.", f"{head}.") if body else ("",)  # text towers and decoders are not read
    weights = Weights.read(specification, files, prefixes)
    try:
        params, missing = weights.fit(model, below)
    except ValueError as error:
        specification.refuse(f"the weights do not fit {CONFIG}: {error}.")
    module = model.module
    lacking = {name for name in missing if "pooler" not in name}
    if lacking:
        specification.refuse(
            f"{len(lacking)} of {len(model.required_params)} arrays that {CLASSES[kind][0]} needs are not in the "
            f"checkpoint, among them {'.'.join(min(lacking))}."
        )
    if (
        missing
    ):  # checkpoints with a classifier have no pooler; random weights in its place would be no embedding
        module = module.clone(add_pooling_layer=False)
    module, params = _at_size(specification, vision, module, params, size)
    return _Tower(kind, module, params, weights.kernel(head) if head else None)


@contextlib.contextmanager
def _no_deprecation_warning() -> Iterator[None]:
    """transformers tells users of Flax classes to move on; which versions we work with is our business, not theirs."""
    logger = logging.getLogger("transformers.modeling_flax_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _at_size(
    specification: Specification, vision: Any, module: Any, params: Flat, size: tuple[int, int]
) -> tuple[Any, Flat]:
    """Position embeddings at the size that the preprocessor makes: DINOv2 resamples its own, the others refuse."""
    trained = _pair(vision, "image_size")
    if trained is None or trained == size:
        return module, params
    if vision.model_type != "dinov2" or size[0] != size[1]:
        specification.refuse(
            f"the preprocessor makes pictures of {size[0]} × {size[1]} pixels, the network takes {trained[0]} × "
            f"{trained[1]}; {CONFIG} and preprocessor_config.json are of different checkpoints."
        )
    key = ("embeddings", "position_embeddings")
    # Flax's own resampling has another cubic kernel than the one the weights were trained with (off by 1e-2).
    patches = size[0] // vision.patch_size
    params = {**params, key: resample_positions(np.asarray(params[key], np.float32), patches)}
    config = type(vision).from_dict({**vision.to_dict(), "image_size": size[0]})
    return module.clone(config=config), params


def _pooled(
    specification: Specification, tower: _Tower, size: tuple[int, int]
) -> tuple[str, Callable[[Any, Array], Array], Any]:
    """The chosen pooling, the function of (weights, pixels), and the weights."""
    module = tower.module

    def outputs(variables: Any, pixels: Float[Array, "n height width 3"]) -> Any:
        return module.apply(variables, pixels, deterministic=True)

    variables = tower.variables()
    shapes = jax.eval_shape(outputs, variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    tokens = shapes.last_hidden_state.ndim == 3
    pooled = shapes.pooler_output is not None
    there = {
        "cls": tokens,
        "mean": True,
        "pooler": pooled,
        "projected": pooled and tower.projection is not None,
    }
    default = next(name for name in ("projected", CLASSES[tower.kind][1], "cls", "mean") if there[name])
    pooling = specification.choice("pooling", POOLINGS, default)
    if not there[pooling]:
        has = ", ".join(name for name in POOLINGS if there[name])
        specification.refuse(
            f"{CLASSES[tower.kind][0]} with these weights has no pooling {pooling!r}; it has {has}."
        )
    params: dict[str, Any] = {"variables": variables}
    if pooling == "projected":
        params["projection"] = tower.projection

    def apply(params: Any, pixels: Float[Array, "n height width 3"]) -> Float[Array, "n dim"]:
        result = outputs(params["variables"], pixels)
        if pooling == "cls":
            return result.last_hidden_state[:, 0]
        if pooling == "mean":
            hidden = result.last_hidden_state
            return hidden[:, 1:].mean(1) if tokens else hidden.mean((2, 3))
        pooled = result.pooler_output.reshape(pixels.shape[0], -1)
        return pooled @ params["projection"] if pooling == "projected" else pooled

    return pooling, apply, params
