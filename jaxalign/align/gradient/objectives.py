"""The problems of single pairs that are fitted by gradient: from a pair's rows, or from its moments."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.align.gradient.losses import LOSSES, MEANS_BASED, Mapped, orthogonality, project
from jaxalign.align.gradient.rows import Batch, Rows, draw, held_out_batch
from jaxalign.align.gradient.steps import Objective
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf, pytree, static


@pytree
class PairWeights:
    """Two-sided: both factors [p, r] and [q, r]. One-sided: A [p, r] and B [r, q]. And log(1 / temperature), []."""

    left: Float[Leaf, "p r"]
    right: Float[Leaf, "q r"]
    log_scale: Float[Leaf, ""]


@pytree
class PairMember:
    """A pair: padded widths of both sides, and the numbers of the encoders among those of their width."""

    source: Int[Leaf, ""]
    target: Int[Leaf, ""]
    widths: tuple[int, int] = static()


@dataclasses.dataclass(frozen=True)
class RowObjective(Objective):
    """A loss of mapped rows, over batches of people. The fields are those of ``LowRankSettings``."""

    loss_name: str
    people: int
    two_sided: bool
    learn_temperature: bool
    margin: float
    delta: float
    orthogonality: float
    orthogonal: bool
    chosen_by_held_out: bool

    def batch(self, data: Rows, key: Array) -> Batch:
        """See ``Objective``."""
        return draw(data, key, self.people)

    def held_out(self, data: Rows) -> Batch | None:
        """See ``Objective``."""
        return held_out_batch(data, 2 * self.people) if self.chosen_by_held_out else None

    def loss(self, weights: PairWeights, member: PairMember, batch: Batch) -> Float[Array, ""]:
        """See ``Objective``."""
        p, q = member.widths
        x, y = batch.rows[p][member.source], batch.rows[q][member.target]
        means = batch.means[q][member.target] if self.sees_means else None
        left, right = weights.left, weights.right
        if self.two_sided:
            u, v = project(x, left), project(y, right)
            means = None if means is None else project(means, right)
        else:
            u, v = multiply(project(x, left), right), y
        return self.of(u, v, means, weights.log_scale) + self._penalty(weights)

    @property
    def sees_means(self) -> bool:
        """Whether people's mean rows are needed."""
        return self.loss_name in MEANS_BASED

    def of(self, u: Array, v: Array, means: Array | None, log_scale: Leaf) -> Float[Array, ""]:
        """The loss of rows that are mapped already."""
        fixed = log_scale if self.learn_temperature else jax.lax.stop_gradient(log_scale)
        return LOSSES[self.loss_name](Mapped(u, v, means, jnp.exp(fixed)), self)

    def _penalty(self, weights: PairWeights) -> Array | float:
        if self.orthogonality == 0:
            return 0.0
        right = weights.right if self.two_sided else weights.right.T
        return self.orthogonality * (orthogonality(weights.left) + orthogonality(right))

    def retract(self, weights: PairWeights) -> PairWeights:
        """See ``Objective``."""
        if not self.orthogonal:
            return weights
        return dataclasses.replace(weights, left=polar(weights.left), right=polar(weights.right))


@pytree
class MomentMember:
    """A pair's whitened cross moment W, shape [p, q], and what no map explains, []: the error is that + ‖W − A B‖²."""

    target: Float[Leaf, "p q"]
    unexplained: Float[Leaf, ""]


@dataclasses.dataclass(frozen=True)
class MomentObjective(Objective):
    """Squared error of x ↦ x A B from moments alone: exact, at a cost that does not depend on the number of rows."""

    orthogonality: float = 0.0

    def batch(self, data: Any, key: Array) -> None:
        """See ``Objective``."""
        return None

    def held_out(self, data: Any) -> tuple[()]:
        """The loss has no noise, so that weights are chosen by itself."""
        return ()

    def loss(self, weights: PairWeights, member: MomentMember, batch: object) -> Float[Array, ""]:
        """See ``Objective``."""
        return (
            member.unexplained
            + _product_error(weights.left, weights.right, member.target)
            + (
                self.orthogonality * (orthogonality(weights.left) + orthogonality(weights.right.T))
                if self.orthogonality
                else 0.0
            )
        )


@jax.custom_vjp
def _product_error(left: Array, right: Array, target: Array) -> Float[Array, ""]:
    """‖W − A B‖² without forming A B: two products with W serve the value and the gradient."""
    return _product_error_forward(left, right, target)[0]


def _product_error_forward(left: Array, right: Array, target: Array) -> tuple[Array, tuple[Array, Array]]:
    carried, explained = multiply(target, right.T), multiply(left.T, target)  # W Bᵀ and Aᵀ W
    left_gram, right_gram = multiply(left.T, left), multiply(right, right.T)
    value = jnp.sum(target * target) - 2 * jnp.sum(left * carried) + jnp.sum(left_gram * right_gram)
    gradient = 2 * (multiply(left, right_gram) - carried), 2 * (multiply(left_gram, right) - explained)
    return value, gradient


def _product_error_backward(gradient: tuple[Array, Array], outer: Array) -> tuple[Array, Array, None]:
    return outer * gradient[0], outer * gradient[1], None


_product_error.defvjp(_product_error_forward, _product_error_backward)


def polar(factor: Float[Leaf, "p s"], rounds: int = 8) -> Float[Array, "p s"]:
    """The orthonormal factor nearest to one that is nearly orthonormal, by Newton and Schulz' iteration.

    It converges for singular values between 0 and √3, so that a factor that may have larger ones is scaled down first.

    Equivalent: ``scipy.linalg.polar(factor)[0]``.
    """
    near = jnp.asarray(factor)
    largest = jnp.max(jnp.sum(jnp.abs(multiply(near.T, near)), axis=1))  # no squared singular value is above
    near = near * jax.lax.rsqrt(jnp.maximum(largest / 2, 1))
    for _ in range(rounds):
        near = 1.5 * near - 0.5 * multiply(near, multiply(near.T, near))
    return near
