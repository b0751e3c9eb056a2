"""Procrustes maps: the rotation, and the rotation with scale, that best carry one centred cloud onto another."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.blocks import CrossMoments, OwnMoments, transposed
from jaxalign.precision import multiply
from jaxalign.pytree import pytree
from jaxalign.solvers.base import Fit, one_sided


@pytree
class Orthogonal:
    """Orthogonal Procrustes with unequal widths.

    Maximises tr(Wᵀ (X − μx)ᵀ (Y − μy)) over W with orthonormal rows (p ≤ q) or columns (p ≥ q): the polar factor
    U Vᵀ of the cross moment C = U Σ Vᵀ. For p ≤ q this is the minimum of ‖(X − μx) W − (Y − μy)‖²_F. The solution
    of the reverse direction is Wᵀ. ``effective_rank`` is the rank of C; ``ok`` is False where C has not full rank,
    since the solution is then one of many.

    Equivalent: ``scipy.linalg.orthogonal_procrustes(x - x.mean(0), y - y.mean(0))[0]`` for equal widths.

    References:
      Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.
    """

    columnwise: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True
    ranked: ClassVar[bool] = False

    def validate(self) -> None:
        """Has no settings."""

    def factor(self, own: OwnMoments) -> OwnMoments:
        """Nothing to decompose; the statistics read the moments."""
        return own

    def solve(self, source: OwnMoments, target: OwnMoments, cross: CrossMoments) -> Fit:
        """Solves one direction; see the class."""
        return self.solve_both(source, target, cross)[0]

    def solve_both(self, source: OwnMoments, target: OwnMoments, cross: CrossMoments) -> tuple[Fit, Fit]:
        """Solves both directions from one singular value decomposition."""
        return _both_directions(source, target, cross, scaled=False)


@pytree
class Similarity:
    """Rotation, one scale and translation.

    W = s R with R the orthogonal Procrustes map and s = tr(Rᵀ C) / ‖(X − μx) R‖²_F, the least-squares scale of that
    rotation. ``effective_rank`` and ``ok`` as for ``Orthogonal``.

    Equivalent: ``scipy.linalg.orthogonal_procrustes`` with its scale divided by ‖X − μx‖² for equal widths.

    References:
      Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
    """

    columnwise: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True
    ranked: ClassVar[bool] = False

    def validate(self) -> None:
        """Has no settings."""

    def factor(self, own: OwnMoments) -> OwnMoments:
        """Nothing to decompose; the scale and the statistics read the moments."""
        return own

    def solve(self, source: OwnMoments, target: OwnMoments, cross: CrossMoments) -> Fit:
        """Solves one direction; see the class."""
        return self.solve_both(source, target, cross)[0]

    def solve_both(self, source: OwnMoments, target: OwnMoments, cross: CrossMoments) -> tuple[Fit, Fit]:
        """Solves both directions from one singular value decomposition."""
        return _both_directions(source, target, cross, scaled=True)


def _both_directions(
    source: OwnMoments, target: OwnMoments, cross: CrossMoments, *, scaled: bool
) -> tuple[Fit, Fit]:
    u, singular, vt = jnp.linalg.svd(cross.xy, full_matrices=False)
    rotation = multiply(u, vt)
    reverse = transposed(cross, jnp.diagonal(source.scatter))
    return (
        _fit(rotation, singular, source, cross, scaled),
        _fit(rotation.T, singular, target, reverse, scaled),
    )


def _fit(
    rotation: Float[Array, "p q"],
    singular: Float[Array, " k"],
    source: OwnMoments,
    cross: CrossMoments,
    scaled: bool,
) -> Fit:
    mapped_power = jnp.sum(multiply(source.scatter, rotation) * rotation, axis=0)
    product = jnp.sum(rotation * cross.xy, axis=0)
    total = mapped_power.sum()
    scale = singular.sum() / jnp.where(total > 0, total, 1) if scaled else jnp.ones_like(total)
    cutoff = jnp.finfo(singular.dtype).eps * max(cross.xy.shape) * singular[0]
    return one_sided(
        (rotation * scale,),
        cross,
        scale**2 * mapped_power - 2 * scale * product + cross.power_y,
        effective_rank=jnp.sum(singular > cutoff).astype(singular.dtype),
        condition=singular[0] / jnp.where(singular[-1] > 0, singular[-1], jnp.finfo(singular.dtype).tiny),
        ok=singular[-1] > cutoff,
        orthogonal=not scaled,
    )
