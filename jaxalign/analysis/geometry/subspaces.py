"""Principal angles between the subspaces in which two encoders tell people apart."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxalign.analysis.geometry.axes import principal_axes, scores
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply_transposed
from jaxalign.moments.moments import Moments


def identity_subspace(means: ArrayLike, dimensions: int) -> Float[np.ndarray, "P k"]:
    """An orthonormal basis of the leading principal components of an encoder's person means.

    The axes of two encoders have nothing in common; what can be compared is where their components put the people, a
    subspace of R^P.

    Args:
      means: the mean row of each person, shape [P, d].
      dimensions: k; an encoder with fewer directions has zero columns beyond them.

    Raises:
      UserError: k is below 1, or there are not more people than that.
    """
    means = checks.embedding(means, "person means")
    if not 1 <= dimensions < len(means):
        raise UserError(
            f"identity subspaces of {dimensions} dimensions need more people than that and at least 1 dimension, "
            f"got {len(means):,} people"
        )
    moments = Moments.of({"means": means})
    axes = principal_axes(moments, "means", variance=1.0, most=dimensions)
    basis = scores(moments, "means", axes, means).rows[:, :dimensions]
    return np.pad(basis, ((0, 0), (0, dimensions - basis.shape[1])))


def principal_cosines(x: Float[np.ndarray, "P k"], y: Float[np.ndarray, "P l"]) -> Float[np.ndarray, " m"]:
    """Cosines of the principal angles between the spans of two orthonormal bases, largest first.

    Equivalent: ``numpy.cos(scipy.linalg.subspace_angles(x, y))``, there smallest first.

    References:
      Björck, Golub, "Numerical methods for computing angles between linear subspaces", 1973.
    """
    with double_precision():
        return np.asarray(_cosines(jnp.asarray(x), jnp.asarray(y)))


def subspace_null(
    x: Float[np.ndarray, "P k"], y: Float[np.ndarray, "P k"], orders: Int[np.ndarray, "b P"]
) -> Float[np.ndarray, " b"]:
    """Mean cosine when person i of x goes with person ``orders[b, i]`` of y."""
    with double_precision():
        return np.asarray(_permuted(jnp.asarray(x), jnp.asarray(y), jnp.asarray(orders))) / shared_dimensions(
            x, y
        )


def shared_dimensions(x: np.ndarray, y: np.ndarray) -> float:
    """Dimensions of the smaller subspace; NaN where one has none."""
    return min(int(np.any(side != 0, axis=0).sum()) for side in (x, y)) or float("nan")


@jax.jit
def _cosines(x: Float[Array, "P k"], y: Float[Array, "P l"]) -> Float[Array, " m"]:
    return jnp.clip(jnp.linalg.svd(multiply_transposed(x, y), compute_uv=False), 0, 1)


@jax.jit
def _permuted(
    x: Float[Array, "P k"], y: Float[Array, "P k"], orders: Int[Array, "b P"]
) -> Float[Array, " b"]:
    return lax.map(lambda order: jnp.sum(_cosines(x, y[order])), orders)
