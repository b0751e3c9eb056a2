"""A small network beside an affine map, trained by Adam and stopped on people who are held out."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxalign.align.affine import AffineMap
from jaxalign.core.errors import UserError
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf, pytree

BATCH = 256
RATE = 1e-3
LOOK_EVERY = 20  # steps between two looks at the people held out
# Of a program, so that data sets of like size share one: training rows are only drawn from, the others only looked at.
LEAST_ROWS, LEAST_HELD_OUT = 4096, 1024
PATIENCE = 5  # looks without a better one before training stops


@pytree
class Network:
    """y = (x − μ) W + c + gelu((x − μ) U / s + b) V: an affine map and one hidden layer.

    Attributes:
      center: μ, shape [p].
      linear, bias: W and c, shapes [p, q] and [q].
      inward, shift: U / s and b, shapes [p, h] and [h].
      outward: V, shape [h, q].
    """

    center: Float[Array, " p"]
    linear: Float[Array, "p q"]
    bias: Float[Array, " q"]
    inward: Float[Array, "p h"]
    shift: Float[Array, " h"]
    outward: Float[Array, "h q"]

    def __call__(self, rows: Float[Leaf, "n p"]) -> Float[Array, "n q"]:
        """Maps rows, float32."""
        return _apply(self, jnp.asarray(rows, jnp.float32))


class Trained(NamedTuple):
    """A network and how its training went.

    Attributes:
      network: with the weights that were best on the people held out.
      before, best: mean squared error on them of the affine map it started from, and at its best.
      steps: until it stopped.
    """

    network: Network
    before: float
    best: float
    steps: int


@jax.jit
def _apply(network: Network, rows: Float[Array, "n p"]) -> Float[Array, "n q"]:
    centred = rows - network.center
    hidden = jax.nn.gelu(multiply(centred, network.inward) + network.shift)
    return multiply(centred, network.linear) + network.bias + multiply(hidden, network.outward)


def fit_network(
    x: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, "n q"],
    held_out: np.ndarray,
    start: AffineMap,
    *,
    hidden: int = 128,
    steps: int = 400,
    seed: int = 0,
) -> Trained:
    """Trains a network on squared error, from an affine map that was fitted without the people held out.

    The hidden layer begins without effect, so that training begins at the affine map; W, c and the layer are trained
    together. Training ends when ``PATIENCE`` looks at the people held out were no better than the best.

    Args:
      x, y: training rows.
      held_out: which of them only tell when to stop, bool, shape [n].
      start: from x to y.
      hidden: width of the hidden layer.
      steps: at most.
      seed: of the hidden layer and of the batches.

    Raises:
      UserError: nobody, or everybody, is held out, or hidden or steps is below 1.
    """
    if not 0 < int(held_out.sum()) < len(held_out):
        raise UserError(
            f"of {len(held_out):,} rows {int(held_out.sum()):,} are held out; some, not all, must be."
        )
    if hidden < 1 or steps < 1:
        raise UserError(f"hidden and steps are whole numbers of 1 or more, got {hidden} and {steps}.")
    first, second = jax.random.split(jax.random.key(seed))
    network = _begin(start, x[~held_out], hidden, first)
    inside = _Rows.of(x[~held_out], y[~held_out], LEAST_ROWS)
    outside = _Rows.of(x[held_out], y[held_out], LEAST_HELD_OUT)
    looks, size = -(-steps // LOOK_EVERY), min(BATCH, inside.count)
    best, before, loss, taken = _train(network, second, inside, outside, looks=looks, size=size)
    return Trained(best, float(before), float(loss), int(taken))


def _begin(start: AffineMap, x: np.ndarray, hidden: int, key: PRNGKeyArray) -> Network:
    width = start.in_dim
    center = np.zeros(width) if start.center is None else np.asarray(start.center)
    spread = float(np.sqrt(np.mean(np.sum((np.asarray(x, np.float64) - center) ** 2, axis=1)))) or 1.0
    inward = jax.random.normal(key, (width, hidden), jnp.float32) / spread
    single = lambda array: jnp.asarray(np.asarray(array), jnp.float32)  # noqa: E731
    return Network(
        single(center),
        single(start.matrix()),
        single(start.bias),
        inward,
        jnp.zeros(hidden),
        jnp.zeros((hidden, start.out_dim)),
    )


@pytree
class _Rows:
    """Training rows, filled up with rows of zeros so that data sets of like size share a program.

    Attributes:
      x, y: shapes [n, p] and [n, q].
      count: rows that are not filled up, which come first.
    """

    x: Float[Array, "n p"]
    y: Float[Array, "n q"]
    count: Leaf

    @classmethod
    def of(cls, x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"], least: int) -> "_Rows":
        step = max(least, 1 << max(0, (len(x) - 1).bit_length() - 3))  # four sizes an octave
        missing = -len(x) % step
        filled = [np.pad(np.asarray(side, np.float32), ((0, missing), (0, 0))) for side in (x, y)]
        return cls(*map(jnp.asarray, filled), len(x))  # pyright: ignore

    def loss(self, network: Network) -> Float[Array, ""]:
        """Of the rows that are not filled up."""
        there = jnp.arange(len(self.x)) < self.count
        return jnp.sum(jnp.where(there, _squared(network, self.x, self.y), 0)) / self.count


def _squared(network: Network, x: Float[Array, "b p"], y: Float[Array, "b q"]) -> Float[Array, " b"]:
    return jnp.sum((_apply(network, x) - y) ** 2, axis=1)


@functools.partial(jax.jit, static_argnames=("looks", "size"))
def _train(
    network: Network, key: PRNGKeyArray, inside: _Rows, outside: _Rows, *, looks: int, size: int
) -> tuple[Network, Float[Array, ""], Float[Array, ""], Array]:
    import optax

    optimizer: Any = optax.adam(RATE)
    before = outside.loss(network)

    def step(carry: Any, step_key: PRNGKeyArray) -> tuple[Any, None]:
        weights, state = carry
        rows = jax.random.randint(step_key, (size,), 0, inside.count)
        x, y = inside.x[rows], inside.y[rows]
        gradient: Any = jax.grad(lambda network: jnp.mean(_squared(network, x, y)))(weights)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, change), state), None

    def look(carry: Any) -> Any:
        weights, state, best, least, since, number = carry
        keys = jax.random.split(jax.random.fold_in(key, number), LOOK_EVERY)
        (weights, state), _ = lax.scan(step, (weights, state), keys)
        now = outside.loss(weights)
        better = now < least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), weights, best)
        return weights, state, best, jnp.minimum(now, least), jnp.where(better, 0, since + 1), number + 1

    start = (network, optimizer.init(network), network, before, jnp.int32(0), jnp.int32(0))
    going_on = lambda carry: (carry[4] < PATIENCE) & (carry[5] < looks)  # noqa: E731
    _, _, best, least, _, number = lax.while_loop(going_on, look, start)
    return best, before, least, number * LOOK_EVERY
