"""Principal components of one cloud, and orthogonal maps between the leading principal subspaces of two encoders."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign.align.affine import AffineMap
from jaxalign.align.solvers import Fit
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply_transposed
from jaxalign.moments.moments import Moments


def principal_components(rows: ArrayLike, count: int) -> AffineMap:
    """The map x ↦ (x − μ) W to the coordinates along the directions of largest variance, the largest first.

    Maximises tr(Wᵀ (X − μ)ᵀ (X − μ) W) over W with orthonormal columns. float64 where the device has it.

    Args:
      rows: X, shape [n, d], any floating format.
      count: directions to keep, from 1 to min(n, d).

    Raises:
      UserError: the shape is not [n, d], a value is not finite, or there are fewer directions than ``count``.

    Equivalent: ``sklearn.decomposition.PCA(count).fit(rows).transform``, up to signs.
    """
    array = np.asarray(rows)
    if array.ndim != 2 or not 1 <= count <= min(array.shape):
        given = f"shape {array.shape} and {count}"
        raise UserError(f"expected rows of shape [n, d] and 1 to min(n, d) components, got {given}")
    if not np.isfinite(array).all():
        raise UserError("principal components: the rows hold NaN or infinite values")
    with double_precision():
        mean, directions = jax.tree.map(np.asarray, _leading_directions(array, count=count))
    return AffineMap((directions,), np.zeros(count, mean.dtype), mean, orthogonal=True)


@functools.partial(jax.jit, static_argnames="count")
def _leading_directions(rows: Array, *, count: int) -> tuple[Float[Array, " d"], Float[Array, "d count"]]:
    rows = rows.astype(jnp.result_type(jnp.float32, jnp.zeros(0, float)))
    mean = rows.mean(0)
    vectors = jnp.linalg.eigh(multiply_transposed(rows - mean, rows - mean))[1]
    return mean, vectors[:, ::-1][:, :count]


@dataclasses.dataclass(frozen=True)
class PrincipalSubspaces:
    """Principal axes of several encoders, decomposed once for all pairs and ranks."""

    total: Moments
    axes: Mapping[str, tuple[np.ndarray, np.ndarray]]  # as columns, and variance along them, largest first
    _inner: dict[tuple[str, str], np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, total: Moments, names: Iterable[str] | None = None) -> "PrincipalSubspaces":
        """Decomposes the second moment of each encoder."""
        chosen = list(total.names if names is None else dict.fromkeys(names))

        def decompose(name: str) -> tuple[np.ndarray, np.ndarray]:
            with double_precision():
                own = total.span(name)
                values, vectors = jnp.linalg.eigh(total.scatter[own, own] / total.weight)
                return np.asarray(vectors)[:, ::-1], np.maximum(np.asarray(values)[::-1], 0)

        return cls(total, dict(zip(chosen, concurrently(decompose, chosen))))

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
        inner = self._between(source, target)[:rank, :rank]
        u, singular, vt = np.linalg.svd(inner)
        rotation = u @ vt
        (axes, power), (target_axes, target_power) = (
            (vectors[:, :rank], values[:rank]) for vectors, values in (self.axes[source], self.axes[target])
        )
        cutoff = np.finfo(singular.dtype).eps * rank * singular[0]
        mapped_power = power @ rotation**2
        mean, nothing = np.asarray(self.total.mean), np.zeros(rank)
        fit = Fit(
            AffineMap((axes, rotation), nothing, mean[self.total.span(source)]),
            AffineMap((target_axes,), nothing, mean[self.total.span(target)]),
            np.maximum(mapped_power - 2 * np.sum(rotation * inner, axis=0) + target_power, 0),
            target_power,
            np.sum(singular > cutoff).astype(singular.dtype),
            singular[0] / np.maximum(singular[-1], np.finfo(singular.dtype).tiny),
            singular[-1] > cutoff,
            mapped_power,
        )
        return jax.tree.map(np.asarray, fit)

    def _between(self, source: str, target: str) -> Float[np.ndarray, "p q"]:
        """Covariance of two encoders along their axes; every rank takes a corner of it."""
        if (source, target) not in self._inner:
            cross = np.asarray(self.total.scatter)[self.total.span(source), self.total.span(target)]
            inner = self.axes[source][0].T @ cross @ self.axes[target][0] / float(self.total.weight)
            self._inner[source, target], self._inner[target, source] = inner, inner.T
        return self._inner[source, target]
