"""The problem of one space for all encoders: a sum over pairs of encoders, which devices share."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.align.gradient.losses import orthogonality, project
from jaxalign.align.gradient.objectives import RowObjective
from jaxalign.align.gradient.rows import Batch, Rows
from jaxalign.align.gradient.steps import AXIS, Objective
from jaxalign.core.pytree import Leaf, pytree


@pytree
class JointWeights:
    """One factor [width, r] for each encoder, stacked by padded width, and log(1 / temperature)."""

    factors: Mapping[int, Float[Leaf, "k width r"]]
    log_scale: Float[Leaf, ""]


@pytree
class JointMember:
    """The terms of the sum: numbers of both encoders, and the share that the pair's loss has, shapes [terms]."""

    first: Int[Leaf, " terms"]
    second: Int[Leaf, " terms"]
    share: Float[Leaf, " terms"]

    @classmethod
    def of(cls, encoders: int) -> JointMember:
        """All unordered pairs of so many encoders, with equal shares."""
        pairs = np.array(list(itertools.combinations(range(encoders), 2)), np.int32)
        return cls(pairs[:, 0], pairs[:, 1], np.full(len(pairs), 1 / len(pairs), np.float32))


@dataclasses.dataclass(frozen=True)
class JointObjective(Objective):
    """The mean over unordered pairs of encoders of a two-sided loss in one space.

    Gradients by the mapped rows are formed pair by pair and added up, so that memory does not grow with the pairs.
    """

    pair: RowObjective
    encoders: tuple[tuple[int, int], ...]  # padded width, number among those of that width

    shares_terms = True

    def batch(self, data: Rows, key: Array) -> Batch:
        """See ``Objective``."""
        return self.pair.batch(data, key)

    def held_out(self, data: Rows) -> Batch | None:
        """See ``Objective``."""
        return self.pair.held_out(data)

    def loss(self, weights: JointWeights, member: JointMember, batch: Batch) -> Float[Array, ""]:
        """See ``Objective``."""
        rows, means = self._mapped(weights.factors, batch)

        def add(total: Array, term: JointMember) -> tuple[Array, None]:
            i, j = term.first, term.second
            return total + term.share * self.pair.of(rows[i], rows[j], _at(means, j), weights.log_scale), None

        total, _ = jax.lax.scan(add, jnp.float32(0), member)
        return jax.lax.psum(total, AXIS) + self._penalty(weights.factors)

    def value_and_gradient(
        self, weights: JointWeights, member: JointMember, batch: Batch
    ) -> tuple[Float[Array, ""], JointWeights]:
        """See ``Objective``."""
        (rows, means), back = jax.vjp(lambda factors: self._mapped(factors, batch), weights.factors)
        slopes = jax.value_and_grad(self.pair.of, argnums=(0, 1, 2, 3))

        def add(sums: Any, term: JointMember) -> tuple[Any, None]:
            total, by_rows, by_means, by_scale = sums
            i, j = term.first, term.second
            value, (u, v, mean, scale) = slopes(rows[i], rows[j], _at(means, j), weights.log_scale)
            by_rows = by_rows.at[i].add(term.share * u).at[j].add(term.share * v)
            by_means = jax.tree.map(lambda all_, one: all_.at[j].add(term.share * one), by_means, mean)
            return (total + term.share * value, by_rows, by_means, by_scale + term.share * scale), None

        start = jnp.float32(0), *jax.tree.map(jnp.zeros_like, (rows, means)), jnp.float32(0)
        (total, by_rows, by_means, by_scale), _ = jax.lax.scan(add, start, member)
        (by_factors,) = back((by_rows, by_means))
        total, by_factors, by_scale = jax.lax.psum((total, by_factors, by_scale), AXIS)
        penalty, more = jax.value_and_grad(self._penalty)(weights.factors)
        return total + penalty, JointWeights(jax.tree.map(jnp.add, by_factors, more), by_scale)

    def _mapped(self, factors: Mapping[int, Leaf], batch: Batch) -> tuple[Array, Array | None]:
        """Rows [encoders, 2 B, r] and, where the loss sees them, means [encoders, B, r] in the space."""
        rows, means = (
            jnp.stack([project(of[width][number], factors[width][number]) for width, number in self.encoders])
            if wanted
            else None
            for of, wanted in ((batch.rows, True), (batch.means, self.pair.sees_means))
        )
        assert rows is not None
        return rows, means

    def _penalty(self, factors: Mapping[int, Leaf]) -> Float[Array, ""]:
        if self.pair.orthogonality == 0:
            return jnp.float32(0)
        each = [orthogonality(factors[width][number]) for width, number in self.encoders]
        return self.pair.orthogonality * jnp.mean(jnp.stack(each))


def _at(means: Array | None, number: Leaf) -> Array | None:
    return None if means is None else means[number]
