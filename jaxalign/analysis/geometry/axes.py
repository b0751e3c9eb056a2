"""One encoder's principal axes, from its second moments: what every measure of a pair starts from.

Directions of numerically no variance are cut off, so that singular second moments do no harm. Axes are filled up with
zeros to one of a few sizes, so that encoders of like rank share compiled programs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.core.precision import double_precision, multiply, multiply_transposed
from jaxalign.core.pytree import Leaf, pytree
from jaxalign.moments.moments import Moments

LANES, LEAST = 128, 16
# Eigenvalues below this share of the largest count as zero. Rows in float32 have rounding noise of about 1e-14 of
# their power in each direction.
CUTOFF = 1e-10


@pytree
class Axes:
    """Eigendecomposition XᵀX = V Λ Vᵀ of centred rows X, the largest direction first.

    Attributes:
      values: Λ, zero beyond the rank, shape [r].
      whitening: V Λ^(−1/2), shape [p, r]; X times it has orthonormal columns.
      loadings: Λ^(1/2) Vᵀ, shape [r, p]; covariances of the whitened rows with the columns.
      rank: directions that have variance, shape [].
      leading: directions that are kept where only the largest count, shape [].
    """

    values: Float[Leaf, " r"]
    whitening: Float[Leaf, "p r"]
    loadings: Float[Leaf, "r p"]
    rank: Int[Leaf, ""]
    leading: Int[Leaf, ""]

    def astype(self, dtype: np.dtype | type) -> "Axes":
        """The same in another floating format."""
        return dataclasses.replace(
            self,
            values=np.asarray(self.values, dtype),
            whitening=np.asarray(self.whitening, dtype),
            loadings=np.asarray(self.loadings, dtype),
        )


def filled_up(number: int) -> int:
    """The next multiple of ``LANES``, or below that the next power of two."""
    return min(-(-number // LANES) * LANES, max(LEAST, 1 << (number - 1).bit_length())) if number else LEAST


def principal_axes(moments: Moments, name: str, *, variance: float = 0.99, most: int | None = None) -> Axes:
    """Eigendecomposition of one encoder's block.

    Args:
      moments: of several encoders side by side.
      name: of the encoder.
      variance: ``leading`` counts the largest directions that hold this share of the variance together.
      most: at most so many of them.

    Returns:
      The axes, in the format of the moments, on the host.
    """
    width, start = moments.width(name), moments.offset(name)
    padded = filled_up(width)
    block = np.zeros((padded, padded), np.dtype(moments.scatter.dtype))
    block[:width, :width] = np.asarray(moments.scatter)[start : start + width, start : start + width]
    with double_precision():
        values, vectors = map(np.asarray, _eigenpairs(block))
    rank = int(np.sum(values > max(CUTOFF * float(values[0]), _rounding(moments, start, width))))
    shares = np.cumsum(values[:rank]) / max(float(values[:rank].sum()), np.finfo(np.float64).tiny)
    leading = min(rank, int(np.searchsorted(shares, variance - 1e-12)) + 1, most or rank)
    size = min(padded, filled_up(rank))
    kept = np.where(np.arange(size) < rank, values[:size], 0)
    root = np.sqrt(kept)
    inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    return Axes(
        kept,
        vectors[:, :size] * inverse,
        root[:, None] * vectors[:, :size].T,
        np.asarray(rank, np.int32),
        np.asarray(leading, np.int32),
    )


def _rounding(moments: Moments, start: int, width: int) -> float:
    """What equal rows may have for a scatter: their mean, rounded."""
    mean = np.asarray(moments.mean)[start : start + width]
    return float(moments.weight) * float(mean @ mean) * (64 * float(np.finfo(mean.dtype).eps)) ** 2


@jax.jit
def _eigenpairs(symmetric: Float[Array, "p p"]) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
    values, vectors = jnp.linalg.eigh(symmetric)
    return values[::-1], vectors[:, ::-1]


def coupling(moments: Moments, names: tuple[str, str], x: Axes, y: Axes) -> Float[Array, "r s"]:
    """Cross-covariance of two encoders' whitened rows, Λx^(−1/2) Vxᵀ (Xᵀ Y) Vy Λy^(−1/2), from their moments.

    Its singular values are the canonical correlations.
    """
    block = np.zeros((len(x.whitening), len(y.whitening)), np.dtype(moments.scatter.dtype))
    (i, p), (j, q) = ((moments.offset(name), moments.width(name)) for name in names)
    block[:p, :q] = np.asarray(moments.scatter)[i : i + p, j : j + q]
    with double_precision():
        return _between(x.whitening, block, y.whitening)


@jax.jit
def _between(left: Float[Array, "p r"], middle: Float[Array, "p q"], right: Float[Array, "q s"]) -> Array:
    return multiply(multiply_transposed(left, middle), right)


@pytree
class Scores:
    """Rows in whitened principal axes.

    Attributes:
      rows: (X − mean) V Λ^(−1/2), shape [n, r].
      power: squared length of each centred row, shape [n].
    """

    rows: Float[Leaf, "n r"]
    power: Float[Leaf, " n"]


def scores(moments: Moments, name: str, axes: Axes, rows: np.ndarray) -> Scores:
    """Rows of an encoder as its axes see them, shape [n, d] in, on the host."""
    start, width = moments.offset(name), moments.width(name)
    dtype = moments.scatter.dtype
    mean = np.asarray(moments.mean)[start : start + width]
    with double_precision():
        found = _scores(np.asarray(rows), jnp.asarray(mean, dtype), axes.whitening[:width])
    return jax.tree.map(np.asarray, found)


@jax.jit
def _scores(rows: Float[Array, "n d"], mean: Float[Array, " d"], whitening: Float[Array, "d r"]) -> Scores:
    centred = rows.astype(mean.dtype) - mean
    return Scores(multiply(centred, whitening), jnp.sum(centred * centred, axis=1))
