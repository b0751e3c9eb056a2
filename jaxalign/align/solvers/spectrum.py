"""Eigendecompositions of scatter matrices, and what counts as zero in them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.core.pytree import pytree
from jaxalign.moments.blocks import OwnMoments, Width


@pytree
class Spectrum:
    """Eigendecomposition of a source's scatter matrix."""

    values: Float[Array, " p"]  # ascending
    vectors: Float[Array, "p p"]
    width: Width  # columns that vary; the others are zero or constant, and an eigenvalue for each is zero

    @classmethod
    def of(cls, scatter: Float[Array, "p p"], width: Width) -> "Spectrum":
        """Decomposes a positive semi-definite matrix, once for every penalty and every target."""
        return cls(*eigenpairs(scatter), width)

    @property
    def smallest(self) -> Float[Array, ""]:
        """The smallest eigenvalue of the columns that count."""
        return self.values[len(self.values) - self.width]


def varying(own: OwnMoments) -> Array:
    """Which columns vary by more than rounding of their mean leaves, shape [p]."""
    rounding = 4 * jnp.finfo(own.mean.dtype).eps * jnp.abs(own.mean)
    return jnp.diagonal(own.scatter) > own.weight * rounding**2


def explains_all(complete: Array, residual: Array, power: Array) -> Array:
    """Whether directions of the source that were left out as zero could explain no more of the target."""
    return complete | (residual <= 1e-10 * power)


def rank_cutoff(largest: Array, width: Width) -> Array:
    """What counts as zero among eigenvalues of a scatter matrix of this width, relative to the largest."""
    return largest * jnp.finfo(largest.dtype).eps * width * 4


def trusted(condition: Array) -> Array:
    """Whether rounding leaves predictions five digits (float32: one), where a problem of this condition is solved."""
    eps = jnp.finfo(condition.dtype).eps
    return condition * eps < (1e-5 if eps < 1e-10 else 0.1)  # False for NaN


def weights_hold(relative: Array, weight: Array) -> Array:
    """Whether no dimension on which both sides agree has a weight that a pseudo-inverse takes for zero."""
    eps = jnp.finfo(weight.dtype).eps
    counts = relative > eps ** (0.5 if eps < 1e-10 else 0.25)
    return ~jnp.any(counts & (weight < 10 * eps * len(weight)))


def leading_eigenpairs(
    symmetric: Float[Array, "d d"], count: int
) -> tuple[Float[Array, " count"], Float[Array, "d count"]]:
    """The largest eigenvalues, descending, with their eigenvectors.

    All are computed: ``scipy.linalg.eigh`` finds a few of them in half the time, but holds Python's lock, so that
    no signal is heard.
    """
    values, vectors = jnp.linalg.eigh(symmetric, symmetrize_input=False)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def singular_decomposition(
    matrix: Float[Array, "p q"],
) -> tuple[Float[Array, "p k"], Float[Array, " k"], Float[Array, "k q"]]:
    """Thin singular value decomposition, singular values falling.

    LAPACK's divide and conquer gives up, rarely, on finite matrices of low rank; its QR iteration then takes over.
    """
    found = tuple(jnp.linalg.svd(matrix, full_matrices=False))

    def again() -> tuple[Array, ...]:
        gave_up = jnp.isfinite(matrix).all() & ~jnp.isfinite(found[1]).all()
        algorithm = jax.lax.linalg.SvdAlgorithm.QR
        slower = lambda: tuple(jax.lax.linalg.svd(matrix, full_matrices=False, algorithm=algorithm))  # noqa: E731
        return jax.lax.cond(gave_up, slower, lambda: found)

    return jax.lax.platform_dependent(cpu=again, default=lambda: found)  # pyright: ignore[reportReturnType]


def eigenpairs(symmetric: Float[Array, "p p"]) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
    """Eigenvalues ≥ 0, ascending, and eigenvectors of a positive semi-definite matrix."""
    values, vectors = jnp.linalg.eigh(symmetric, symmetrize_input=False)
    return jnp.maximum(values, 0), vectors
