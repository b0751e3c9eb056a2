"""Error rates from sorted scores: every number is exact."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxalign.biometrics.floats import from_ordered, ordered
from jaxalign.biometrics.operating_points import (
    ErrorRates,
    OperatingPoint,
    allowed,
    equal_error_rate,
    everything_accepted,
    undefined,
    unsupported,
)

CURVE_POINTS = 200  # of the ROC curve, along each of its axes


@dataclasses.dataclass(frozen=True)
class SortedScores:
    """All genuine and all impostor scores, each ascending."""

    genuine: np.ndarray
    impostor: np.ndarray

    def rates(self, fmr: Sequence[float], least_false_matches: float) -> ErrorRates:
        """See ``ScoreAxis``."""
        if not len(self.impostor) or not len(self.genuine):
            return undefined(fmr)
        below = np.searchsorted(self.impostor, self.genuine)
        reached = below.copy()
        tied = self.impostor[np.minimum(below, len(self.impostor) - 1)] == self.genuine
        reached[tied] = np.searchsorted(self.impostor, self.genuine[tied], "right")
        auc = (int(below.sum()) + int(reached.sum())) / (2 * len(self.impostor) * len(self.genuine))
        points = tuple(self._point(rate, least_false_matches) for rate in fmr)
        return ErrorRates(auc, 0.0, self._equal_error_rate(), points, self._curve())

    def exceeded_by(self, number: int) -> float:
        """See ``ScoreAxis``."""
        return float(self.impostor[-number])

    def _accepted(self, scores: np.ndarray, threshold: np.floating) -> int:
        return len(scores) - int(np.searchsorted(scores, threshold))

    def _point(self, fmr: float, least_false_matches: float) -> OperatingPoint:
        impostors = len(self.impostor)
        if fmr * impostors < least_false_matches:
            return unsupported(fmr)
        most = allowed(fmr, impostors)
        if most >= impostors:
            return everything_accepted(fmr, impostors)
        threshold = _next_up(self.impostor[-most - 1])  # the smallest that leaves out one impostor too many
        false_matches = self._accepted(self.impostor, threshold)
        tmr = self._accepted(self.genuine, threshold) / len(self.genuine)
        return OperatingPoint(fmr, tmr, float(threshold), false_matches / impostors, false_matches, True)

    def _equal_error_rate(self) -> float:
        """By bisection for the last float at which FMR ≥ FNMR."""
        genuines, impostors = len(self.genuine), len(self.impostor)

        def counts(order: int) -> tuple[int, int]:
            threshold = from_ordered(np.array([order]), self.impostor.dtype)[0]
            return self._accepted(self.impostor, threshold), int(np.searchsorted(self.genuine, threshold))

        ends = ordered(np.array([min(self.genuine[0], self.impostor[0]), self.impostor[-1]]))
        low, high = int(ends[0]), int(ends[1]) + 1  # FMR is 1 at the one and 0 at the other
        while high - low > 1:
            middle = (low + high) // 2
            accepted, rejected = counts(middle)
            if accepted * genuines >= rejected * impostors:
                low = middle
            else:
                high = middle
        accepted, rejected = zip(counts(low), counts(low + 1))
        return equal_error_rate(accepted, rejected, impostors, genuines)

    def _curve(self) -> np.ndarray:
        """FMR, TMR and threshold at scores spread over both rates, logarithmically in the FMR's tail."""
        tail = np.geomspace(1, len(self.impostor), CURVE_POINTS).astype(np.int64)
        bulk = np.linspace(1, len(self.genuine), CURVE_POINTS).astype(np.int64)
        threshold = np.unique(np.concatenate([self.impostor[-tail], self.genuine[-bulk]]))[::-1]
        accepted = [
            (len(scores) - np.searchsorted(scores, threshold)) / len(scores)
            for scores in (self.impostor, self.genuine)
        ]
        return np.stack([*accepted, threshold.astype(np.float64)])


def _next_up(score: np.floating) -> np.floating:
    return from_ordered(ordered(np.array([score])) + 1, score.dtype)[0]
