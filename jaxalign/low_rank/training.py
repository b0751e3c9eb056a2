"""Many problems fitted by Adam in one program: one scan over the steps, the problems of a step one after another.

Problems come in groups of one shape, stacked. They are spread over the devices along the axis ``pairs``; nothing is
exchanged between them. A problem whose loss or gradient is no longer finite, or that has not become better for some
checks, stops changing; the others go on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxalign.low_rank.settings import LowRankSettings
from jaxalign.precision import multiply
from jaxalign.pytree import Leaf, pytree

Groups = Mapping[Any, Any]  # a pytree for each group, whose leaves lead with the group's problems
DIVERGED = 10  # times the first loss, and 1: a loss above that has diverged
ACCELERATOR_BATCH = 8  # problems of one group that an accelerator steps at once


class Objective(Protocol):
    """What is minimised; hashable, for it is part of the program."""

    def batch(self, data: Any, key: Array) -> Any:
        """What the problems of one step share."""
        ...

    def held_out(self, data: Any) -> Any:
        """The batch that weights are chosen by; None where the training loss decides."""
        ...

    def loss(self, weights: Any, member: Any, batch: Any) -> Float[Array, ""]:
        """Of one problem."""
        ...

    def retract(self, weights: Any) -> Any:
        """The nearest weights that keep the objective's constraints, of one problem."""
        ...


@pytree
class Trained:
    """What came of a group's problems.

    Attributes:
      weights: the best found.
      losses: training loss of every step, NaN once a problem has stopped, shape [k, steps].
      scores: held-out loss at the start and at every check (NaN without people held out), shape [k, checks + 1].
      ok: False where the loss diverged; the weights are then the last good ones, shape [k].
      steps: how many each problem made, shape [k].
    """

    weights: Any
    losses: Float[Leaf, "k steps"]
    scores: Float[Leaf, "k checks"]
    ok: Bool[Leaf, " k"]
    steps: Int[Leaf, " k"]


@dataclasses.dataclass(frozen=True)
class History:
    """How one pair's fit went.

    Attributes:
      losses: training loss of every step made, shape [steps].
      held_out: loss on the people held out, at the start and at every check, NaN where none are, shape [checks + 1].
      ok: False where the loss diverged.
    """

    losses: np.ndarray
    held_out: np.ndarray
    ok: bool

    @classmethod
    def of(cls, trained: Trained, number: int) -> History:
        """Of one problem of a group."""
        return cls(
            np.asarray(trained.losses[number])[: int(trained.steps[number])],
            np.asarray(trained.scores[number]),
            bool(trained.ok[number]),
        )


class _State(NamedTuple):
    weights: Any
    moments: Any  # Adam's
    best: Any
    best_score: Array
    waited: Array
    active: Array
    ok: Array
    steps: Array
    limit: Array  # beyond which a loss has diverged


def train(
    objective: Objective,
    settings: LowRankSettings,
    weights: Groups,
    members: Groups,
    data: Any,
    devices: list[Any] | None = None,
) -> dict[Any, Trained]:
    """Minimises every problem.

    Args:
      objective: of all problems.
      settings: steps, rate, patience, checks and seed.
      weights: where they start, float32.
      members: what distinguishes problems, such as the numbers of the encoders.
      data: what they share.
      devices: to spread the problems over; the first local one where None.
    """
    devices = devices or jax.local_devices()[:1]
    mesh = jax.sharding.Mesh(np.asarray(devices), ("pairs",))
    counts = {group: jax.tree.leaves(stack)[0].shape[0] for group, stack in weights.items()}
    filled = [
        {
            group: jax.tree.map(functools.partial(_filled, multiple=mesh.size), stack)
            for group, stack in of.items()
        }
        for of in (weights, members)
    ]
    real = {group: np.arange(-(-count // mesh.size) * mesh.size) < count for group, count in counts.items()}
    plain = (settings.steps, min(settings.checks, settings.steps), settings.patience)
    run = _program(objective, plain, mesh)
    trained = run(*filled, real, data, jax.random.key(settings.seed), jnp.float32(settings.learning_rate))
    return {
        group: jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], trained[group])
        for group, count in counts.items()
    }


def _filled(leaf: Any, multiple: int) -> np.ndarray:
    """Repeats the first problem until the devices divide them; what is added never becomes active."""
    leaf = np.asarray(leaf)
    return np.concatenate([leaf, np.repeat(leaf[:1], -len(leaf) % multiple, axis=0)])


@functools.lru_cache(maxsize=16)  # a jitted function for each objective, so that calls share programs
def _program(
    objective: Objective, plain: tuple[int, int, int], mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
    local = functools.partial(_train_local, objective, *plain)
    spread = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P("pairs"), P("pairs"), P("pairs"), P(), P(), P()),
        out_specs=P("pairs"),
        check_vma=False,
    )
    return jax.jit(spread)


