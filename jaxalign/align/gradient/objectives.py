"""What a fit by gradient minimises: the loss of one pair, and the mean loss over all pairs of one joint space."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.align.gradient.batches import Rows, TrainingBatch, draw, held_out_batch
from jaxalign.align.gradient.contrastive import project
from jaxalign.align.gradient.gradient_options import GradientOptions
from jaxalign.align.gradient.losses import LOSSES, MEANS_BASED, Mapped, orthogonality
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf, pytree

PROGRAM = ("loss", "two_sided", "learn_temperature", "margin", "delta", "orthogonality", "orthogonal")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What pairs and joint spaces have in common; hashable, because it is part of the compiled program."""

    options: GradientOptions  # settled; those in ``PROGRAM`` and whether people are held out, all others by default
    people: int  # in a batch, no more than there are

    shares_terms: ClassVar[bool] = False

    @classmethod
    def of(cls, options: GradientOptions, rows: Rows, *more: Any) -> Self:
        """The objective of settled options; ``more`` are the fields of the subclass."""
        used = {name: getattr(options, name) for name in PROGRAM}
        used["held_out"] = float(options.held_out > 0)
        return cls(GradientOptions(**used), min(options.people, rows.train.start.shape[0]), *more)

    def batch(self, rows: Rows, key: Array) -> TrainingBatch:
        """The batch that the problems of one step share."""
        return draw(rows, key, self.people)

    def held_out(self, rows: Rows) -> TrainingBatch | None:
        """The batch that weights are chosen by; None where no one is held out."""
        return held_out_batch(rows, 2 * self.people) if self.options.held_out else None

    def retract(self, weights: Any) -> Any:
        """The nearest weights that keep the constraints."""
        return weights

    def _of(self, u: Array, v: Array, means: Array | None, log_scale: Leaf) -> Float[Array, ""]:
        """The loss of mapped rows."""
        scale = log_scale if self.options.learn_temperature else jax.lax.stop_gradient(log_scale)
        return LOSSES[self.options.loss](Mapped(u, v, means, jnp.exp(scale)), self.options)


@pytree
class PairWeights:
    """Two-sided: both factors [p, r] and [q, r]. One-sided: A [p, r] and B [r, q]. And log(1 / temperature), []."""

    left: Float[Leaf, "p r"]
    right: Float[Leaf, "q r"]
    log_scale: Float[Leaf, ""]


@pytree
class PairMember:
    """A pair: the indices of both encoders in the stacks of their padded widths."""

    source: Int[Leaf, ""]
    target: Int[Leaf, ""]


@dataclasses.dataclass(frozen=True)
class PairObjective(Objective):
    """The loss of one pair whose encoders are padded to ``widths``."""

    widths: tuple[int, int]

    def loss(
        self, weights: PairWeights, member: PairMember, rows: Rows, batch: TrainingBatch
    ) -> Float[Array, ""]:
        """The loss of one pair on a batch."""
        (p, q), left, right = self.widths, weights.left, weights.right
        u = project(rows.coordinates[p][member.source, batch.rows], jnp.asarray(left))
        v = rows.coordinates[q][member.target, batch.rows]
        means = rows.means[q][member.target, batch.people] if self.options.loss in MEANS_BASED else None
        if self.options.two_sided:
            right = jnp.asarray(right)
            v, means = project(v, right), None if means is None else project(means, right)
        else:
            u = multiply(u, right)
        value = self._of(u, v, means, weights.log_scale)
        if self.options.orthogonality:
            both = orthogonality(left) + orthogonality(right if self.options.two_sided else right.T)
            value = value + self.options.orthogonality * both
        return value

    def retract(self, weights: PairWeights) -> PairWeights:
        """Orthonormal factors, if they shall be."""
        if not self.options.orthogonal:
            return weights
        return dataclasses.replace(weights, left=polar(weights.left), right=polar(weights.right))


@pytree
class JointWeights:
    """One factor [width, r] for each encoder, stacked by padded width, and log(1 / temperature)."""

    factors: Mapping[int, Float[Leaf, "k width r"]]
    log_scale: Float[Leaf, ""]


@pytree
class Terms:
    """The terms of the sum: numbers of both encoders, and the share that the pair's loss has, shapes [terms]."""

    first: Int[Leaf, " terms"]
    second: Int[Leaf, " terms"]
    share: Float[Leaf, " terms"]

    @classmethod
    def of(cls, encoders: int) -> Terms:
        """All unordered pairs of so many encoders, with equal shares."""
        pairs = np.array(list(itertools.combinations(range(encoders), 2)), np.int32)
        return cls(pairs[:, 0], pairs[:, 1], np.full(len(pairs), 1 / len(pairs), np.float32))


@dataclasses.dataclass(frozen=True)
class JointObjective(Objective):
    """The mean over unordered pairs of encoders of a two-sided loss in one space.

    Devices share the terms: on each the loss is the sum of its own.
    """

    encoders: tuple[tuple[int, int], ...]  # padded width, and index among those of that width

    shares_terms: ClassVar[bool] = True

    def loss(
        self, weights: JointWeights, member: Terms, rows: Rows, batch: TrainingBatch
    ) -> Float[Array, ""]:
        """The sum of the terms of ``member``, each times its share."""
        mapped = self._mapped(weights, rows.coordinates, batch.rows)
        means = self._mapped(weights, rows.means, batch.people) if self.options.loss in MEANS_BASED else None

        @jax.checkpoint  # so that memory does not grow with the number of pairs
        def term(mapped: Array, means: Array | None, log_scale: Array, one: Terms) -> Array:
            of_second = None if means is None else means[one.second]
            value = self._of(mapped[one.first], mapped[one.second], of_second, log_scale)
            return jnp.asarray(one.share) * value

        def add(sofar: Array, one: Terms) -> tuple[Array, None]:
            return sofar + term(mapped, means, jnp.asarray(weights.log_scale), one), None

        total = jax.lax.scan(add, jnp.float32(0), member)[0]
        if self.options.orthogonality:
            each = [orthogonality(weights.factors[width][index]) for width, index in self.encoders]
            total = total + jnp.sum(member.share) * self.options.orthogonality * jnp.mean(jnp.stack(each))
        return total

    def _mapped(self, weights: JointWeights, of: Mapping[int, Leaf], numbers: Array) -> Float[Array, "k m r"]:
        """Rows, or means of people, of every encoder in the space."""
        factors = weights.factors
        mapped = [multiply(of[width][k, numbers], factors[width][k]) for width, k in self.encoders]
        return jnp.stack(mapped)


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
