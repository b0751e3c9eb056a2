"""KPRPE's vision transformer: what a token attends to depends on where the key points of the face are."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.tensors import Tensor
from jaxalign.vision.encoders.towers.parts import FrozenNorm, parameter
from jaxalign.vision.encoders.towers.vit import Block
from jaxalign.vision.encoders.towers.vit_config import ViTConfig
from jaxalign.vision.encoders.towers.weights import edge_of
from jaxalign.vision.images.landmarks import ARCFACE_SIZE, ARCFACE_TEMPLATE

# Where the points of an aligned face lie, (x, y) in parts of the picture's width and height, float32 [5, 2]: the eye on
# the left of the picture, that on the right, the tip of the nose, the left and the right corner of the mouth.
ALIGNED = (ARCFACE_TEMPLATE / ARCFACE_SIZE).astype(np.float32)
MIRRORED = np.array([1, 0, 2, 4, 3])  # of the points in a mirrored picture: left and right change places
# What the published checkpoints say of their relative positions.
KNOWN = {
    "name": "KPRPE_shared",
    "rpe_on": "k",
    "mode": "ctx",
    "method": "product",
    "ctx_type": "rel_keypoint_splithead_unshared",
}


def mirrored(points: Float[ArrayLike, "... 5 2"]) -> Float[Array, "... 5 2"]:
    """The key points of the pictures' mirror images."""
    across, down = jnp.moveaxis(jnp.asarray(points), -1, 0)
    return jnp.stack((1 - across, down), axis=-1)[..., MIRRORED, :]


@dataclasses.dataclass(frozen=True)
class KPRPEConfig:
    """What differs between these networks."""

    vit: ViTConfig  # of the blocks
    dim: int  # width of an embedding
    ratio: float  # of the distances, in tokens, at which offsets share a bucket
    epsilon: float  # of the batch norms behind the blocks

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self.vit.size


def read(kind: str, config: Config, names: Mapping[str, Tensor]) -> KPRPEConfig:
    """Depth, widths and sizes by the tensors' shapes; the configuration may say ``epsilon`` and ``rpe_config``."""

    edge = functools.partial(edge_of, config.specification, names)
    relative = config.part("rpe_config")
    for key, known in KNOWN.items():
        relative.choice(key, [known])
    points, ratio = relative.get("num_keypoints", 5), relative.get("ratio", 1.9)
    if points != 5 or ratio <= 0:
        relative.refuse(f"expected 5 num_keypoints and a ratio above 0, got {points} and {ratio:g}.")
    width, patch = edge("patches.weight", 4), edge("patches.weight", 4, 2)
    side = math.isqrt(edge("positions", 3, 1))
    layers = 0
    while f"blocks.{layers}.norm1.weight" in names:
        layers += 1
    rows = edge("key_points.weight", 2)
    heads = rows // max(layers * _reach(ratio) ** 2, 1)
    if not heads or heads * layers * _reach(ratio) ** 2 != rows or width % heads:
        config.specification.refuse(
            f"the tensor {names['key_points.weight'].name} has {rows} rows, which are not those of {layers} layers "
            f"and some heads with {_reach(ratio) ** 2} buckets each."
        )
    vit = ViTConfig(
        width=width,
        layers=layers,
        heads=heads,
        hidden=edge("blocks.0.mlp.up.weight", 2),
        size=(side * patch, side * patch),
        patch=(patch, patch),
        activation=jax.nn.relu6,
        epsilon=1e-5,
        token=False,
        positions="patches",
        qkv_bias=(False, False, False),
    )
    return KPRPEConfig(vit, edge("head.2.weight", 2), ratio, config.get("epsilon", 2e-5))


