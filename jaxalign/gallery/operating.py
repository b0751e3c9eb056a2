"""What scores of mapped rows mean: thresholds at error rates, and the scores that the target itself would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from jaxalign.biometrics.bootstrap import Resampling
from jaxalign.biometrics.calibration import isotonic_steps
from jaxalign.biometrics.evaluate import Evaluation
from jaxalign.core import checks
from jaxalign.core.errors import UserError

RATES = (1e-2, 1e-3, 1e-4)


class Threshold(NamedTuple):
    """A comparison with a score of at least ``threshold`` is accepted; ``low`` to ``high`` is its interval."""

    fmr: float
    threshold: float
    low: float
    high: float


def thresholds_of(
    evaluation: Evaluation, people: Resampling, *, rates: Sequence[float] = RATES, level: float = 0.95
) -> tuple[Threshold, ...]:
    """Thresholds at false match rates, with intervals over people.

    >>> plan = EvaluationPlan.of(identities)
    >>> people = Resampling.of(plan)
    >>> measured = evaluate(mapped, probes, plan, score=..., fmr=RATES, people_weights=people.weights)
    >>> thresholds_of(measured, people)

    Args:
      evaluation: of mapped rows, of people whom the map was not fitted on, made with ``people_weights``.
      people: the resamples of its test set.
      rates: false match rates; those that the evaluation has not enough comparisons for are left out.
      level: of the percentile intervals.

    Raises:
      UserError: the evaluation lacks verification, resamples or a rate.
    """
    verified = evaluation.verification
    if verified is None:
        raise UserError("thresholds: expected an evaluation with verification")
    missing = [rate for rate in rates if rate not in verified.points]
    if missing:
        raise UserError(f"thresholds: the evaluation was not made at FMR {missing[0]:g}; name it in fmr=")
    found = []
    for rate in rates:
        if verified.supported[rate]:
            threshold = people.threshold(evaluation, rate)
            numbers = (threshold.estimate, *threshold.interval(level))
            found += [Threshold(rate, *numbers)] if np.isfinite(numbers).all() else []
    return tuple(found)


def native_curve(
    mapped: ArrayLike, native: ArrayLike
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The curve from scores of mapped rows to the target's own, for programs whose thresholds are on its scale.

    Least-squares isotonic regression of the target's own score of two photographs on the score that the same two have
    where one is mapped. Between the points of the curve scores are interpolated, beyond its ends the last one holds.

    Args:
      mapped: scores of comparisons where one side is mapped, of two different photographs, shape [n].
      native: the target's own scores of the same comparisons, shape [n].

    Returns:
      Mapped scores, rising, and native ones, never falling; float64, shape [k] each.

    Raises:
      UserError: shapes differ, there are none, or scores that are not finite.

    Equivalent: ``sklearn.isotonic.IsotonicRegression(out_of_bounds="clip").fit(mapped, native)``.
    """
    given = [checks.array_of(side, name) for side, name in ((mapped, "mapped"), (native, "native"))]
    if given[0].ndim != 1 or given[0].shape != given[1].shape or not given[0].size:
        raise UserError(f"scores: expected two arrays [n] alike, got {given[0].shape} and {given[1].shape}")
    if any(side.dtype.kind not in "iuf" or not np.isfinite(side).all() for side in given):
        raise UserError("scores: expected finite numbers")
    first, last, total, count = isotonic_steps(*(side.astype(np.float64) for side in given))
    levels = np.maximum.accumulate(total / count)  # rounded, equal means may fall by a last digit
    knots, values = np.stack([first, last], axis=1).ravel(), np.repeat(levels, 2)
    kept = np.append(True, np.diff(knots) > 0)
    return knots[kept], values[kept]
