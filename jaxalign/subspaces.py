"""Orthogonal maps between the leading principal subspaces of two encoders, for every rank."""

import dataclasses
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.affine import AffineMap
from jaxalign.errors import UserError
from jaxalign.moments import Moments
from jaxalign.precision import double_precision, multiply
from jaxalign.solvers import Fit
from jaxalign.workers import concurrently


@dataclasses.dataclass(frozen=True)
class PrincipalSubspaces:
    """Principal axes of several encoders, decomposed once for all pairs and ranks.

    Attributes:
      total: moments of the encoders.
      axes: of each encoder its principal axes as columns, the largest variance first, shape [d, d].
      variance: along them, shape [d].
    """

    total: Moments
    axes: Mapping[str, np.ndarray]
    variance: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, total: Moments, names: Iterable[str] | None = None) -> "PrincipalSubspaces":
        """Decomposes the second moment of each encoder."""
        chosen = list(total.names if names is None else dict.fromkeys(names))

        def decompose(name: str) -> tuple[np.ndarray, np.ndarray]:
            with double_precision():
                own = _columns(total, name)
                values, vectors = jnp.linalg.eigh(total.scatter[own, own] / total.weight)
                return np.asarray(vectors)[:, ::-1], np.maximum(np.asarray(values)[::-1], 0)

        found = dict(zip(chosen, concurrently(decompose, chosen)))
        return cls(total, {n: f[0] for n, f in found.items()}, {n: f[1] for n, f in found.items()})

    def fit(self, source: str, target: str, rank: int) -> Fit:
        """The rotation between the ``rank`` leading principal axes of either side.

        With V, U the leading axes of source and target, maximises tr(Rᵀ Vᵀ Cxy U) over orthogonal R [rank, rank] and
        compares (x − μx) V R with (y − μy) U. At full rank and equal widths it compares as ``Orthogonal`` does.

        Raises:
          UserError: the rank is not from 1 to the narrower width.

        Equivalent: ``scipy.linalg.orthogonal_procrustes`` of ``sklearn.decomposition.PCA(rank)``'s scores.
        """
        most = min(self.total.width(source), self.total.width(target))
        if not 1 <= rank <= most:
            raise UserError(f"rank: expected 1 to {most} for {source} → {target}, got {rank}")
        left, right = self.axes[source][:, :rank], self.axes[target][:, :rank]
        with double_precision():
            cross = self.total.scatter[_columns(self.total, source), _columns(self.total, target)]
            inner = multiply(multiply(left.T, cross), right) / self.total.weight
            u, singular, vt = jnp.linalg.svd(inner, full_matrices=False)
            rotation = multiply(u, vt)
            source_power = jnp.sum(rotation**2 * self.variance[source][:rank, None], axis=0)
            product = jnp.sum(rotation * inner, axis=0)
            target_power = self.variance[target][:rank]
            residual = jnp.maximum(source_power - 2 * product + target_power, 0)
            cutoff = jnp.finfo(singular.dtype).eps * rank * singular[0]
            mean = self.total.mean
            fit = Fit(
                AffineMap((left, rotation), jnp.zeros(rank), mean[_columns(self.total, source)]),
                AffineMap((right,), jnp.zeros(rank), mean[_columns(self.total, target)]),
                residual,
                jnp.asarray(target_power),
                jnp.sum(singular > cutoff).astype(singular.dtype),
                singular[0] / jnp.maximum(singular[-1], jnp.finfo(singular.dtype).tiny),
                singular[-1] > cutoff,
            )
            return jax.tree.map(np.asarray, fit)


def _columns(total: Moments, name: str) -> slice:
    start = total.offset(name)
    return slice(start, start + total.width(name))
