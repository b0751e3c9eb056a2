"""The zoo's weights and model cards as files in the package."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float, UInt8

from jaxalign.core.errors import UnknownNameError, UserError
from jaxalign.vision.zoo.encoder_training import initial
from jaxalign.vision.zoo.specification import ZOO, Recipe

Params = Any
Apply = Callable[[Params, UInt8[Array, "n 64 64 3"]], Float[Array, "n width"]]
FOLDER = pathlib.Path(__file__).parent / "weights"


class ZooEncoder(NamedTuple):
    """An encoder of the zoo, ready to use.

    Attributes:
      apply: from (params, images [n, 64, 64, 3] of uint8) to embeddings [n, width] of float32; pure, so that ``jit``
        and sharding apply.
      params: its weights, float32.
      width: of an embedding.
    """

    apply: Apply
    params: Params
    width: int


def specification_of(name: str) -> Recipe:
    """The row of ``ZOO``, or the names there are."""
    if name not in ZOO:
        raise UnknownNameError(f"the zoo has no encoder '{name}'; it has {', '.join(ZOO)}.")
    return ZOO[name]


def load(name: str, folder: pathlib.Path = FOLDER) -> ZooEncoder:
    """An encoder with its shipped weights, or with those of ``train_zoo`` in another folder.

    Raises:
      UnknownNameError: there is no such encoder.
      UserError: the file of weights is missing, cut short or of another network.
    """
    specification = specification_of(name)
    path = weights_path(name, folder)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"zoo encoder '{name}': {path} cannot be read ({error.strerror}); "
            f"train it with `python -m experiments.train_zoo --models={name}`."
        ) from error
    return ZooEncoder(apply_of(specification), unpack(content, specification, str(path)), specification.width)


def apply_of(specification: Recipe) -> Apply:
    """The forward pass."""

    def apply(params: Params, images: UInt8[Array, "n 64 64 3"]) -> Float[Array, "n width"]:
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(specification.body.apply({"params": params}, images))

    return apply


def pack(params: Params) -> bytes:
    """Weights as a safetensors file in float16, which halves it; ``unpack`` gives float32 again."""
    flat = {key: np.asarray(value, np.float16) for key, value in _flat(params).items()}
    return safetensors.numpy.save(flat)


def unpack(content: bytes, specification: Recipe, what: str) -> Params:
    """Weights from a safetensors file that messages call ``what``; must fit the specification's parameters."""
    try:
        flat = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"{what} is not a safetensors file or is cut short: {error}.") from error
    expected = jax.eval_shape(lambda: initial(specification))
    shapes = {key: value.shape for key, value in _flat(expected).items()}
    found = {key: value.shape for key, value in flat.items()}
    if shapes != found:
        differing = sorted(key for key in shapes | found if shapes.get(key) != found.get(key))
        raise UserError(
            f"{what} holds the weights of another network: {differing[0]} is {found.get(differing[0])}, "
            f"expected {shapes.get(differing[0])}."
        )
    wide = {key: value.astype(np.float32) for key, value in flat.items()}
    return flax.traverse_util.unflatten_dict(wide, sep="/")


def _flat(params: Params) -> dict[str, Any]:
    return dict(flax.traverse_util.flatten_dict(params, sep="/"))  # pyright: ignore[reportArgumentType]


def card(name: str, folder: pathlib.Path = FOLDER) -> dict[str, Any]:
    """The model card: loss, data, parameters, steps, seed, and recognition of people never used for any choice."""
    specification_of(name)
    try:
        return json.loads(card_path(name, folder).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"zoo encoder '{name}': its model card cannot be read: {error}.") from error


def describe(name: str, specification: Recipe, parameters: int) -> dict[str, Any]:
    """What a model card says of how an encoder was made; data and measurements are added by who trained it."""
    loss, body = specification.loss, specification.body
    return {
        "name": name,
        "family": specification.family,
        "body": _written(body),
        "loss": "none" if loss is None else repr(loss),
        "parameters": parameters,
        "width": specification.width,
        "steps": specification.steps,
        "batch": specification.batch,
        "peak_learning_rate": specification.rate,
        "augmentation": repr(specification.augmentation),
        "seed": specification.seed,
        "stored_as": "float16",
    }


def _written(body: nn.Module) -> str:
    """A module as one would write it, on one line."""
    fields = [field.name for field in dataclasses.fields(body) if field.name not in ("parent", "name")]
    return f"{type(body).__name__}({', '.join(f'{name}={getattr(body, name)!r}' for name in fields)})"


def count(params: Params) -> int:
    """Number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def weights_path(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """The file of an encoder's weights."""
    return folder / f"{name}.safetensors"


def card_path(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """The file of an encoder's model card."""
    return folder / f"{name}.json"


def shipped(folder: pathlib.Path = FOLDER) -> tuple[str, ...]:
    """Names of the encoders whose weights are there, in the order of ``ZOO``."""
    return tuple(name for name in ZOO if weights_path(name, folder).exists())
