"""Feature maps: more columns beside the rows themselves, so that a linear map of them is a curved map of the rows."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.core.errors import UserError
from jaxalign.core.lapack import largest_eigenpairs
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf, pytree, static

DISTANCES = 1000  # rows whose distances give the width of the random Fourier features


@pytree
class Features:
    """φ(x) = [x, c ψ((x − μ) P)], with ψ the cosine of random directions or the products of principal components.

    The factor c gives both parts the same total variance on the training rows, so that one ridge penalty suits both.

    Attributes:
      center: μ, shape [p].
      directions: P, shape [p, k].
      phase: added before the cosine, shape [k]; unused for products.
      scale: c, shape [].
      products: whether ψ gives the products of every two of k components, squares included, or k cosines.
    """

    center: Float[Array, " p"]
    directions: Float[Array, "p k"]
    phase: Float[Array, " k"]
    scale: Float[Array, ""]
    products: bool = static(default=False)

    def __call__(self, rows: Float[Leaf, "n p"]) -> Float[Array, "n p_and_features"]:
        """Features of rows, float32: the rows themselves and the curved part."""
        return jnp.concatenate([jnp.asarray(rows, jnp.float32), self.curved(rows)], axis=1)

    def curved(self, rows: Float[Leaf, "n p"]) -> Float[Array, "n features"]:
        """The part that is not linear, float32."""
        return _curved(self, jnp.asarray(rows, jnp.float32))


@jax.jit
def _curved(features: Features, rows: Float[Array, "n p"]) -> Float[Array, "n m"]:
    placed = multiply(rows - features.center, features.directions)
    if not features.products:
        return features.scale * jnp.cos(placed + features.phase)
    left, right = np.triu_indices(placed.shape[1])
    return features.scale * placed[:, left] * placed[:, right]


def random_fourier(rows: Float[np.ndarray, "n p"], number: int, seed: int) -> Features:
    """Cosines whose inner products tend to a Gaussian kernel as wide as the median distance of two rows.

    Equivalent: ``sklearn.kernel_approximation.RBFSampler(gamma=1 / (2 * median²), n_components=number)``, up to scale.

    References:
      Rahimi, Recht, "Random features for large-scale kernel machines", 2007.
    """
    random = np.random.default_rng(seed)
    center = rows.mean(axis=0)
    pairs = random.integers(0, len(rows), (2, DISTANCES))
    distance = np.linalg.norm(rows[pairs[0]] - rows[pairs[1]], axis=1)
    width = np.median(distance[distance > 0]) if (distance > 0).any() else 1.0
    directions = random.standard_normal((rows.shape[1], number)) / width
    phase = random.uniform(0, 2 * math.pi, number)
    return _scaled(rows, center, directions, phase, products=False)


def polynomial(rows: Float[np.ndarray, "n p"], number: int, seed: int) -> Features:
    """Products of every two of the leading principal components, squares included: at most ``number`` of them.

    Equivalent: the second-degree terms of ``sklearn.preprocessing.PolynomialFeatures(2)`` on ``PCA(k)``'s scores.
    """
    del seed
    components = min(rows.shape[1], int((math.sqrt(8 * number + 1) - 1) / 2))  # k (k + 1) / 2 ≤ number
    center = rows.mean(axis=0)
    centred = np.asarray(rows - center, np.float64)
    _, vectors = largest_eigenpairs(centred.T @ centred, components)
    directions = vectors[:, ::-1]
    return _scaled(rows, center, directions, np.zeros(components), products=True)


def _scaled(rows: np.ndarray, center: Leaf, directions: Leaf, phase: Leaf, *, products: bool) -> Features:
    center, directions, phase = (jnp.asarray(array, jnp.float32) for array in (center, directions, phase))
    unscaled = Features(center, directions, phase, jnp.float32(1), products)
    linear, curved = (
        float(np.asarray(part, np.float64).var(axis=0).sum()) for part in (rows, unscaled.curved(rows))
    )
    scale = math.sqrt(linear / curved) if curved > 0 else 0.0
    return Features(center, directions, phase, jnp.float32(scale), products)


KINDS: dict[str, Callable[[np.ndarray, int, int], Features]] = {
    "random_fourier": random_fourier,
    "polynomial": polynomial,
}


def features_of(kind: str, rows: Float[np.ndarray, "n p"], number: int, seed: int = 0) -> Features:
    """A feature map settled on training rows.

    Args:
      kind: a name in ``KINDS``.
      rows: training rows, shape [n, p].
      number: of features beside the rows' own columns.
      seed: of random directions.

    Raises:
      UserError: there is no such kind, or fewer than one feature is asked for.
    """
    if kind not in KINDS:
        raise UserError(f"there are no features {kind!r}; there are {', '.join(KINDS)}")
    if number < 1:
        raise UserError(f"at least one feature is needed, got {number}")
    return KINDS[kind](np.asarray(rows, np.float32), number, seed)
