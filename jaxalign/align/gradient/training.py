"""Adam on stacked problems of one shape: one ``lax.scan`` over the steps of each problem.

Over a mesh, devices share the problems and exchange nothing; or, where an objective is a sum of many terms, they share
the terms of every problem and add up the gradients of each step.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxalign.align.gradient.gradient_options import GradientOptions
from jaxalign.core.devices import local_mesh
from jaxalign.core.precision import double_precision
from jaxalign.core.pytree import Leaf, pytree

AXIS = "problems"
DIVERGED = 10  # times the first loss, and 1: a loss above that has diverged
ACCELERATOR_BATCH = 8  # problems that an accelerator steps at once; on a CPU those of one stay in the cache


@pytree
class Trained:
    """The result of one problem, or of a stack of problems with a leading axis."""

    weights: Any  # the best found
    losses: Float[Leaf, "*k steps"]  # training loss of every step, NaN once the problem has stopped
    scores: Float[Leaf, "*k steps_and_one"]  # held-out loss, NaN where it was not looked at
    ok: Bool[Leaf, "*k"]  # False where the loss diverged; the weights are then the last good ones
    steps: Int[Leaf, "*k"]  # how many the problem made


@dataclasses.dataclass(frozen=True)
class History:
    """How one pair's fit went."""

    losses: np.ndarray  # training loss of every step made, shape [steps]
    held_out: np.ndarray  # loss on people held out, at the start and every check; NaN where there is none
    ok: bool  # False where the loss diverged

    @classmethod
    def of(cls, trained: Trained, index: int, options: GradientOptions) -> History:
        """Of one problem of a stack."""
        losses, scores = np.asarray(trained.losses[index]), np.asarray(trained.scores[index])
        looked = _is_check(np.arange(len(scores)), options.steps, options.checks)
        return cls(losses[: int(trained.steps[index])], scores[looked], bool(trained.ok[index]))


class State(NamedTuple):
    """One problem between two steps."""

    weights: Any
    adam: Any
    best: Any
    best_score: Float[Array, ""]
    waited: Int[Array, ""]
    active: Bool[Array, ""]
    ok: Bool[Array, ""]
    steps: Int[Array, ""]
    limit: Float[Array, ""]  # a loss above it has diverged


class Plan(NamedTuple):
    """How many steps and checks there are, and how many checks without a better score end a problem."""

    steps: int
    checks: int
    patience: int


def train(
    objective: Any, options: GradientOptions, weights: Any, members: Any, data: Any, mesh: Mesh | None = None
) -> Trained:
    """Minimises every problem of a stack, on the first local device or those of the mesh.

    Args:
      objective: an ``Objective``, or a hashable with its methods and ``shares_terms``.
      options: settled; steps, rate, checks, patience and seed are used.
      weights: where the problems start, float32, with a leading axis of problems.
      members: what distinguishes problems, along the same axis, such as indices of encoders; terms along the second.
      data: what the problems share.
    """
    devices = jax.local_devices()[:1] if mesh is None else list(local_mesh(mesh).devices.flat)
    flat = Mesh(np.array(devices), (AXIS,))
    count = jax.tree.leaves(weights)[0].shape[0]
    if objective.shares_terms:
        members = jax.tree.map(lambda leaf: _padded(leaf, 1, flat.size), members)
    else:
        weights, members = jax.tree.map(lambda leaf: _padded(leaf, 0, flat.size), (weights, members))
    plan = Plan(options.steps, options.checks, options.patience)
    with double_precision(False):  # whatever the caller's setting; it holds on this thread alone
        key, rate = jax.random.key(options.seed), np.float32(options.learning_rate)
        trained = _train(objective, plan, flat, weights, members, data, key, rate)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], trained)


def _padded(leaf: Any, axis: int, multiple: int) -> np.ndarray:
    """Zeros until the devices divide an axis: problems that are ignored, or terms of weight zero."""
    return np.pad(leaf, [(0, -size % multiple if k == axis else 0) for k, size in enumerate(np.shape(leaf))])


@functools.partial(jax.jit, static_argnames=("objective", "plan", "mesh"))
def _train(
    objective: Any, plan: Plan, mesh: Mesh, weights: Any, members: Any, data: Any, key: Array, rate: Array
) -> Trained:
    def local(weights: Any, members: Any, data: Any, key: Array, rate: Array) -> Trained:
        def one(problem: tuple[Any, Any]) -> Trained:
            return train_one(objective, plan, problem[0], problem[1], data, key, rate)

        size = None if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
        return jax.lax.map(one, (weights, members), batch_size=size)

    problems, terms = (P(), P(None, AXIS)) if objective.shares_terms else (P(AXIS), P(AXIS))
    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=(problems, terms, P(), P(), P()), out_specs=problems, check_vma=False
    )
    return sharded(weights, members, data, key, rate)


def _is_check(step: Any, steps: int, checks: int) -> Any:
    """Whether held-out people are looked at before this step, or after the last one."""
    return (step % -(-steps // min(checks, steps)) == 0) | (step == steps)


def train_one(
    objective: Any, plan: Plan, weights: Any, member: Any, data: Any, key: Array, rate: Array
) -> Trained:
    """One problem: a step judges the weights that the step before gave, then moves them."""
    import optax  # here, because importing it takes as long as importing jax

    adam = optax.adam(optax.cosine_decay_schedule(rate, plan.steps))  # pyright: ignore[reportArgumentType]
    held_out = objective.held_out(data)

    def summed(tree: Any) -> Any:
        return jax.lax.psum(tree, AXIS) if objective.shares_terms else tree

    def next_state(state: State, step: Array) -> tuple[State, tuple[Array, Array]]:
        batch = objective.batch(data, jax.random.fold_in(key, step))
        loss, slopes = summed(jax.value_and_grad(objective.loss)(state.weights, member, data, batch))
        limit = jnp.where(step == 0, DIVERGED * loss + 1, state.limit)
        power = sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(slopes))
        sound = jnp.isfinite(loss) & (loss <= limit) & jnp.isfinite(power)
        ok, active = state.ok & (sound | ~state.active), state.active & sound
        best_score, waited, found = state.best_score, state.waited, jnp.float32(jnp.nan)
        if held_out is None:
            better = active
        else:
            looked = _is_check(step, plan.steps, plan.checks)
            measure = lambda: summed(objective.loss(state.weights, member, data, held_out))  # noqa: E731
            found = jnp.where(active, jax.lax.cond(looked, measure, lambda: found), jnp.nan)
            better = found < best_score  # never where it is NaN
            best_score = jnp.where(better, found, best_score)
            waited = jnp.where(looked, jnp.where(better, 0, waited + 1), waited)
            active = active & (waited < plan.patience)
        best = _chosen(better, state.weights, state.best)
        moves = active & (step < plan.steps)
        with jax.numpy_dtype_promotion("standard"):
            change, adam_state = adam.update(slopes, state.adam)
        moved = objective.retract(optax.apply_updates(state.weights, change))
        after = State(
            _chosen(moves, moved, state.weights), adam_state, best, best_score, waited, active, ok,
            state.steps + moves.astype(jnp.int32), limit,
        )  # fmt: skip
        return after, (jnp.where(moves, loss, jnp.nan), found)

    unknown, none, yes = jnp.float32(jnp.inf), jnp.int32(0), jnp.bool_(True)
    first = State(weights, adam.init(weights), weights, unknown, none, yes, yes, none, unknown)
    last, (losses, scores) = jax.lax.scan(next_state, first, jnp.arange(plan.steps + 1))
    return Trained(last.best, losses[:-1], scores, last.ok, last.steps)


def _chosen(flag: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)
