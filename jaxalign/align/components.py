"""Principal components: the directions of one cloud of points that vary most."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign.align.affine import AffineMap
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply_transposed


def principal_components(rows: ArrayLike, count: int) -> AffineMap:
    """The map to the coordinates along the directions of largest variance.

    Maximises tr(Wᵀ (X − μ)ᵀ (X − μ) W) over W with orthonormal columns.

    Args:
      rows: X, shape [n, d], any floating format.
      count: directions to keep, from 1 to min(n, d).

    Returns:
      The map x ↦ (x − μ) W, float64 where the device has it, largest variance first. Signs are arbitrary.

    Raises:
      UserError: the shape is not [n, d], a value is not finite, or there are fewer directions than ``count``.

    Equivalent: ``sklearn.decomposition.PCA(count).fit(rows).transform``, up to signs.
    """
    array = np.asarray(rows)
    if array.ndim != 2 or not 1 <= count <= min(array.shape):
        raise UserError(
            f"principal_components: expected rows of shape [n, d] and 1 to min(n, d) components, got shape "
            f"{array.shape} and {count}"
        )
    if not np.isfinite(array).all():
        raise UserError("principal_components: the rows hold NaN or infinite values")
    with double_precision():
        mean, directions = jax.tree.map(np.asarray, _leading(array, count=count))
    return AffineMap((directions,), np.zeros(count, mean.dtype), mean, orthogonal=True)


@functools.partial(jax.jit, static_argnames="count")
def _leading(rows: Array, *, count: int) -> tuple[Float[Array, " d"], Float[Array, "d count"]]:
    rows = rows.astype(jnp.result_type(jnp.float32, jnp.zeros(0, float)))
    mean = rows.mean(0)
    vectors = jnp.linalg.eigh(multiply_transposed(rows - mean, rows - mean))[1]
    return mean, vectors[:, ::-1][:, :count]
