"""What a map fitted by gradient is to minimise, as functions of the mapped rows of one batch.

Every loss takes two photographs of each of B people under both encoders: rows k and B + k are person k's, and row k of
``u`` and of ``v`` is the same photograph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.precision import multiply
from jaxalign.pytree import Leaf

SMALLEST = 1e-12
UNDERFLOW = 1e-30  # a sum of exponentials below it has lost digits


class Mapped(NamedTuple):
    """A batch in the space where it is compared.

    Attributes:
      u: source rows, shape [2 B, s].
      v: target rows, shape [2 B, s].
      means: the target's mean row of each person, over all of the person's photographs, shape [B, s].
      inverse_temperature: what cosines are multiplied by, shape [].
    """

    u: Float[Array, "rows s"]
    v: Float[Array, "rows s"]
    means: Float[Array, "people s"]
    inverse_temperature: Float[Array, ""]


def unit(rows: Float[Array, "n s"]) -> Float[Array, "n s"]:
    """Rows of length 1; a row of zeros stays zero, with a finite gradient; one that overflows becomes NaN."""
    squared_length = jnp.sum(rows * rows, axis=-1, keepdims=True) + SMALLEST
    return rows * jnp.where(jnp.isfinite(squared_length), jax.lax.rsqrt(squared_length), jnp.nan)


def product(left: Float[Leaf, "n s"], right: Float[Leaf, "m s"]) -> Float[Array, "n m"]:
    """All inner products, at the format's full precision."""
    return multiply(left, right.T)


def squared(batch: Mapped, settings: Any) -> Float[Array, ""]:
    """Mean of ‖u − v‖² over photographs."""
    return jnp.mean(jnp.sum((batch.u - batch.v) ** 2, axis=-1))


def cosine(batch: Mapped, settings: Any) -> Float[Array, ""]:
    """Mean of 1 − cos(u, v) over photographs."""
    return 1 - jnp.mean(jnp.sum(unit(batch.u) * unit(batch.v), axis=-1))


def huber(batch: Mapped, settings: Any) -> Float[Array, ""]:
    """Mean over photographs of the Huber loss of each coordinate, summed.

    The bend is ``settings.delta`` times the coordinates' root mean square. Equivalent: ``optax.huber_loss``.
    """
    bend = settings.delta * jnp.sqrt(jnp.mean(jax.lax.stop_gradient(batch.v) ** 2))
    size = jnp.abs(batch.u - batch.v)
    inside = jnp.minimum(size, bend)
    return jnp.mean(jnp.sum(inside * (size - inside / 2), axis=-1))


def contrastive(batch: Mapped, settings: Any) -> Float[Array, ""]:
    """InfoNCE in both directions, with the other people of the batch as negatives.

    −log of the share that a photograph's person has in Σ exp(cos / temperature) over the other side's photographs: both
    photographs of a person count as found.

    References:
      van den Oord et al., "Representation learning with contrastive predictive coding", 2018; Miech et al., "End-to-end
      learning of visual representations from uncurated instructional videos" (several positives), CVPR 2020.
    """
    people, scale = batch.means.shape[0], batch.inverse_temperature
    u, v = unit(batch.u), unit(batch.v)
    logits = scale * product(u, v)
    pairs = u.reshape(2, 1, people, -1) * v.reshape(1, 2, people, -1)
    own = scale * jnp.sum(pairs, axis=-1)  # [photograph of u, photograph of v, person]
    everyone = _log_sums(logits)
    towards = [all_ - jax.nn.logsumexp(own, axis).reshape(-1) for axis, all_ in zip((1, 0), everyone)]
    return jnp.mean(jnp.concatenate(towards))


def _log_sums(logits: Float[Array, "n m"]) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """``logsumexp`` of every row and of every column, from one exponential of each entry unless that underflows."""
    top = jax.lax.stop_gradient(jnp.max(logits))
    sums = [jnp.sum(jnp.exp(logits - top), axis=axis) for axis in (1, 0)]
    least = jnp.minimum(sums[0].min(), sums[1].min())

    def exact() -> tuple[Array, Array]:
        return jax.nn.logsumexp(logits, axis=1), jax.nn.logsumexp(logits, axis=0)

    def quick() -> tuple[Array, Array]:
        return tuple(jnp.log(jnp.maximum(part, UNDERFLOW)) + top for part in sums)  # pyright: ignore[reportReturnType]

    return jax.lax.cond(least > UNDERFLOW, quick, exact)


def margin(batch: Mapped, settings: Any) -> Float[Array, ""]:
    """Additive angular margin against the target's person means, over the people of the batch.

    Softmax cross-entropy of cos(θ) / temperature, with θ + ``settings.margin`` for the own person; beyond π, where the
    cosine would rise again, the linear continuation of ArcFace's published code.

    References:
      Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019.
    """
    cos = product(unit(batch.u), unit(batch.means))
    people = batch.means.shape[0]
    place = jnp.arange(len(cos)) % people
    own = jnp.clip(cos[jnp.arange(len(cos)), place], -1 + 1e-6, 1 - 1e-6)
    shifted = own * jnp.cos(settings.margin) - jnp.sqrt(1 - own**2) * jnp.sin(settings.margin)
    beyond = own <= jnp.cos(jnp.pi - settings.margin)
    shifted = jnp.where(beyond, own - settings.margin * jnp.sin(settings.margin), shifted)
    logits = batch.inverse_temperature * cos.at[jnp.arange(len(cos)), place].set(shifted)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(len(cos)), place])


def orthogonality(factor: Float[Leaf, "p s"]) -> Float[Array, ""]:
    """‖FᵀF − I‖² / s with F scaled to mean squared column length 1; columns of zeros do not count."""
    gram = product(factor.T, factor.T)
    lengths = jnp.diagonal(gram)
    used = jnp.maximum(jnp.sum(lengths > 0), 1)
    gram = gram * used / jnp.maximum(jnp.sum(lengths), SMALLEST)
    return jnp.sum((gram - jnp.diag((lengths > 0).astype(gram.dtype))) ** 2) / used


LOSSES: dict[str, Callable[[Mapped, Any], Float[Array, ""]]] = {
    "squared": squared,
    "cosine": cosine,
    "huber": huber,
    "contrastive": contrastive,
    "margin": margin,
}
COSINE_BASED = (
    "cosine",
    "contrastive",
    "margin",
)  # of use where both sides move: a map to zero gains nothing
