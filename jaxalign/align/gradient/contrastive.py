"""The contrastive loss of rows of length 1: in plain form, and a fast one whose gradient is formed with the value."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.core.precision import multiply

UNDERFLOW = 1e-30  # a sum of exponentials below it has lost digits


def plain(u: Float[Array, "rows s"], v: Float[Array, "rows s"], scale: Float[Array, ""]) -> Float[Array, ""]:
    """InfoNCE in both directions, with the other people of the batch as negatives.

    −log of the share that a photograph's person has in Σ exp(scale × cos) over the other side's photographs: both
    photographs of a person count as found.

    Args:
      u, v: rows of length 1; rows k and rows / 2 + k are the two photographs of person k.
      scale: 1 / temperature.
    """
    logits = scale * multiply(u, v.T)
    people = jnp.arange(len(u)) % (len(u) // 2)
    own = jnp.where(people[:, None] == people, logits, -jnp.inf)
    towards = [jax.nn.logsumexp(logits, axis) - jax.nn.logsumexp(own, axis) for axis in (0, 1)]
    return (jnp.mean(towards[0]) + jnp.mean(towards[1])) / 2


@jax.custom_vjp
def fast(u: Float[Array, "rows s"], v: Float[Array, "rows s"], scale: Float[Array, ""]) -> Float[Array, ""]:
    """``plain`` in about half the time: one exponential of each logit, and no second pass over the logits.

    The gradient by the logits is the sum of the softmaxes of rows and of columns, less the same over a person's own.
    """
    return _forward(u, v, scale)[0]


def _forward(u: Array, v: Array, scale: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    rows = u.shape[0]
    cosines = multiply(u, v.T)
    log_rows, log_columns, towards_all = _softmaxes(cosines, scale)
    halves, others = (part.reshape(2, rows // 2, -1) for part in (u, v))  # [photograph, person, s]
    # [photograph of u, photograph of v, person]
    own = scale * jnp.diagonal(cosines.reshape(2, rows // 2, 2, rows // 2), axis1=1, axis2=3)
    log_own = jax.nn.logsumexp(own, axis=1), jax.nn.logsumexp(own, axis=0)
    towards_own = jnp.exp(own - log_own[0][:, None]) + jnp.exp(own - log_own[1][None, :])
    log_shares = jnp.sum(log_rows) + jnp.sum(log_columns) - jnp.sum(log_own[0]) - jnp.sum(log_own[1])
    weight = scale / (2 * rows)
    pull = towards_own[:, 0, :, None] * others[0] + towards_own[:, 1, :, None] * others[1]
    by_u = weight * (multiply(towards_all, v) - pull.reshape(u.shape))
    pull = towards_own[0, :, :, None] * halves[0] + towards_own[1, :, :, None] * halves[1]
    by_v = weight * (transposed_product(towards_all, u) - pull.reshape(v.shape))
    return log_shares / (2 * rows), (by_u, by_v, jnp.sum(u * by_u) / scale)


fast.defvjp(_forward, lambda gradient, outer: tuple(outer * part for part in gradient))


def transposed_product(large: Float[Array, "n m"], small: Float[Array, "n s"]) -> Float[Array, "m s"]:
    """``large.T @ small``, as the transpose of ``small.T @ large``: XLA multiplies that twice as fast on a CPU."""
    # The barrier keeps XLA from folding the transposition back.
    return jax.lax.optimization_barrier(multiply(small.T, large)).T


@jax.custom_vjp
def project(rows: Float[Array, "n p"], factor: Float[Array, "p s"]) -> Float[Array, "n s"]:
    """``rows @ factor``, whose gradient by the factor is a ``transposed_product``; ``rows`` are constants."""
    return multiply(rows, factor)


project.defvjp(
    lambda rows, factor: (multiply(rows, factor), rows),
    lambda rows, outer: (None, transposed_product(rows, outer)),
)


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
