"""The partially whitened canonical map: both sides move, between Procrustes and canonical correlation."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.align.affine import AffineMap
from jaxalign.align.solvers.base import Fit, SymmetricSolver
from jaxalign.align.solvers.spectrum import (
    Spectrum,
    rank_cutoff,
    singular_decomposition,
    trusted,
    weights_hold,
)
from jaxalign.core import checks
from jaxalign.core.precision import multiply, multiply_transposed
from jaxalign.core.pytree import pytree, static
from jaxalign.moments.blocks import CrossMoments, OwnMoments, Width

Number = Float[Array, ""] | float


@pytree
class Covariance:
    """One encoder's scatter matrix with its eigendecomposition, which serves every exponent and shrinkage."""

    scatter: Float[Array, "p p"]
    spectrum: Spectrum  # of ``scatter / weight``

    @classmethod
    def of(cls, scatter: Float[Array, "p p"], weight: Array, width: Width) -> "Covariance":
        """Decomposes the second moment of one encoder."""
        return cls(scatter, Spectrum.of(scatter / weight, width))

    def whitening(self, exponent: Number, shrinkage: Number) -> Float[Array, "p p"]:
        """T = V diag(c)^(−exponent / 2) for the shrunk covariance V diag(c) Vᵀ = (1 − g) C + g tr(C)/p I.

        T Vᵀ is the symmetric root; leaving the last rotation out costs one product less and changes no comparison.
        """
        shrunk, usable = self._shrunk(shrinkage)
        return self.spectrum.vectors * jnp.where(usable, jnp.where(usable, shrunk, 1) ** (-exponent / 2), 0)

    def trusted(self, exponent: Number, shrinkage: Number) -> Array:
        """Whether rounding in the eigenvalues leaves whitened rows five digits."""
        shrunk, usable = self._shrunk(shrinkage)
        return trusted((shrunk[-1] / jnp.min(jnp.where(usable, shrunk, jnp.inf))) ** exponent)

    def _shrunk(self, shrinkage: Number) -> tuple[Array, Array]:
        """Eigenvalues of the shrunk covariance, ascending, and which of them count."""
        values, width = self.spectrum.values, jnp.asarray(self.spectrum.width, self.spectrum.values.dtype)
        shrunk = (1 - shrinkage) * values + shrinkage * values.sum() / width
        return shrunk, shrunk > rank_cutoff(shrunk[-1], len(shrunk))


@pytree
class Canonical(SymmetricSolver):
    """The partially whitened canonical map (two-sided).

    With Cx, Cy shrunk by ``shrinkage`` towards their mean variance, q = ``whitening`` and p = ``weighting``, take
    U ρ Vᵀ = SVD(Cx^(−q/2) Cxy Cy^(−q/2)) with ρ scaled to a maximum of 1, and compare x Cx^(−q/2) U ρᵖ with
    y Cy^(−q/2) V ρᵖ. q = p = 0 is Procrustes in a common space, q = 1 and p = 0 canonical correlation.
    Dimensions are ordered by ρ; those where ρ is numerically zero get weight 0. ``effective_rank`` is (Σρ)² / Σρ².

    Equivalent, for q = 1, p = 0 and no shrinkage: ``sklearn.cross_decomposition.CCA``, up to scale and sign.

    Attributes:
      whitening: q, from 0 (none) to 1 (full).
      weighting: p ≥ 0, how much the dimensions that agree count for more.
      shrinkage: of both covariances, from 0 to 1 (``sklearn.covariance.shrunk_covariance``).
      rank: the largest number of dimensions to keep; None for min(width x, width y).
    """

    ranked = True

    whitening: Float[Array, ""] | float = 0.5
    weighting: Float[Array, ""] | float = 0.25
    shrinkage: Float[Array, ""] | float = 0.05
    rank: int | None = static(default=None)

    def validate(self) -> None:
        """Raises ``UserError`` for a setting out of its range."""
        checks.whitening_settings(self.whitening, self.weighting, self.shrinkage)
        checks.rank(self.rank)

    def space(self, p: int, q: int) -> int:
        """The narrower width, or the rank."""
        return min(p, q, self.rank or p)

    def factor(self, own: OwnMoments) -> Covariance:
        """One eigendecomposition, the same for every setting."""
        return Covariance.of(own.scatter, own.weight, own.width)

    def solve_both(self, source: Covariance, target: Covariance, cross: CrossMoments) -> tuple[Fit, Fit]:
        """Solves both directions from one singular value decomposition; they are each other's mirror."""
        whiten_x, whiten_y = (side.whitening(self.whitening, self.shrinkage) for side in (source, target))
        inner = multiply(multiply_transposed(whiten_x, cross.xy), whiten_y)
        u, correlation, vt = singular_decomposition(inner)
        relative = correlation / jnp.where(correlation[0] > 0, correlation[0], 1)
        kept = relative > jnp.finfo(relative.dtype).eps * max(inner.shape)
        weight = jnp.where(kept, jnp.where(kept, relative, 1) ** self.weighting, 0)
        left = (multiply(whiten_x, u) * weight)[:, : self.rank]
        right = (multiply(whiten_y, vt.T) * weight)[:, : self.rank]
        source_map = AffineMap((left,), jnp.zeros(left.shape[1], left.dtype), cross.mean_x)
        target_map = AffineMap((right,), jnp.zeros(right.shape[1], right.dtype), cross.mean_y)
        source_power = jnp.sum(multiply(source.scatter, left) * left, axis=0) / cross.weight
        target_power = jnp.sum(multiply(target.scatter, right) * right, axis=0) / cross.weight
        product = jnp.sum(multiply_transposed(left, cross.xy) * right.T, axis=1) / cross.weight
        residual = jnp.maximum(source_power - 2 * product + target_power, 0)
        rank = correlation.sum() ** 2 / jnp.sum(jnp.where(kept, correlation**2, 0))
        condition = correlation[0] / jnp.min(jnp.where(kept, correlation, jnp.inf))
        finite = [jnp.isfinite(numbers).all() for numbers in (source_power, target_power, rank)]
        finite += [weights_hold(relative, weight)]
        finite += [side.trusted(self.whitening, self.shrinkage) for side in (source, target)]
        statistics = rank, condition, kept[0] & jnp.stack(finite).all()
        return (
            Fit(source_map, target_map, residual, target_power, *statistics, source_power),
            Fit(target_map, source_map, residual, source_power, *statistics, target_power),
        )
