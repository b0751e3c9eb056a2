"""The steps of a fit: gradients of all problems, one after another; Adam for all of them at once; checks in between.

A problem whose loss or gradient is no longer finite, or that has not become better for some checks, stops changing; the
others go on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Groups = Mapping[Any, Any]  # a pytree for each group, whose leaves lead with the group's problems
AXIS = "pairs"  # of the devices
DIVERGED = 10  # times the first loss, and 1: a loss above that has diverged
ACCELERATOR_BATCH = 8  # problems of one group that an accelerator steps at once


class Objective:
    """What is minimised; hashable, for it is part of the program.

    ``shares_terms`` says how devices share the work: where it is False each has problems of its own; where it is True
    members' second axis is spread over the devices, and ``loss`` and ``value_and_gradient`` add up along ``AXIS``.
    """

    shares_terms = False

    def batch(self, data: Any, key: Array) -> Any:
        """What the problems of one step share."""
        raise NotImplementedError

    def held_out(self, data: Any) -> Any:
        """The batch that weights are chosen by; None where the training loss decides."""
        raise NotImplementedError

    def loss(self, weights: Any, member: Any, batch: Any) -> Float[Array, ""]:
        """Of one problem."""
        raise NotImplementedError

    def value_and_gradient(self, weights: Any, member: Any, batch: Any) -> tuple[Float[Array, ""], Any]:
        """The loss and its gradient by the weights."""
        return jax.value_and_grad(self.loss)(weights, member, batch)

    def retract(self, weights: Any) -> Any:
        """The nearest weights that keep the objective's constraints, of one problem."""
        return weights


class State(NamedTuple):
    """Of a group's problems; every leaf but ``moments``' count leads with them."""

    weights: Any
    moments: Any  # Adam's
    best: Any
    best_score: Float[Array, " k"]
    waited: Int[Array, " k"]
    active: Bool[Array, " k"]
    ok: Bool[Array, " k"]
    steps: Int[Array, " k"]
    limit: Float[Array, " k"]  # beyond which a loss has diverged


