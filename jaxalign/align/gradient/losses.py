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

from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf

SMALLEST = 1e-12
UNDERFLOW = 1e-30  # a sum of exponentials below it has lost digits


class Mapped(NamedTuple):
    """A batch in the space where it is compared.

    Attributes:
      u: source rows, shape [2 B, s].
      v: target rows, shape [2 B, s].
      means: the target's mean row of each person, over all of the person's photographs, shape [B, s]; None where the
        loss is not in ``MEANS_BASED``.
      inverse_temperature: what cosines are multiplied by, shape [].
    """

    u: Float[Array, "rows s"]
    v: Float[Array, "rows s"]
    means: Float[Array, "people s"] | None
    inverse_temperature: Float[Array, ""]


def unit(rows: Float[Array, "n s"]) -> Float[Array, "n s"]:
    """Rows of length 1; a row of zeros stays zero, with a finite gradient; one that overflows becomes NaN."""
    squared_length = jnp.sum(rows * rows, axis=-1, keepdims=True) + SMALLEST
    return rows * jnp.where(jnp.isfinite(squared_length), jax.lax.rsqrt(squared_length), jnp.nan)


def product(left: Float[Leaf, "n s"], right: Float[Leaf, "m s"]) -> Float[Array, "n m"]:
    """All inner products, at the format's full precision."""
    return multiply(left, right.T)


@jax.custom_vjp
def project(rows: Float[Array, "n p"], factor: Float[Leaf, "p s"]) -> Float[Array, "n s"]:
    """``rows @ factor``, with a gradient by the factor alone."""
    return multiply(rows, factor)


def _project_forward(rows: Array, factor: Array) -> tuple[Array, Array]:
    return multiply(rows, factor), rows


def _project_backward(rows: Array, outer: Array) -> tuple[None, Array]:
    return None, small_first(outer, rows)


project.defvjp(_project_forward, _project_backward)


def small_first(small: Float[Leaf, "n s"], large: Float[Leaf, "n m"]) -> Float[Array, "m s"]:
    """``large.T @ small`` as the transpose of ``small.T @ large``: XLA multiplies that three times as fast on a CPU.

    The barrier keeps XLA from folding the transposition back.
    """
    return jax.lax.optimization_barrier(multiply(small.T, large)).T


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
    return found_among(unit(batch.u), unit(batch.v), batch.inverse_temperature)


@jax.custom_vjp
def found_among(
    u: Float[Array, "rows s"], v: Float[Array, "rows s"], scale: Float[Array, ""]
) -> Float[Array, ""]:
    """``contrastive`` of rows of length 1.

    Its gradient is formed with its value: by the logits it is the sum of the softmaxes of rows and of columns, less the
    same over a person's own photographs, which takes one exponential of each logit and no second pass by autodiff.
    """
    return _found_among_forward(u, v, scale)[0]


def _found_among_forward(u: Array, v: Array, scale: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    rows = u.shape[0]
    cosines = product(u, v)
    log_rows, log_columns, towards_all = _softmaxes(cosines, scale)
    halves, others = (part.reshape(2, rows // 2, -1) for part in (u, v))  # [photograph, person, s]
    # [photograph of u, photograph of v, person]
    own = scale * jnp.diagonal(cosines.reshape(2, rows // 2, 2, rows // 2), axis1=1, axis2=3)
    log_own = jax.nn.logsumexp(own, axis=1), jax.nn.logsumexp(own, axis=0)
    towards_own = jnp.exp(own - log_own[0][:, None]) + jnp.exp(own - log_own[1][None, :])
    value = (jnp.sum(log_rows) + jnp.sum(log_columns) - jnp.sum(log_own[0]) - jnp.sum(log_own[1])) / (
        2 * rows
    )
    weight = scale / (2 * rows)
    pull = towards_own[:, 0, :, None] * others[0] + towards_own[:, 1, :, None] * others[1]
    by_u = weight * (multiply(towards_all, v) - pull.reshape(u.shape))
    pull = towards_own[0, :, :, None] * halves[0] + towards_own[1, :, :, None] * halves[1]
    by_v = weight * (small_first(u, towards_all) - pull.reshape(v.shape))
    return value, (by_u, by_v, jnp.sum(u * by_u) / scale)


def _found_among_backward(gradient: tuple[Array, Array, Array], outer: Array) -> tuple[Array, Array, Array]:
    return outer * gradient[0], outer * gradient[1], outer * gradient[2]


found_among.defvjp(_found_among_forward, _found_among_backward)


def _softmaxes(
    cosines: Float[Array, "n m"], scale: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, "n m"]]:
    """``logsumexp`` of rows and of columns of scale × cosines, and the sum of both softmaxes.

    From one exponential of each entry (no logit is above ``scale``), unless a sum of those underflows.
    """
    exponentials = jax.lax.optimization_barrier(jnp.exp(scale * cosines - scale))
    sums = [jnp.sum(exponentials, axis=axis) for axis in (1, 0)]
    least = jnp.minimum(sums[0].min(), sums[1].min())

    def quick() -> tuple[Array, Array, Array]:
        by_row, by_column = (1 / part for part in sums)
        both = exponentials * (by_row[:, None] + by_column[None, :])
        return jnp.log(sums[0]) + scale, jnp.log(sums[1]) + scale, both

    def exact() -> tuple[Array, Array, Array]:
        logits = scale * cosines
        by_row, by_column = jax.nn.logsumexp(logits, axis=1), jax.nn.logsumexp(logits, axis=0)
        return by_row, by_column, jnp.exp(logits - by_row[:, None]) + jnp.exp(logits - by_column[None, :])

    return jax.lax.cond(least > UNDERFLOW, quick, exact)


def margin(batch: Mapped, settings: Any) -> Float[Array, ""]:
    """Additive angular margin against the target's person means, over the people of the batch.

    Softmax cross-entropy of cos(θ) / temperature, with θ + ``settings.margin`` for the own person; beyond π, where the
    cosine would rise again, the linear continuation of ArcFace's published code.

    References:
      Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019.
    """
    assert batch.means is not None
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
MEANS_BASED = ("margin",)  # see ``Mapped.means``
