"""Residual convolutional networks: ResNet with basic and bottleneck blocks, RegNet X and Y."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.checkpoint_config import Config, key
from jaxalign.vision.encoders.towers.parts import Excitation, NormedConv, TowerFeatures, activation, of_map

REDUCTION = 4  # of channels inside a bottleneck, and in front of RegNet's gates


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """What differs between the networks of this family, by the keys and defaults of transformers for ResNet."""

    block: str  # "basic" or "bottleneck" of ResNet, "x" or "y" of RegNet; "y" has squeeze and excitation
    size: tuple[int, int] = key("image_size", 224, Config.edges)  # (height, width) in pixels
    stem: int = key("embedding_size", 64)  # channels of the first convolution
    widths: tuple[int, ...] = key("hidden_sizes", (256, 512, 1024, 2048))  # channels of each stage
    depths: tuple[int, ...] = key("depths", (3, 4, 6, 3))  # blocks of each stage
    activation: Callable[[Array], Array] = key("hidden_act", "relu", activation)
    shrinks_first: bool = key("downsample_in_first_stage", False)  # whether the first stage halves it too
    early: bool = key("downsample_in_bottleneck", False)  # whether a bottleneck's first convolution halves it
    group: int = key("groups_width", 64)  # channels of one group in RegNet's grouped convolutions
    resampled = True
    poolings = ("mean", "pooler")

    @property
    def layers(self) -> int:
        """Stages: ``layer=`` counts these."""
        return len(self.depths)

    @property
    def regnet(self) -> bool:
        """Whether it is a RegNet."""
        return self.block in ("x", "y")

    def groups(self, width: int) -> int:
        """Groups of a RegNet block's middle convolution."""
        return max(1, width // self.group)


def read(kind: str, config: Config, names: Container[str]) -> ResNetConfig:
    """What a configuration of this model_type asks for."""
    if regnet := kind == "regnet":
        block = config.choice("layer_type", ("y", "x"))
        defaults = {"stem": 32, "widths": (128, 192, 512, 1088), "depths": (2, 6, 12, 2)}
        found = config.fill(ResNetConfig, defaults, block=block, shrinks_first=True, early=False)
    else:
        found = config.fill(ResNetConfig, block=config.choice("layer_type", ("bottleneck", "basic")))
    if len(found.widths) != len(found.depths) or not found.depths:
        config.refuse(
            f"hidden_sizes names {len(found.widths)} stages and depths {len(found.depths)}; expected one or more and "
            "as many of one as of the other."
        )
    if found.block == "bottleneck":
        config.get("hidden_sizes", found.widths, REDUCTION)
    uneven = [width for width in found.widths if regnet and width % found.groups(width)]
    if uneven:
        config.refuse(
            f"hidden_sizes has {uneven[0]}, which {found.groups(uneven[0])} groups (groups_width {found.group}) do "
            "not divide."
        )
    return found


NAMES = (
    (r"^embedder\.embedder\.", "stem."),
    (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
    # RegNet Y's gates
    (r"\.attention\.0\.", ".reduce."),
    (r"\.attention\.2\.", ".expand."),
)


class Block(nnx.Module):
    """Convolutions whose result is added to what enters; that is projected where the shapes differ."""

    def __init__(self, config: ResNetConfig, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        moved = inputs != outputs or stride > 1
        self.shortcut = NormedConv(inputs, outputs, 1, stride, rngs=rngs) if moved else None
        layers: list[nnx.Module] = []
        before, plan = inputs, _plan(config, outputs, stride)
        for position, (kernel, width, step, groups) in enumerate(plan):
            last = position == len(plan) - 1
            if last and config.block == "y":
                layers.append(Excitation(before, round(inputs / REDUCTION), jax.nn.relu, rngs))
            act = None if last else config.activation if config.regnet else jax.nn.relu
            layers.append(NormedConv(before, width, kernel, step, groups=groups, activation=act, rngs=rngs))
            before = width
        self.layer = nnx.List(layers)
        self.activation = config.activation

    def __call__(
        self, values: Float[Array, "n height width inputs"]
    ) -> Float[Array, "n rows columns outputs"]:
        """The map behind this block."""
        changed = values
        for layer in self.layer:
            changed = layer(changed)
        return self.activation(changed + (values if self.shortcut is None else self.shortcut(values)))


def _plan(config: ResNetConfig, width: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(kernel, channels, stride, groups) of each convolution of a block."""
    if config.block == "basic":
        return [(3, width, stride, 1), (3, width, 1, 1)]
    first, second = (stride, 1) if config.early else (1, stride)
    inner = width if config.regnet else width // REDUCTION
    groups = config.groups(width) if config.regnet else 1
    return [(1, inner, first, 1), (3, inner, second, groups), (1, width, 1, 1)]


class Tower(nnx.Module):
    """A residual network of this family."""

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs) -> None:
        kernel = 3 if config.regnet else 7
        self.stem = NormedConv(3, config.stem, kernel, 2, activation=config.activation, rngs=rngs)
        stages, before = [], config.stem
        for number, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            stride = 2 if number or config.shrinks_first else 1
            first = Block(config, before, width, stride, rngs)
            stages.append(
                nnx.List([first, *(Block(config, width, width, 1, rngs) for _ in range(depth - 1))])
            )
            before = width
        self.stages = nnx.List(stages)
        self.config = config

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> TowerFeatures:
        """The map behind the first ``layer`` stages, or of the whole network where it is None."""
        values = self.stem(pixels)
        if not self.config.regnet:
            padding = ((1, 1), (1, 1))
            values = nnx.max_pool(values, (3, 3), (2, 2), padding)  # pyright: ignore[reportArgumentType]
        for stage in list(self.stages)[:layer]:
            for block in stage:
                values = block(values)
        return of_map(values, values.mean((1, 2)) if layer is None else None)
