"""Plain vision transformers: ViT, CLIP, DINOv2 and DINOv3, BEiT, SigLIP, InternViT and the EVA network of BLIP-2."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.towers.parts import (
    FeedForward,
    Projections,
    RMSNorm,
    TowerFeatures,
    attend,
    parameter,
    resample,
)
from jaxalign.vision.encoders.towers.vit_config import ViTConfig
from jaxalign.vision.encoders.towers.vit_config import read as read

NAMES = (
    (r"\bencoder\.layers?\b|^layer\b", "blocks"),
    # in front of the blocks
    (r"\bembeddings\.(class_embedding|cls_token)$", "class_token"),
    (r"\bembeddings\.register_tokens$", "register_tokens"),
    (r"\bembeddings\.position_embeddings?(\.weight)?$", "positions"),
    (r"\bembeddings\.patch_embeddings?(\.projection)?\.", "patches."),
    (r"\bpre_layrnorm\.", "first_norm."),
    (r"^(post_layernorm|layernorm|norm)\.", "last_norm."),
    # inside a block
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.(layer_scale1\.lambda1|lambda_1|ls1)$", ".scale1"),
    (r"\.(layer_scale2\.lambda1|lambda_2|ls2)$", ".scale2"),
    (r"\.attention\.output\.dense\.", ".attention.out."),
    (r"\.(self_attn|attn|attention\.attention)\.", ".attention."),
    (r"\.attention\.(q_proj|query)\.", ".attention.query."),
    (r"\.attention\.(k_proj|key)\.", ".attention.key."),
    (r"\.attention\.(v_proj|value)\.", ".attention.value."),
    (r"\.attention\.(out_proj|o_proj|proj|projection|projection_layer)\.", ".attention.out."),
    (r"\.?relative_position_bias\.relative_position_bias_table$", ".relative"),
    (r"^encoder\.relative$", "relative"),
    (r"\.intermediate\.dense\.|\.mlp\.(fc1|up_proj|weights_in)\.", ".mlp.up."),
    (r"^(blocks\.\d+)\.output\.dense\.|\.mlp\.(fc2|down_proj|weights_out)\.", r"\1.mlp.down."),
    (r"\.mlp\.gate_proj\.", ".mlp.gate."),
    # behind the blocks
    (r"^pooler\.(dense|layernorm)\.", "pooler."),
    (r"^head\.attention\.in_proj_", "head.attention.qkv."),
    (r"^head\.attention\.out_proj\.", "head.attention.out."),
    (r"^head\.layernorm\.", "head.norm."),
)


class Attention(Projections):
    """Attention of all tokens to all, with the family's additions."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        super().__init__(config.width, config.heads, rngs, config.qkv_bias, config.out_bias)
        epsilon = config.qk_norm
        self.q_norm = None if epsilon is None else RMSNorm(config.width, epsilon)
        self.k_norm = None if epsilon is None else RMSNorm(config.width, epsilon)
        self.relative = relative_table(config) if config.bias == "own" else None
        self.config = config

    def __call__(
        self, tokens: Float[Array, "n t d"], angles: Array | None, relative: Array | None
    ) -> Float[Array, "n t d"]:
        """``angles`` are those of the rotary positions, ``relative`` is what is added to the scores."""
        query, key, value = self.by_heads(tokens, tokens)
        if self.q_norm is not None and self.k_norm is not None:  # over all heads together
            query = self.q_norm(query.reshape(tokens.shape)).reshape(query.shape)
            key = self.k_norm(key.reshape(tokens.shape)).reshape(key.shape)
        if angles is not None:
            query, key = rotated(query, angles), rotated(key, angles)
        if self.relative is not None:
            relative = relative_scores(self.relative[...], self.config)
        return self.out(attend(query, key, value, relative))


