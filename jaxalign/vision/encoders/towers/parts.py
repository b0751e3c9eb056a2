"""What the towers share: their result, attention, windows, norms, activations, convolutions and resampled grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxalign.vision.encoders.checkpoint_config import Config


class TowerFeatures(NamedTuple):
    """What a tower gives for n pictures.

    Attributes:
      tokens: one row for each position, those of the class and of registers first.
      leading: how many of the tokens stand for no place in the picture.
      pooled: the network's own summary of a picture, None where it has none or the layer is not the last.
    """

    tokens: Float[Array, "n positions width"]
    leading: int
    pooled: Float[Array, "n dim"] | None


def of_map(
    values: Float[Array, "n height width channels"], pooled: Float[Array, "n dim"] | None
) -> TowerFeatures:
    """Features of a convolutional network: its positions in rows."""
    return TowerFeatures(values.reshape(values.shape[0], -1, values.shape[-1]), 0, pooled)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(config: Config, key: str, default: str) -> Callable[[Array], Array]:
    """The activation that a configuration names."""
    name = config.get(key, default)
    if name not in ACTIVATIONS:
        config.refuse(f"{key} is {name!r}; known activations are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def require_patches(config: Config, settings: Any) -> Any:
    """The settings of a vision transformer, where its heads divide its width and a picture has a patch."""
    width, heads = settings.width, settings.heads
    if width % heads:
        config.refuse(f"hidden_size {width} is no multiple of num_attention_heads {heads}.")
    if min(settings.grid) < 1:
        config.refuse(f"image_size {settings.size} is smaller than patch_size {settings.patch}.")
    return settings


def attend(
    query: Float[Array, "n q heads part"],
    key: Float[Array, "n k heads part"],
    value: Float[Array, "n k heads part"],
    bias: Float[Array, "... heads q k"] | None = None,
) -> Float[Array, "n q width"]:
    """Attention of queries to keys, with weights in float32; the heads' results are put one after another."""
    scores = jnp.einsum("nqhp,nkhp->nhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("nhqk,nkhp->nqhp", weights, value)
    return mixed.reshape(*mixed.shape[:2], -1)


def in_windows(
    mix: Callable[[Array], Array], values: Float[Array, "n height width channels"], edge: int
) -> Float[Array, "n height width channels"]:
    """Applies a function to each window of edge × edge positions by itself.

    Where a window reaches beyond the border of the map, it holds zeros.

    Args:
      mix: takes and gives [windows, edge, edge, channels].
      values: of all positions.
      edge: of a window.
    """
    count, height, width, channels = values.shape
    down, across = -(-height // edge), -(-width // edge)
    padded = jnp.pad(values, ((0, 0), (0, down * edge - height), (0, across * edge - width), (0, 0)))
    split = padded.reshape(count, down, edge, across, edge, channels).swapaxes(2, 3)
    mixed = mix(split.reshape(-1, edge, edge, channels)).reshape(split.shape)
    return mixed.swapaxes(2, 3).reshape(padded.shape)[:, :height, :width]


def parameter(*shape: int) -> nnx.Param:
    """A parameter of this shape, filled from the checkpoint."""
    return nnx.Param(jnp.zeros(shape))


class Projections(nnx.Module):
    """Queries, keys and values of tokens, and the layer behind attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
        biases: Sequence[bool] = (True, True, True),
        out_bias: bool = True,
    ) -> None:
        """``biases`` says which of query, key and value have one."""
        self.query, self.key, self.value = (
            nnx.Linear(width, width, use_bias=bias, rngs=rngs) for bias in biases
        )
        self.out = nnx.Linear(width, width, use_bias=out_bias, rngs=rngs)
        self.heads = heads

    def by_heads(self, tokens: Float[Array, "n t d"], others: Float[Array, "n k d"]) -> list[Array]:
        """Queries of the tokens, keys and values of the others, each [n, t or k, heads, part]."""
        parts = self.query(tokens), self.key(others), self.value(others)
        return [part.reshape(*part.shape[:2], self.heads, -1) for part in parts]


class FeedForward(nnx.Module):
    """Two layers, or three where one of them is a gate."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
        bias: bool = True,
        gate: str = "",
    ) -> None:
        """``gate`` is "joint" or "separate" for a gated one, by how its weights are stored."""
        self.up = nnx.Linear(width, hidden * (1 + (gate == "joint")), use_bias=bias, rngs=rngs)
        self.gate = nnx.Linear(width, hidden, use_bias=bias, rngs=rngs) if gate == "separate" else None
        self.down = nnx.Linear(hidden, width, use_bias=bias, rngs=rngs)
        self.activation, self.joint = activation, gate == "joint"

    def __call__(self, tokens: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """The tokens, each by itself."""
        inner = self.up(tokens)
        if self.joint:
            gate, inner = jnp.split(inner, 2, axis=-1)
            return self.down(self.activation(gate) * inner)
        if self.gate is not None:
            return self.down(self.activation(self.gate(tokens)) * inner)
        return self.down(self.activation(inner))


class FrozenNorm(nnx.Module):
    """Batch normalisation by its running statistics, in float32."""

    def __init__(self, channels: int, epsilon: float = 1e-5, affine: bool = True) -> None:
        """``affine`` says whether it has a weight and a bias."""
        self.running_mean, self.running_var = parameter(channels), parameter(channels)
        self.affine, self.epsilon = affine, epsilon
        if affine:
            self.weight, self.bias = parameter(channels), parameter(channels)

    def __call__(self, values: Float[Array, "... channels"]) -> Float[Array, "... channels"]:
        """The values, normalised, in their own format."""
        mean, variance = self.running_mean[...], self.running_var[...]
        scale = jax.lax.rsqrt(variance.astype(jnp.float32) + self.epsilon)
        scale = scale * self.weight[...].astype(jnp.float32) if self.affine else scale
        offset = (self.bias[...] if self.affine else 0) - mean.astype(jnp.float32) * scale
        return (values * scale + offset).astype(values.dtype)


class RMSNorm(nnx.Module):
    """Division by the root mean square, in float32, times a weight."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.weight, self.epsilon = parameter(width), epsilon

    def __call__(self, values: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """The values, normalised, in their own format."""
        wide = values.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + self.epsilon)
        return self.weight[...] * wide.astype(values.dtype)


def resample(
    grid: Float[Array, "rows columns width"], size: tuple[int, int], method: str, antialias: bool = False
) -> Float[Array, "height width width"]:
    """A grid of vectors at another size.

    Equivalent: ``torch.nn.functional.interpolate(grid, size, mode=method, align_corners=False, antialias=antialias)``.

    Args:
      grid: one vector at each place.
      size: (height, width) of the new grid.
      method: "bicubic" or "bilinear".
      antialias: widens the kernel where the grid shrinks.
    """
    if grid.shape[:2] == size:
        return grid
    down, across = (
        jnp.asarray(_weights(old, new, method, antialias))
        for old, new in zip(grid.shape[:2], size, strict=True)
    )
    return jnp.einsum("ih,jw,hwd->ijd", down, across, grid.astype(jnp.float32)).astype(grid.dtype)


def _weights(old: int, new: int, method: str, antialias: bool) -> Float[np.ndarray, "new old"]:
    """Row i has the weights of the old samples in new sample i.

    Without antialiasing, samples beyond the border repeat the last one; with it, they are left out and PyTorch has
    another parameter of the cubic kernel.
    """
    scale = old / new
    stretch = max(scale, 1.0) if antialias else 1.0
    reach = 2 if method == "bicubic" else 1
    sharpness = -0.5 if antialias else -0.75
    centre = (np.arange(new) + 0.5) * scale - 0.5
    weights = np.zeros((new, old))
    furthest = int(np.ceil(reach * stretch)) + 1
    for step in range(-furthest, furthest + 1):
        place = np.floor(centre).astype(int) + step
        value = _kernel(np.abs(centre - place) / stretch, method, sharpness)
        inside = (place >= 0) & (place < old) | (not antialias)
        np.add.at(weights, (np.arange(new), np.clip(place, 0, old - 1)), np.where(inside, value, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _kernel(distance: np.ndarray, method: str, a: float) -> np.ndarray:
    if method == "bilinear":
        return np.maximum(1 - distance, 0)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


class NormedConv(nnx.Module):
    """A convolution without bias, frozen batch normalisation and an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        rngs: nnx.Rngs,
        groups: int = 1,
        padding: tuple[int, int] | None = None,
        epsilon: float = 1e-5,
        activation: Callable[[Array], Array] | None = None,
    ) -> None:
        """``padding`` is (before, after) along both edges of the picture; half the kernel where it is None."""
        self.convolution = nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            stride,
            padding=[padding or (kernel // 2, kernel // 2)] * 2,
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.normalization, self.activation = FrozenNorm(outputs, epsilon), activation

    def __call__(
        self, values: Float[Array, "n height width inputs"]
    ) -> Float[Array, "n rows columns outputs"]:
        """The map, in the format of the values."""
        values = self.normalization(self.convolution(values))
        return values if self.activation is None else self.activation(values)


class Excitation(nnx.Module):
    """Squeeze and excitation: each channel times a gate between 0 and 1 that the means of all channels decide."""

    def __init__(
        self, channels: int, reduced: int, activation: Callable[[Array], Array], rngs: nnx.Rngs
    ) -> None:
        self.reduce = nnx.Linear(channels, reduced, rngs=rngs)
        self.expand = nnx.Linear(reduced, channels, rngs=rngs)
        self.activation = activation

    def __call__(
        self, values: Float[Array, "n height width channels"]
    ) -> Float[Array, "n height width channels"]:
        """The values, gated."""
        means = values.mean((1, 2), keepdims=True)
        return values * jax.nn.sigmoid(self.expand(self.activation(self.reduce(means))))
