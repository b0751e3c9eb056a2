"""The image encoder of Segment Anything (SAM): a vision transformer with attention in windows, and a neck."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.config import Config
from jaxalign.vision.encoders.towers.parts import (
    Features,
    activation,
    attend,
    in_windows,
    of_map,
    parameter,
)

NECK_EPSILON = 1e-6  # no configuration names it


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """What differs between the networks of this family.

    Attributes:
      width, layers, heads, hidden: of the transformer; ``hidden`` is the width inside the feed-forward part.
      size, patch: (height, width) of the picture it was trained on, and of a patch, in pixels.
      activation, epsilon: of the feed-forward part, and of the blocks' norms.
      window: edge of the windows that attention stays in, in patches; 0 for none.
      everywhere: the blocks whose attention goes over the whole picture.
      qkv_bias: whether query, key and value have one.
      positions, relative: whether there are absolute positions, and relative ones in attention.
      channels: of the neck's result.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    size: tuple[int, int]
    patch: tuple[int, int]
    activation: Callable[[Array], Array]
    epsilon: float
    window: int
    everywhere: tuple[int, ...]
    qkv_bias: bool
    positions: bool
    relative: bool
    channels: int
    resampled: bool = False
    poolings: tuple[str, ...] = ("mean",)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]


def read(kind: str, config: Config, names: Container[str]) -> SamConfig:
    """What a configuration asks for."""
    width, heads = config.count("hidden_size", 768), config.count("num_attention_heads", 12)
    if width % heads:
        config.refuse(f"hidden_size {width} is no multiple of num_attention_heads {heads}.")
    hidden = int(width * config.number("mlp_ratio", 4.0))
    full = SamConfig(
        width=width,
        layers=config.count("num_hidden_layers", 12),
        heads=heads,
        hidden=hidden if config.values.get("mlp_dim") is None else config.count("mlp_dim", hidden),
        size=config.edges("image_size", 1024),
        patch=config.edges("patch_size", 16),
        activation=activation(config, "hidden_act", "gelu"),
        epsilon=config.number("layer_norm_eps", 1e-6),
        window=config.count("window_size", 14, 0),
        everywhere=config.counts("global_attn_indexes", (2, 5, 8, 11), 0),
        qkv_bias=config.flag("qkv_bias", True),
        positions=config.flag("use_abs_pos", True),
        relative=config.flag("use_rel_pos", True),
        channels=config.count("output_channels", 256),
    )
    if min(full.grid) < 1:
        config.refuse(f"image_size {full.size} is smaller than patch_size {full.patch}.")
    return full


NAMES = (
    (r"^patch_embed\.projection\.", "patches."),
    (r"^pos_embed$", "positions"),
    (r"^layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.rel_pos_h$", ".attention.down"),
    (r"\.attn\.rel_pos_w$", ".attention.across"),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.lin1\.", ".up."),
    (r"\.mlp\.lin2\.", ".back."),
)


class Attention(nnx.Module):
    """Attention of all positions of a map to all, with scores for the rows and columns between two positions."""

    def __init__(self, config: SamConfig, grid: tuple[int, int], rngs: nnx.Rngs) -> None:
        width, bias, part = config.width, config.qkv_bias, config.width // config.heads
        self.query = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.down = parameter(2 * grid[0] - 1, part) if config.relative else None
        self.across = parameter(2 * grid[1] - 1, part) if config.relative else None
        self.heads = config.heads

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The mixed values."""
        count, rows, columns, width = values.shape
        tokens = values.reshape(count, rows * columns, width)
        query, key, value = (
            layer(tokens).reshape(count, rows * columns, self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        scores = None
        if self.down is not None and self.across is not None:
            queries = query.reshape(count, rows, columns, self.heads, -1)
            scores = relative_scores(queries, self.down[...], self.across[...])
        return self.out(attend(query, key, value, scores)).reshape(values.shape)


def relative_scores(
    query: Float[Array, "n rows columns heads part"],
    down: Float[Array, "offsets part"],
    across: Float[Array, "offsets part"],
) -> Float[Array, "n heads q k"]:
    """What is added to the scores: products of the query with the distances of the key in rows and in columns.

    Args:
      query: of each position.
      down, across: one vector for each distance, from −(rows − 1) or −(columns − 1) up.
    """
    rows, columns = query.shape[1:3]
    by_row, by_column = (
        table[np.arange(edge)[:, None] - np.arange(edge) + edge - 1]
        for table, edge in ((down, rows), (across, columns))
    )
    vertical = jnp.einsum("nyxhp,yjp->nhyxj", query, by_row, preferred_element_type=jnp.float32)
    horizontal = jnp.einsum("nyxhp,xip->nhyxi", query, by_column, preferred_element_type=jnp.float32)
    both = vertical[..., :, None] + horizontal[..., None, :]
    return both.reshape(*both.shape[:2], rows * columns, rows * columns)


class Block(nnx.Module):
    """Attention, in windows or everywhere, and a feed-forward part, each normalised before and added."""

    def __init__(self, config: SamConfig, window: int, rngs: nnx.Rngs) -> None:
        """``window`` is the windows' edge; 0 for attention over the whole map."""
        width, epsilon = config.width, config.epsilon
        self.norm1 = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.attention = Attention(config, (window, window) if window else config.grid, rngs)
        self.up = nnx.Linear(width, config.hidden, rngs=rngs)
        self.back = nnx.Linear(config.hidden, width, rngs=rngs)
        self.window, self.activation = window, config.activation

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The values behind this block."""
        normed = self.norm1(values)
        if self.window:
            values = values + in_windows(self.attention, normed, self.window)
        else:
            # 4,096 positions make 0.8 GB of scores a picture: one picture at a time.
            values = values + jax.lax.map(lambda one: self.attention(one[None])[0], normed)
        return values + self.back(self.activation(self.up(self.norm2(values))))


class Neck(nnx.Module):
    """Two convolutions, each normalised behind, to fewer channels."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs) -> None:
        channels = config.channels
        self.conv1 = nnx.Conv(config.width, channels, (1, 1), use_bias=False, rngs=rngs)
        self.conv2 = nnx.Conv(channels, channels, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm1 = nnx.LayerNorm(channels, epsilon=NECK_EPSILON, rngs=rngs)
        self.norm2 = nnx.LayerNorm(channels, epsilon=NECK_EPSILON, rngs=rngs)

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns channels"]:
        """The map that SAM's mask decoder takes."""
        return self.norm2(self.conv2(self.norm1(self.conv1(values))))


class Tower(nnx.Module):
    """SAM's image encoder."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs) -> None:
        width, patch = config.width, config.patch
        self.patches = nnx.Conv(3, width, patch, patch, padding="VALID", rngs=rngs)
        self.positions = parameter(*config.grid, width) if config.positions else None
        windows = [0 if index in config.everywhere else config.window for index in range(config.layers)]
        self.blocks = nnx.List([Block(config, window, rngs) for window in windows])
        self.neck = Neck(config, rngs)

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> Features:
        """The positions behind the first ``layer`` blocks as they are, or behind the neck where it is None."""
        values = self.patches(pixels)
        if self.positions is not None:
            values = values + self.positions[...]
        for block in list(self.blocks)[:layer]:
            values = block(values)
        return of_map(values if layer is not None else self.neck(values), None)
