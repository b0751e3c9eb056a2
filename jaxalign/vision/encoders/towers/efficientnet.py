"""EfficientNet, as ALIGN has it for pictures."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Container
from typing import ClassVar, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.config import Config
from jaxalign.vision.encoders.towers.parts import Excitation, Features, NormedConv, activation, of_map


class Shape(NamedTuple):
    """One block.

    Attributes:
      inputs, outputs: channels.
      inner: channels between its convolutions; no expansion goes before where it equals ``inputs``.
      kernel, stride, padding: of the depthwise convolution; ``padding`` is (before, after) along both edges.
      added: whether what enters is added to what leaves.
    """

    inputs: int
    outputs: int
    inner: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    added: bool


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """What differs between the networks of this family.

    Attributes:
      size: (height, width) of the picture it was trained on, in pixels.
      stem: channels of the first convolution.
      blocks: one after the other.
      squeeze: channels behind which a block's gate is decided, as a part of the block's inputs.
      activation, epsilon: everywhere, and of batch normalisation.
      pooled_by: "mean" or "max" over the positions.
    """

    size: tuple[int, int]
    stem: int
    blocks: tuple[Shape, ...]
    squeeze: float
    activation: Callable[[Array], Array]
    epsilon: float
    pooled_by: str
    resampled: ClassVar[bool] = True
    poolings: ClassVar[tuple[str, ...]] = ("mean", "pooler")

    @property
    def layers(self) -> int:
        """Blocks: ``layer=`` counts these."""
        return len(self.blocks)


_STEM = 32  # channels in front of the first block, before they are scaled
# Defaults of transformers 4.57, one number for each stage: kernels are as wide as high, repeats count blocks.
_STAGES = {
    "kernel_sizes": (3, 3, 5, 3, 5, 5, 3),
    "in_channels": (32, 16, 24, 40, 80, 112, 192),
    "out_channels": (16, 24, 40, 80, 112, 192, 320),
    "strides": (1, 2, 2, 2, 1, 2, 1),
    "num_block_repeats": (1, 2, 2, 3, 3, 4, 1),
    "expand_ratios": (1, 6, 6, 6, 6, 6, 6),
}


def read(kind: str, config: Config, names: Container[str]) -> EfficientNetConfig:
    """What ALIGN's configuration of its vision model asks for."""
    pooled_by = config.text("pooling_type", "mean")
    if pooled_by not in ("mean", "max"):
        config.refuse(f"pooling_type is {pooled_by!r}, expected mean or max.")
    return EfficientNetConfig(
        size=config.edges("image_size", 600),
        stem=_scaled(config, _STEM),
        blocks=_blocks(config),
        squeeze=_positive(config, "squeeze_expansion_ratio", 0.25),
        activation=activation(config, "hidden_act", "swish"),
        epsilon=config.number("batch_norm_eps", 0.001),
        pooled_by=pooled_by,
    )


def _positive(config: Config, key: str, default: float) -> float:
    value = config.number(key, default)
    if value <= 0:
        config.refuse(f"{key} is expected to be more than 0, got {value}.")
    return value


