"""Cross-network injection: templates leaked from network A, mapped, are presented to a system that runs network B.

The system compares in its own coordinates, at thresholds that it set on its own comparisons, and knows nothing of A. In
the terms of ISO/IEC 30136 and of attacks on templates: an attack is of type I where the system enrolled the same
photograph, of type II where it enrolled another one of the same person.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.biometrics import Cohort, EvaluationPlan, Sampled, comparator
from jaxalign.biometrics.thresholds import OperatingPoint, SortedScores, check_rates, error_rates
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES
from jaxalign.core.errors import UserError
from jaxalign.core.names import labels
from jaxalign.core.rows import unit_rows

MOST_ROWS = 1 << 14  # of a system: all of its comparisons are in memory, 2 GiB
SAME_IMAGE, OTHER_IMAGE, OTHER_PERSON = KINDS = ("same_image", "other_image", "other_person")


def require_others(training: ArrayLike, victims: ArrayLike) -> None:
    """Raises ``UserError`` if people whom the attacker's map was fitted on are among the victims."""
    sides = [np.unique(labels("identities", np.asarray(side))[0]) for side in (training, victims)]
    both = np.intersect1d(sides[0], sides[1])
    if len(both):
        raise UserError(
            f"attack: {len(both):,} of {len(sides[1]):,} victims are among the attacker's training people; "
            "an attack is measured on others"
        )


def score_matrix(
    probes: np.ndarray, gallery: np.ndarray, score: str = "cosine", cohort: Cohort | None = None
) -> np.ndarray:
    """Scores of every probe with every gallery row by one of ``biometrics.SCORES``, float64, shape [n, m]."""
    compare = comparator(score, cohort)
    if compare is None:
        return unit_rows(probes) @ unit_rows(gallery).T
    sides = compare.vectors(np.asarray(probes, np.float64), "probes"), compare.vectors(gallery, "gallery")
    return sides[0] @ sides[1].T


