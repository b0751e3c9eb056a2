"""Error rates from counted scores: thresholds found exactly, to the last floating-point number."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxalign.biometrics.floats import from_ordered
from jaxalign.biometrics.operating_points import (
    ErrorRates,
    OperatingPoint,
    allowed,
    equal_error_rate,
    everything_accepted,
    undefined,
    unsupported,
)
from jaxalign.biometrics.resolving import Resolved
from jaxalign.biometrics.score_axis import INTERVALS

Resolve = Callable[[np.ndarray, np.ndarray], list[Resolved]]
AUC_ERROR = 1e-4  # the bound on the error of a binned AUC
ROUNDS = 16  # at most so many passes to reach it


@dataclasses.dataclass(frozen=True)
class Counts:
    """How many comparisons of each kind lie in each of many stretches of the score axis, in ascending order.

    Attributes:
      impostor, genuine: comparisons in each stretch, int64.
      first: order of the first float of some stretches, given by number; the number of stretches stands for the
        float after the last.
    """

    impostor: np.ndarray
    genuine: np.ndarray
    first: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class CountedScores:
    """Scores that were counted strip by strip and never kept.

    Attributes:
      counts: all comparisons along the score axis.
      genuine: orders of the genuine scores, ascending.
      resolve: counts impostors between two orders more finely.
      dtype: format of the scores.
    """

    counts: Counts
    genuine: np.ndarray
    resolve: Resolve
    dtype: np.dtype

    def rates(self, fmr: Sequence[float], least_false_matches: float) -> ErrorRates:
        """See ``ScoreAxis``; EER and operating points are exact, the AUC within ``AUC_ERROR`` where it can be."""
        impostors, genuines = int(self.counts.impostor.sum()), len(self.genuine)
        if not impostors or not genuines:
            return undefined(fmr)
        supported = [rate * impostors >= least_false_matches for rate in fmr]
        most = [allowed(rate, impostors) for rate in fmr]
        wanted = [k for k in range(len(fmr)) if supported[k] and most[k] < impostors]
        tests = [lambda accepted, rejected: accepted * genuines >= rejected * impostors]  # FMR ≥ FNMR
        tests += [functools.partial(_exceeds, most[k]) for k in wanted]
        crossing, *exceeded = _last_floats(self.counts, self.genuine, self.resolve, tests)
        points = [
            everything_accepted(rate, impostors) if supported[k] else unsupported(rate)
            for k, rate in enumerate(fmr)
        ]
        for k, (order, _, false_matches) in zip(wanted, exceeded):
            accepted = genuines - int(np.searchsorted(self.genuine, order, "right"))
            threshold = float(from_ordered(np.array([order + 1]), self.dtype)[0])
            achieved = false_matches / impostors
            points[k] = OperatingPoint(fmr[k], accepted / genuines, threshold, achieved, false_matches, True)
        auc, auc_error = _auc(self.counts, self.genuine, self.resolve)
        order, *accepted = crossing
        rejected = np.searchsorted(self.genuine, [order, order + 1]).tolist()
        eer = equal_error_rate(accepted, rejected, impostors, genuines)
        return ErrorRates(auc, auc_error, eer, tuple(points), _curve(self.counts, self.dtype))

    def exceeded_by(self, number: int) -> float:
        """See ``ScoreAxis``."""
        accepted = self.counts.impostor[::-1].cumsum()
        stretch = len(accepted) - 1 - int(np.searchsorted(accepted, number))
        return float(from_ordered(self.counts.first(np.array([max(0, stretch)])), self.dtype)[0])


def _exceeds(limit: int, accepted: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    return accepted > limit


def _last_floats(
    counts: Counts, genuine: np.ndarray, resolve: Resolve, tests: list[Callable]
) -> list[tuple[int, int, int]]:
    """For each test the last float that passes it, with the impostors ≥ it and those > it.

    A test is given the impostors accepted at a threshold and the genuine comparisons rejected there, and
    once false it stays false as the threshold rises.
    """
    accepted = counts.impostor[::-1].cumsum()[::-1]
    rejected = counts.genuine.cumsum() - counts.genuine
    number = np.array([np.flatnonzero(test(accepted, rejected))[-1] for test in tests])
    first = counts.first(number)
    last = counts.first(number + 1) - 1
    inside, beyond = counts.impostor[number], accepted[number] - counts.impostor[number]
    first, last, inside, beyond = (
        np.asarray(array, np.int64).copy() for array in (first, last, inside, beyond)
    )
    while (open_ := np.flatnonzero(first < last)).size:
        for k, (start, count) in zip(open_, resolve(first[open_], last[open_])):
            accepted = beyond[k] + count[::-1].cumsum()[::-1]
            slot = np.flatnonzero(tests[k](accepted, np.searchsorted(genuine, start)))[-1]
            inside[k], beyond[k] = count[slot], accepted[slot] - count[slot]
            first[k] = start[slot]
            last[k] = start[slot + 1] - 1 if slot + 1 < len(start) else last[k]
    return [(int(f), int(b + i), int(b)) for f, i, b in zip(first, inside, beyond)]


def _auc(counts: Counts, genuine: np.ndarray, resolve: Resolve) -> tuple[float, float]:
    """The Mann-Whitney statistic over all pairs, ties one half, and the bound on its error.

    Pairs within one stretch count as ties. That is wrong by at most half of them unless the stretch is a single
    float, so the stretches with most pairs are resolved until the bound is small.
    """
    pairs = int(counts.impostor.sum()) * len(genuine)
    twice = _twice_wins(counts.impostor, counts.genuine)
    unsure = counts.impostor * counts.genuine
    spread = int(unsure.sum())
    if spread < 2 * AUC_ERROR * pairs:
        return twice / (2 * pairs), spread / (2 * pairs)
    numbers = np.argsort(unsure)[::-1][: ROUNDS * INTERVALS]
    ends = counts.first(numbers), counts.first(numbers + 1) - 1
    stretches = [(int(u), int(f), int(e)) for u, f, e in zip(unsure[numbers], *ends) if u]
    for _ in range(ROUNDS):
        stretches.sort(reverse=True)
        chosen, stretches = stretches[:INTERVALS], stretches[INTERVALS:]
        if not chosen or spread < 2 * AUC_ERROR * pairs:
            break
        first, last = (np.array([stretch[k] for stretch in chosen]) for k in (1, 2))
        for (tied, _, end), (start, count) in zip(chosen, resolve(first, last)):
            bounds = np.append(start, end + 1)
            mated = np.diff(np.searchsorted(genuine, bounds))
            left = np.where(np.diff(bounds) > 1, count * mated, 0)
            twice += _twice_wins(count, mated) - tied
            spread += int(left.sum()) - tied
            stretches += [(int(left[k]), int(start[k]), int(bounds[k + 1]) - 1) for k in np.flatnonzero(left)]
    return twice / (2 * pairs), spread / (2 * pairs)


def _twice_wins(impostor: np.ndarray, genuine: np.ndarray) -> int:
    """Twice the number of pairs in which the genuine score is higher; pairs in the same stretch count once."""
    below = impostor.cumsum() - impostor
    return int((genuine * (2 * below + impostor)).sum())


def _curve(counts: Counts, dtype: np.dtype, points: int = 200) -> np.ndarray:
    """FMR, TMR and threshold at stretches spread over both rates, logarithmically in the FMR's tail."""
    accepted = counts.impostor[::-1].cumsum()
    matched = counts.genuine[::-1].cumsum()
    tail = np.searchsorted(accepted, np.geomspace(1, accepted[-1], points))
    bulk = np.searchsorted(matched, np.linspace(1, matched[-1], points))
    chosen = np.unique(np.concatenate([tail, bulk, [len(accepted) - 1]]))
    threshold = from_ordered(counts.first(len(accepted) - 1 - chosen), dtype).astype(np.float64)
    return np.stack([accepted[chosen] / accepted[-1], matched[chosen] / matched[-1], threshold])
