"""How people lie in an encoder's space: scatter within and between them, and the subspace of their means."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from jaxalign.analysis.geometry.spectral import CUTOFF, rounding
from jaxalign.core import checks
from jaxalign.core.errors import UserError


class PersonScatter(NamedTuple):
    """Variances summed over columns, by the analysis of variance with people as random groups.

    Attributes:
      within: of the photographs of one person, Σ ‖x − mean of its person‖² / (n − P).
      between: of people, (MS between − within) / n₀ with n₀ the mean number of photographs a person, less a little
        where they are uneven; may come out below 0 where people do not differ.
    """

    within: float
    between: float

    @property
    def ratio(self) -> float:
        """Between over within: how well an encoder separates people."""
        return self.between / self.within if self.within > 0 else float("nan")


def person_scatter(rows: ArrayLike, identities: Any) -> PersonScatter:
    """Scatter of rows [n, d] within and between people; NaN for one person only, or where nobody has two photographs.

    Equivalent: for one column, MS between / within is the F of ``scipy.stats.f_oneway`` with people as groups.

    References:
      Searle, Casella, McCulloch, "Variance components", 1992, section 3.6.
    """
    rows, means, codes, counts = _by_person(rows, identities)
    n, people = len(rows), len(counts)
    if people < 2 or people == n:
        return PersonScatter(float("nan"), float("nan"))
    within = float(np.sum((rows - means[codes]) ** 2)) / (n - people)
    between = float(np.sum(counts[:, None] * (means - rows.mean(axis=0)) ** 2)) / (people - 1)
    even = (n - np.sum(counts.astype(np.float64) ** 2) / n) / (people - 1)
    return PersonScatter(within, (between - within) / float(even))


def person_means(rows: ArrayLike, identities: Any) -> np.ndarray:
    """Mean row of each person, people in the order of their names, float64, shape [people, d]."""
    return _by_person(rows, identities)[1]


def _by_person(rows: ArrayLike, identities: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows as float64 [n, d], the mean row of each person [P, d], the person of each row [n], rows of each [P]."""
    rows = np.asarray(checks.embedding(rows, "rows"), np.float64)
    people = checks.identities(np.asarray(identities), len(rows))
    _, codes, counts = np.unique(people, return_inverse=True, return_counts=True)
    sums = np.add.reduceat(rows[np.argsort(codes, kind="stable")], np.cumsum(counts) - counts)
    return rows, sums / counts[:, None], codes, counts


def identity_subspace(means: ArrayLike, dimensions: int) -> Float[np.ndarray, "P k"]:
    """An orthonormal basis of where an encoder's leading principal components put the people, a subspace of R^P.

    Args:
      means: the mean row of each person, shape [P, d].
      dimensions: k; an encoder with fewer directions has zero columns beyond them.

    Raises:
      UserError: k is below 1, or there are not more people than that.
    """
    means = np.asarray(checks.embedding(means, "person means"), np.float64)
    if not 1 <= dimensions < len(means):
        raise UserError(
            f"identity subspaces of {dimensions} dimensions need more people than that and at least 1 dimension, "
            f"got {len(means):,} people"
        )
    center = means.mean(axis=0)
    basis, singular, _ = np.linalg.svd(means - center, full_matrices=False)
    noise = rounding(means.dtype) * np.sqrt(len(means)) * float(np.linalg.norm(center))
    basis = (basis * (singular > max(np.sqrt(CUTOFF) * singular[0], noise)))[:, :dimensions]
    return np.pad(basis, ((0, 0), (0, dimensions - basis.shape[1])))


def principal_cosines(x: Float[np.ndarray, "P k"], y: Float[np.ndarray, "P l"]) -> Float[np.ndarray, " m"]:
    """Cosines of the principal angles between the spans of two orthonormal bases, largest first.

    Equivalent: ``numpy.cos(scipy.linalg.subspace_angles(x, y))``, there smallest first.

    References:
      Björck, Golub, "Numerical methods for computing angles between linear subspaces", 1973.
    """
    return np.clip(np.linalg.svd(x.T @ y, compute_uv=False), 0, 1)


def subspace_null(
    x: Float[np.ndarray, "P k"], y: Float[np.ndarray, "P k"], orders: Int[np.ndarray, "b P"]
) -> Float[np.ndarray, " b"]:
    """Mean cosine when person i of x goes with person ``orders[b, i]`` of y; NaN where a subspace is empty."""
    smaller = min(int(np.any(side != 0, axis=0).sum()) for side in (x, y)) or float("nan")
    return np.array([principal_cosines(x, y[order]).sum() / smaller for order in orders])
