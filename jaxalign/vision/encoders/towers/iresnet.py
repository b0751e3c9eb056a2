"""Residual networks for faces: IR-101 of ArcFace and AdaFace, iResNet-100 of insightface and MagFace."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.tensors import Tensor
from jaxalign.vision.encoders.towers.parts import FrozenNorm, NormedConv, parameter
from jaxalign.vision.encoders.towers.weights import edge_of


class UnitConfig(NamedTuple):
    """One residual unit."""

    inputs: int  # channels
    width: int
    stride: int
    projected: bool  # whether a layer is in its shortcut


@dataclasses.dataclass(frozen=True)
class IResNetConfig:
    """What differs between these networks."""

    stem: int  # channels that enter the first unit
    units: dict[str, list[UnitConfig]]  # by the checkpoint's name of a list; iResNet has one for each stage
    side: int  # rows and columns of the last map
    dim: int  # width of an embedding
    affine: bool  # whether the norm of the embedding has a weight and a bias
    epsilon: float  # of all norms

    @property
    def every(self) -> list[UnitConfig]:
        """All units in order."""
        return [unit for units in self.units.values() for unit in units]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        edge = self.side * math.prod(unit.stride for unit in self.every)
        return edge, edge


LISTS = {"ir": ("body",), "iresnet": ("layer1", "layer2", "layer3", "layer4")}


def read(kind: str, config: Config, names: Mapping[str, Tensor]) -> IResNetConfig:
    """Depth, widths and sizes by the tensors' shapes; the configuration may say ``epsilon``.

    A unit halves the map where it begins a stage: with its list, or with a layer in its shortcut.
    """

    edge = functools.partial(edge_of, config.specification, names)
    stem = width = edge("stem.convolution.weight", 4)
    units: dict[str, list[UnitConfig]] = {}
    for place in LISTS[kind]:
        units[place] = []
        while f"{(start := f'units.{place}.{len(units[place])}')}.inner.convolution.weight" in names:
            inputs, width = width, edge(f"{start}.inner.convolution.weight", 4)
            projected = f"{start}.shortcut.convolution.weight" in names
            stride = 2 if projected or not units[place] else 1
            units[place].append(UnitConfig(inputs, width, stride, projected))
    columns = edge("linear.weight", 2, 1)
    side = math.isqrt(columns // width)
    if not side or width * side**2 != columns:
        config.specification.refuse(
            f"the tensor {names['linear.weight'].name} takes {columns} numbers, which are no square map of {width} "
            "channels."
        )
    affine = "embedding_norm.weight" in names
    return IResNetConfig(stem, units, side, edge("linear.weight", 2), affine, config.get("epsilon", 1e-5))


NAMES = (
    (r"^(input_layer\.0|conv1)\.", "stem.convolution."),
    (r"^(input_layer\.1|bn1)\.", "stem.normalization."),
    (r"^(input_layer\.2|prelu)\.weight$", "slope"),
    (r"^(output_layer\.0|bn2)\.", "last_norm."),
    (r"^(output_layer\.3|fc)\.", "linear."),
    (r"^(output_layer\.4|features)\.", "embedding_norm."),
    (r"^(body|layer[1-4])\.", r"units.\1."),
    (r"\.(res_layer\.0|bn1)\.", ".norm1."),
    (r"\.(res_layer\.1|conv1)\.", ".inner.convolution."),
    (r"\.(res_layer\.2|bn2)\.", ".inner.normalization."),
    (r"\.(res_layer\.3|prelu)\.weight$", ".slope"),
    (r"\.(res_layer\.4|conv2)\.", ".outer.convolution."),
    (r"\.(res_layer\.5|bn3)\.", ".outer.normalization."),
    (r"\.(shortcut_layer|downsample)\.0\.", ".shortcut.convolution."),
    (r"\.(shortcut_layer|downsample)\.1\.", ".shortcut.normalization."),
)


def _leaky(values: Float[Array, "... channels"], slope: nnx.Param) -> Float[Array, "... channels"]:
    return jnp.where(values < 0, slope[...] * values, values)


class Unit(nnx.Module):
    """Two convolutions, normalised before, between and behind, and a shortcut; nothing follows their sum."""

    def __init__(self, config: UnitConfig, epsilon: float, rngs: nnx.Rngs) -> None:
        inputs, width, self.stride = config.inputs, config.width, config.stride
        conv = functools.partial(NormedConv, epsilon=epsilon, rngs=rngs)
        self.norm1, self.slope = FrozenNorm(inputs, epsilon), parameter(width)
        self.inner, self.outer = conv(inputs, width, 3), conv(width, width, 3, self.stride)
        self.shortcut = conv(inputs, width, 1, self.stride) if config.projected else None

    def __call__(self, values: Float[Array, "n h w c"]) -> Float[Array, "n i j d"]:
        """The map behind this unit."""
        changed = self.outer(_leaky(self.inner(self.norm1(values)), self.slope))
        if self.shortcut is not None:
            return changed + self.shortcut(values)
        return changed + values[:, :: self.stride, :: self.stride]


class Tower(nnx.Module):
    """A residual network of this family."""

    def __init__(self, config: IResNetConfig, rngs: nnx.Rngs) -> None:
        epsilon, width = config.epsilon, config.every[-1].width if config.every else config.stem
        self.stem = NormedConv(3, config.stem, 3, epsilon=epsilon, rngs=rngs)
        self.slope = parameter(config.stem)
        self.units = nnx.Dict(
            {
                name: nnx.List([Unit(unit, epsilon, rngs) for unit in units])
                for name, units in config.units.items()
            }
        )
        self.last_norm = FrozenNorm(width, epsilon)
        self.linear = nnx.Linear(width * config.side**2, config.dim, rngs=rngs)
        self.embedding_norm = FrozenNorm(config.dim, epsilon, config.affine)
        self.lists = tuple(config.units)

    def __call__(self, pixels: Float[Array, "n height width 3"]) -> Float[Array, "n dim"]:
        """The embeddings, unnormalised."""
        values = _leaky(self.stem(pixels), self.slope)
        for name in self.lists:
            for unit in self.units[name]:
                values = unit(values)
        # The linear layer's weights count channels before rows and columns.
        flat = jnp.moveaxis(self.last_norm(values), -1, 1).reshape(values.shape[0], -1)
        return self.embedding_norm(self.linear(flat))
