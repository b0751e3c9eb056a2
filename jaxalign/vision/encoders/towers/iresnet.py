"""Residual networks for faces: IR-101 of ArcFace and AdaFace, iResNet-100 of insightface and MagFace."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.config import Config
from jaxalign.vision.encoders.tensors import Tensor
from jaxalign.vision.encoders.towers.parts import FrozenNorm, parameter
from jaxalign.vision.encoders.towers.weights import shape_of


@dataclasses.dataclass(frozen=True)
class UnitConfig:
    """One residual unit: channels that enter and leave, stride, and whether a layer is in its shortcut."""

    inputs: int
    width: int
    stride: int
    projected: bool


@dataclasses.dataclass(frozen=True)
class IResNetConfig:
    """What differs between these networks.

    Attributes:
      stem: channels that enter the first unit.
      units: by the name that the checkpoint gives to a list of them; IR counts through all stages, iResNet in each.
      side: rows and columns of the last map.
      dim: width of an embedding.
      affine: whether the norm of the embedding has a weight and a bias.
      epsilon: of all norms.
    """

    stem: int
    units: dict[str, tuple[UnitConfig, ...]]
    side: int
    dim: int
    affine: bool
    epsilon: float

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

    def edge(name: str, axes: int, axis: int = 0) -> int:
        return shape_of(config.specification, names, name, axes)[axis]

    stem = width = edge("stem.conv.weight", 4)
    units: dict[str, tuple[UnitConfig, ...]] = {}
    for place in LISTS[kind]:
        units[place] = ()
        while f"{(start := f'units.{place}.{len(units[place])}')}.conv1.weight" in names:
            inputs, width = width, edge(f"{start}.conv1.weight", 4)
            projected = f"{start}.shortcut.conv.weight" in names
            stride = 2 if projected or not units[place] else 1
            units[place] += (UnitConfig(inputs, width, stride, projected),)
    columns = edge("linear.weight", 2, 1)
    side = math.isqrt(columns // width)
    if not side or width * side**2 != columns:
        config.specification.refuse(
            f"the tensor {names['linear.weight'].name} takes {columns} numbers, which are no square map of {width} "
            "channels."
        )
    affine = "embedding_norm.weight" in names
    return IResNetConfig(stem, units, side, edge("linear.weight", 2), affine, config.number("epsilon", 1e-5))


NAMES = (
    (r"^(input_layer\.0|conv1)\.", "stem.conv."),
    (r"^(input_layer\.1|bn1)\.", "stem.norm."),
    (r"^(input_layer\.2|prelu)\.weight$", "stem.slope"),
    (r"^(output_layer\.0|bn2)\.", "last_norm."),
    (r"^(output_layer\.3|fc)\.", "linear."),
    (r"^(output_layer\.4|features)\.", "embedding_norm."),
    (r"^(body|layer[1-4])\.", r"units.\1."),
    (r"\.(res_layer\.0|bn1)\.", ".norm1."),
    (r"\.res_layer\.1\.", ".conv1."),
    (r"\.(res_layer\.2|bn2)\.", ".norm2."),
    (r"\.(res_layer\.3|prelu)\.weight$", ".slope"),
    (r"\.res_layer\.4\.", ".conv2."),
    (r"\.(res_layer\.5|bn3)\.", ".norm3."),
    (r"\.(shortcut_layer|downsample)\.0\.", ".shortcut.conv."),
    (r"\.(shortcut_layer|downsample)\.1\.", ".shortcut.norm."),
)


def _convolution(inputs: int, outputs: int, edge: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Padded as PyTorch pads: alike on all sides, also where a stride leaves part of that out."""
    margin = [(edge // 2, edge // 2)] * 2
    return nnx.Conv(
        inputs, outputs, (edge, edge), (stride, stride), padding=margin, use_bias=False, rngs=rngs
    )


def _leaky(values: Float[Array, "... channels"], slope: nnx.Param) -> Float[Array, "... channels"]:
    return jnp.where(values < 0, slope[...] * values, values)


class Stem(nnx.Module):
    """What is in front of the units."""

    def __init__(self, config: IResNetConfig, rngs: nnx.Rngs) -> None:
        self.conv = _convolution(3, config.stem, 3, 1, rngs)
        self.norm, self.slope = FrozenNorm(config.stem, config.epsilon), parameter(config.stem)

    def __call__(self, pixels: Float[Array, "n h w 3"]) -> Float[Array, "n h w c"]:
        """The map that enters the first unit."""
        return _leaky(self.norm(self.conv(pixels)), self.slope)


class Shortcut(nnx.Module):
    """A layer beside a unit that changes the number of channels."""

    def __init__(self, config: UnitConfig, epsilon: float, rngs: nnx.Rngs) -> None:
        self.conv = _convolution(config.inputs, config.width, 1, config.stride, rngs)
        self.norm = FrozenNorm(config.width, epsilon)

    def __call__(self, values: Float[Array, "n h w c"]) -> Float[Array, "n i j d"]:
        """The map with a unit's channels and stride."""
        return self.norm(self.conv(values))


class Unit(nnx.Module):
    """Two convolutions, normalised before, between and behind, and a shortcut; nothing follows their sum."""

    def __init__(self, config: UnitConfig, epsilon: float, rngs: nnx.Rngs) -> None:
        inputs, width = config.inputs, config.width
        self.norm1, self.norm2, self.norm3 = (FrozenNorm(count, epsilon) for count in (inputs, width, width))
        self.conv1 = _convolution(inputs, width, 3, 1, rngs)
        self.conv2 = _convolution(width, width, 3, config.stride, rngs)
        self.slope, self.stride = parameter(width), config.stride
        self.shortcut = Shortcut(config, epsilon, rngs) if config.projected else None

    def __call__(self, values: Float[Array, "n h w c"]) -> Float[Array, "n i j d"]:
        """The map behind this unit."""
        inner = _leaky(self.norm2(self.conv1(self.norm1(values))), self.slope)
        changed = self.norm3(self.conv2(inner))
        if self.shortcut is not None:
            return changed + self.shortcut(values)
        return changed + values[:, :: self.stride, :: self.stride]


class Tower(nnx.Module):
    """A residual network of this family."""

    def __init__(self, config: IResNetConfig, rngs: nnx.Rngs) -> None:
        epsilon, width = config.epsilon, config.every[-1].width if config.every else config.stem
        self.stem = Stem(config, rngs)
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
        values = self.stem(pixels)
        for name in self.lists:
            for unit in self.units[name]:
                values = unit(values)
        # The linear layer's weights count channels before rows and columns.
        flat = jnp.moveaxis(self.last_norm(values), -1, 1).reshape(values.shape[0], -1)
        return self.embedding_norm(self.linear(flat))
