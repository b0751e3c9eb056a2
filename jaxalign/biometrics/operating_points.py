"""Error rates along the score axis: thresholds found exactly, to the last floating-point number.

ISO/IEC 19795-1 words: FMR (also FAR) is the share of impostor comparisons accepted, TMR (also TAR) the share of
genuine ones, FNMR = 1 − TMR (also FRR). A comparison is accepted if its score is ≥ the threshold.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxalign.biometrics.counting import Counts
from jaxalign.biometrics.floats import from_ordered
from jaxalign.biometrics.resolving import Resolved
from jaxalign.biometrics.sweep import INTERVALS
from jaxalign.errors import UserError

Resolve = Callable[[np.ndarray, np.ndarray], list[Resolved]]
AUC_ERROR = 1e-4  # the bound on the error of a binned AUC
ROUNDS = 16  # at most so many passes to reach it


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


def error_rates(
    counts: Counts,
    genuine: np.ndarray,
    resolve: Resolve,
    dtype: np.dtype,
    *,
    fmr: Sequence[float],
    least_false_matches: float,
) -> ErrorRates:
    """Finds thresholds, EER and AUC.

    Args:
      counts: all comparisons along the score axis.
      genuine: orders of the genuine scores, ascending.
      resolve: counts impostors between two orders more finely.
      dtype: format of the scores.
      fmr: false match rates.
      least_false_matches: expected false matches below which a rate is not supported.
    """
    impostors, genuines = int(counts.impostor.sum()), len(genuine)
    if not impostors or not genuines:
        return _undefined(fmr)
    supported = [rate * impostors >= least_false_matches for rate in fmr]
    most = [allowed(rate, impostors) for rate in fmr]
    wanted = [k for k in range(len(fmr)) if supported[k] and most[k] < impostors]
    tests = [lambda accepted, rejected: accepted * genuines >= rejected * impostors]  # FMR ≥ FNMR
    tests += [functools.partial(_exceeds, most[k]) for k in wanted]
    crossing, *exceeded = _last_floats(counts, genuine, resolve, tests)
    points = [
        OperatingPoint(rate, 1.0, -np.inf, 1.0, impostors, True)
        if supported[k]
        else OperatingPoint(rate, np.nan, np.nan, np.nan, 0, False)
        for k, rate in enumerate(fmr)
    ]
    for k, (order, _, false_matches) in zip(wanted, exceeded):
        accepted = genuines - int(np.searchsorted(genuine, order, "right"))
        threshold = float(from_ordered(np.array([order + 1]), dtype)[0])
        achieved = false_matches / impostors
        points[k] = OperatingPoint(fmr[k], accepted / genuines, threshold, achieved, false_matches, True)
    auc, auc_error = _auc(counts, genuine, resolve)
    eer = _equal_error(crossing, genuine, impostors)
    return ErrorRates(auc, auc_error, eer, tuple(points), _curve(counts, dtype))


def _exceeds(limit: int, accepted: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    return accepted > limit


def _undefined(fmr: Sequence[float]) -> ErrorRates:
    """No genuine or no impostor comparison: no rate is defined."""
    points = tuple(OperatingPoint(rate, np.nan, np.nan, np.nan, 0, False) for rate in fmr)
    return ErrorRates(np.nan, np.nan, np.nan, points, np.zeros((3, 0)))


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
    last = first if counts.single else counts.first(number + 1) - 1
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


def _equal_error(crossing: tuple[int, int, int], genuine: np.ndarray, impostors: int) -> float:
    """The better of the two thresholds around the crossing."""
    order, at, beyond = crossing
    rates = [
        (at / impostors, np.searchsorted(genuine, order) / len(genuine)),
        (beyond / impostors, np.searchsorted(genuine, order + 1) / len(genuine)),
    ]
    best = min(rates, key=lambda pair: abs(pair[0] - pair[1]))
    return float(sum(best) / 2)


def _auc(counts: Counts, genuine: np.ndarray, resolve: Resolve) -> tuple[float, float]:
    """The Mann-Whitney statistic over all pairs, ties one half, and the bound on its error.

    Pairs within one stretch count as ties. That is wrong by at most half of them unless the stretch is a single
    float, so the stretches with most pairs are resolved until the bound is small.
    """
    pairs = int(counts.impostor.sum()) * len(genuine)
    twice = _twice_wins(counts.impostor, counts.genuine)
    if counts.single:
        return twice / (2 * pairs), 0.0
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