NAMES = (
    (r"^patch_embed\.proj\.", "patches."),
    (r"^pos_embed$", "positions"),
    (r"^keypoint_linear\.", "key_points."),
    (r"^feature\.", "head."),
    (r"^norm\.", "last_norm."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.up."),
    (r"\.mlp\.fc2\.", ".mlp.down."),
)


def _reach(ratio: float) -> int:
    """How many buckets there are in one direction."""
    return 2 * int(2 * ratio) + 1


def buckets(side: int, ratio: float) -> Int[np.ndarray, "query key"]:
    """The bucket of each offset between two of ``side`` × ``side`` tokens.

    Row and column of an offset, query minus key, are each kept up to ``ratio`` tokens and put together ever more beyond
    that, up to twice the ratio (Wu et al., "Rethinking and Improving Relative Position Encoding for Vision
    Transformer", ICCV 2021: the product method).
    """
    near, most, far = ratio, 2 * ratio, 8 * ratio
    offset = np.arange(1 - side, side)
    distance = np.abs(offset)
    scaled = near + (most - near) * np.log(np.maximum(distance, 1) / near) / np.log(far / near)
    bent = np.trunc(np.minimum(np.round(scaled), most))
    index = np.where(distance <= near, offset, np.sign(offset) * bent).astype(int) + int(most)
    row, column = np.divmod(np.arange(side**2), side)
    down, across = (index[place[:, None] - place[None] + side - 1] for place in (row, column))
    return down * _reach(ratio) + across


class Tower(nnx.Module):
    """A vision transformer with key-point relative positions.

    References:
      Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024.
    """

    def __init__(self, config: KPRPEConfig, rngs: nnx.Rngs) -> None:
        vit, width, dim = config.vit, config.vit.width, config.dim
        tokens = math.prod(vit.grid)
        self.patches = nnx.Conv(3, width, vit.patch, vit.patch, padding="VALID", rngs=rngs)
        self.positions = parameter(tokens, width)
        self.key_points = nnx.Linear(10, vit.layers * vit.heads * _reach(config.ratio) ** 2, rngs=rngs)
        self.blocks = nnx.List([Block(vit, rngs) for _ in range(vit.layers)])
        self.last_norm = nnx.LayerNorm(width, epsilon=vit.epsilon, rngs=rngs)
        self.head = nnx.List(
            [
                nnx.Linear(tokens * width, width, use_bias=False, rngs=rngs),
                FrozenNorm(width, config.epsilon),
                nnx.Linear(width, dim, use_bias=False, rngs=rngs),
                FrozenNorm(dim, config.epsilon),
            ]
        )
        self.config = config

    def __call__(
        self, pixels: Float[Array, "n height width 3"], key_points: Float[ArrayLike, "*n 5 2"] = ALIGNED
    ) -> Float[Array, "n dim"]:
        """The embeddings, unnormalised.

        ``key_points`` are those of each picture, or the same five for all of them, as ``ALIGNED`` has them.
        """
        patches = self.patches(pixels)
        tokens = patches.reshape(patches.shape[0], -1, patches.shape[-1]) + self.positions[...]
        relative = self._relative(jnp.asarray(key_points, jnp.float32))
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, None, relative(number))
        values = self.last_norm(tokens).reshape(tokens.shape[0], -1)
        for part in self.head:
            values = part(values)
        return values

    def _relative(
        self, points: Float[Array, "*n 5 2"]
    ) -> Callable[[int], Float[Array, "*n heads query key"]]:
        """What is added to the scores of a layer, [*n, heads, query, key], as a function of the layer's number."""
        vit, (side, _) = self.config.vit, self.config.vit.grid
        row, column = np.divmod(np.arange(side**2), side)
        centres = (np.stack((column, row), -1) + np.float32(0.5)) / np.float32(side)
        offsets = centres[:, None] - points[..., None, :, :]
        values = self.key_points(jnp.reshape(offsets, (*offsets.shape[:-2], 10)))
        values = values.reshape(*values.shape[:-1], vit.layers, vit.heads, -1)
        bucket = jnp.asarray(buckets(side, self.config.ratio))

        def of_layer(number: int) -> Float[Array, "*n heads query key"]:
            heads = jnp.moveaxis(values[..., number, :, :], -2, -3)
            return jnp.take_along_axis(heads, bucket.reshape((1,) * (heads.ndim - 2) + bucket.shape), axis=-1)

        return of_layer
