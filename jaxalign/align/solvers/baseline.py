"""Baselines that fit nothing: the coordinates as they are, and after centring."""

from typing import ClassVar

import jax.numpy as jnp

from jaxalign.align.affine import AffineMap
from jaxalign.align.solvers.base import Fit, Solver
from jaxalign.core.pytree import pytree
from jaxalign.moments.blocks import CrossMoments, OwnMoments


@pytree
class Identity(Solver):
    """No alignment: the narrower side is padded with zeros to the wider, nothing else is done.

    This is the baseline of the paper, which subtracts the training mean of each encoder beforehand; without that
    step it compares the raw coordinates. ``r2`` is about the centred coordinates.

    Equivalent: ``numpy.pad(x, ((0, 0), (0, max(0, q - p))))``.

    References:
      Rubab, Tong, Ross, "Are Face Embeddings Compatible Across Deep Neural Network Models?", arXiv 2604.07282.
    """

    centred: ClassVar[bool] = False

    def space(self, p: int, q: int) -> int:
        """The wider width."""
        return max(p, q)

    def solve(self, source: OwnMoments, target: OwnMoments, cross: CrossMoments) -> Fit:
        """Pads; see the class."""
        width = max(cross.xy.shape)

        def pad(values: jnp.ndarray) -> jnp.ndarray:
            return jnp.pad(values, (0, width - values.shape[0]))

        def side(mean: jnp.ndarray) -> AffineMap:
            size = mean.shape[0]
            factors = () if size == width else (jnp.eye(size, width, dtype=mean.dtype),)
            center = mean if self.centred else None
            return AffineMap(factors, jnp.zeros(width, mean.dtype), center, orthogonal=True)

        power_x, power_y = pad(jnp.diagonal(source.scatter)), pad(cross.power_y)
        product = pad(jnp.diagonal(cross.xy))  # zero from the narrower width on
        return Fit(
            side(cross.mean_x),
            side(cross.mean_y),
            jnp.maximum(power_x + power_y - 2 * product, 0) / cross.weight,
            power_y / cross.weight,
            jnp.asarray(jnp.minimum(cross.width_x, cross.width_y), cross.xy.dtype),
            jnp.ones((), cross.xy.dtype),
            jnp.isfinite(cross.xy).all(),
        )


@pytree
class Translation(Identity):
    """Centring alone: each side's training mean is subtracted, the narrower side is padded with zeros.

    Minimises Σ ‖x − t − y‖² over the shift t of padded coordinates.

    Equivalent: ``numpy.pad(x - x_train.mean(0), ...)`` and ``y - y_train.mean(0)``.
    """

    centred = True
