"""What a map fitted by gradient minimises, as functions of the mapped rows of one batch.

Every loss takes two photographs of each of B people under both encoders: rows k and B + k are person k's, and row k of
``u`` and of ``v`` is the same photograph.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.align.gradient import contrastive as contrastive_loss
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf

SMALLEST = 1e-12


class Mapped(NamedTuple):
    """A batch in the space where it is compared."""

    u: Float[Array, "rows s"]  # of the source
    v: Float[Array, "rows s"]  # of the target
    means: Float[Array, "people s"] | None  # of all photographs of a person; None unless ``MEANS_BASED``
    inverse_temperature: Float[Array, ""]  # what cosines are multiplied by


def unit(rows: Float[Array, "n s"]) -> Float[Array, "n s"]:
    """Rows of length 1; a row of zeros stays zero, with a finite gradient; one that overflows becomes NaN."""
    squared_length = jnp.sum(rows * rows, axis=-1, keepdims=True) + SMALLEST
    return rows * jnp.where(jnp.isfinite(squared_length), jax.lax.rsqrt(squared_length), jnp.nan)


def squared(batch: Mapped, options: Any) -> Float[Array, ""]:
    """Mean of ‖u − v‖² over photographs. Its exact minimum is the method ``reduced_rank`` with ``l2=0``."""
    return jnp.mean(jnp.sum((batch.u - batch.v) ** 2, axis=-1))


def cosine(batch: Mapped, options: Any) -> Float[Array, ""]:
    """Mean of 1 − cos(u, v) over photographs."""
    return 1 - jnp.mean(jnp.sum(unit(batch.u) * unit(batch.v), axis=-1))


def huber(batch: Mapped, options: Any) -> Float[Array, ""]:
    """Mean over photographs of the Huber loss of each coordinate, summed.

    The bend is ``options.delta`` times the coordinates' root mean square. Equivalent: ``optax.huber_loss``.
    """
    bend = options.delta * jnp.sqrt(jnp.mean(jax.lax.stop_gradient(batch.v) ** 2))
    size = jnp.abs(batch.u - batch.v)
    inside = jnp.minimum(size, bend)
    return jnp.mean(jnp.sum(inside * (size - inside / 2), axis=-1))


def contrastive(batch: Mapped, options: Any) -> Float[Array, ""]:
    """InfoNCE in both directions (``jaxalign.align.gradient.contrastive``), with the batch's people as negatives.

    References:
      van den Oord et al., "Representation learning with contrastive predictive coding", 2018; Miech et al., "End-to-end
      learning of visual representations from uncurated instructional videos" (several positives), CVPR 2020.
    """
    return contrastive_loss.fast(unit(batch.u), unit(batch.v), batch.inverse_temperature)


def margin(batch: Mapped, options: Any) -> Float[Array, ""]:
    """Additive angular margin against the target's person means, over the people of the batch.

    Softmax cross-entropy of cos(θ) / temperature, with θ + ``options.margin`` for the own person; beyond π, where the
    cosine would rise again, the linear continuation of ArcFace's published code.

    References:
      Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019.
    """
    assert batch.means is not None
    cos = multiply(unit(batch.u), unit(batch.means).T)
    row = jnp.arange(len(cos))
    person = row % batch.means.shape[0]
    own = jnp.clip(cos[row, person], -1 + 1e-6, 1 - 1e-6)
    shifted = own * jnp.cos(options.margin) - jnp.sqrt(1 - own**2) * jnp.sin(options.margin)
    beyond = own <= jnp.cos(jnp.pi - options.margin)
    shifted = jnp.where(beyond, own - options.margin * jnp.sin(options.margin), shifted)
    logits = batch.inverse_temperature * cos.at[row, person].set(shifted)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[row, person])


def orthogonality(factor: Float[Leaf, "p s"]) -> Float[Array, ""]:
    """‖FᵀF − I‖² / s with F scaled to mean squared column length 1; columns of zeros do not count."""
    gram = multiply(factor.T, factor)
    lengths = jnp.diagonal(gram)
    used = jnp.maximum(jnp.sum(lengths > 0), 1)
    gram = gram * used / jnp.maximum(jnp.sum(lengths), SMALLEST)
    return jnp.sum((gram - jnp.diag((lengths > 0).astype(gram.dtype))) ** 2) / used


LOSSES: dict[str, Callable[[Mapped, Any], Float[Array, ""]]] = {
    loss.__name__: loss for loss in (squared, cosine, huber, contrastive, margin)
}
# Useful where both sides move: other losses are smallest where both maps are zero.
COSINE_BASED = ("cosine", "contrastive", "margin")
MEANS_BASED = ("margin",)  # see ``Mapped.means``
