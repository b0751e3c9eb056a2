"""Times maps fitted by gradient against a loop over the pairs, in optax and in PyTorch.

  python -m experiments.benchmarks.scale_gradient --out=results/benchmark_gradient.json

The loops are what one would write for one pair: both factors moved by Adam on batches of people with the contrastive
loss, all steps of a pair in one compiled program (optax) or one after another (PyTorch, where it is installed). They
are timed on few pairs and multiplied up to all; ours runs all pairs, its moments included. Compilation is left out on
every side.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import define, show, synthetic, write
from experiments.run import cli, flags
from jaxalign import fit_low_rank

ENCODERS, EACH = 8, 5
RATE = 1e-2
VALUES = define(
    rows=flags.Flag(10_000, "Rows, 5 of each person.", least=10),
    width=flags.Flag(512, "Width of each of 8 encoders.", least=2),
    rank=flags.Flag(64, "Dimensions that the maps pass through.", least=1),
    steps=flags.Flag(200, "Steps of Adam.", least=1),
    people=flags.Flag(256, "People in a batch.", least=2),
    peer_pairs=flags.Flag(1, "Pairs that the loops are timed on.", least=1),
)
Peer = Callable[[np.ndarray, np.ndarray], Any]


def main(_: Sequence[str]) -> None:
    """Times both sides: seconds by the clock and of the processor, and how many times longer the loops take."""
    rows, identities = synthetic(VALUES.rows, [VALUES.width] * ENCODERS)
    steps, people = VALUES.steps, VALUES.people
    options: dict[str, Any] = {"rank": VALUES.rank, "learning_rate": RATE, "start": "random"}
    options |= {"steps": steps, "people": people}
    peers: dict[str, Peer] = {"optax": of_optax(steps, people)}
    try:
        import torch  # noqa: F401

        peers["PyTorch"] = lambda x, y: torch_contrastive(x, y, steps, people)
    except ImportError as error:
        print(f"PyTorch is left out: {error}")
    ours = functools.partial(fit_low_rank, rows, identities=identities, **options)
    figures = compared(ours, peers, list(rows.values()))
    show(figures)
    write(VALUES.out, figures)


def compared(fit: Callable[[], Any], peers: Mapping[str, Peer], rows: list[np.ndarray]) -> dict[str, float]:
    """The seconds of our fit of all pairs, and of each peer's loop over them."""
    pairs = ENCODERS * (ENCODERS - 1)
    fit()  # compiles
    ours = timed(fit)
    figures = {"ordered pairs": float(pairs), "ours": ours[0], "ours, processor": ours[1]}
    for name, one in peers.items():
        one(rows[0], rows[1])
        some = timed(lambda one=one: [one(*rows[k : k + 2]) for k in range(VALUES.peer_pairs)])
        theirs = some * pairs / VALUES.peer_pairs
        figures |= {name: theirs[0], f"{name}, processor": theirs[1]}
        times = theirs / ours
        figures |= {f"{name}, times ours": times[0], f"{name}, times ours, processor": times[1]}
    return figures


def timed(work: Callable[[], Any]) -> np.ndarray:
    """Seconds by the clock, and of the processor."""
    start = time.perf_counter(), time.process_time()
    work()
    return np.subtract((time.perf_counter(), time.process_time()), start)


def first_factors(p: int, q: int) -> list[np.ndarray]:
    """Small random factors of a map, shapes [p, rank] and [q, rank]."""
    generator = np.random.default_rng(1)
    return [0.01 * generator.normal(size=(side, VALUES.rank)).astype(np.float32) for side in (p, q)]


def of_optax(steps: int, people: int) -> Peer:
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
    mapped = (side[index] @ factor for side, factor in zip((x, y), factors))
    u, v = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in mapped)
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
