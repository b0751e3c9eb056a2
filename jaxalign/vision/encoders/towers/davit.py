"""DaViT, the vision tower of Florence-2: stages with attention among positions in windows, then among channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.config import Config
from jaxalign.vision.encoders.towers.parts import Features, activation, attend, in_windows, of_map

EPSILON = 1e-5  # of the norms; no configuration names it
SIZE = (768, 768)  # that Florence-2 was trained on; its configuration does not say it


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its convolution, which lowers the resolution, and its blocks.

    Attributes:
      inputs, width: channels before and behind the convolution.
      depth: pairs of blocks.
      kernel, stride, padding: of the convolution, in positions.
      norm_first: whether its input is normalised, instead of its result.
      heads, groups: of the attention among positions, and among channels.
    """

    inputs: int
    width: int
    depth: int
    kernel: int
    stride: int
    padding: int
    norm_first: bool
    heads: int
    groups: int


@dataclasses.dataclass(frozen=True)
class DaViTConfig:
    """What differs between the networks of this family.

    Attributes:
      stages: in order.
      window: edge of the windows, in positions.
      ratio: width inside the feed-forward part, as a multiple of the stage's.
      activation: of the feed-forward part.
      qkv_bias: whether query, key and value have one.
    """

    stages: tuple[Stage, ...]
    window: int
    ratio: float
    activation: Callable[[Array], Array]
    qkv_bias: bool
    size: tuple[int, int] = SIZE
    resampled: bool = True  # nothing in it depends on the size
    poolings: tuple[str, ...] = ("mean",)

    @property
    def layers(self) -> int:
        """Each stage counts as one."""
        return len(self.stages)


def read(kind: str, config: Config, names: Container[str]) -> DaViTConfig:
    """What a configuration asks for, in transformers' keys or in those of Microsoft's repositories."""
    original = "dim_embed" in config.values
    widths = config.counts("dim_embed" if original else "embed_dim", (128, 256, 512, 1024))
    usual = (8, 16, 32, 64) if original else (4, 8, 16, 32)
    columns = {
        "depths": config.counts("depths", (1, 1, 9, 1)),
        "patch_size": config.counts("patch_size", (7, 3, 3, 3)),
        "patch_stride": config.counts("patch_stride", (4, 2, 2, 2)),
        "patch_padding": config.counts("patch_padding", (3, 1, 1, 1), 0),
        "patch_prenorm": config.flags("patch_prenorm", (False, True, True, True)),
        "num_heads": config.counts("num_heads", usual),
        "num_groups": config.counts("num_groups", usual),
    }
    if not widths:
        config.refuse("embed_dim is empty, and the network has no stage.")
    for key, values in columns.items():
        if len(values) < len(widths):
            config.refuse(f"there are {len(widths)} stages, and {key} is only given for {len(values)}.")
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
    return DaViTConfig(
        stages,
        window=config.count("window_size", 12),
        ratio=config.number("mlp_ratio", 4.0),
        activation=activation(config, "activation_function", "gelu"),
        qkv_bias=config.flag("qkv_bias", True),
    )


NAMES = (
    (r"\.(window|channel)_attn\.", ".attention."),
    # Microsoft's: a norm belongs to what follows it, and what follows is "fn".
    (r"\.attention\.norm\.", ".norm1."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.fn\.((dw|net)\.)?", "."),
    (r"^convs\.(\d+)\.proj\.", r"convs.\1.conv."),
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


class Attention(nnx.Module):
    """Attention among the positions of a map, or among its channels."""

    def __init__(self, width: int, heads: int, among_channels: bool, bias: bool, rngs: nnx.Rngs) -> None:
        self.query = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
        self.proj = nnx.Linear(width, width, rngs=rngs)
        self.heads, self.among_channels = heads, among_channels

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The mixed values."""
        tokens = values.reshape(len(values), -1, values.shape[-1])
        parts = [
            layer(tokens).reshape(*tokens.shape[:2], self.heads, -1)
            for layer in (self.query, self.key, self.value)
        ]
        if self.among_channels:  # a channel's vector holds its values at all positions
            parts = [part.swapaxes(1, 3) for part in parts]
        mixed = attend(*parts)
        if self.among_channels:
            mixed = mixed.reshape(parts[0].shape).swapaxes(1, 3)
        return self.proj(mixed.reshape(values.shape))


class Block(nnx.Module):
    """Attention and a feed-forward part, each behind a convolution channel by channel, which tells positions apart."""

    def __init__(self, config: DaViTConfig, stage: Stage, among_channels: bool, rngs: nnx.Rngs) -> None:
        width, hidden = stage.width, int(stage.width * config.ratio)
        heads = stage.groups if among_channels else stage.heads
        self.conv1 = nnx.Conv(width, width, (3, 3), padding=1, feature_group_count=width, rngs=rngs)
        self.norm1 = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.attention = Attention(width, heads, among_channels, config.qkv_bias, rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), padding=1, feature_group_count=width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.ffn = FeedForward(width, hidden, config.activation, rngs)
        self.window = None if among_channels else config.window

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The values behind this block."""
        values = values + self.conv1(values)
        normed = self.norm1(values)
        if self.window is None:
            values = values + self.attention(normed)
        else:
            values = values + in_windows(self.attention, normed, self.window)
        values = values + self.conv2(values)
        return values + self.ffn(self.norm2(values))


class FeedForward(nnx.Module):
    """Two layers."""

    def __init__(self, width: int, hidden: int, act: Callable[[Array], Array], rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(width, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, width, rngs=rngs)
        self.activation = act

    def __call__(self, values: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """The values, each position by itself."""
        return self.fc2(self.activation(self.fc1(values)))


class Pair(nnx.Module):
    """A block with attention among positions and one with attention among channels."""

    def __init__(self, config: DaViTConfig, stage: Stage, rngs: nnx.Rngs) -> None:
        self.spatial_block = Block(config, stage, False, rngs)
        self.channel_block = Block(config, stage, True, rngs)

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The values behind both."""
        return self.channel_block(self.spatial_block(values))


class Tower(nnx.Module):
    """A DaViT."""

    def __init__(self, config: DaViTConfig, rngs: nnx.Rngs) -> None:
        self.convs = nnx.List([Downsampling(stage, rngs) for stage in config.stages])
        self.blocks = nnx.List(
            [nnx.List([Pair(config, stage, rngs) for _ in range(stage.depth)]) for stage in config.stages]
        )

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> Features:
        """The map behind ``layer`` stages, all where it is None; layer 0 is what enters the first stage's blocks."""
        values = self.convs[0](pixels)
        for index, blocks in enumerate(list(self.blocks)[:layer]):
            values = values if index == 0 else self.convs[index](values)
            for pair in blocks:
                values = pair(values)
        return of_map(values, None)