def _scaled(config: Config, channels: int) -> int:
    """Channels at the network's width: the nearest multiple of the divisor, and not below 90 % of the product."""
    wide = channels * _positive(config, "width_coefficient", 2.0)
    divisor = config.count("depth_divisor", 8)
    near = max(divisor, int(wide + divisor / 2) // divisor * divisor)
    return near if near >= 0.9 * wide else near + divisor


def _blocks(config: Config) -> tuple[Shape, ...]:
    """All blocks; the first of a stage has the stage's stride and changes the channels."""
    stages = {key: config.counts(key, default) for key, default in _STAGES.items()}
    if len({len(values) for values in stages.values()}) > 1 or not stages["strides"]:
        lengths = ", ".join(f"{key} {len(values)}" for key, values in stages.items())
        config.refuse(f"expected as many numbers for each stage, got {lengths}.")
    if max(stages["strides"]) > 2:
        config.refuse(f"strides are expected to be 1 or 2, got {list(stages['strides'])}.")
    before = (_STEM, *stages["out_channels"][:-1])
    if stages["in_channels"] != before:
        config.refuse(f"in_channels is expected to be {list(before)}, got {list(stages['in_channels'])}.")
    deep, listed = _positive(config, "depth_coefficient", 3.1), config.counts("depthwise_padding", (), 0)
    found: list[Shape] = []
    for kernel, inputs, outputs, stride, repeats, ratio in zip(*stages.values(), strict=True):
        inputs, outputs = _scaled(config, inputs), _scaled(config, outputs)
        for repeat in range(math.ceil(deep * repeats)):
            inputs, stride = (outputs, 1) if repeat else (inputs, stride)
            # As TensorFlow pads maps of even size; blocks that the configuration lists get one more in front.
            less = (1 - kernel % 2) if stride == 1 else int(len(found) not in listed)
            padding = (kernel // 2 - less, kernel // 2)
            found.append(Shape(inputs, outputs, ratio * inputs, kernel, stride, padding, repeat > 0))
    return tuple(found)


NAMES = (
    (r"^embeddings\.(convolution|batchnorm)\.", r"stem.\1."),
    (r"^encoder\.blocks\.", "blocks."),
    (r"\.expansion\.expand_", ".expansion."),
    (r"\.depthwise_conv\.depthwise_", ".depthwise."),
    (r"\.squeeze_excite\.", ".excitation."),
    (r"\.projection\.project_", ".projection."),
    (r"\.conv\.", ".convolution."),
    (r"\.(bn|norm|batchnorm)\.", ".normalization."),
)


class Block(nnx.Module):
    """Expansion, depthwise convolution, gates and projection."""

    def __init__(self, config: EfficientNetConfig, shape: Shape, rngs: nnx.Rngs) -> None:
        inputs, outputs, inner, kernel, stride, padding, self.added = shape
        active, conv = config.activation, functools.partial(NormedConv, epsilon=config.epsilon, rngs=rngs)
        self.expansion = conv(inputs, inner, 1, activation=active) if inner > inputs else None
        self.depthwise = conv(inner, inner, kernel, stride, groups=inner, padding=padding, activation=active)
        self.excitation = Excitation(inner, max(1, int(inputs * config.squeeze)), active, rngs)
        self.projection = conv(inner, outputs, 1)

    def __call__(
        self, values: Float[Array, "n height width inputs"]
    ) -> Float[Array, "n rows columns outputs"]:
        """The map behind this block."""
        wide = values if self.expansion is None else self.expansion(values)
        changed = self.projection(self.excitation(self.depthwise(wide)))
        return values + changed if self.added else changed


class Tower(nnx.Module):
    """An EfficientNet without a layer behind its blocks."""

    def __init__(self, config: EfficientNetConfig, rngs: nnx.Rngs) -> None:
        active, epsilon = config.activation, config.epsilon
        self.stem = NormedConv(
            3, config.stem, 3, 2, padding=(0, 1), epsilon=epsilon, activation=active, rngs=rngs
        )
        self.blocks = nnx.List([Block(config, shape, rngs) for shape in config.blocks])
        self.config = config

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> Features:
        """The map behind the first ``layer`` blocks, or of the whole network where it is None.

        Raises:
          UserError: nothing is left of so small pictures.
        """
        values = self.stem(pixels)
        for block in list(self.blocks)[:layer]:
            values = block(values)
        if 0 in values.shape:
            height, width = pixels.shape[1:3]
            raise UserError(f"pictures of {height} × {width} pixels are too small for this EfficientNet.")
        if layer is not None:
            return of_map(values, None)
        return of_map(values, values.mean((1, 2)) if self.config.pooled_by == "mean" else values.max((1, 2)))
