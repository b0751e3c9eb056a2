"""What the encoders of the zoo are trained for: losses on a batch of embeddings.

A loss is a value with two methods: ``init`` makes what it learns besides the encoder (class centres, a decoder), and
calling it gives the mean loss of a batch.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, PRNGKeyArray

Head = Any  # a tree of parameters that only training needs


class FaceBatch(NamedTuple):
    """What a loss may look at.

    Attributes:
      labels: number of the person on each row, from 0 to classes − 1, shape [n].
      traits: the person's identity vector, shape [n, traits].
      clean: the images as they were before they were masked, values 0 to 255, shape [n, 64, 64, 3].
      progress: share of training that is done, from 0 to 1.
    """

    labels: Int32[Array, " n"]
    traits: Float[Array, "n traits"]
    clean: Float[Array, "n 64 64 3"]
    progress: Float[Array, ""] | float


class Loss(Protocol):
    """See the module."""

    def init(self, key: PRNGKeyArray, width: int, classes: int, traits: int) -> Head: ...

    def __call__(
        self, head: Head, embeddings: Float[Array, "n width"], batch: FaceBatch
    ) -> Float[Array, ""]: ...


@dataclasses.dataclass(frozen=True)
class Margin:
    """Softmax over people's centres, with a margin that grows between 15 and 60 % of training.

    With the angle θ between an embedding and its person's centre, its logit is scale · cos(θ + margin) if ``angular``
    (ArcFace), else scale · (cos θ − margin) (CosFace); the other logits are scale · cosine.

    References:
      Deng et al., "ArcFace", CVPR 2019; Wang et al., "CosFace", CVPR 2018.
    """

    angular: bool
    margin: float
    scale: float = 20.0

    def init(self, key: PRNGKeyArray, width: int, classes: int, traits: int) -> Head:
        # Short, so that centres turn fast: each is seen about once in thirty steps, and Adam's steps have one length.
        return 0.003 * jax.random.normal(key, (classes, width), jnp.float32)

    def __call__(self, head: Head, embeddings: Float[Array, "n width"], batch: FaceBatch) -> Float[Array, ""]:
        cosine = unit(centred(embeddings)) @ unit(head).T
        own = jnp.take_along_axis(cosine, batch.labels[:, None], axis=1)[:, 0]
        margin = self.margin * jnp.clip((batch.progress - 0.15) / 0.45, 0.0, 1.0)
        if self.angular:
            held = jnp.clip(own, -1.0 + 1e-6, 1.0 - 1e-6)  # the angle has no slope at ±1
            wanted = jnp.cos(jnp.arccos(held) + margin)
            # Beyond π − margin the cosine would rise again, so it goes on in a line there (as in the reference code).
            line = held - margin * jnp.sin(jnp.pi - margin)
            wanted = jnp.where(held > jnp.cos(jnp.pi - margin), wanted, line)
        else:
            wanted = own - margin
        mine = jax.nn.one_hot(batch.labels, cosine.shape[1], dtype=bool)
        logits = self.scale * jnp.where(mine, wanted[:, None], cosine)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


@dataclasses.dataclass(frozen=True)
class Triplet:
    """Semi-hard triplets among a batch: mean of max(0, d(a, p) − d(a, n) + margin) over anchors and positives.

    d is the squared distance of unit embeddings; n is the nearest stranger that is further than p, and the furthest
    stranger where none is. The *nearest* stranger of all (batch-hard) made every embedding the same.

    References:
      Schroff et al., "FaceNet", CVPR 2015.
    """

    margin: float = 0.2

    def init(self, key: PRNGKeyArray, width: int, classes: int, traits: int) -> Head:
        return ()

    def __call__(self, head: Head, embeddings: Float[Array, "n width"], batch: FaceBatch) -> Float[Array, ""]:
        rows = unit(centred(embeddings))
        distance = 2.0 - 2.0 * rows @ rows.T
        same = batch.labels[:, None] == batch.labels[None, :]
        # Axes: anchor, positive, negative.
        further = ~same[:, None, :] & (distance[:, None, :] > distance[:, :, None])
        nearest = jnp.min(jnp.where(further, distance[:, None, :], jnp.inf), axis=2)
        furthest = jnp.max(jnp.where(same, -jnp.inf, distance), axis=1)
        negative = jnp.where(further.any(2), nearest, furthest[:, None])
        pairs = same & ~jnp.eye(len(rows), dtype=bool)
        cost = jnp.where(pairs, jax.nn.relu(distance - negative + self.margin), 0.0)
        return cost.sum() / jnp.maximum(pairs.sum(), 1).astype(cost.dtype)


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """Two views of each photograph must find each other among all views (NT-Xent); no labels.

    Row i and row i + n/2 are views of one photograph. Similarities are cosines over the temperature, after a projection
    that is thrown away after training (its rectifier leaks: with a plain one, embeddings ended negative and dead).

    References:
      Chen et al., "A Simple Framework for Contrastive Learning", ICML 2020.
    """

    temperature: float = 0.2
    projection: int = 64

    def init(self, key: PRNGKeyArray, width: int, classes: int, traits: int) -> Head:
        return jax.random.normal(key, (width, self.projection), jnp.float32) / jnp.sqrt(width)

    def __call__(self, head: Head, embeddings: Float[Array, "n width"], batch: FaceBatch) -> Float[Array, ""]:
        rows = unit(jax.nn.leaky_relu(centred(embeddings), 0.2) @ head)
        count = len(rows)
        logits = jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, rows @ rows.T / self.temperature)
        partner = (jnp.arange(count) + count // 2) % count
        return optax.softmax_cross_entropy_with_integer_labels(logits, partner).mean()


class Decoder(nn.Module):
    """From an embedding to the grey middle of a picture."""

    @nn.compact
    def __call__(self, embeddings: Float[Array, "n width"]) -> Float[Array, "n 40 40"]:
        x = nn.relu(nn.Dense(10 * 10 * 16)(embeddings)).reshape(len(embeddings), 10, 10, 16)
        x = nn.relu(nn.ConvTranspose(16, (4, 4), (2, 2))(x))
        return nn.ConvTranspose(1, (4, 4), (2, 2))(x)[..., 0]


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Mean squared error of a decoder's picture against the middle 40 × 40 pixels of the unmasked image; no labels.

    The middle is grey and has mean 0 and standard deviation 1, so that neither background nor colour fills the
    embedding.

    References:
      He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
    """

    def init(self, key: PRNGKeyArray, width: int, classes: int, traits: int) -> Head:
        return Decoder().init(key, jnp.zeros((1, width), jnp.float32))

    def __call__(self, head: Head, embeddings: Float[Array, "n width"], batch: FaceBatch) -> Float[Array, ""]:
        middle = batch.clean[:, 12:52, 12:52].mean(3)
        middle = middle - middle.mean((1, 2), keepdims=True)
        middle = middle / (jnp.sqrt((middle**2).mean((1, 2), keepdims=True)) + 4.0)
        return jnp.mean((jnp.asarray(Decoder().apply(head, embeddings)) - middle) ** 2)


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Mean squared error of a linear reading of some attributes of the face, columns of the identity vector."""

    columns: tuple[int, ...]

    def init(self, key: PRNGKeyArray, width: int, classes: int, traits: int) -> Head:
        return jax.random.normal(key, (width, len(self.columns)), jnp.float32) / jnp.sqrt(width)

    def __call__(self, head: Head, embeddings: Float[Array, "n width"], batch: FaceBatch) -> Float[Array, ""]:
        wanted = batch.traits[:, jnp.array(self.columns)]
        return jnp.mean((centred(embeddings) @ head - wanted) ** 2)


def centred(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Without the batch's mean, which at first is most of every embedding and would have to be unlearned."""
    return rows - rows.mean(0)


def unit(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows of length 1; a row of zeros stays."""
    return rows * jax.lax.rsqrt(jnp.sum(rows**2, axis=1, keepdims=True) + 1e-12)
