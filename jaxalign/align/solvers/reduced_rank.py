"""Reduced-rank regression: every rank of the map from one decomposition of the fitted values."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.align.solvers.base import Fit, Solver, one_sided
from jaxalign.align.solvers.spectrum import Spectrum, eigenpairs, explains_all, rank_cutoff, trusted, varying
from jaxalign.core import checks
from jaxalign.core.precision import multiply, multiply_transposed
from jaxalign.core.pytree import pytree, static
from jaxalign.moments.blocks import CrossMoments, OwnMoments


@pytree
class ReducedRank(Solver):
    """Reduced-rank ridge regression.

    W minimises ‖(X − μx) W − (Y − μy)‖²_F + l2 ‖W‖²_F over all W of rank ≤ r. With S = XᵀX = V diag(s) Vᵀ and
    B = (diag(s) + l2)^(−1/2) Vᵀ XᵀY, the solution is V (diag(s) + l2)^(−1/2) Uᵣ Uᵣᵀ B for Uᵣ the r leading left
    singular vectors of B: the *fitted values* are truncated, not W. Every rank is the leading part of one
    decomposition (``Fit.at_rank``). ``effective_rank`` is the rank of B.

    Equivalent: with l2 = 0, the projection of ``numpy.linalg.lstsq``'s fitted values on their r leading right
    singular vectors.

    Attributes:
      l2: the penalty, ≥ 0; at 0 the minimum-norm solution with the cut-off of ``Linear``.
      rank: the largest rank to keep; None for min(p, q).

    References:
      Izenman, "Reduced-rank regression for the multivariate linear model", J. Multivariate Analysis 1975.
      Mukherjee, Zhu, "Reduced rank ridge regression and its kernel extensions", 2011.
    """

    ranked = True
    whole = "source"

    l2: Float[Array, ""] | float = 0.1
    rank: int | None = static(default=None)

    def validate(self) -> None:
        """Raises ``UserError`` unless the penalty is a finite number ≥ 0 and the rank at least 1."""
        checks.penalty(self.l2, zero_allowed=True, scalar=True)
        checks.rank(self.rank)

    def factor(self, own: OwnMoments) -> Spectrum:
        """The eigendecomposition of the scatter matrix."""
        return Spectrum.of(own.scatter, varying(own).sum())

    def solve(self, source: Spectrum, target: Spectrum, cross: CrossMoments) -> Fit:
        """Solves one pair for every rank; see the class."""
        left, right, strengths = reduced_rank_factors(source, jnp.asarray(self.l2), cross.xy)
        left, right = left[:, : self.rank], right[: self.rank]
        product = jnp.sum(multiply_transposed(left, cross.xy) * right, axis=0)
        gram = multiply_transposed(left, left)
        l2 = jnp.asarray(self.l2, cross.xy.dtype)
        mapped = product - jnp.sum(multiply(l2 * gram, right) * right, axis=0)
        # Rows of ``right`` are orthogonal with squared lengths ``strengths``, and Lᵀ (S + l2 I) L = I.
        predicted = strengths[: self.rank] * jnp.maximum(1 - l2 * jnp.diagonal(gram), 0)
        cutoff = rank_cutoff(strengths[0], max(cross.xy.shape))
        values = source.values
        penalised = values + l2
        kept = penalised > rank_cutoff(values[-1], len(values))
        kept &= jnp.arange(len(values)) >= len(values) - source.width
        power = cross.power_y.sum()
        complete = explains_all(kept.sum() >= source.width, power - strengths.sum(), power)
        condition = penalised[-1] / jnp.min(jnp.where(kept, penalised, jnp.inf))
        return one_sided(
            (left, right),
            cross,
            product,
            mapped,
            predicted=predicted,
            effective_rank=jnp.sum(strengths[: self.rank] > cutoff).astype(values.dtype),
            condition=condition,
            ok=(strengths[0] > 0) & trusted(condition) & complete,
        )


def reduced_rank_factors(
    source: Spectrum, l2: Float[Array, ""], xy: Float[Array, "p q"]
) -> tuple[Float[Array, "p k"], Float[Array, "k q"], Float[Array, " k"]]:
    """Factors of the reduced-rank solution, leading dimension first, k = min(p, q).

    Returns:
      F with f_k = V (s + l2)^(−1/2) u_k, shape [p, k]; G with rows g_k = u_kᵀ B, shape [k, q], mutually orthogonal;
      and the squared singular values of B, descending, shape [k].
    """
    values = source.values
    kept = values + l2 > rank_cutoff(values[-1], values.shape[0])
    root = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, values + l2, 1)), 0)
    fitted = root[:, None] * multiply_transposed(source.vectors, xy)
    if xy.shape[0] <= xy.shape[1]:
        squared, u = eigenpairs(multiply(fitted, fitted.T))
        u, squared = u[:, ::-1], squared[::-1]
        right = multiply_transposed(u, fitted)
    else:
        squared, v = eigenpairs(multiply_transposed(fitted, fitted))
        v, squared = v[:, ::-1], squared[::-1]
        # Columns of ``fitted @ v`` are singular value times u; dividing both factors' parts keeps the product exact.
        size = jnp.sqrt(jnp.where(squared > 0, squared, 1))
        u = multiply(fitted, v) / size
        right = size[:, None] * v.T
    return multiply(source.vectors, root[:, None] * u), right, squared