class Block(nnx.Module):
    """Attention and feed-forward part, each normalised before, scaled and added."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = normalisation(config, rngs), normalisation(config, rngs)
        self.attention, self.mlp = Attention(config, rngs), feed_forward(config, rngs)
        self.scale1 = parameter(config.width) if config.scaled else None
        self.scale2 = parameter(config.width) if config.scaled else None

    def __call__(
        self, tokens: Float[Array, "n t d"], angles: Array | None, relative: Array | None
    ) -> Float[Array, "n t d"]:
        """The tokens behind this block."""
        mixed = self.attention(self.norm1(tokens), angles, relative)
        tokens = tokens + (mixed if self.scale1 is None else self.scale1[...] * mixed)
        changed = self.mlp(self.norm2(tokens))
        return tokens + (changed if self.scale2 is None else self.scale2[...] * changed)


class AttentionPooling(nnx.Module):
    """SigLIP's summary: one learned query attends to all tokens."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        self.probe = parameter(1, config.width)
        self.attention = Attention(config, rngs)
        self.norm, self.mlp = normalisation(config, rngs), feed_forward(config, rngs)

    def __call__(self, tokens: Float[Array, "n t d"]) -> Float[Array, "n d"]:
        """One row for each picture."""
        probe = jnp.broadcast_to(self.probe[...], (tokens.shape[0], *self.probe.shape))
        pooled = self.attention.out(attend(*self.attention.by_heads(probe, tokens)))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class Tower(nnx.Module):
    """A vision transformer of this family."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        width, (rows, columns) = config.width, config.grid
        self.patches = nnx.Conv(
            3, width, config.patch, config.patch, padding="VALID", use_bias=config.patch_bias, rngs=rngs
        )
        self.class_token = parameter(1, width) if config.token else None
        self.register_tokens = parameter(config.registers, width) if config.registers else None
        count = rows * columns + (config.positions == "class")
        self.positions = parameter(count, width) if config.positions else None
        self.first_norm = normalisation(config, rngs) if config.first_norm else None
        self.relative = relative_table(config) if config.bias == "shared" else None
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.layers)])
        behind = config.last_norm or config.pooler == "norm"
        self.last_norm = nnx.LayerNorm(width, epsilon=config.epsilon, rngs=rngs) if behind else None
        mean = nnx.LayerNorm(width, epsilon=config.epsilon, rngs=rngs) if config.pooler == "mean" else None
        self.pooler = nnx.Linear(width, width, rngs=rngs) if config.pooler == "dense" else mean
        self.head = AttentionPooling(config, rngs) if config.pooler == "attention" else None
        self.config = config

    def __call__(self, pixels: Float[Array, "n height width 3"], layer: int | None = None) -> TowerFeatures:
        """The tokens behind the first ``layer`` blocks as they are, or of the whole network where it is None."""
        config, blocks = self.config, list(self.blocks)
        tokens, grid = self._embedded(pixels)
        leading = config.registers + config.token
        angles = None if config.rope is None else rotary_angles(config, grid, leading)
        relative = None if self.relative is None else relative_scores(self.relative[...], config)
        for block in blocks[:layer]:
            tokens = block(tokens, angles, relative)
        if layer is not None:
            return TowerFeatures(tokens, leading, None)
        if config.last_norm and self.last_norm is not None:
            tokens = self.last_norm(tokens)
        return TowerFeatures(tokens, leading, self._pooled(tokens, leading))

    def _embedded(self, pixels: Float[Array, "n height width 3"]) -> tuple[Array, tuple[int, int]]:
        config, patches = self.config, self.patches(pixels)
        count, rows, columns, width = patches.shape
        tokens = patches.reshape(count, rows * columns, width)
        placed = None if self.positions is None else self.positions[...]
        first = int(config.positions == "class")
        if placed is not None:
            grid = placed[first:].reshape(*config.grid, width)
            method = config.resampled or "bicubic"
            tokens = tokens + resample(grid, (rows, columns), method, config.antialias).reshape(-1, width)
        leading = []
        if self.class_token is not None:
            token = self.class_token[...]
            leading.append(token if placed is None or not first else token + placed[:1])
        if self.register_tokens is not None:
            leading.append(self.register_tokens[...])
        if leading:
            ahead = jnp.concatenate(leading).astype(tokens.dtype)
            ahead = jnp.broadcast_to(ahead, (count, *ahead.shape))
            tokens = jnp.concatenate([ahead, tokens], axis=1)
        return (tokens if self.first_norm is None else self.first_norm(tokens)), (rows, columns)

    def _pooled(self, tokens: Float[Array, "n t d"], leading: int) -> Float[Array, "n d"] | None:
        kind = self.config.pooler
        if self.head is not None:
            return self.head(tokens)
        if kind == "mean" and self.pooler is not None:
            return self.pooler(tokens[:, leading:].mean(1))
        if kind == "norm" and self.last_norm is not None:
            return self.last_norm(tokens[:, 0])
        if kind == "dense":
            return None if self.pooler is None else jnp.tanh(self.pooler(tokens[:, 0]))
        return tokens[:, 0] if kind == "token" else None


def feed_forward(config: ViTConfig, rngs: nnx.Rngs) -> FeedForward:
    """The feed-forward part of a block."""
    return FeedForward(config.width, config.hidden, config.activation, rngs, config.mlp_bias, config.gate)


def normalisation(config: ViTConfig, rngs: nnx.Rngs) -> nnx.Module:
    """The norm of a block."""
    if config.norm == "rms_norm":
        return RMSNorm(config.width, config.epsilon)
    return nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)


def rotary_angles(config: ViTConfig, grid: tuple[int, int], leading: int) -> Float[Array, "t part"]:
    """Angles by which queries and keys of each token turn; 0 for the tokens without a place."""
    assert config.rope is not None
    part = config.width // config.heads
    frequencies = config.rope ** -np.arange(0, 1, 4 / part)
    places = [2 * (np.arange(edge) + 0.5) / edge - 1 for edge in grid]
    centres = np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, 2, 1)
    angles = np.tile((2 * np.pi * centres * frequencies).reshape(len(centres), -1), 2)
    return jnp.asarray(np.concatenate([np.zeros((leading, part)), angles]), jnp.float32)


def rotated(values: Float[Array, "n t heads part"], angles: Float[Array, "t part"]) -> Array:
    """Queries or keys, turned pair by pair; the first half of a head pairs with the second."""
    first, second = jnp.split(values, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    cosine, sine = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return (values * cosine + turned * sine).astype(values.dtype)


def relative_table(config: ViTConfig) -> nnx.Param:
    """BEiT's table: one row for each offset of two patches, then to, from and between class tokens."""
    rows, columns = config.grid
    return parameter((2 * rows - 1) * (2 * columns - 1) + 3, config.heads)


def relative_scores(table: Float[Array, "offsets heads"], config: ViTConfig) -> Float[Array, "heads t t"]:
    """What BEiT adds to the scores of attention."""
    rows, columns = config.grid
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    down, across = np.moveaxis(place[:, None] - place[None], -1, 0)
    index = np.full((len(place) + 1,) * 2, table.shape[0] - 3)
    index[1:, 1:] = (down + rows - 1) * (2 * columns - 1) + across + columns - 1
    index[1:, 0], index[0, 0] = table.shape[0] - 2, table.shape[0] - 1
    return jnp.moveaxis(table[index], -1, 0)
