"""Least squares: minimum-norm and ridge regression of the target on the source, from moments alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from jaxalign.align.solvers.base import ColumnwiseSolver, Fit, one_sided
from jaxalign.align.solvers.spectrum import Spectrum, explains_all, rank_cutoff, trusted, varying
from jaxalign.core import checks
from jaxalign.core.devices import padded_width
from jaxalign.core.errors import UserError
from jaxalign.core.precision import multiply, multiply_transposed
from jaxalign.core.pytree import Leaf, pytree
from jaxalign.moments.blocks import CrossMoments, OwnMoments

OF_PADDING = 1e30  # penalty of a column that is not there: it uses no degree of freedom


@pytree
class Linear(ColumnwiseSolver):
    """Minimum-norm least squares.

    W minimises ‖(X − μx) W − (Y − μy)‖²_F and, among the minimisers, ‖W‖_F. Eigenvalues of the scatter matrix below
    4 p ε times the largest count as zero. ``effective_rank`` is the number that remain. ``ok`` is False where those
    left out could explain more of the target: moments cannot tell equal columns from nearly equal ones.

    Equivalent: ``numpy.linalg.lstsq(x - x.mean(0), y - y.mean(0))[0]``.
    """

    def factor(self, own: OwnMoments) -> Spectrum:
        """The eigendecomposition of the scatter matrix."""
        return Spectrum.of(own.scatter, varying(own).sum())

    def solve(self, source: Spectrum, target: None, cross: CrossMoments) -> Fit:
        """Solves for all columns of ``cross`` at once; see the class."""
        values = source.values
        kept = values > rank_cutoff(values[-1], source.width)
        inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
        weight = multiply(source.vectors, inverse[:, None] * multiply_transposed(source.vectors, cross.xy))
        smallest = jnp.min(jnp.where(kept, values, jnp.inf))
        explained = jnp.sum(weight * cross.xy, axis=0)
        power = cross.power_y.sum()
        complete = explains_all(kept.sum() >= source.width, power - explained.sum(), power)
        return one_sided(
            (weight,),
            cross,
            explained,
            explained,
            effective_rank=kept.sum().astype(values.dtype),
            condition=values[-1] / smallest,
            ok=kept.any() & trusted(values[-1] / smallest) & complete,
        )


@pytree
class Ridge(ColumnwiseSolver):
    """Ridge regression.

    W minimises ‖(X − μx) W − (Y − μy)‖²_F + l2 ‖W‖²_F, that is W = (XᵀX + l2 I)⁻¹ XᵀY of the centred rows.
    ``effective_rank`` is the number of degrees of freedom tr(XᵀX (XᵀX + l2 I)⁻¹), averaged over target columns.
    ``condition`` is that of XᵀX + l2 I: in the 1-norm by Cholesky, in the 2-norm by eigenvalues (smallest penalty).

    Equivalent: ``sklearn.linear_model.Ridge(alpha=l2).fit(x, y)``.

    Attributes:
      l2: the penalty, > 0: one number, or one for each target column, shape [q]. One number costs a Cholesky
        factorisation of each source; several share one eigendecomposition.

    References:
      Hoerl, Kennard, "Ridge regression: biased estimation for nonorthogonal problems", Technometrics 1970.
    """

    l2: Float[Leaf, "*columns"] | float = 0.1

    def validate(self) -> None:
        """Raises ``UserError`` unless every penalty is finite and above 0."""
        checks.penalty(self.l2)

    def padded(self, width: int) -> "Ridge":
        """Penalties of columns are padded too; raises ``UserError`` where there are neither one nor ``width``."""
        penalties = np.asarray(self.l2, np.float64)
        if penalties.ndim == 0:
            return self
        if penalties.shape != (width,):
            raise UserError(
                f"l2: expected one penalty, or {width} for {width} target columns, got {penalties.shape}"
            )
        more = padded_width(width) - width
        return dataclasses.replace(self, l2=np.pad(penalties, (0, more), constant_values=OF_PADDING))

    def factor(self, own: OwnMoments) -> "Spectrum | Factorised":
        """The inverse (by Cholesky) for one penalty, the eigendecomposition for several."""
        if jnp.ndim(self.l2) == 0:
            return Factorised.of(own, jnp.asarray(self.l2))
        return Spectrum.of(own.scatter, varying(own).sum())

    def solve(self, source: "Spectrum | Factorised", target: None, cross: CrossMoments) -> Fit:
        """Solves for all columns of ``cross`` at once; see the class."""
        l2 = jnp.asarray(self.l2, cross.xy.dtype)
        if isinstance(source, Factorised):
            weight = multiply(source.inverse, cross.xy)
            freedom, condition, ok = source.freedom, source.condition, source.ok
        else:
            values = source.values[:, None]
            weight = multiply(source.vectors, multiply_transposed(source.vectors, cross.xy) / (values + l2))
            # Of each column if the penalties are (``Fit.cut``).
            freedom = jnp.sum(values / (values + l2), axis=0).reshape(l2.shape)
            condition = (source.values[-1] + l2) / (source.smallest + l2)
            ok = trusted(condition).all()
        # W solves (S + l2 I) W = C, so that tr(Wᵀ S W) = tr(Wᵀ C) − l2 ‖W‖² needs no further product.
        product = jnp.sum(weight * cross.xy, axis=0)
        mapped = product - jnp.sum(l2 * weight * weight, axis=0)  # squares of weights may underflow
        return one_sided(
            (weight,), cross, product, mapped, effective_rank=freedom, condition=condition, ok=ok
        )


@pytree
class Factorised:
    """Inverse of a source's penalised scatter matrix: as accurate here as triangular solves, and twice as fast."""

    inverse: Float[Array, "p p"]
    freedom: Float[Array, ""]
    condition: Float[Array, ""]
    ok: Array

    @classmethod
    def of(cls, own: OwnMoments, l2: Float[Array, ""]) -> "Factorised":
        """Inverts S + l2 I. The condition number is that of the 1-norm."""
        eye = jnp.eye(own.scatter.shape[0], dtype=own.scatter.dtype)
        penalised = own.scatter + l2.astype(own.scatter.dtype) * eye
        lower = jax.lax.linalg.cholesky(penalised, symmetrize_input=False)
        inverse = cho_solve((lower, True), eye)
        freedom = own.scatter.shape[0] - l2 * jnp.trace(inverse)
        # A column of padding, or a constant one, has 1 / l2 in the inverse, which may be more than any other.
        norms = jnp.where(varying(own), jnp.abs(inverse).sum(0), 0)
        condition = jnp.abs(penalised).sum(0).max() * norms.max()
        return cls(inverse, freedom.astype(lower.dtype), condition, trusted(condition))
