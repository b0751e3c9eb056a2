"""Scores of two mapped rows: the cosine, and scores that correct it by a cohort of other people.

Most errors at low false match rates come from templates that lie near everybody. A cohort of other people shows how
near a template lies to strangers, and one number a template corrects for it. Each score here is an inner product of
unit rows with two more columns, so that evaluation costs what cosines cost and any vector index can serve it:

  s(x, y) = (⟨x̂, ŷ⟩ + a(x) + b(y)) c(x) d(y) = ⟨[c x̂, a c, c], [d ŷ, d, b d]⟩

Log-likelihood ratios are the same with the coordinates of ``TwoCovariance`` instead of unit rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxalign.biometrics.inputs import FURTHER, Side, checked, orderable, same_width
from jaxalign.biometrics.plan import EvaluationPlan, padded
from jaxalign.biometrics.plda import TwoCovariance
from jaxalign.biometrics.templates import pooled
from jaxalign.core.checks import is_whole
from jaxalign.core.errors import UserError
from jaxalign.core.names import labels
from jaxalign.core.people import first_people
from jaxalign.core.precision import double_precision, multiply
from jaxalign.core.rows import LazyRows, unit_rows

TOP = 20
MOST_PEOPLE, MOST_ROWS = 2048, 2**15  # of a cohort
# Rows whose cosines with a cohort are held at once; four times as many take a third more time a row.
CORRECTED_ROWS = 2048
SMALLEST_SPREAD = 1e-6  # of a template's highest cosines, below which they have none


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """Centroids of people who are not tested, of both sides of a pair in the space where it is compared.

    Attributes:
      source, target: unit centroids, one for each person, shape [people, d].
      digests: sha256 of their names, shortened, shape [people]; nobody of them may be tested.
      rows: the mapped rows of both sides and their identities, which log-likelihood ratios are fitted to; None where
        only the centroids are known.
    """

    source: np.ndarray
    target: np.ndarray
    digests: np.ndarray
    rows: tuple[LazyRows, LazyRows, np.ndarray] | None = None

    @classmethod
    def of(cls, source: ArrayLike | LazyRows, target: ArrayLike | LazyRows, identities: ArrayLike) -> Self:
        """The cohort of the people that a map was fitted on.

        Args:
          source, target: mapped rows of both encoders, ``fit.source(x)`` and ``fit.target(y)``, of the same
            photographs row for row, shape [n, d].
          identities: of the rows, shape [n].

        Raises:
          UserError: shapes that do not match, or identities that are missing.
        """
        left, right = checked(source, "source"), checked(target, "target")
        same_width(left, right)
        with orderable(left, right) as sides:  # centroids of nearly parallel rows are float64 as well
            found = [pooled(rows, identities) for rows in sides]  # pyright: ignore[reportArgumentType]
        source, target = (unit_rows(rows).astype(rows.dtype) for rows, _ in found)
        people = labels("identities", np.asarray(identities))[0]
        return cls(source, target, _digests(found[0][1]), (left, right, people))

    @functools.cached_property
    def ratios(self) -> TwoCovariance:
        """The model of log-likelihood ratios; a ``UserError`` where only the centroids are known."""
        if self.rows is None:
            raise UserError(
                "plda: expected a cohort with the rows of its people (Cohort.of), got centroids alone"
            )
        return TwoCovariance.fit(*self.rows)

    def nearness(self, rows: ArrayLike | LazyRows, side: str, top: int = TOP) -> np.ndarray:
        """r, how near rows lie to strangers: the mean of their ``top`` highest cosines with the other side's centroids.

        Few errors come from rows of low r: ``pooled(rows, identities, weights=1 - r)`` counts them more in a template.

        Args:
          rows, side: as ``Comparator.vectors`` takes them.
          top: how many centroids count.

        Returns:
          Shape [n], at most 1.
        """
        vectors = Comparator(self, CohortCentred(top)).vectors(rows, side)
        return np.minimum(-2 * vectors[:, -2 if side == "probes" else -1], 1)

    def __len__(self) -> int:
        return len(self.digests)

    def require_others(self, *tested: Sequence | np.ndarray | EvaluationPlan) -> None:
        """Raises ``UserError`` if some people of these identities or plans are in the cohort."""
        names = [side.names if isinstance(side, EvaluationPlan) else side for side in tested]
        people = np.concatenate(labels("identities", *names))
        both = np.intersect1d(self.digests, _digests(np.unique(people)))
        if len(both):
            raise UserError(
                f"cohort: {len(both):,} of its {len(self):,} people are tested; a cohort is of other people"
            )


def cohort_rows(rows: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """Those of the rows [m], indices into identities [n], of which a cohort is made: of 2,048 people at most."""
    return first_people(rows, identities, MOST_PEOPLE)[:MOST_ROWS]


def _digests(names: np.ndarray) -> np.ndarray:
    """16 hexadecimal digits for each name, text or number, so that a saved cohort names nobody."""
    return np.array([hashlib.sha256(str(name).encode()).hexdigest()[:16] for name in names.tolist()])


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the cosines of a template with a cohort correct its scores.

    Attributes:
      top: how many of the cohort, those nearest to a template, say how near it lies to strangers.
    """

    top: int = TOP

    def correct(self, nearest: Float[Array, "n top"], cosines: Float[Array, "n people"]) -> tuple[Any, Array]:
        """The factor c(x) and the offset a(x) of each template, from its cosines with the cohort; shapes [n]."""
        raise NotImplementedError


