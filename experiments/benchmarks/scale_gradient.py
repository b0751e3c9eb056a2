"""Section `low_rank` of experiments.benchmarks.scale: maps fitted by gradient, against a loop over the pairs.

The loops are what one would write for one pair: both factors moved by Adam on batches of people with the contrastive
loss, all steps of a pair in one compiled program (optax) or one after another (PyTorch, where it is installed). They
are timed on few pairs and multiplied up to all; ours runs all pairs, its moments included. Compilation is left out on
every side.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from jaxalign import fit_low_rank

ENCODERS, EACH = 8, 5
RATE = 1e-2


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this section."""
    whole = functools.partial(flags.DEFINE_integer, flag_values=values)
    whole("gradient_rows", 10_000, "low_rank: rows, 5 of each person.", 10)
    whole("gradient_width", 512, "low_rank: width of each of 8 encoders.", 2)
    whole("gradient_rank", 64, "low_rank: dimensions that the maps pass through.", 1)
    whole("contrastive_steps", 200, "low_rank: steps.", 1)
    whole("contrastive_people", 256, "low_rank: people in a batch.", 2)
    whole("peer_pairs", 1, "low_rank: pairs that the loops are timed on.", 1)


def run(values: flags.FlagValues) -> Mapping[str, float]:
    """Times the contrastive loss.

    Returns:
      Seconds for all ordered pairs, by the clock and of the processor, and how many times longer the loops take.
    """
    rows, people = _rows(values.gradient_rows, values.gradient_width)
    pairs = ENCODERS * (ENCODERS - 1)
    figures: dict[str, float] = {"ordered pairs": float(pairs)}
    timed = [(f"e{k}", f"e{k + 1}") for k in range(values.peer_pairs)]
    sizes = values.gradient_rank, values.contrastive_steps, values.contrastive_people
    contrastive = functools.partial(
        fit_low_rank, rows, identities=people, steps=values.contrastive_steps, people=values.contrastive_people,
        rank=values.gradient_rank, learning_rate=RATE, start="random",
    )  # fmt: skip
    ours = _timed(figures, "contrastive: ours", contrastive)
    for name, peer in (("optax", _optax_contrastive), ("PyTorch", _torch_contrastive)):
        one = lambda pair, peer=peer: peer(rows[pair[0]], rows[pair[1]], *sizes)  # noqa: E731
        _add(figures, f"contrastive: {name}", one, timed, pairs, ours)
    return figures


def _rows(count: int, width: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    generator = np.random.default_rng(0)
    people = np.arange(count) // EACH
    traits = generator.normal(size=(people[-1] + 1, 64)).astype(np.float32)[people]
    return {
        f"e{k}": traits @ generator.normal(size=(64, width)).astype(np.float32)
        + generator.normal(size=(count, width)).astype(np.float32)
        for k in range(ENCODERS)
    }, people


class Seconds(NamedTuple):
    """What some work took."""

    clock: float
    processor: float


def _seconds(work: Callable[[], Any]) -> Seconds:
    start, used = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - start, time.process_time() - used)


def _timed(figures: dict[str, float], name: str, work: Callable[[], Any]) -> Seconds:
    """Of the second call; the first compiles."""
    work()
    found = _seconds(work)
    figures[name], figures[f"{name}, processor"] = found
    return found


def _add(
    figures: dict[str, float],
    name: str,
    one: Callable[[tuple[str, str]], Any],
    timed: list[tuple[str, str]],
    pairs: int,
    ours: Seconds,
) -> None:
    if one(timed[0]) is None:
        return  # the library is not installed
    found = _seconds(lambda: [one(pair) for pair in timed])
    theirs = Seconds(*(value / len(timed) * pairs for value in found))
    figures[name], figures[f"{name}, processor"] = theirs
    figures[f"{name}, times ours"] = theirs.clock / ours.clock
    figures[f"{name}, times ours, processor"] = theirs.processor / ours.processor


def _first_weights(p: int, q: int, rank: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [0.01 * generator.normal(size=(width, rank)).astype(np.float32) for width in (p, q)]


def _optax_fit(loss: Callable[[Any, jax.Array], jax.Array], weights: Any, steps: int) -> Any:
    adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        weights, moments = state
        value, gradient = jax.value_and_grad(loss)(weights, key)
        change, moments = adam.update(gradient, moments)
        return (optax.apply_updates(weights, change), moments), value

    return jax.lax.scan(step, (weights, adam.init(weights)), jax.random.split(jax.random.key(0), steps))


def _optax_contrastive(x: np.ndarray, y: np.ndarray, rank: int, steps: int, people: int) -> Any:
    weights = _first_weights(x.shape[1], y.shape[1], rank)
    return jax.block_until_ready(
        _optax_contrastive_program(jnp.asarray(x), jnp.asarray(y), weights, steps=steps, people=people)
    )


@functools.partial(jax.jit, static_argnames=("steps", "people"))
def _optax_contrastive_program(x: jax.Array, y: jax.Array, weights: Any, *, steps: int, people: int) -> Any:
    x, y = x - x.mean(0), y - y.mean(0)

    def unit(rows: jax.Array) -> jax.Array:
        return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)

    def loss(weights: Any, key: jax.Array) -> jax.Array:
        who = EACH * jax.random.choice(key, len(x) // EACH, (people,), replace=False)
        rows = jnp.concatenate([who, who + 1])
        u, v = unit(x[rows] @ weights[0]), unit(y[rows] @ weights[1])
        logits = 20 * u @ v.T
        own = jnp.tile(jnp.eye(people, dtype=bool), (2, 2))
        kept = jnp.where(own, logits, -jnp.inf)
        towards = [jax.nn.logsumexp(logits, axis) - jax.nn.logsumexp(kept, axis) for axis in (0, 1)]
        return jnp.mean(jnp.concatenate(towards))

    return _optax_fit(loss, weights, steps)


def _torch_fit(loss: Callable[[Any], Any], weights: Any, steps: int) -> Any:
    import torch

    leaves = [torch.tensor(factor, requires_grad=True) for factor in weights]
    adam = torch.optim.Adam(leaves, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad(set_to_none=True)
        loss(leaves).backward()
        adam.step()
        schedule.step()
    return leaves


def _torch_contrastive(x: np.ndarray, y: np.ndarray, rank: int, steps: int, people: int) -> Any:
    try:
        import torch
    except ImportError:
        return None
    rows, targets = (torch.from_numpy(part - part.mean(0)) for part in (x, y))
    own = torch.eye(people, dtype=torch.bool).tile(2, 2)

    def loss(leaves: Any) -> Any:
        who = EACH * torch.randperm(len(rows) // EACH)[:people]
        place = torch.cat([who, who + 1])
        u, v = (
            torch.nn.functional.normalize(part[place] @ factor)
            for part, factor in ((rows, leaves[0]), (targets, leaves[1]))
        )
        logits = 20 * u @ v.T
        kept = logits.masked_fill(~own, -torch.inf)
        return (
            sum((torch.logsumexp(logits, axis) - torch.logsumexp(kept, axis)).mean() for axis in (0, 1)) / 2
        )

    return _torch_fit(loss, _first_weights(x.shape[1], y.shape[1], rank), steps)
