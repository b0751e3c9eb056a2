"""The image encoder of Segment Anything (SAM): a vision transformer with attention in windows, and a neck."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Container

import jax
import jax.numpy as jnp
import numpy as np
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
    parameter,
    require_patches,
)

NECK_EPSILON = 1e-6  # no configuration names it
from_zero = functools.partial(Config.get, least=0)


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """What differs between the networks of this family, by the keys and defaults of transformers."""

    hidden: int  # width inside the feed-forward part
    width: int = key("hidden_size", 768)
    layers: int = key("num_hidden_layers", 12)
    heads: int = key("num_attention_heads", 12)
    size: tuple[int, int] = key("image_size", 1024, Config.edges)  # (height, width) in pixels
    patch: tuple[int, int] = key("patch_size", 16, Config.edges)
    activation: Callable[[Array], Array] = key("hidden_act", "gelu", activation)
    epsilon: float = key("layer_norm_eps", 1e-6)  # of the blocks' norms
    window: int = key("window_size", 14, from_zero)  # edge of attention's windows, in patches
    everywhere: tuple[int, ...] = key("global_attn_indexes", (2, 5, 8, 11), from_zero)  # without windows
    qkv_bias: bool = key("qkv_bias", True)
    positions: bool = key("use_abs_pos", True)
    relative: bool = key("use_rel_pos", True)  # positions in attention
    channels: int = key("output_channels", 256)  # of the neck's result
    resampled = False
    poolings = ("mean",)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]


def read(kind: str, config: Config, names: Container[str]) -> SamConfig:
    """What a configuration asks for."""
    hidden = int(config.get("hidden_size", 768) * config.get("mlp_ratio", 4.0))
    if config.values.get("mlp_dim") is not None:
        hidden = config.get("mlp_dim", hidden)
    return require_patches(config, config.fill(SamConfig, hidden=hidden))


NAMES = (
    (r"^patch_embed\.projection\.", "patches."),
    (r"^pos_embed$", "positions"),
    (r"^layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.rel_pos_h$", ".attention.down"),
    (r"\.attn\.rel_pos_w$", ".attention.across"),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.lin1\.", ".mlp.up."),
    (r"\.mlp\.lin2\.", ".mlp.down."),
)


class Attention(Projections):
    """Attention of all positions of a map to all, with scores for the rows and columns between two positions."""

    def __init__(self, config: SamConfig, grid: tuple[int, int], rngs: nnx.Rngs) -> None:
        super().__init__(config.width, config.heads, rngs, (config.qkv_bias,) * 3)
        part = config.width // config.heads
        self.down = parameter(2 * grid[0] - 1, part) if config.relative else None
        self.across = parameter(2 * grid[1] - 1, part) if config.relative else None

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The mixed values."""
        tokens = values.reshape(values.shape[0], -1, values.shape[-1])
        query, key, value = self.by_heads(tokens, tokens)
        scores = None
        if self.down is not None and self.across is not None:
            queries = query.reshape(*values.shape[:3], self.heads, -1)
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
        self.norm1, self.norm2 = (
            nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs) for _ in range(2)
        )
        self.attention = Attention(config, (window, window) if window else config.grid, rngs)
        self.mlp = FeedForward(config.width, config.hidden, config.activation, rngs)
        self.window = window

    def __call__(self, values: Float[Array, "n rows columns d"]) -> Float[Array, "n rows columns d"]:
        """The values behind this block."""
        normed = self.norm1(values)
        if self.window:
            values = values + in_windows(self.attention, normed, self.window)
        else:
            # 4,096 positions make 0.8 GB of scores a picture: one picture at a time.
            values = values + jax.lax.map(lambda one: self.attention(one[None])[0], normed)
        return values + self.mlp(self.norm2(values))


class Tower(nnx.Module):
    """SAM's image encoder."""

    def __init__(self, config: SamConfig, rngs: nnx.Rngs) -> None:
        width, patch, channels = config.width, config.patch, config.channels
        self.patches = nnx.Conv(3, width, patch, patch, padding="VALID", rngs=rngs)
        self.positions = parameter(*config.grid, width) if config.positions else None
        windows = [0 if index in config.everywhere else config.window for index in range(config.layers)]
        self.blocks = nnx.List([Block(config, window, rngs) for window in windows])
        self.neck = nnx.Dict(
            conv1=nnx.Conv(width, channels, (1, 1), use_bias=False, rngs=rngs),
            norm1=nnx.LayerNorm(channels, epsilon=NECK_EPSILON, rngs=rngs),
            conv2=nnx.Conv(channels, channels, (3, 3), padding=1, use_bias=False, rngs=rngs),
            norm2=nnx.LayerNorm(channels, epsilon=NECK_EPSILON, rngs=rngs),
        )

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> TowerFeatures:
        """The positions behind the first ``layer`` blocks as they are, or behind the neck where it is None."""
        values = self.patches(pixels)
        if self.positions is not None:
            values = values + self.positions[...]
        for block in list(self.blocks)[:layer]:
            values = block(values)
        if layer is None:
            for name in ("conv1", "norm1", "conv2", "norm2"):
                values = self.neck[name](values)
        return of_map(values, None)
