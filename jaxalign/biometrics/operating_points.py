"""Error rates and operating points: what they are, whatever the way they are found.

ISO/IEC 19795-1 words: FMR (also FAR) is the share of impostor comparisons accepted, TMR (also TAR) the share of
genuine ones, FNMR = 1 − TMR (also FRR). A comparison is accepted if its score is ≥ the threshold.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxalign.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What happens at the smallest threshold whose achieved FMR does not exceed ``fmr``.

    Attributes:
      fmr: the false match rate asked for.
      tmr: share of genuine comparisons accepted; NaN where not ``supported``.
      threshold: the threshold; −∞ where everything may be accepted; NaN where not ``supported``.
      achieved: the false match rate there; NaN where not ``supported``.
      false_matches: impostor comparisons accepted there.
      supported: whether ``fmr`` times the number of impostor comparisons is enough expected false matches.
    """

    fmr: float
    tmr: float
    threshold: float
    achieved: float
    false_matches: int
    supported: bool


@dataclasses.dataclass(frozen=True)
class ErrorRates:
    """AUC, EER and operating points of one set of comparisons.

    Attributes:
      auc: probability that a genuine score exceeds an impostor score, ties counted one half.
      auc_error: bound on the error of ``auc``; 0 where it is exact.
      eer: mean of FMR and FNMR at the threshold where they differ least; exact.
      points: one operating point for each FMR asked for.
      curve: FMR, TMR and threshold at up to a few hundred thresholds, shape [3, points], thresholds falling.
    """

    auc: float
    auc_error: float
    eer: float
    points: tuple[OperatingPoint, ...]
    curve: np.ndarray


def check_rates(fmr: Sequence[float]) -> tuple[float, ...]:
    """Refuses rates outside (0, 1]."""
    rates = tuple(float(rate) for rate in fmr)
    wrong = [rate for rate in rates if not 0 < rate <= 1]
    if wrong:
        raise UserError(f"fmr: expected rates above 0 and at most 1, got {wrong[0]}")
    return rates


def allowed(rate: float, impostor: int) -> int:
    """The most false matches whose share does not exceed a rate."""
    count = int(np.floor(rate * impostor))
    while count + 1 <= impostor and (count + 1) / impostor <= rate:
        count += 1
    while count and count / impostor > rate:
        count -= 1
    return min(count, impostor)


class ScoreAxis(Protocol):
    """Genuine and impostor scores along one axis, whether sorted or counted."""

    @property
    def genuine(self) -> np.ndarray:
        """The genuine scores or their orders, ascending."""
        ...

    def rates(self, fmr: Sequence[float], least_false_matches: float) -> ErrorRates:
        """AUC, EER and an operating point for each rate.

        Args:
          fmr: false match rates.
          least_false_matches: expected false matches below which a rate is not supported.
        """
        ...

    def exceeded_by(self, number: int) -> float:
        """A score that at least ``number`` impostor scores reach, close to the highest such."""
        ...


def undefined(fmr: Sequence[float]) -> ErrorRates:
    """No genuine or no impostor comparison: no rate is defined."""
    points = tuple(unsupported(rate) for rate in fmr)
    return ErrorRates(np.nan, np.nan, np.nan, points, np.zeros((3, 0)))


def unsupported(fmr: float) -> OperatingPoint:
    """Too few impostor comparisons for this rate."""
    return OperatingPoint(fmr, np.nan, np.nan, np.nan, 0, False)


def everything_accepted(fmr: float, impostors: int) -> OperatingPoint:
    """The rate allows every false match."""
    return OperatingPoint(fmr, 1.0, -np.inf, 1.0, impostors, True)


def equal_error_rate(
    accepted: Sequence[int], rejected: Sequence[int], impostors: int, genuines: int
) -> float:
    """Mean of FMR and FNMR at the better of the two thresholds around their crossing."""
    rates = [(a / impostors, r / genuines) for a, r in zip(accepted, rejected)]
    return sum(min(rates, key=lambda pair: abs(pair[0] - pair[1]))) / 2
