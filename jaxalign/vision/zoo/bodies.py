"""The networks of the zoo: small Flax modules from images to embeddings, each of another family.

Every body takes images [n, 64, 64, 3] with values from 0 to 255, uint8 or float32, and gives embeddings [n, width],
float32; its field ``width`` is that of the embedding. Blocks of 2 × 2 pixels are folded into channels first, which
loses nothing and saves the most expensive layer.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

Images = UInt8[Array, "n 64 64 3"] | Float[Array, "n 64 64 3"]
Maps = Float[Array, "n h w c"]


class Plain(nn.Module):
    """Convolutions one after the other, in the manner of VGG; ``layers`` has channels and stride of each."""

    width: int
    layers: tuple[tuple[int, int], ...] = ((32, 2), (32, 1), (64, 2), (64, 1), (64, 2))

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "n width"]:
        x = folded(pixels(images), 2)
        for channels, stride in self.layers:
            x = nn.relu(normalized(convolution(x, channels, stride)))
        return embedding(x, self.width)


class SqueezeExcite(nn.Module):
    """A patch stem and residual blocks whose channels are weighed by the whole picture.

    References:
      Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
    """

    width: int
    channels: int = 40

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "n width"]:
        x = nn.silu(normalized(convolution(folded(pixels(images), 4), self.channels, 1)))
        for stride in (1, 2, 2):
            branch = nn.silu(normalized(convolution(x, self.channels, stride)))
            pooled = branch.mean((1, 2))
            weights = nn.sigmoid(nn.Dense(self.channels)(nn.silu(nn.Dense(self.channels // 4)(pooled))))
            branch = branch * weights[:, None, None, :]
            x = branch + (x if stride == 1 else nn.avg_pool(x, (2, 2), (2, 2)))
        return embedding(x, self.width)


class Residual(nn.Module):
    """Two-layer residual blocks, normalised before they branch; each stage, of so many channels, halves the resolution.

    References:
      He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """

    width: int
    stages: tuple[int, ...] = (24, 40, 32)

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "n width"]:
        x = folded(pixels(images), 2)
        for channels in self.stages:
            x = convolution(x, channels, 2)
            branch = convolution(nn.relu(normalized(x)), channels, 1)
            x = x + convolution(nn.relu(normalized(branch)), channels, 1)
        return embedding(nn.relu(normalized(x)), self.width)


class Dense(nn.Module):
    """Layers that see the outputs of all layers before them at their resolution, and each add ``growth`` channels.

    References:
      Huang et al., "Densely Connected Convolutional Networks", CVPR 2017.
    """

    width: int
    growth: int = 16

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "n width"]:
        x = nn.relu(normalized(convolution(folded(pixels(images), 2), 32, 2)))
        for channels in (40, 64):
            for _ in range(2):
                new = nn.relu(normalized(convolution(x, self.growth, 1)))
                x = jnp.concatenate([x, new], axis=-1)
            x = nn.relu(normalized(convolution(x, channels, 2)))
        return embedding(x, self.width)


class Transformer(nn.Module):
    """A vision transformer on an 8 × 8 grid of tokens, which three convolutions make.

    On bare patches of 8 × 8 pixels, or with blocks that are not zero at first, its loss had not moved after 400 steps.

    Attributes:
      size: of a token.
      depth, heads: number of blocks, and of heads in each.

    References:
      Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Xiao et al., "Early Convolutions Help
      Transformers See Better", NeurIPS 2021.
    """

    width: int
    size: int = 64
    depth: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "n width"]:
        x = folded(pixels(images), 2)
        for channels, stride in ((32, 2), (32, 1), (self.size, 2)):
            x = nn.relu(normalized(convolution(x, channels, stride)))
        tokens = nn.Dense(self.size)(x.reshape(len(x), 64, -1))
        tokens = tokens + self.param("places", nn.initializers.normal(0.02), (64, self.size))
        for _ in range(self.depth):
            y = nn.LayerNorm()(tokens)
            attention = nn.MultiHeadDotProductAttention(self.heads, out_kernel_init=nn.initializers.zeros)
            tokens = tokens + attention(y, y)
            y = nn.gelu(nn.Dense(4 * self.size)(nn.LayerNorm()(tokens)))
            tokens = tokens + nn.Dense(self.size, kernel_init=nn.initializers.zeros)(y)
        # Where a feature sits is half of who it is, so tokens are not averaged; narrowed first, to stay small.
        return embedding(nn.Dense(16)(nn.LayerNorm()(tokens)), self.width)


def pixels(images: Images) -> Float[Array, "n 64 64 3"]:
    """Each channel of each image with mean 0 and standard deviation 1, which takes the colour of the light away."""
    x = images.astype(jnp.float32)
    x = x - x.mean((1, 2), keepdims=True)
    return x / (jnp.sqrt((x**2).mean((1, 2), keepdims=True)) + 8.0)


def folded(x: Maps, block: int) -> Maps:
    """Blocks of ``block`` × ``block`` places become one place with ``block``² times the channels."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // block, block, width // block, block, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // block, width // block, -1)


def convolution(x: Maps, channels: int, stride: int) -> Maps:
    """Three by three pixels, without a bias: a normalisation follows."""
    return nn.Conv(channels, (3, 3), (stride, stride), use_bias=False)(x)


def normalized(x: Maps) -> Maps:
    """Groups of eight channels, each scaled within its image: no statistics of a batch, so one image suffices."""
    return nn.GroupNorm(num_groups=None, group_size=8)(x)


def embedding(x: Float[Array, "n ..."], width: int) -> Float[Array, "n width"]:
    """Flattened rather than averaged: where a feature sits is half of who it is."""
    return nn.Dense(width)(x.reshape(len(x), -1))
