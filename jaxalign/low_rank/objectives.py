"""The problems that are fitted by gradient: a pair's rows, a pair's moments, or one space for all encoders."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.low_rank.losses import LOSSES, Mapped, orthogonality
from jaxalign.low_rank.rows import Batch, Rows, draw, held_out_batch
from jaxalign.low_rank.training import polar
from jaxalign.precision import multiply
from jaxalign.pytree import Leaf, pytree, static


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
class RowObjective:
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
        means = batch.means[q][member.target]
        left, right = weights.left, weights.right
        if self.two_sided:
            u, v, means = multiply(x, left), multiply(y, right), multiply(means, right)
        else:
            u, v = multiply(multiply(x, left), right), y
        return self.of(u, v, means, weights.log_scale) + self._penalty(weights)

    def of(self, u: Array, v: Array, means: Array, log_scale: Leaf) -> Float[Array, ""]:
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
class MomentObjective:
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

    def retract(self, weights: PairWeights) -> PairWeights:
        """See ``Objective``."""
        return weights


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


@pytree
class JointWeights:
    """One factor [width, r] for each encoder, stacked by padded width, and log(1 / temperature)."""

    factors: Mapping[int, Float[Leaf, "k width r"]]
    log_scale: Float[Leaf, ""]


@dataclasses.dataclass(frozen=True)
class JointObjective:
    """The mean over unordered pairs of encoders of a two-sided loss in one space."""

    pair: RowObjective
    encoders: tuple[tuple[int, int], ...]  # padded width, number among those of that width

    def batch(self, data: Rows, key: Array) -> Batch:
        """See ``Objective``."""
        return self.pair.batch(data, key)

    def held_out(self, data: Rows) -> Batch | None:
        """See ``Objective``."""
        return self.pair.held_out(data)

    def loss(self, weights: JointWeights, member: None, batch: Batch) -> Float[Array, ""]:
        """See ``Objective``."""
        mapped = [
            tuple(
                multiply(of[width][number], weights.factors[width][number])
                for of in (batch.rows, batch.means)
            )
            for width, number in self.encoders
        ]
        pairs = list(itertools.combinations(range(len(mapped)), 2))
        first, second = (jnp.stack([jnp.asarray(pair[side]) for pair in pairs]) for side in (0, 1))
        rows, means = (jnp.stack([one[k] for one in mapped]) for k in (0, 1))

        def one(pair: tuple[Array, Array]) -> Array:
            i, j = pair
            return self.pair.of(rows[i], rows[j], means[j], weights.log_scale)

        total = jnp.mean(jax.lax.map(jax.checkpoint(one), (first, second)))
        if self.pair.orthogonality:
            factors = [weights.factors[width][number] for width, number in self.encoders]
            total += self.pair.orthogonality * sum(map(orthogonality, factors)) / len(factors)
        return total

    def retract(self, weights: JointWeights) -> JointWeights:
        """See ``Objective``."""
        if not self.pair.orthogonal:
            return weights
        return dataclasses.replace(weights, factors=jax.tree.map(jax.vmap(polar), weights.factors))
