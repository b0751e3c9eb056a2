"""Procrustes maps: the rotation, and the rotation with scale, that best carry one centred cloud onto another."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.align.solvers.base import Fit, SymmetricSolver, one_sided
from jaxalign.align.solvers.spectrum import singular_decomposition, trusted
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import pytree
from jaxalign.moments.blocks import CrossMoments, OwnMoments, transposed


@pytree
class Orthogonal(SymmetricSolver):
    """Orthogonal Procrustes with unequal widths.

    Maximises tr(Wᵀ (X − μx)ᵀ (Y − μy)) over W with orthonormal rows (p ≤ q) or columns (p ≥ q): the polar factor
    U Vᵀ of the cross moment C = U Σ Vᵀ. For p ≤ q this is the minimum of ‖(X − μx) W − (Y − μy)‖²_F. The solution
    of the reverse direction is Wᵀ. ``effective_rank`` is the rank of C; ``ok`` is False where C has not full rank,
    since the solution is then one of many.

    Equivalent: ``scipy.linalg.orthogonal_procrustes(x - x.mean(0), y - y.mean(0))[0]`` for equal widths.

    References:
      Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.
    """

    scaled: ClassVar[bool] = False

    def solve_both(self, source: OwnMoments, target: OwnMoments, cross: CrossMoments) -> tuple[Fit, Fit]:
        """Solves both directions from one singular value decomposition."""
        anchored, anchors = _anchored(cross)
        u, singular, vt = singular_decomposition(anchored)
        row, column = (jnp.arange(size) for size in anchored.shape)
        inside = (row[:, None] < cross.width_x) & (column < cross.width_y)
        rotation = jnp.where(inside, multiply(u, vt), 0)
        cutoff = jnp.finfo(singular.dtype).eps * max(anchored.shape) * singular[0]
        smallest = singular[jnp.minimum(cross.width_x, cross.width_y) + anchors - 1]
        condition = singular[0] / jnp.where(smallest > 0, smallest, jnp.finfo(singular.dtype).tiny)
        statistics = {
            "effective_rank": (jnp.sum(singular > cutoff) - anchors).astype(singular.dtype),
            "condition": condition,
            "ok": (smallest > cutoff) & trusted(condition),
        }
        reverse = transposed(cross, jnp.diagonal(source.scatter))
        forth = self._fit(rotation, source, cross, statistics)
        return forth, self._fit(rotation.T, target, reverse, statistics)

    def _fit(self, rotation: Array, source: OwnMoments, cross: CrossMoments, statistics: Any) -> Fit:
        mapped_power = jnp.sum(multiply(source.scatter, rotation) * rotation, axis=0)
        product, total = jnp.sum(rotation * cross.xy, axis=0), mapped_power.sum()
        scale = product.sum() / jnp.where(total > 0, total, 1) if self.scaled else jnp.ones_like(total)
        sums = scale * product, scale**2 * mapped_power
        return one_sided((rotation * scale,), cross, *sums, orthogonal=not self.scaled, **statistics)


@pytree
class Similarity(Orthogonal):
    """Rotation, one scale and translation.

    W = s R with R the orthogonal Procrustes map and s = tr(Rᵀ C) / ‖(X − μx) R‖²_F, the least-squares scale of that
    rotation. ``effective_rank`` and ``ok`` as for ``Orthogonal``.

    Equivalent: ``scipy.linalg.orthogonal_procrustes`` with its scale divided by ‖X − μx‖² for equal widths.

    References:
      Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
    """

    scaled = True


def _anchored(cross: CrossMoments) -> tuple[Float[Array, "p q"], Array]:
    """The cross moment with its padding tied to itself, and how many ties there are.

    Where it has not full rank, a row of padding could otherwise be carried to a column of the target, and the rest of
    the rotation would not be one. The ties are as large as its singular values on average, so they are never the
    smallest, and never the largest alone.
    """
    xy = cross.xy
    anchors = jnp.minimum(xy.shape[0] - cross.width_x, xy.shape[1] - cross.width_y)
    narrower = jnp.minimum(cross.width_x, cross.width_y)
    size = jnp.sqrt(jnp.sum(xy**2) / narrower)
    row, column = (jnp.arange(size) for size in xy.shape)
    row, column = row[:, None] - cross.width_x, column - cross.width_y
    tied = (row == column) & (row >= 0) & (row < anchors)
    return jnp.where(tied, jnp.where(size > 0, size, 1), xy), anchors
