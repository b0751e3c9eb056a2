"""Times maps fitted by gradient against a loop over the pairs, in optax and in PyTorch.

  python -m experiments.benchmarks.scale_gradient --out=results/benchmark_gradient.json

The loops are what one would write for one pair: both factors moved by Adam on batches of people with the contrastive
loss, all steps of a pair in one compiled program (optax) or one after another (PyTorch, where it is installed). They
are timed on few pairs and multiplied up to all; ours runs all pairs, its moments included. Compilation is left out on
every side.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.benchmarks import define_out, show, write
from experiments.run import cli
from jaxalign import fit_low_rank

ENCODERS, EACH = 8, 5
RATE = 1e-2
VALUES = flags.FlagValues()
for name, default, least, what in (
    ("rows", 10_000, 10, "Rows, 5 of each person."),
    ("width", 512, 2, "Width of each of 8 encoders."),
    ("rank", 64, 1, "Dimensions that the maps pass through."),
    ("steps", 200, 1, "Steps of Adam."),
    ("people", 256, 2, "People in a batch."),
    ("peer_pairs", 1, 1, "Pairs that the loops are timed on."),
):
    flags.DEFINE_integer(name, default, what, least, flag_values=VALUES)
define_out(VALUES)


class Seconds(NamedTuple):
    """What some work took."""

    clock: float
    processor: float


def main(_: Sequence[str]) -> None:
    """Times both sides: seconds by the clock and of the processor, and how many times longer the loops take."""
    rows, people = synthetic(VALUES.rows, VALUES.width)
    figures: dict[str, float] = {"ordered pairs": float(ENCODERS * (ENCODERS - 1))}
    options: dict[str, Any] = {"rank": VALUES.rank, "learning_rate": RATE, "start": "random"}
    steps, size = VALUES.steps, VALUES.people
    batches = {"steps": steps, "people": size}
    contrastive = functools.partial(fit_low_rank, rows, identities=people, **batches, **options)
    peers = {"optax": of_optax(steps, size)}
    try:
        import torch  # noqa: F401

        peers["PyTorch"] = lambda x, y: torch_contrastive(x, y, steps, size)
    except ImportError as error:
        print(f"PyTorch is left out: {error}")
    compare(figures, contrastive, peers, rows)
    show(figures)
    write(VALUES.out, figures)


def synthetic(count: int, width: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of every encoder that see common traits of people, and the person of each row."""
    generator = np.random.default_rng(0)
    people = np.arange(count) // EACH
    traits = generator.normal(size=(people[-1] + 1, 64)).astype(np.float32)[people]
    return {
        f"e{k}": traits @ generator.normal(size=(64, width)).astype(np.float32)
        + generator.normal(size=(count, width)).astype(np.float32)
        for k in range(ENCODERS)
    }, people


def compare(
    figures: dict[str, float],
    fit: Callable[[], Any],
    peers: dict[str, Callable[[np.ndarray, np.ndarray], Any]],
    rows: dict[str, np.ndarray],
) -> None:
    """Adds the seconds of our fit of all pairs, and of each peer's loop over them."""
    fit()  # compiles
    ours = timed(fit)
    figures["ours"], figures["ours, processor"] = ours
    for name, one in peers.items():
        one(rows["e0"], rows["e1"])
        found = timed(
            lambda one=one: [one(rows[f"e{k}"], rows[f"e{k + 1}"]) for k in range(VALUES.peer_pairs)]
        )
        theirs = Seconds(*(value / VALUES.peer_pairs * figures["ordered pairs"] for value in found))
        figures[f"{name}"], figures[f"{name}, processor"] = theirs
        figures[f"{name}, times ours"] = theirs.clock / ours.clock
        figures[f"{name}, times ours, processor"] = theirs.processor / ours.processor


def timed(work: Callable[[], Any]) -> Seconds:
    """Seconds by the clock, and of the processor."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - start, time.process_time() - used)


def first_factors(p: int, q: int) -> list[np.ndarray]:
    """Small random factors of a map, shapes [p, rank] and [q, rank]."""
    generator = np.random.default_rng(1)
    return [0.01 * generator.normal(size=(side, VALUES.rank)).astype(np.float32) for side in (p, q)]


def of_optax(steps: int, people: int) -> Callable[[np.ndarray, np.ndarray], Any]:
    """A fit of one pair: all steps of Adam in one program."""

    @jax.jit
    def fitted(x: jax.Array, y: jax.Array, factors: list[jax.Array]) -> Any:
        x, y = x - x.mean(0), y - y.mean(0)
        adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))

        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            factors, moments = state
            value, gradient = jax.value_and_grad(contrastive_loss)(factors, x, y, key, people)
            change, moments = adam.update(gradient, moments)
            return (optax.apply_updates(factors, change), moments), value

        keys = jax.random.split(jax.random.key(0), steps)
        return jax.lax.scan(step, (factors, adam.init(factors)), keys)

    return lambda x, y: jax.block_until_ready(fitted(x, y, first_factors(x.shape[1], y.shape[1])))


def contrastive_loss(factors: Any, x: jax.Array, y: jax.Array, key: jax.Array, people: int) -> jax.Array:
    """Two photographs of each of some people: rows of one person against those of all others, both ways."""
    who = EACH * jax.random.choice(key, len(x) // EACH, (people,), replace=False)
    index = jnp.concatenate([who, who + 1])
    u, v = (
        rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (x[index] @ factors[0], y[index] @ factors[1])
    )
    logits = 20 * u @ v.T
    same = jnp.tile(jnp.eye(people, dtype=bool), (2, 2))
    mated = jnp.where(same, logits, -jnp.inf)
    towards = [jax.nn.logsumexp(logits, axis) - jax.nn.logsumexp(mated, axis) for axis in (0, 1)]
    return jnp.mean(jnp.concatenate(towards))


def torch_contrastive(x: np.ndarray, y: np.ndarray, steps: int, people: int) -> None:
    """The same in PyTorch, one step after another."""
    import torch

    sides = [torch.from_numpy(part - part.mean(0)) for part in (x, y)]
    factors = [torch.tensor(factor, requires_grad=True) for factor in first_factors(x.shape[1], y.shape[1])]
    same = torch.eye(people, dtype=torch.bool).tile(2, 2)
    adam = torch.optim.Adam(factors, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        who = EACH * torch.randperm(len(x) // EACH)[:people]
        index = torch.cat([who, who + 1])
        u, v = (torch.nn.functional.normalize(side[index] @ factor) for side, factor in zip(sides, factors))
        logits = 20 * u @ v.T
        mated = logits.masked_fill(~same, -torch.inf)
        losses = [(torch.logsumexp(logits, axis) - torch.logsumexp(mated, axis)).mean() for axis in (0, 1)]
        adam.zero_grad(set_to_none=True)
        ((losses[0] + losses[1]) / 2).backward()
        adam.step()
        schedule.step()


if __name__ == "__main__":
    cli.run(main, values=VALUES)
