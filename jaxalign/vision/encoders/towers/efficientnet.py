"""EfficientNet, as ALIGN has it for pictures."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Container
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.checkpoint_config import Config, key
from jaxalign.vision.encoders.towers.parts import Excitation, NormedConv, TowerFeatures, activation, of_map


class Shape(NamedTuple):
    """One block."""

    inputs: int  # channels
    outputs: int
    inner: int  # channels between the convolutions; no expansion goes before where it equals ``inputs``
    kernel: int  # of the depthwise convolution, as stride and padding
    stride: int
    padding: tuple[int, int]  # (before, after) along both edges
    added: bool  # whether what enters is added to what leaves


def positive(config: Config, key: str, default: float) -> float:
    """A number of a configuration that is more than 0."""
    value = config.get(key, default)
    if value <= 0:
        config.refuse(f"{key} is expected to be more than 0, got {value}.")
    return value


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """What differs between the networks of this family, by the keys and defaults of transformers."""

    stem: int  # channels of the first convolution
    blocks: tuple[Shape, ...]
    pooled_by: str  # "mean" or "max" over the positions
    size: tuple[int, int] = key("image_size", 600, Config.edges)  # (height, width) in pixels
    squeeze: float = key("squeeze_expansion_ratio", 0.25, positive)  # of a block's inputs, behind its gate
    activation: Callable[[Array], Array] = key("hidden_act", "swish", activation)
    epsilon: float = key("batch_norm_eps", 0.001)
    resampled = True
    poolings = ("mean", "pooler")

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
    pooled_by, stem = config.choice("pooling_type", ("mean", "max")), _scaled(config, _STEM)
    return config.fill(EfficientNetConfig, stem=stem, blocks=_blocks(config), pooled_by=pooled_by)


def _scaled(config: Config, channels: int) -> int:
    """Channels at the network's width: the nearest multiple of the divisor, and not below 90 % of the product."""
    wide = channels * positive(config, "width_coefficient", 2.0)
    divisor = config.get("depth_divisor", 8)
    near = max(divisor, int(wide + divisor / 2) // divisor * divisor)
    return near if near >= 0.9 * wide else near + divisor


def _blocks(config: Config) -> tuple[Shape, ...]:
    """All blocks; the first of a stage has the stage's stride and changes the channels."""
    stages = {name: config.get(name, default) for name, default in _STAGES.items()}
    if len({len(values) for values in stages.values()}) > 1 or not stages["strides"]:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in stages.items())
        config.refuse(f"expected as many numbers for each stage, got {lengths}.")
    if max(stages["strides"]) > 2:
        config.refuse(f"strides are expected to be 1 or 2, got {list(stages['strides'])}.")
    before = (_STEM, *stages["out_channels"][:-1])
    if stages["in_channels"] != before:
        config.refuse(f"in_channels is expected to be {list(before)}, got {list(stages['in_channels'])}.")
    deep, listed = positive(config, "depth_coefficient", 3.1), config.get("depthwise_padding", (), 0)
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

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> TowerFeatures:
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
