"""Calibration: scores to log-likelihood ratios, and what decisions by scores cost.

A log-likelihood ratio (natural logarithm) says how much likelier a score is between images of one person than between
images of two. With it a threshold follows from the prior and the costs of errors, and ratios of several systems add up.

>>> ratios = cross_calibrated(scores, probe_people, gallery_people)
>>> cllr(ratios[genuine], ratios[~genuine])
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.names import labels
from jaxalign.core.people import identity_folds

KINDS = ("logistic", "isotonic")
STEPS, TOLERANCE = 100, 1e-10  # of Newton's method; standardised scores reach it in about 10


class SeparatedError(UserError):
    """One threshold parts all genuine from all impostor comparisons, so that no logistic rule exists."""


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """A rule from scores to log-likelihood ratios.

    Attributes:
      kind: "logistic" or "isotonic".
      at: isotonic: the lowest score of each step but the first, rising, shape [steps − 1]; logistic: empty.
      values: isotonic: the ratio of each step, shape [steps]; logistic: offset and slope.
    """

    kind: str
    at: np.ndarray
    values: np.ndarray

    @classmethod
    def fit(
        cls, scores: ArrayLike, genuine: ArrayLike, *, kind: str = "logistic", prior: float = 0.5
    ) -> Self:
        """Fits a rule to comparisons.

        "logistic" is affine, l = a + b s, and minimises π mean log(1 + e^−(l + logit π)) over genuine comparisons plus
        (1 − π) mean log(1 + e^(l + logit π)) over impostor ones. "isotonic" is the best rule that never falls (pool
        adjacent violators), with one comparison of each kind added at both ends, so that no ratio is infinite.

        Args:
          scores: of comparisons, shape [n].
          genuine: whether each is of one person, shape [n].
          kind: "logistic" or "isotonic".
          prior: π, where the logistic rule is to be most accurate; isotonic ratios do not depend on it.

        Raises:
          UserError: scores that are not finite or of one kind only; for "logistic" also genuine scores that all lie
            above, or all below, the impostor ones, since the slope is then infinite.

        Equivalent: scikit-learn's ``LogisticRegression(C=inf)`` less logit π, ``IsotonicRegression``.
        """
        if kind not in KINDS:
            raise UserError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        values, mated = comparisons(scores, genuine)
        if kind == "logistic":
            return cls(kind, np.zeros(0), logistic_rule(values[:, None], mated, prior))
        ends = np.repeat([values.min(), values.max()], 2)
        mated = np.append(mated, [True, False, True, False])
        first, _, same, every = isotonic_steps(np.append(values, ends), mated)
        other = every - same
        return cls(kind, first[1:], np.log(same / other) - np.log(same.sum() / other.sum()))

    def __call__(self, scores: ArrayLike) -> np.ndarray:
        """The log-likelihood ratio of each score, float64, of the shape of the scores."""
        given = checks.array_of(scores, "scores").astype(np.float64)
        if self.kind == "logistic":
            return self.values[0] + self.values[1] * given
        return self.values[np.searchsorted(self.at, given, "right")]


def cross_calibrated(
    scores: ArrayLike,
    probe_identities: Sequence | np.ndarray,
    gallery_identities: Sequence | np.ndarray,
    *,
    kind: str = "logistic",
    prior: float = 0.5,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Log-likelihood ratios of comparisons, each by a rule fitted to comparisons of other people; float64, shape [n].

    People are assigned to folds. A comparison of people in two folds is calibrated by the rule for the other folds.

    Args:
      scores: of comparisons, shape [n].
      probe_identities, gallery_identities: who is compared with whom, shape [n] each.
      kind, prior: see ``Calibration.fit``.
      folds, seed: how many folds, 3 or more, and the seed of the assignment.

    Raises:
      UserError: see ``Calibration.fit``, for the folds too; fewer people than folds, identities that are missing.
    """
    probes, gallery = labels("identities", probe_identities, gallery_identities)
    if not checks.is_whole(folds, 3):
        raise UserError(f"folds: expected a whole number of at least 3, got {folds!r}")
    values = _numbers(scores, "scores", finite=True)
    if not len(probes) == len(gallery) == len(values):
        lengths = f"{len(values):,} scores, {len(probes):,} and {len(gallery):,} identities"
        raise UserError(f"identities: expected one of either side for each score, got {lengths}")
    people, person = np.unique(np.concatenate([probes, gallery]), return_inverse=True)
    left, right = np.sort(identity_folds(people, folds, seed)[person].reshape(2, -1), axis=0)
    genuine, ratios = probes == gallery, np.empty(len(values))
    for low, high in {*zip(left.tolist(), right.tolist())}:
        others = ~np.isin(left, (low, high)) & ~np.isin(right, (low, high))
        rule = Calibration.fit(values[others], genuine[others], kind=kind, prior=prior)
        here = (left == low) & (right == high)
        ratios[here] = rule(values[here])
    return ratios


