"""Verification: error rates over all genuine and all impostor comparisons of a test set."""

import dataclasses

import numpy as np

from jaxalign.biometrics.thresholds import ErrorRates, OperatingPoint

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
LEAST_FALSE_MATCHES = 10.0  # expected false matches an operating point must have to be reported


@dataclasses.dataclass(frozen=True)
class Verification:
    """Error rates of a set of comparisons.

    Attributes:
      rates: AUC, EER, operating points, curve.
      genuine, impostor: numbers of comparisons.
    """

    rates: ErrorRates
    genuine: int
    impostor: int

    @property
    def auc(self) -> float:
        """Probability that a genuine score exceeds an impostor score; within ``auc_error``."""
        return self.rates.auc

    @property
    def auc_error(self) -> float:
        """Bound on the error of ``auc``."""
        return self.rates.auc_error

    @property
    def eer(self) -> float:
        """Equal error rate."""
        return self.rates.eer

    @property
    def comparisons(self) -> tuple[int, int]:
        """Genuine and impostor comparisons."""
        return self.genuine, self.impostor

    @property
    def points(self) -> dict[float, OperatingPoint]:
        """Operating points by the false match rate asked for."""
        return {point.fmr: point for point in self.rates.points}

    @property
    def tmr(self) -> dict[float, float]:
        """True match rate by false match rate asked for; NaN where that is not supported."""
        return {point.fmr: point.tmr for point in self.rates.points}

    @property
    def threshold(self) -> dict[float, float]:
        """Threshold by false match rate asked for."""
        return {point.fmr: point.threshold for point in self.rates.points}

    @property
    def achieved(self) -> dict[float, float]:
        """False match rate achieved, by the one asked for."""
        return {point.fmr: point.achieved for point in self.rates.points}

    @property
    def supported(self) -> dict[float, bool]:
        """Whether there are comparisons enough, by false match rate asked for."""
        return {point.fmr: point.supported for point in self.rates.points}

    def roc(self) -> np.ndarray:
        """FMR, TMR and threshold, shape [3, points], FMR rising; each point is exact."""
        return self.rates.curve

    def det(self) -> np.ndarray:
        """FMR, FNMR and threshold, shape [3, points], FMR rising."""
        return np.stack([self.rates.curve[0], 1 - self.rates.curve[1], self.rates.curve[2]])
