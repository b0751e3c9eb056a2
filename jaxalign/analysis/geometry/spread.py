"""How the rows of one encoder lie: dimensions used, common direction, and people against photographs."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxalign.core import checks
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.core.pytree import Leaf


def participation_ratio(values: Float[Leaf, " p"]) -> float:
    """(Σλ)² / Σλ² of the eigenvalues of a second moment: how many directions carry the variance; NaN without any.

    What fits elsewhere in the package call their effective rank.
    """
    total, squares = float(np.sum(values)), float(np.sum(np.square(values)))
    return total**2 / squares if squares > 0 else float("nan")


def first_component_share(values: Float[Leaf, " p"]) -> float:
    """Share of the variance that the largest eigenvalue has; NaN without variance."""
    total = float(np.sum(values))
    return float(np.max(values)) / total if total > 0 else float("nan")


def anisotropy(rows: ArrayLike) -> float:
    """Mean cosine of two different rows: 0 where directions are even, 1 where all rows point the same way.

    (‖Σ uᵢ‖² − n) / (n (n − 1)) with uᵢ the rows over their lengths, so that no pair is formed. Zero rows do not count.

    References:
      Ethayarajh, "How contextual are contextualized word representations?", EMNLP 2019.
    """
    rows = checks.embedding(rows, "rows")
    with double_precision():
        total, count = map(np.asarray, _direction(jnp.asarray(rows, moment_dtype())))
    if count < 2:
        return float("nan")
    return float((total @ total - count) / (count * (count - 1)))


@jax.jit
def _direction(rows: Float[Array, "n d"]) -> tuple[Float[Array, " d"], Int[Array, ""]]:
    length = jnp.sqrt(jnp.sum(rows * rows, axis=1))
    usable = length > 0
    return jnp.sum(rows / jnp.where(usable, length, 1)[:, None], axis=0), jnp.sum(usable)


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
        """Between over within: what an encoder separates people by."""
        return self.between / self.within if self.within > 0 else float("nan")


def person_scatter(rows: ArrayLike, identities: numpy.typing.ArrayLike) -> PersonScatter:
    """Scatter within and between people; NaN where there is one person only, or nobody has two photographs.

    Args:
      rows: shape [n, d].
      identities: the person of each row, shape [n].

    Equivalent: for one column, MS between / within is the F of ``scipy.stats.f_oneway`` with people as groups.

    References:
      Searle, Casella, McCulloch, "Variance components", 1992, section 3.6.
    """
    rows = checks.embedding(rows, "rows")
    people, codes, counts = np.unique(
        checks.groups(np.asarray(identities), len(rows)), return_inverse=True, return_counts=True
    )
    n, groups = len(rows), len(people)
    if groups < 2 or groups == n:
        return PersonScatter(float("nan"), float("nan"))
    with double_precision():
        _, within, between = map(
            np.asarray, _sums_of_squares(jnp.asarray(rows, moment_dtype()), codes, people=groups)
        )
    even = (n - np.sum(counts.astype(np.float64) ** 2) / n) / (groups - 1)
    mean_within = float(within) / (n - groups)
    return PersonScatter(mean_within, (float(between) / (groups - 1) - mean_within) / float(even))


def person_means(rows: ArrayLike, identities: numpy.typing.ArrayLike) -> np.ndarray:
    """Mean row of each person, people in the order of their names, shape [people, d]."""
    rows = checks.embedding(rows, "rows")
    people, codes = np.unique(checks.groups(np.asarray(identities), len(rows)), return_inverse=True)
    with double_precision():
        return np.asarray(_sums_of_squares(jnp.asarray(rows, moment_dtype()), codes, people=len(people))[0])


@functools.partial(jax.jit, static_argnames="people")
def _sums_of_squares(
    rows: Float[Array, "n d"], codes: Int[Array, " n"], *, people: int
) -> tuple[Float[Array, "people d"], Float[Array, ""], Float[Array, ""]]:
    """Person means, and the sums of squares within and between people."""
    counts = jax.ops.segment_sum(jnp.ones(len(rows), rows.dtype), codes, people)
    means = jax.ops.segment_sum(rows, codes, people) / counts[:, None]
    within = jnp.sum((rows - means[codes]) ** 2)
    between = jnp.sum(counts[:, None] * (means - rows.mean(axis=0)) ** 2)
    return means, within, between