def _train_local(
    objective: Objective,
    steps: int,
    checks: int,
    patience: int,
    weights: Groups,
    members: Groups,
    real: Groups,
    data: Any,
    key: Array,
    rate: Array,
) -> dict[Any, Trained]:
    import optax  # here, because importing it takes as long as importing jax

    adam = optax.scale_by_adam()
    interval = -(-steps // checks)
    held_out = objective.held_out(data)

    def score(state: _State, group: Any, batch: Any) -> Array:
        one = lambda given: objective.loss(given[0], given[1], batch)  # noqa: E731
        return _each(one, (state.weights, members[group]))

    def begin(group: Any) -> _State:
        stack = weights[group]
        count = real[group].shape[0]
        start = jnp.full(count, jnp.inf)
        state = _State(
            weights=stack,
            moments=jax.vmap(adam.init)(stack),
            best=stack,
            best_score=start,
            waited=jnp.zeros(count, jnp.int32),
            active=real[group],
            ok=jnp.ones(count, bool),
            steps=jnp.zeros(count, jnp.int32),
            limit=jnp.full(count, jnp.inf),
        )
        if held_out is None:
            return state
        at_start = score(state, group, held_out)
        return state._replace(best_score=at_start, limit=DIVERGED * at_start + 1)

    def step(states: dict[Any, _State], number: Array) -> tuple[dict[Any, _State], dict[Any, Array]]:
        batch = objective.batch(data, jax.random.fold_in(key, number))
        now = rate * (1 + jnp.cos(number.astype(rate.dtype) * (np.pi / steps))) / 2

        def one(given: tuple[Any, Any, Any, Array]) -> tuple[Any, Any, Array, Array]:
            own, moments, member, active = given

            def move() -> tuple[Any, Any, Array, Array]:
                loss, gradient = jax.value_and_grad(objective.loss)(own, member, batch)
                with jax.numpy_dtype_promotion("standard"):
                    change, after = adam.update(gradient, moments)
                moved = objective.retract(jax.tree.map(lambda w, c: w - now * c, own, change))
                good = jnp.isfinite(loss) & _all_finite(moved)
                keep = lambda new, old: jnp.where(good, new, old)  # noqa: E731
                return jax.tree.map(keep, moved, own), jax.tree.map(keep, after, moments), loss, good

            still = lambda: (own, moments, jnp.float32(jnp.nan), jnp.bool_(True))  # noqa: E731
            return jax.lax.cond(active & (number < steps), move, still)

        losses = {}
        for group, state in states.items():
            given = (state.weights, state.moments, members[group], state.active)
            moved, moments, losses[group], good = _each(one, given)
            made = state.steps + (state.active & good & (number < steps)).astype(state.steps.dtype)
            states[group] = state._replace(
                weights=moved, moments=moments, active=state.active & good, ok=state.ok & good, steps=made
            )
        return states, losses

    def check(states: dict[Any, _State], number: Array) -> tuple[dict[Any, _State], Any]:
        states, losses = jax.lax.scan(step, states, number * interval + jnp.arange(interval))
        fresh = jax.random.fold_in(key, steps + number)
        probe = objective.batch(data, fresh) if held_out is None else held_out
        scores = {}
        for group, state in states.items():
            if held_out is None:
                limit = jnp.where(number == 0, DIVERGED * losses[group][0] + 1, state.limit)
                state = state._replace(limit=limit)
            found = score(state, group, probe)
            sound = state.ok & (found <= state.limit)  # not so where the loss is NaN
            state = state._replace(ok=sound, active=state.active & sound)
            if held_out is None:  # the latest sound weights are the best
                scores[group], better = jnp.full(found.shape, jnp.nan), sound
            else:
                scores[group], better = found, sound & (found < state.best_score)
                waited = jnp.where(better, 0, state.waited + 1)
                state = state._replace(
                    best_score=jnp.where(better, found, state.best_score),
                    waited=waited,
                    active=state.active & (waited < patience),
                )
            pick = lambda new, old, better=better: jnp.where(_like(better, new), new, old)  # noqa: E731
            states[group] = state._replace(best=jax.tree.map(pick, state.weights, state.best))
        return states, (losses, scores)

    states = {group: begin(group) for group in weights}
    first = {group: state.best_score for group, state in states.items()}
    states, (losses, scores) = jax.lax.scan(check, states, jnp.arange(checks))
    return {
        group: Trained(
            state.best,
            losses[group].reshape(-1, losses[group].shape[-1])[:steps].T,
            jnp.concatenate(
                [jnp.where(jnp.isinf(first[group]), jnp.nan, first[group])[None], scores[group]]
            ).T,
            state.ok,
            state.steps,
        )
        for group, state in states.items()
    }


def _each(function: Callable[[Any], Any], items: Any) -> Any:
    """``function`` of every problem: one after another on a CPU, several at once on an accelerator."""
    size = 1 if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
    return jax.lax.map(function, items, batch_size=None if size == 1 else size)


def _like(flags: Array, leaf: Array) -> Array:
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - 1))


def _all_finite(tree: Any) -> Array:
    return functools.reduce(jnp.logical_and, [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


def polar(factor: Float[Leaf, "p s"], rounds: int = 6) -> Float[Array, "p s"]:
    """The orthonormal factor nearest to one that is nearly orthonormal, by Newton and Schulz' iteration.

    Equivalent: ``scipy.linalg.polar(factor)[0]``.
    """
    near = jnp.asarray(factor)
    for _ in range(rounds):
        near = 1.5 * near - 0.5 * multiply(near, multiply(near.T, near))
    return near