def cllr(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Cost of log-likelihood ratios over all priors and costs, in bits: 0 is perfect, 1 is no information.

    ½ [mean log₂(1 + e^−l) over genuine comparisons, shape [n], + mean log₂(1 + e^l) over impostor ones, shape [m]].
    Raises ``UserError`` where either are missing or NaN. Reference: Brümmer and du Preez, Computer Speech and Language
    2006.
    """
    same, other = _numbers(genuine, "genuine"), _numbers(impostor, "impostor")
    return float((np.logaddexp(0, -same).mean() + np.logaddexp(0, other).mean()) / (2 * np.log(2)))


def min_cllr(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """``cllr`` after the best rule that never falls, fitted to these very scores: what no calibration can improve."""
    sides = _numbers(genuine, "genuine"), _numbers(impostor, "impostor")
    mated = np.repeat([True, False], [len(side) for side in sides])
    _, _, same, every = isotonic_steps(np.concatenate(sides), mated)
    other = every - same
    odds = same.sum() / other.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        of_same = np.where(same > 0, same * np.log2(1 + other / same * odds), 0).sum() / same.sum()
        of_other = np.where(other > 0, other * np.log2(1 + same / other / odds), 0).sum() / other.sum()
    return float(of_same + of_other) / 2


def calibration_loss(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """The part of ``cllr`` that calibration could remove: ``cllr`` less ``min_cllr``."""
    return cllr(genuine, impostor) - min_cllr(genuine, impostor)


def min_dcf(
    genuine: ArrayLike,
    impostor: ArrayLike,
    *,
    prior: float = 0.01,
    cost_miss: float = 1.0,
    cost_false: float = 1.0,
) -> float:
    """The least detection cost that any threshold has, over the cost of deciding without scores.

    [π c_miss FNMR + (1 − π) c_false FMR] / min(π c_miss, (1 − π) c_false)

    Args:
      genuine, impostor: scores of comparisons of one and of two people, shapes [n] and [m].
      prior: π, how often comparisons are of one person.
      cost_miss, cost_false: of a false non-match and of a false match.

    Raises:
      UserError: scores that are missing or NaN, a prior outside (0, 1), or costs that are not positive.

    Reference: NIST speaker recognition evaluation plans.
    """
    return _detection_cost(genuine, impostor, True, prior, cost_miss, cost_false)


def act_dcf(
    genuine: ArrayLike,
    impostor: ArrayLike,
    *,
    prior: float = 0.01,
    cost_miss: float = 1.0,
    cost_false: float = 1.0,
) -> float:
    """The detection cost of log-likelihood ratios at the threshold log(c_false / c_miss) − logit π; see ``min_dcf``."""
    return _detection_cost(genuine, impostor, False, prior, cost_miss, cost_false)


def _detection_cost(
    genuine: ArrayLike, impostor: ArrayLike, best: bool, prior: float, miss: float, false: float
) -> float:
    """At the best threshold, or at that of log-likelihood ratios."""
    same, other = np.sort(_numbers(genuine, "genuine")), np.sort(_numbers(impostor, "impostor"))
    thresholds = np.array([-_logit(prior)])
    for name, cost in (("cost_miss", miss), ("cost_false", false)):
        if not isinstance(cost, (int, float, np.number)) or not 0 < cost < np.inf:
            raise UserError(f"{name}: expected a positive number, got {cost!r}")
    thresholds += np.log(false) - np.log(miss)
    if best:
        # Between two genuine scores the higher threshold costs no more. NaN sorts behind all, so it accepts nothing.
        thresholds = np.append(same, np.nan)
    fnmr, kept_out = (np.searchsorted(side, thresholds) / len(side) for side in (same, other))
    weights = prior * miss, (1 - prior) * false
    return float((weights[0] * fnmr + weights[1] * (1 - kept_out)).min() / min(weights))


def isotonic_steps(
    scores: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps of the mean of ``values`` that never falls as scores rise (pool adjacent violators); shapes [steps].

    Returns the lowest and the highest score of each step, the sum of the values on it and how many there are.
    """
    from scipy.optimize import isotonic_regression

    found, place = np.unique(scores, return_inverse=True)
    every, total = np.bincount(place).astype(np.float64), np.bincount(place, values)
    first = isotonic_regression(total / every, weights=every).blocks[:-1]
    last = np.append(first[1:], len(found)) - 1
    return found[first], found[last], np.add.reduceat(total, first), np.add.reduceat(every, first)


def logistic_rule(scores: np.ndarray, genuine: np.ndarray, prior: float = 0.5) -> np.ndarray:
    """Offset and K slopes of a log-likelihood ratio from scores [n, K]; see ``Calibration.fit``. Shape [K + 1].

    Newton's method, halving steps that do not lower the loss. Where columns depend on one another, the shortest slopes.
    """
    from scipy.special import expit

    logit, centre, spread = _logit(prior), scores.mean(axis=0), scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    columns = np.vstack([np.ones(len(scores)), ((scores - centre) / spread).T])
    sign = np.where(genuine, 1.0, -1.0)
    weights = np.where(genuine, prior / genuine.sum(), (1 - prior) / (~genuine).sum())

    def loss(rule: np.ndarray) -> float:
        return float(weights @ np.logaddexp(0, -sign * (rule @ columns + logit)))

    rule = np.zeros(len(columns))
    for _ in range(STEPS):
        wrong = expit(-sign * (rule @ columns + logit))
        gradient = -columns @ (weights * sign * wrong)
        curvature = columns * (weights * wrong * (1 - wrong)) @ columns.T
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        while loss(rule - step) > loss(rule) and np.abs(step).max() > TOLERANCE:
            step /= 2
        rule -= step
        fused = rule @ columns
        if fused[genuine].min() >= fused[~genuine].max():
            raise SeparatedError(
                "scores: one threshold parts genuine from impostor comparisons, so that the slope of kind 'logistic' "
                "is infinite; give more comparisons, or another kind such as 'isotonic' or, to fuse, 'znorm'"
            )
        if np.abs(step).max() <= TOLERANCE:
            break
    slopes = rule[1:] / spread
    return np.array([rule[0] - slopes @ centre, *slopes])


def comparisons(scores: ArrayLike, genuine: ArrayLike, axes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Finite scores, shape [n] or, of several systems, [n, K]; and whether each is genuine, of both kinds."""
    values, mated = _numbers(scores, "scores", finite=True, axes=axes), checks.array_of(genuine, "genuine")
    if mated.shape != values.shape[:1] or mated.dtype.kind not in "biuf" or not np.isin(mated, (0, 1)).all():
        raise UserError(f"genuine: expected True or False for each of {len(values):,} comparisons")
    kinds = int(np.sum(mated)), int(np.sum(mated == 0))
    if 0 in kinds:
        raise UserError(
            f"genuine: expected comparisons of both kinds, got {kinds[0]:,} genuine, {kinds[1]:,} impostor"
        )
    return values, mated.astype(bool)


def _numbers(values: ArrayLike, name: str, *, finite: bool = False, axes: int = 1) -> np.ndarray:
    found = checks.array_of(values, name)
    if found.ndim != axes or not found.size or found.dtype.kind not in "iuf":
        shape = "[n]" if axes == 1 else "[n, K]"
        raise UserError(
            f"{name}: expected one number or more, shape {shape}, got {found.shape} of {found.dtype}"
        )
    wide = found.astype(np.float64)
    bad = ~np.isfinite(wide) if finite else np.isnan(wide)
    wrong = np.flatnonzero(bad.reshape(len(wide), -1).any(axis=1))
    if len(wrong):
        raise UserError(f"{name}: number {wrong[0]:,} of {len(wide):,} is {wide[wrong[0]]}")
    return wide


def _logit(prior: Any) -> float:
    if not isinstance(prior, (float, np.floating)) or not 0 < prior < 1:
        raise UserError(f"prior: expected a share between 0 and 1, such as 0.01, got {prior!r}")
    return float(np.log(prior) - np.log1p(-prior))
