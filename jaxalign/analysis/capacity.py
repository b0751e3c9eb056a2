"""Maps with more capacity than an affine one: ridge on quadratic features, and a small network."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxalign.align.affine import AffineMap
from jaxalign.core.errors import UserError
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf, pytree, static

DISTANCES = 1000  # random pairs of rows whose distances give the width of the Gaussian kernel
BATCH = 256
RATE = 1e-3
LOOK_EVERY = 20  # steps between two looks at the rows held out
PATIENCE = 5  # looks without a better one before training stops


@pytree
class Features:
    """φ(x) = [x, c ψ((x − μ) P)], with ψ the cosine of random directions or the products of principal components.

    The factor c gives both parts the same total variance on the training rows, so that one ridge penalty suits both.
    """

    center: Float[Array, " p"]  # μ
    directions: Float[Array, "p k"]  # P
    phase: Float[Array, " k"]  # added before the cosine; unused for products
    scale: Float[Array, ""]  # c
    products: bool = static(default=False)  # of every two of k components, squares included; else k cosines

    def __call__(self, rows: Float[Leaf, "n p"]) -> Float[Array, "n p_and_features"]:
        """Features of rows, float32: the rows themselves and the curved part."""
        return jnp.concatenate([jnp.asarray(rows, jnp.float32), self.curved(rows)], axis=1)

    @jax.jit
    def curved(self, rows: Float[Leaf, "n p"]) -> Float[Array, "n features"]:
        """The part that is not linear, float32."""
        placed = multiply(rows.astype(jnp.float32) - self.center, self.directions)
        if not self.products:
            return self.scale * jnp.cos(placed + self.phase)
        left, right = np.triu_indices(placed.shape[1])
        return self.scale * placed[:, left] * placed[:, right]


def random_fourier(rows: Float[np.ndarray, "n p"], number: int, seed: int) -> Features:
    """Cosines whose inner products tend to a Gaussian kernel as wide as the median distance of two rows.

    Equivalent: ``sklearn.kernel_approximation.RBFSampler(gamma=1 / (2 * median²), n_components=number)``, up to scale.

    References:
      Rahimi, Recht, "Random features for large-scale kernel machines", 2007.
    """
    random = np.random.default_rng(seed)
    pairs = random.integers(0, len(rows), (2, DISTANCES))
    distance = np.linalg.norm(rows[pairs[0]] - rows[pairs[1]], axis=1)
    width = np.median(distance[distance > 0]) if (distance > 0).any() else 1.0
    directions = random.standard_normal((rows.shape[1], number)) / width
    phase = random.uniform(0, 2 * math.pi, number)
    return _scaled(rows, directions, phase, products=False)


def polynomial(rows: Float[np.ndarray, "n p"], number: int, seed: int) -> Features:
    """Products of every two of the leading principal components, squares included: at most ``number`` of them.

    Equivalent: the second-degree terms of ``sklearn.preprocessing.PolynomialFeatures(2)`` on ``PCA(k)``'s scores.
    """
    width = rows.shape[1]
    components = min(width, int((math.sqrt(8 * number + 1) - 1) / 2))  # k (k + 1) / 2 ≤ number
    centred = np.asarray(rows - rows.mean(axis=0), np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return _scaled(rows, vectors[:, ::-1][:, :components], np.zeros(components), products=True)


def _scaled(rows: np.ndarray, directions: Leaf, phase: Leaf, *, products: bool) -> Features:
    given = [jnp.asarray(array, jnp.float32) for array in (rows.mean(axis=0), directions, phase)]
    curved_rows = Features(*given, jnp.float32(1), products).curved(rows)  # pyright: ignore[reportCallIssue]
    linear, curved = (float(np.asarray(part, np.float64).var(axis=0).sum()) for part in (rows, curved_rows))
    scale = math.sqrt(linear / curved) if curved > 0 else 0.0
    return Features(*given, jnp.float32(scale), products)  # pyright: ignore[reportCallIssue]


KINDS: dict[str, Callable[[np.ndarray, int, int], Features]] = {
    "random_fourier": random_fourier,
    "polynomial": polynomial,
}


def features_of(kind: str, rows: Float[np.ndarray, "n p"], number: int, seed: int = 0) -> Features:
    """A feature map of a kind in ``KINDS``, fitted on training rows, with ``number`` features beside their own columns.

    Raises:
      UserError: there is no such kind, or fewer than one feature is asked for.
    """
    if kind not in KINDS:
        raise UserError(f"there are no features {kind!r}; there are {', '.join(KINDS)}")
    if number < 1:
        raise UserError(f"at least one feature is needed, got {number}")
    return KINDS[kind](np.asarray(rows, np.float32), number, seed)


@pytree
class Network:
    """y = (x − μ) W + c + gelu((x − μ) U / s + b) V: an affine map and one hidden layer."""

    center: Float[Array, " p"]  # μ
    linear: Float[Array, "p q"]  # W
    bias: Float[Array, " q"]  # c
    inward: Float[Array, "p h"]  # U / s
    shift: Float[Array, " h"]  # b
    outward: Float[Array, "h q"]  # V

    @jax.jit
    def __call__(self, rows: Float[Leaf, "n p"]) -> Float[Array, "n q"]:
        """Maps rows, float32."""
        centred = rows.astype(jnp.float32) - self.center
        hidden = jax.nn.gelu(multiply(centred, self.inward) + self.shift)
        return multiply(centred, self.linear) + self.bias + multiply(hidden, self.outward)


class TrainedNetwork(NamedTuple):
    """A network and how its training went."""

    network: Network  # with the weights that were best on the rows held out
    before: float  # mean squared error on them of the affine map it started from
    best: float  # and of the network
    steps: int  # until training stopped


def fit_network(
    x: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, "n q"],
    held_out: np.ndarray,
    start: AffineMap,
    *,
    hidden: int = 128,
    steps: int = 400,
    seed: int = 0,
) -> TrainedNetwork:
    """Trains a network on squared error by Adam, from an affine map that was fitted without the rows held out.

    The hidden layer begins without effect, so that training begins at the affine map; W, c and the layer are trained
    together. Training ends when ``PATIENCE`` looks at the rows held out were no better than the best.

    Args:
      x, y: training rows.
      held_out: which of them only tell when to stop, bool, shape [n].
      start: from x to y.
      hidden: width of the hidden layer.
      steps: at most.
      seed: of the hidden layer and of the batches.

    Raises:
      UserError: no row, or every row, is held out, or hidden or steps is below 1.
    """
    if not 0 < int(held_out.sum()) < len(held_out):
        raise UserError(f"of {len(held_out):,} rows {held_out.sum():,} are held out; some, not all, must be.")
    if hidden < 1 or steps < 1:
        raise UserError(f"hidden and steps are whole numbers of 1 or more, got {hidden} and {steps}.")
    first, second = jax.random.split(jax.random.key(seed))
    inside, outside = (
        [jnp.asarray(side[rows], jnp.float32) for side in (x, y)] for rows in (~held_out, held_out)
    )
    best = network = _begin(start, x[~held_out], hidden, first)
    state = _optimizer().init(network)  # pyright: ignore[reportArgumentType]
    before = least = float(_loss(network, *outside))
    taken, best_at = 0, 0
    while taken < steps and taken - best_at < PATIENCE * LOOK_EVERY:
        keys = jax.random.split(jax.random.fold_in(second, taken // LOOK_EVERY), LOOK_EVERY)
        network, state = _steps(network, state, keys, *inside)
        taken += LOOK_EVERY
        now = float(_loss(network, *outside))
        if now < least:
            best, least, best_at = network, now, taken
    return TrainedNetwork(best, before, least, taken)


def _begin(start: AffineMap, x: np.ndarray, hidden: int, key: PRNGKeyArray) -> Network:
    center = np.zeros(start.in_dim) if start.center is None else np.asarray(start.center)
    spread = float(np.sqrt(np.mean(np.sum((np.asarray(x, np.float64) - center) ** 2, axis=1)))) or 1.0
    inward = jax.random.normal(key, (start.in_dim, hidden), jnp.float32) / spread
    affine = [jnp.asarray(np.asarray(array), jnp.float32) for array in (center, start.matrix(), start.bias)]
    return Network(*affine, inward, jnp.zeros(hidden), jnp.zeros((hidden, start.out_dim)))  # pyright: ignore[reportCallIssue]


@jax.jit
def _loss(network: Network, x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    return jnp.mean(jnp.sum((network(x) - y) ** 2, axis=1))


def _optimizer() -> Any:
    import optax

    return optax.adam(RATE)


@jax.jit
def _steps(network: Network, state: Any, keys: PRNGKeyArray, x: Array, y: Array) -> tuple[Network, Any]:
    """One step of the optimizer for each key, on a random batch each."""

    def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        weights, state = carry
        rows = jax.random.randint(key, (min(BATCH, len(x)),), 0, len(x))
        change, state = _optimizer().update(jax.grad(_loss)(weights, x[rows], y[rows]), state)
        return (jax.tree.map(jnp.add, weights, change), state), None

    return lax.scan(step, (network, state), keys)[0]
