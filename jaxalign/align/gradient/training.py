"""Many problems fitted by Adam in one program, on one device or several.

Problems come in groups of one shape, stacked. They are spread over the devices along the axis ``pairs``, and nothing is
exchanged between them; or, where an objective sums many terms, each device takes a share of the terms of every problem
and gradients are added up. On one CPU the problems are dealt to as many runs of the program as there are cores: thin
products of matrices are not worth dividing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxalign.align.gradient.options import GradientOptions
from jaxalign.align.gradient.steps import AXIS, Groups, Objective, Plan, Run
from jaxalign.core.devices import at_once, concurrently
from jaxalign.core.pytree import Leaf, pytree

# Exponentials and Adam by vectors of 512 bits where the CPU has them; XLA prefers 256.
WIDE_VECTORS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}


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


def train(
    objective: Objective,
    settings: GradientOptions,
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
    mesh = jax.sharding.Mesh(np.asarray(devices or jax.local_devices()[:1]), (AXIS,))
    counts = {group: jax.tree.leaves(stack)[0].shape[0] for group, stack in weights.items()}
    shares = 1 if mesh.size > 1 or objective.shares_terms else at_once(max(counts.values()))
    multiples = (1,) if objective.shares_terms else (mesh.size * shares,)
    of_terms = (1, mesh.size) if objective.shares_terms else multiples
    real = {group: np.ones(count, bool) for group, count in counts.items()}
    stacks = (
        jax.tree.map(lambda leaf: _filled(leaf, multiples), dict(weights)),
        jax.tree.map(lambda leaf: _filled(leaf, of_terms[: np.ndim(leaf)]), dict(members)),
        jax.tree.map(lambda leaf: _filled(leaf, multiples), real),
    )
    common = data, jax.random.key(settings.seed), np.float32(settings.learning_rate)
    problems = [(*_share(stacks, number, shares), *common) for number in range(shares)]
    plan = Plan(settings.steps, min(settings.checks, settings.steps), settings.patience)
    leaves, structure = jax.tree.flatten(problems[0])
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    with jax.enable_x64(False):  # whatever the caller's setting; it holds on this thread alone
        run = _program(objective, plan, mesh, structure, shapes)

    def one(given: tuple[Any, ...]) -> dict[Any, Trained]:
        with jax.enable_x64(False):
            return run(*given)

    trained = list(concurrently(one, problems))
    joined = jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *trained)
    return {
        group: jax.tree.map(lambda leaf, count=count: leaf[:count], joined[group])
        for group, count in counts.items()
    }


def _share(stacks: Any, number: int, shares: int) -> Any:
    """The problems of one of so many shares, which are equal."""

    def part(leaf: np.ndarray) -> np.ndarray:
        size = len(leaf) // shares
        return leaf[number * size : (number + 1) * size]

    return stacks if shares == 1 else jax.tree.map(part, stacks)


def _filled(leaf: Any, multiples: tuple[int, ...]) -> np.ndarray:
    """Zeros until the devices divide the leading axes: problems that are not real, or terms of weight zero."""
    leaf = np.asarray(leaf)
    more = [(0, -size % multiple) for size, multiple in zip(leaf.shape, multiples)]
    return np.pad(leaf, [*more, *[(0, 0)] * (leaf.ndim - len(more))])


@functools.lru_cache(maxsize=64)  # compiled once, however many threads want it
def _program(
    objective: Objective,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    structure: Any,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
) -> Callable[..., Any]:
    problems, terms = (P(), P(None, AXIS)) if objective.shares_terms else (P(AXIS), P(AXIS))
    spread = jax.shard_map(
        functools.partial(_train_local, objective, plan),
        mesh=mesh,
        in_specs=(problems, terms, problems, P(), P(), P()),
        out_specs=problems,
        check_vma=False,
    )
    lowered = jax.jit(spread).lower(*jax.tree.unflatten(structure, shapes))
    if jax.default_backend() != "cpu":
        return lowered.compile()
    try:
        return lowered.compile(WIDE_VECTORS)
    except jax.errors.JaxRuntimeError:  # a jaxlib that does not know the option
        return lowered.compile()


def _train_local(
    objective: Objective,
    plan: Plan,
    weights: Groups,
    members: Groups,
    real: Groups,
    data: Any,
    key: Array,
    rate: Array,
) -> dict[Any, Trained]:
    """What one device does."""
    run = Run(objective, plan, members, data, key, rate)
    states = {group: run.begin(group, weights[group], real[group]) for group in weights}
    at_start = {group: state.best_score for group, state in states.items()}
    states, (losses, scores) = jax.lax.scan(run.until_check, states, jnp.arange(plan.checks))
    trained = {}
    for group, state in states.items():
        of_steps = losses[group].reshape(-1, losses[group].shape[-1])[: plan.steps]
        first = jnp.where(jnp.isinf(at_start[group]), jnp.nan, at_start[group])
        found = jnp.concatenate([first[None], scores[group]])
        trained[group] = Trained(state.best, of_steps.T, found.T, state.ok, state.steps)
    return trained