class Uncorrected(Rule):
    """The score as it is; the cohort is what a model of log-likelihood ratios was fitted to."""

    def correct(self, nearest: Array, cosines: Array) -> tuple[Any, Array]:
        """See ``Rule``."""
        return 1.0, jnp.zeros_like(cosines[:, 0])


class CohortCentred(Rule):
    """The cosine less the mean of both templates' nearness to strangers: s − ½ (r(x) + r(y)).

    r is the mean of the ``top`` highest cosines of a template with the cohort of the other side. Speaker verification
    knows the like as adaptive score normalisation (AS-norm), the alignment of texts as cross-domain similarity local
    scaling (CSLS; Conneau et al., ICLR 2018).
    """

    def correct(self, nearest: Array, cosines: Array) -> tuple[Any, Array]:
        """See ``Rule``."""
        return 1.0, -nearest.mean(axis=1) / 2


@dataclasses.dataclass(frozen=True)
class SNorm(Rule):
    """Adaptive symmetric normalisation: (s − a (μx + μy)) / (σx σy)^b, with mean and spread of the nearest cohort.

    Attributes:
      shift, power: a and b; a = ½ and b = 0 are ``CohortCentred``.

    Reference: Matějka et al., Interspeech 2017.
    """

    shift: float = 0.5
    power: float = 0.25

    def correct(self, nearest: Array, cosines: Array) -> tuple[Any, Array]:
        """See ``Rule``."""
        spread = jnp.maximum(nearest.std(axis=1), SMALLEST_SPREAD)
        return spread**-self.power, -self.shift * nearest.mean(axis=1)