class Attack(NamedTuple):
    """Success at one threshold, by kind of victim, each with its values for resampled people.

    Attributes:
      fmr, threshold: the rate that the system asked for, and its threshold.
      rates: share of presented templates that are accepted: as their owner's same image, as another image of their
        owner (the same image and its copies left out), as another person.
      comparisons: how many each of them is a share of.
    """

    fmr: float
    threshold: float
    rates: Mapping[str, Sampled]
    comparisons: Mapping[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """A face recognition system with enrolled photographs, which attacks are presented to.

    Attributes:
      rows: enrolled, in the network's own coordinates, float64, shape [n, q].
      plan: who is who, probes and gallery being the same photographs.
      score, cohort: what the system compares by.
      points: its operating points, from its own comparisons.
      weights: how often each person of the plan is drawn in each resample, shape [resamples, people]; may have none.
    """

    rows: np.ndarray
    plan: EvaluationPlan
    score: str
    cohort: Cohort | None
    points: tuple[OperatingPoint, ...]
    weights: np.ndarray

    @classmethod
    def of(
        cls,
        rows: ArrayLike,
        plan: EvaluationPlan,
        fmr: Sequence[float],
        *,
        score: str = "cosine",
        cohort: Cohort | None = None,
        weights: np.ndarray | None = None,
    ) -> Self:
        """Sets the thresholds: for each rate the smallest whose achieved FMR does not exceed it.

        Args:
          rows: shape [n, q].
          plan: ``EvaluationPlan.of(identities)`` of the n photographs.
          fmr: false match rates.
          score, cohort: such as "cohort" and ``Cohort.of(own, own, identities)`` of people of the defender.
          weights: ``Resampling.of(plan).weights``; None for no intervals.

        Raises:
          UserError: a rate outside (0, 1], or one with fewer than 10 expected false matches; too few people.
        """
        given = np.asarray(rows, np.float64)
        if len(given) > MOST_ROWS:
            raise UserError(
                f"attack: {len(given):,} photographs are more than {MOST_ROWS:,}, whose comparisons are all in "
                "memory; take fewer of each person"
            )
        if cohort is not None:
            cohort.require_others(plan)
        if weights is None:
            weights = np.zeros((0, plan.people), np.int32)
        system = cls(given, plan, score, cohort, (), weights)
        scores, (_, mates, others) = system._scores(given), system._masks
        rates = check_rates(fmr)
        axis = SortedScores(np.sort(scores[mates]), np.sort(scores[others]))
        points = error_rates(axis, rates, LEAST_FALSE_MATCHES).points
        for point in points:
            if not point.supported:
                raise UserError(
                    f"fmr: {point.fmr:g} of the system's {len(axis.impostor):,} comparisons of two people are fewer "
                    f"than {LEAST_FALSE_MATCHES:g} false matches, which sets no threshold; ask for a larger rate"
                )
        return dataclasses.replace(system, points=points)

    def __getitem__(self, fmr: float) -> OperatingPoint:
        """The operating point of a rate that was asked for."""
        return {point.fmr: point for point in self.points}[fmr]

    @functools.cached_property
    def _masks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which comparisons are of the same image, of another one of the same person, and of two people."""
        codes, count = self.plan.probe_codes, self.plan.probes
        same = codes[:, None] == codes
        own = np.zeros_like(same)
        own[self.plan.genuine_probe, self.plan.genuine_gallery] = self.plan.genuine_own
        return np.eye(count, dtype=bool), same & ~own, ~same

    def _scores(self, probes: np.ndarray) -> np.ndarray:
        return score_matrix(probes, self.rows, self.score, self.cohort)

    def native(self) -> list[Attack]:
        """What the system accepts of its own network's templates: zero effort, and what its users reach."""
        return self.attacked_by(self.rows)

    def attacked_by(self, templates: ArrayLike) -> list[Attack]:
        """Presents templates, one for each enrolled photograph in their order, and compares each with all of them.

        Args:
          templates: in the system's coordinates (``Fit.to_target``), shape [n, q].

        Returns:
          One ``Attack`` for each operating point. Thresholds stay as they are in resamples: they are the system's.

        Raises:
          UserError: templates that are not of the shape of the enrolled rows, or not finite.
        """
        given = np.asarray(templates, np.float64)
        if given.shape != self.rows.shape or not np.isfinite(given).all():
            raise UserError(
                f"attack: expected finite templates, shape {list(self.rows.shape)}, got {list(given.shape)}"
            )
        scores = self._scores(given)
        counts = {kind: int(of[0]) for kind, of in self._all.items()}
        found = []
        for point in self.points:
            rates = {}
            for kind, hits in self._counted(scores >= point.threshold).items():
                with np.errstate(invalid="ignore"):
                    shares = hits / self._all[kind]
                rates[kind] = Sampled(float(shares[0]), shares[1:])
            found.append(Attack(point.fmr, point.threshold, rates, counts))
        return found

    @functools.cached_property
    def _all(self) -> dict[str, np.ndarray]:
        """Every comparison."""
        return self._counted(np.ones((self.plan.probes, self.plan.probes), bool))

    def _counted(self, accepted: np.ndarray) -> dict[str, np.ndarray]:
        """Accepted comparisons of each kind, for the people as they are and for each resample, shape [1 + resamples].

        A comparison of one person weighs m_p, one of two people m_p m_q, where m counts how often a person is drawn.
        """
        codes, people = self.plan.probe_codes, self.plan.people
        probe, gallery = np.divmod(np.flatnonzero(accepted), self.plan.gallery)  # few are accepted, usually
        left, right = codes[probe], codes[gallery]
        own, mates, _ = self._masks
        found = {}
        for kind, mask in ((SAME_IMAGE, own), (OTHER_IMAGE, mates)):
            of = np.bincount(left[mask[probe, gallery]], minlength=people)
            found[kind] = np.append(of.sum(), self.weights @ of.astype(np.float64))
        of = np.bincount(left * people + right, minlength=people**2).reshape(people, people)
        np.fill_diagonal(of, 0)
        weights = self.weights.astype(np.float32)
        resampled = np.einsum("rp,rp->r", weights @ of.astype(np.float32), weights, dtype=np.float64)
        found[OTHER_PERSON] = np.append(of.sum(), resampled)
        return found


def pairs_needed(sizes: Sequence[int], success: ArrayLike, goal: float) -> np.ndarray:
    """The number of pairs from which an attack succeeds as often as ``goal``, interpolated in its logarithm.

    Args:
      sizes: numbers of pairs, ascending, shape [S].
      success: at each of them, shape [..., S].
      goal: a share above 0.

    Returns:
      Shape [...]: where success first reaches the goal; the smallest size (an upper bound) where it starts above,
      infinity where it never does.
    """
    size, curve = np.asarray(sizes, np.float64), np.asarray(success, np.float64)
    reached = curve >= goal
    after = np.argmax(reached, axis=-1)
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(curve, at[..., None], -1)[..., 0] for at in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.where(after > before, (goal - low) / (high - low), 0)
    found = size[before] * (size[after] / size[before]) ** step
    return np.where(reached.any(axis=-1), found, np.inf)
