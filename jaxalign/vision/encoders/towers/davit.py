"""DaViT, the vision tower of Florence-2: stages with attention among positions in windows, then among channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.checkpoint_config import Config, key
from jaxalign.vision.encoders.towers.parts import (
    FeedForward,
    Projections,
    TowerFeatures,
    activation,
    attend,
    in_windows,
    of_map,
)

EPSILON = 1e-5  # of the norms; no configuration names it


class Stage(NamedTuple):
    """One stage: its convolution, which lowers the resolution, and its blocks."""

    inputs: int  # channels before the convolution
    width: int  # and behind it
    depth: int  # pairs of blocks
    kernel: int  # of the convolution, as stride and padding, in positions
    stride: int
    padding: int
    norm_first: bool  # whether the convolution's input is normalised, instead of its result
    heads: int  # of the attention among positions
    groups: int  # and among channels


@dataclasses.dataclass(frozen=True)
class DaViTConfig:
    """What differs between the networks of this family, by the keys and defaults of transformers."""

    stages: tuple[Stage, ...]
    window: int = key("window_size", 12)  # edge of the windows, in positions
    ratio: float = key("mlp_ratio", 4.0)  # width inside the feed-forward part, as a multiple of the stage's
    activation: Callable[[Array], Array] = key("activation_function", "gelu", activation)
    qkv_bias: bool = key("qkv_bias", True)
    size = 768, 768  # that Florence-2 was trained on; its configuration does not say it
    resampled = True  # nothing in it depends on the size
    poolings = ("mean",)

    @property
    def layers(self) -> int:
        """Each stage counts as one."""
        return len(self.stages)


def read(kind: str, config: Config, names: Container[str]) -> DaViTConfig:
    """What a configuration asks for, in transformers' keys or in those of Microsoft's repositories."""
    original = "dim_embed" in config.values
    widths = config.get("dim_embed" if original else "embed_dim", (128, 256, 512, 1024))
    usual = (8, 16, 32, 64) if original else (4, 8, 16, 32)
    columns = {
        "depths": config.get("depths", (1, 1, 9, 1)),
        "patch_size": config.get("patch_size", (7, 3, 3, 3)),
        "patch_stride": config.get("patch_stride", (4, 2, 2, 2)),
        "patch_padding": config.get("patch_padding", (3, 1, 1, 1), 0),
        "patch_prenorm": config.get("patch_prenorm", (False, True, True, True)),
        "num_heads": config.get("num_heads", usual),
        "num_groups": config.get("num_groups", usual),
    }
    if not widths:
        config.refuse("embed_dim is empty, and the network has no stage.")
    for name, values in columns.items():
        if len(values) < len(widths):
            config.refuse(f"there are {len(widths)} stages, and {name} is only given for {len(values)}.")
    stages = tuple(
        Stage(inputs, width, *rest)
        for inputs, width, *rest in zip((3, *widths), widths, *columns.values(), strict=False)
    )
    for stage in stages:
        if stage.width % stage.heads or stage.width % stage.groups:
            config.refuse(
                f"a stage of {stage.width} channels is divided into {stage.heads} heads and {stage.groups} groups; "
                "num_heads and num_groups must divide it."
            )
    return config.fill(DaViTConfig, stages=stages)


NAMES = (
    (r"\.(window|channel)_attn\.", ".attention."),
    # Microsoft's: a norm belongs to what follows it, and what follows is "fn".
    (r"\.attention\.norm\.", ".norm1."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.fn\.((dw|net)\.)?", "."),
    (r"^convs\.(\d+)\.proj\.", r"convs.\1.conv."),
    (r"\.spatial_block\.", ".0."),
    (r"\.channel_block\.", ".1."),
    (r"\.attention\.proj\.", ".attention.out."),
    (r"\.ffn\.fc1\.", ".mlp.up."),
    (r"\.ffn\.fc2\.", ".mlp.down."),
)


class Downsampling(nnx.Module):
    """A strided convolution, normalised before or behind."""

    def __init__(self, stage: Stage, rngs: nnx.Rngs) -> None:
        kernel, stride = (stage.kernel,) * 2, (stage.stride,) * 2
        self.conv = nnx.Conv(stage.inputs, stage.width, kernel, stride, padding=stage.padding, rngs=rngs)
        channels = stage.inputs if stage.norm_first else stage.width
        self.norm = nnx.LayerNorm(channels, epsilon=EPSILON, rngs=rngs)
        self.norm_first = stage.norm_first

    def __call__(self, values: Float[Array, "n height width inputs"]) -> Float[Array, "n rows columns d"]:
        """The map that the stage's blocks take."""
        return self.conv(self.norm(values)) if self.norm_first else self.norm(self.conv(values))


class Block(nnx.Module):
    """Attention and a feed-forward part, each behind a convolution channel by channel, which tells positions apart."""

    def __init__(self, config: DaViTConfig, stage: Stage, among_channels: bool, rngs: nnx.Rngs) -> None:
        width = stage.width
        self.conv1, self.conv2 = (
            nnx.Conv(width, width, (3, 3), padding=1, feature_group_count=width, rngs=rngs) for _ in range(2)
        )
        self.norm1, self.norm2 = (nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs) for _ in range(2))
        heads = stage.groups if among_channels else stage.heads
        self.attention = Projections(width, heads, rngs, (config.qkv_bias,) * 3)
        self.mlp = FeedForward(width, int(width * config.ratio), config.activation, rngs)
        self.window, self.among_channels = config.window, among_channels

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The values behind this block."""
        values = values + self.conv1(values)
        normed = self.norm1(values)
        mixed = self._mixed(normed) if self.among_channels else in_windows(self._mixed, normed, self.window)
        values = values + mixed
        values = values + self.conv2(values)
        return values + self.mlp(self.norm2(values))

    def _mixed(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """Attention among the positions of a map, or among its channels."""
        tokens = values.reshape(len(values), -1, values.shape[-1])
        parts = self.attention.by_heads(tokens, tokens)
        if self.among_channels:  # a channel's vector holds its values at all positions
            parts = [part.swapaxes(1, 3) for part in parts]
        mixed = attend(*parts)
        if self.among_channels:
            mixed = mixed.reshape(parts[0].shape).swapaxes(1, 3)
        return self.attention.out(mixed.reshape(values.shape))


class Tower(nnx.Module):
    """A DaViT."""

    def __init__(self, config: DaViTConfig, rngs: nnx.Rngs) -> None:
        def pair(stage: Stage) -> nnx.List:
            return nnx.List([Block(config, stage, among_channels, rngs) for among_channels in (False, True)])

        self.convs = nnx.List([Downsampling(stage, rngs) for stage in config.stages])
        self.blocks = nnx.List(
            [nnx.List([pair(stage) for _ in range(stage.depth)]) for stage in config.stages]
        )

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> TowerFeatures:
        """The map behind ``layer`` stages, all where it is None; layer 0 is what enters the first stage's blocks."""
        values = self.convs[0](pixels)
        for index, pairs in enumerate(list(self.blocks)[:layer]):
            values = values if index == 0 else self.convs[index](values)
            for pair in pairs:
                for block in pair:
                    values = block(values)
        return of_map(values, None)
