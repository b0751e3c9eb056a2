"""How an encoder of the zoo learns: the schedule, one step, and the run over a pool of photographs."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, PRNGKeyArray, UInt8

from jaxalign.core.errors import UserError
from jaxalign.vision.zoo.encoder_losses import FaceBatch
from jaxalign.vision.zoo.specification import Recipe

Params = Any
# The parameters of the encoder and of the loss's head, and the optimiser's state.
State = tuple[tuple[Params, Params], optax.OptState]
WARM_UP = 100  # steps


class Pool(NamedTuple):
    """The photographs to learn from, uint8 [people, photographs of each, 64, 64, 3], and traits [people, traits]."""

    images: np.ndarray
    traits: np.ndarray


def initial(specification: Recipe) -> Params:
    """The encoder's parameters before training."""
    key = jax.random.fold_in(jax.random.key(specification.seed, impl="threefry2x32"), 0)
    with jax.numpy_dtype_promotion("standard"):
        return _drawn(specification.body, key)


@functools.partial(jax.jit, static_argnums=0)  # operation by operation it takes longer
def _drawn(body: nn.Module, key: PRNGKeyArray) -> Params:
    return body.init(key, jnp.zeros((1, 64, 64, 3), jnp.uint8))["params"]


def schedule(specification: Recipe) -> optax.Schedule:
    """The learning rate: 100 steps of warm-up to the peak, then a cosine to zero at the last step."""
    steps = max(specification.steps, 2)
    return optax.warmup_cosine_decay_schedule(0.0, specification.rate, min(WARM_UP, steps // 2), steps)


def train(
    specification: Recipe, pool: Pool | None, progress: Callable[[int, float], None] | None = None
) -> Params:
    """Trains an encoder.

    The same specification and pool give the same weights on the same machine and version of JAX.

    Args:
      specification: of the encoder; one without a loss keeps its initial weights.
      pool: photographs to learn from, all of people that no measurement uses; None is enough where there is no loss.
      progress: called with the number of steps done and the mean loss since the last call, every 50 steps.

    Returns:
      The encoder's parameters.

    Raises:
      UserError: the pool has too few people or photographs for one batch, or the loss became NaN.
    """
    if specification.loss is None:
        return initial(specification)
    if pool is None:
        raise UserError("training takes a pool of photographs, got None.")
    _check(specification, pool)
    key = jax.random.key(specification.seed, impl="threefry2x32")
    optimiser, step = _program(specification)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes the formats of its step counter
        people, traits = pool.traits.shape
        head = specification.loss.init(jax.random.fold_in(key, 1), specification.width, people, traits)
        params = initial(specification), head
        state = params, optimiser.init(params)
        recent: list[jax.Array] = []
        for number, (images, labels) in enumerate(_batches(specification, pool), 1):
            step_key = jax.random.fold_in(jax.random.fold_in(key, 2), number)
            state, loss = step(state, np.int32(number - 1), step_key, images, labels, pool.traits[labels])
            recent.append(loss)
            if number % 50 == 0 or number == specification.steps:
                mean = float(np.mean([float(value) for value in recent]))
                recent = []
                if not np.isfinite(mean):
                    raise UserError(f"training diverged at step {number:,}: the loss is {mean}.")
                if progress is not None:
                    progress(number, mean)
    return state[0][0]


@functools.cache
def _program(specification: Recipe) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimiser and the compiled step, once for each encoder."""
    clipped = optax.clip_by_global_norm(5.0)
    optimiser = optax.chain(clipped, optax.adam(schedule(specification), b1=0.9, b2=0.99))
    return optimiser, jax.jit(functools.partial(_step, specification, optimiser), donate_argnums=0)


def _check(specification: Recipe, pool: Pool) -> None:
    people, each = pool.images.shape[:2]
    needed = specification.batch // specification.each if specification.each > 1 else 2
    if people < needed or each < specification.each:
        raise UserError(
            f"a batch takes {needed} people with {specification.each} photographs each; "
            f"the pool has {people} with {each}."
        )


def _batches(specification: Recipe, pool: Pool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images [batch, 64, 64, 3] and numbers of the people on them, once for each step."""
    random = np.random.default_rng(specification.seed)
    people, each = pool.images.shape[:2]
    for _ in range(specification.steps):
        if specification.each == 1:
            who = random.integers(0, people, specification.batch)
        else:
            chosen = random.choice(people, specification.batch // specification.each, replace=False)
            who = np.repeat(chosen, specification.each)
        draws = len(who) // specification.each
        which = np.concatenate([random.choice(each, specification.each, replace=False) for _ in range(draws)])
        yield pool.images[who, which], who.astype(np.int32)


def _step(
    specification: Recipe,
    optimiser: optax.GradientTransformation,
    state: State,
    number: Int32[Array, ""],
    key: PRNGKeyArray,
    images: UInt8[Array, "n 64 64 3"],
    labels: Int32[Array, " n"],
    traits: Float[Array, "n traits"],
) -> tuple[State, Float[Array, ""]]:
    """One step of gradient descent; its number counts from 0."""
    loss_of, augmentation = specification.loss, specification.augmentation
    assert loss_of is not None
    params, momentum = state
    seen, clean = augmentation(key, images)
    done = number.astype(jnp.float32) / specification.steps
    labels, traits = (jnp.concatenate([values] * augmentation.views) for values in (labels, traits))
    batch = FaceBatch(labels, traits, clean, done)

    def objective(params: tuple[Params, Params]) -> Float[Array, ""]:
        embeddings = specification.body.apply({"params": params[0]}, seen)
        return loss_of(params[1], embeddings, batch)  # pyright: ignore[reportArgumentType]

    loss, gradient = jax.value_and_grad(objective)(params)
    change, momentum = optimiser.update(gradient, momentum, params)
    return (optax.apply_updates(params, change), momentum), loss  # pyright: ignore[reportReturnType]