class Plan(NamedTuple):
    """How many steps and checks there are, and how many checks without a better score end a problem."""

    steps: int
    checks: int
    patience: int

    @property
    def interval(self) -> int:
        """Steps from check to check."""
        return -(-self.steps // self.checks)


@dataclasses.dataclass(frozen=True)
class Run:
    """One fit, while its program is traced."""

    objective: Objective
    plan: Plan
    members: Groups
    data: Any
    key: Array
    rate: Array

    @functools.cached_property
    def adam(self) -> Any:
        """The optimiser, without its rate."""
        import optax  # here, because importing it takes as long as importing jax

        return optax.scale_by_adam()

    @functools.cached_property
    def held_out(self) -> Any:
        """See ``Objective``."""
        return self.objective.held_out(self.data)

    def begin(self, group: Any, weights: Any, real: Bool[Array, " k"]) -> State:
        """Before the first step."""
        count = real.shape[0]
        unknown, none = jnp.full(count, jnp.inf), jnp.zeros(count, jnp.int32)
        moments = self.adam.init(weights)
        state = State(weights, moments, weights, unknown, none, real, jnp.ones(count, bool), none, unknown)
        if self.held_out is None:
            return state
        at_start = self._scores(group, weights, self.held_out)
        return state._replace(best_score=at_start, limit=DIVERGED * at_start + 1)

    def until_check(self, states: dict[Any, State], number: Array) -> tuple[dict[Any, State], Any]:
        """All steps of one interval and the check at its end: losses [interval, k] and scores [k] of each group."""
        first = number * self.plan.interval
        states, losses = jax.lax.scan(self._step, states, first + jnp.arange(self.plan.interval))
        probe = self.held_out
        if probe is None:
            probe = self.objective.batch(self.data, jax.random.fold_in(self.key, self.plan.steps + number))
        scores = {}
        for group, state in states.items():
            if self.held_out is None:
                limit = jnp.where(number == 0, DIVERGED * losses[group][0] + 1, state.limit)
                state = state._replace(limit=limit)
            found = self._scores(group, state.weights, probe)
            states[group] = self._judged(state, found)
            scores[group] = jnp.full(found.shape, jnp.nan) if self.held_out is None else found
        return states, (losses, scores)

    def _scores(self, group: Any, weights: Any, batch: Any) -> Float[Array, " k"]:
        return _each(
            lambda given: self.objective.loss(given[0], given[1], batch), (weights, self.members[group])
        )

    def _step(
        self, states: dict[Any, State], number: Array
    ) -> tuple[dict[Any, State], dict[Any, Float[Array, " k"]]]:
        batch = self.objective.batch(self.data, jax.random.fold_in(self.key, number))
        rate = self.rate * (1 + jnp.cos(number.astype(self.rate.dtype) * (np.pi / self.plan.steps))) / 2
        moved, losses = {}, {}
        for group, state in states.items():
            running = state.active & (number < self.plan.steps)
            losses[group], gradient = self._slopes(group, state.weights, running, batch)
            moved[group] = self._moved(state, running, losses[group], gradient, rate)
        return moved, losses

    def _slopes(
        self, group: Any, weights: Any, running: Bool[Array, " k"], batch: Any
    ) -> tuple[Float[Array, " k"], Any]:
        """Losses and gradients; NaN and zero for problems that have stopped, which cost nothing."""

        def one(given: tuple[Any, Any, Array]) -> tuple[Array, Any]:
            own, member, runs = given
            still = lambda: (jnp.float32(jnp.nan), jax.tree.map(jnp.zeros_like, own))  # noqa: E731
            move = lambda: self.objective.value_and_gradient(own, member, batch)  # noqa: E731
            return jax.lax.cond(runs, move, still)

        return _each(one, (weights, self.members[group], running))

    def _moved(
        self, state: State, running: Bool[Array, " k"], losses: Float[Array, " k"], gradient: Any, rate: Array
    ) -> State:
        """After one step of Adam. A problem that has stopped keeps its weights; its moments are of no use any more."""
        with jax.numpy_dtype_promotion("standard"):
            change, moments = self.adam.update(gradient, state.moments)
        good = jnp.isfinite(losses) & _finite(gradient)
        moves = running & good
        after = jax.tree.map(lambda own, by: own - rate * by, state.weights, change)
        after = jax.vmap(self.objective.retract)(after)
        return state._replace(
            weights=_chosen(moves, after, state.weights),
            moments=moments,
            active=state.active & (good | ~running),
            ok=state.ok & (good | ~running),
            steps=state.steps + moves.astype(state.steps.dtype),
        )

    def _judged(self, state: State, found: Float[Array, " k"]) -> State:
        """After a check: the best weights kept, and problems stopped that have diverged or waited too long."""
        sound = state.ok & (found <= state.limit)  # not so where the loss is NaN
        active = state.active & sound
        if self.held_out is None:  # the latest sound weights are the best
            better, best_score, waited = sound, state.best_score, state.waited
        else:
            better = sound & (found < state.best_score)
            best_score = jnp.where(better, found, state.best_score)
            waited = jnp.where(better, 0, state.waited + 1)
            active &= waited < self.plan.patience
        best = _chosen(better, state.weights, state.best)
        return state._replace(best=best, best_score=best_score, waited=waited, active=active, ok=sound)


def _each(function: Callable[[Any], Any], items: Any) -> Any:
    """``function`` of every problem: one after another on a CPU, several at once on an accelerator."""
    size = 1 if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
    return jax.lax.map(function, items, batch_size=None if size == 1 else size)


def _chosen(flags: Bool[Array, " k"], new: Any, old: Any) -> Any:
    """New leaves of the problems with a flag, old ones of the others."""
    like = lambda leaf: flags.reshape(flags.shape + (1,) * (leaf.ndim - 1))  # noqa: E731
    return jax.tree.map(lambda a, b: jnp.where(like(a), a, b), new, old)


def _finite(tree: Any) -> Bool[Array, " k"]:
    """Whether all numbers of each problem, and their squares' sum, are finite."""
    sums = [jnp.sum(leaf * leaf, axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(tree)]
    return jnp.isfinite(functools.reduce(jnp.add, sums))