@dataclasses.dataclass(frozen=True)
class DualSoftmax(Rule):
    """The cosine less the log of both templates' softmax sums over the cohort: s − ½ t (log Σ eᶜ/ᵗ + log Σ eᶜ'/ᵗ).

    Attributes:
      temperature: t; the smaller, the fewer of the cohort count.

    Reference: Cheng et al., arXiv 2109.04290.
    """

    temperature: float = 0.05

    def correct(self, nearest: Array, cosines: Array) -> tuple[Any, Array]:
        """See ``Rule``."""
        t = self.temperature
        return 1.0, -t / 2 * jax.nn.logsumexp(cosines / t, axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Comparator:
    """A score of two mapped rows that a cohort corrects.

    Attributes:
      cohort: other people, in the space where the rows are compared.
      rule: how they correct.
      model: of the log-likelihood ratios that are corrected; None for cosines.
    """

    cohort: Cohort
    rule: Rule
    model: TwoCovariance | None = None

    def __post_init__(self) -> None:
        most = len(self.cohort)
        if not is_whole(self.rule.top, 1) or self.rule.top > most:
            raise UserError(
                f"top: expected a number from 1 to {most:,}, the people of the cohort, got {self.rule.top!r}"
            )

    def prepare(self, side: Side) -> Side:
        """The side with the factor and the further columns of each row; every row is read once."""
        probes = side.name == "probes"
        people = LazyRows.of(self.cohort.target if probes else self.cohort.source)
        if side.rows.width != people.width:
            raise UserError(
                f"{side.name}: the cohort is of width {people.width}, the rows of {side.rows.width}"
            )
        against = Side(people, "gallery" if probes else "probes", side.dtype, "keep")
        if self.model is not None:
            side, against = self.model.prepare(side), self.model.prepare(against)
        known = against.unit(np.arange(len(people)), len(people))
        count, size = len(side.rows), min(CORRECTED_ROWS, padded(len(side.rows)))
        own = 1 if probes else 2  # the column of the row's own number
        columns = np.tile([1, own != 1, own != 2], (count, 1)) if side.columns is None else side.columns
        columns = columns.astype(side.dtype)
        for start in range(0, count, size):
            numbers = np.arange(start, min(start + size, count))
            found = _corrections(side.unit(numbers, size), known, self.rule)
            factor, offset = (np.asarray(part)[: len(numbers)] for part in found)
            columns[numbers, own] += offset
            columns[numbers] *= factor[:, None]
        return dataclasses.replace(side, columns=columns)

    def of_pairs(self, probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """The score of each probe with the gallery row beside it, both of shape [n, d]; float64, shape [n]."""
        both = self.vectors(probes, "probes"), self.vectors(gallery, "gallery")
        return np.einsum("nd,nd->n", *both, dtype=np.float64)

    def vectors(self, rows: ArrayLike | LazyRows, side: str) -> np.ndarray:
        """Rows whose inner products are the scores, for a vector index.

        Args:
          rows: mapped rows, shape [n, d].
          side: "probes" for rows of the source encoder, "gallery" for rows of the target encoder.

        Returns:
          Shape [n, d + 2], float64 where ``rows`` are, else float32.

        Raises:
          UserError: a side that is neither, or rows of another width than the cohort's, not finite or zero.
        """
        if side not in ("probes", "gallery"):
            raise UserError(f"side: expected 'probes' or 'gallery', got {side!r}")
        given = checked(rows, side)
        double = given.dtype == np.float64
        with double_precision(double):
            dtype = np.dtype(np.float64 if double else np.float32)
            prepared = self.prepare(Side(given, side, dtype, "refuse"))
            found = np.asarray(prepared.unit(np.arange(len(given)), len(given)))
        behind = found.shape[1] - FURTHER
        return found[:, [*range(given.width), behind, behind + 1]]


@functools.partial(jax.jit, static_argnums=2)
def _corrections(
    unit: Float[Array, "n d"], cohort: Float[Array, "people d"], rule: Rule
) -> tuple[Array, Array]:
    cosines = multiply(unit, cohort.T)
    # Chosen in float32, which XLA selects from 20 times faster. Below the highest cosine of their template, float64
    # ones keep the digits in which those of nearly parallel rows differ.
    below = cosines
    if cosines.dtype == jnp.float64:
        below = cosines - cosines.max(axis=1, keepdims=True)
    _, nearest = jax.lax.top_k(below.astype(jnp.float32), rule.top)
    factor, offset = rule.correct(jnp.take_along_axis(cosines, nearest, axis=1), cosines)
    return factor * jnp.ones_like(offset), offset


RULES = {
    "cohort": CohortCentred,
    "snorm": SNorm,
    "dual_softmax": DualSoftmax,
    "plda": Uncorrected,
    "plda_cohort": CohortCentred,
}
LIKELIHOOD_RATIOS = ("plda", "plda_cohort")  # the others start from cosines
SCORES = ("cosine", *RULES)


def rule_options(score: str) -> list[str]:
    """The options of a score, such as ``top``; the cosine has none."""
    return [field.name for field in dataclasses.fields(RULES[score])] if score in RULES else []


def comparator(score: str, cohort: Cohort | None = None, **options: Any) -> Comparator | None:
    """What computes a score of ``SCORES``; None for the cosine, which needs nothing.

    Args:
      score: its name.
      cohort: people who are not tested.
      **options: of the score's rule, such as ``top``.

    Raises:
      UserError: an unknown score or option, or no cohort for a score that needs one.
    """
    if score not in SCORES:
        raise UserError(f"score: expected one of {', '.join(SCORES)}, got {score!r}")
    if score == "cosine":
        return None
    if cohort is None:
        raise UserError(f"score {score!r} needs a cohort of people who are not tested")
    known = rule_options(score)
    for name in options:
        if name not in known:
            raise UserError(f"score {score!r} has no option {name!r}; it has {', '.join(known)}")
    model = cohort.ratios if score in LIKELIHOOD_RATIOS else None
    return Comparator(cohort, RULES[score](**options), model)
