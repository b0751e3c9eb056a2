"""Error rates and operating points, from scores that were sorted or counted; thresholds are exact either way.

ISO/IEC 19795-1 words: FMR (also FAR) is the share of impostor comparisons accepted, TMR (also TAR) the share of
genuine ones, FNMR = 1 − TMR (also FRR). A comparison is accepted if its score is ≥ the threshold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError

CURVE_POINTS = 200  # of the ROC curve, along each of its axes
AUC_ERROR = 1e-4  # cells are refined until the bound on the error of the AUC is below
AUC_PASSES = 16  # at most so many to reach it

Test = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Whether impostors accepted and genuine comparisons rejected at a threshold pass; once false, it stays false."""


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


def error_rates(axis: ScoreAxis, fmr: Sequence[float], least_false_matches: float) -> ErrorRates:
    """AUC, EER, an operating point for each rate, and a curve.

    A rate with fewer than ``least_false_matches`` expected false matches is not supported.
    """
    impostors, genuines = axis.impostors, len(axis.genuine)
    points = {rate: OperatingPoint(rate, np.nan, np.nan, np.nan, 0, False) for rate in fmr}
    if not impostors or not genuines:
        return ErrorRates(np.nan, np.nan, np.nan, tuple(points[rate] for rate in fmr), np.zeros((3, 0)))
    limits = {rate: _allowed(rate, impostors) for rate in points if rate * impostors >= least_false_matches}

    def false_matches_prevail(accepted: np.ndarray, rejected: np.ndarray) -> np.ndarray:
        return accepted * float(genuines) >= rejected * float(impostors)  # whole numbers could overflow

    def exceeds(limit: int) -> Test:
        return lambda accepted, rejected: accepted > limit

    sought = [rate for rate, limit in limits.items() if limit < impostors]
    crossing, *found = axis.last_passing([false_matches_prevail, *(exceeds(limits[r]) for r in sought)])
    for rate in limits:
        points[rate] = OperatingPoint(rate, 1.0, -np.inf, 1.0, impostors, True)
    for rate, threshold in zip(sought, map(_next_up, found)):
        false, true = int(axis.accepted(threshold)), int(_accepted(axis.genuine, threshold))
        rates = true / genuines, float(threshold), false / impostors
        points[rate] = OperatingPoint(rate, *rates, false, True)
    auc, bound = _auc(axis)
    ordered = tuple(points[rate] for rate in fmr)
    return ErrorRates(auc, bound, _equal_error_rate(axis, crossing), ordered, _curve(axis))


def check_rates(
    fmr: Sequence[float],
    least_false_matches: float = 0.0,
    names: tuple[str, str] = ("fmr", "least_false_matches"),
) -> tuple[float, ...]:
    """The rates; refuses those outside (0, 1], and a least number of false matches that is none.

    ``names`` are what the caller calls both.
    """
    least = np.asarray(least_false_matches)
    if least.ndim or least.dtype.kind not in "iuf" or not 0 <= least < np.inf:
        raise UserError(f"{names[1]}: expected a finite number ≥ 0, got {least_false_matches!r}")
    given = np.asarray(fmr)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iuf"):
        raise UserError(f"{names[0]}: expected a list of rates such as (0.001, 0.01), got {fmr!r}")
    rates = tuple(float(rate) for rate in given)
    wrong = [rate for rate in rates if not 0 < rate <= 1]
    if wrong:
        raise UserError(f"{names[0]}: expected rates above 0 and at most 1, got {wrong[0]}")
    return rates


def _allowed(rate: float, impostor: int) -> int:
    """The most false matches whose share does not exceed a rate."""
    count = int(np.floor(rate * impostor))
    while count + 1 <= impostor and (count + 1) / impostor <= rate:
        count += 1
    while count and count / impostor > rate:
        count -= 1
    return min(count, impostor)


def _accepted(ascending: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    return len(ascending) - np.searchsorted(ascending, threshold)


def _next_up(score: Any) -> Any:
    return np.nextafter(score, np.inf, dtype=score.dtype)


def _equal_error_rate(axis: ScoreAxis, crossing: np.floating) -> float:
    """Mean of FMR and FNMR at the better of the last threshold at which FMR ≥ FNMR, and the next."""
    thresholds = np.array([crossing, _next_up(crossing)])
    fmr = axis.accepted(thresholds) / axis.impostors
    fnmr = np.searchsorted(axis.genuine, thresholds) / len(axis.genuine)
    best = np.argmin(np.abs(fmr - fnmr))
    return float(fmr[best] + fnmr[best]) / 2


def _auc(axis: ScoreAxis) -> tuple[float, float]:
    """The Mann-Whitney statistic over all pairs, those within one cell counted one half, and the bound on its error."""
    first, after = axis.cell_of(axis.genuine)
    reached, beaten_by = axis.accepted(first), axis.accepted(after)
    twice_pairs = 2 * axis.impostors * len(axis.genuine)
    uncertain = np.where(after > _next_up(first), reached - beaten_by, 0)
    twice_lost = float(reached.sum(dtype=np.float64) + beaten_by.sum(dtype=np.float64))
    return 1 - twice_lost / twice_pairs, float(uncertain.sum(dtype=np.float64)) / twice_pairs


def _curve(axis: ScoreAxis) -> np.ndarray:
    """FMR, TMR and threshold at scores spread over both rates, logarithmically in the FMR's tail."""
    tail = np.geomspace(1, axis.impostors, CURVE_POINTS).astype(np.int64)
    bulk = np.linspace(1, len(axis.genuine), CURVE_POINTS).astype(np.int64)
    threshold = np.concatenate([axis.reached_by(tail), axis.cell_of(axis.genuine[-bulk])[0]])
    threshold = np.unique(threshold)[::-1]
    fmr = axis.accepted(threshold) / axis.impostors
    tmr = _accepted(axis.genuine, threshold) / len(axis.genuine)
    return np.stack([fmr, tmr, threshold.astype(np.float64)])


@dataclasses.dataclass(frozen=True)
class SortedScores:
    """All genuine and all impostor scores, each ascending; cells of the axis of scores are single floats."""

    genuine: np.ndarray
    impostor: np.ndarray

    @property
    def impostors(self) -> int:
        """Number of impostor scores."""
        return len(self.impostor)

    def accepted(self, thresholds: np.ndarray) -> np.ndarray:
        """Impostor scores ≥ each threshold, which is the first float of a cell."""
        return _accepted(self.impostor, thresholds)

    def cell_of(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first float of each score's cell, and of the next cell."""
        return scores, _next_up(scores)

    def reached_by(self, numbers: np.ndarray) -> np.ndarray:
        """The highest first floats of cells that at least so many impostor scores reach."""
        return self.impostor[-numbers]

    def last_passing(self, tests: Sequence[Test]) -> np.ndarray:
        """The last threshold that passes each test; it is a cell of its own afterwards. By bisection over floats."""
        dtype = self.impostor.dtype
        lowest = min(self.genuine[0], self.impostor[0])
        found = []
        for test in tests:
            low, high = (int(end) for end in to_orders(np.array([lowest, _next_up(self.impostor[-1])])))
            while high - low > 1:  # the test passes at the lower end and fails at the upper one
                middle = (low + high) // 2
                threshold = from_orders(np.array(middle), dtype)
                passes = test(self.accepted(threshold), np.searchsorted(self.genuine, threshold))
                low, high = (middle, high) if passes else (low, middle)
            found.append(low)
        return from_orders(np.array(found), dtype)


class CountedScores:
    """Impostor scores that were counted in cells of the axis and not kept; methods are those of ``SortedScores``."""

    def __init__(
        self,
        genuine: np.ndarray,
        first: np.ndarray,
        impostor: np.ndarray,
        refine: Callable[[np.ndarray, np.ndarray], list[tuple[np.ndarray, np.ndarray]]],
        most: int,
    ):
        """Takes genuine scores, ascending, and the counts of impostor scores in bins after a first pass.

        ``first`` are the orders of the first floats of all bins, ascending, and of the float after the last.
        ``refine`` is one pass over the scores, for at most ``most`` cells: from their first orders and those of the
        cells after them to the first orders and the counts of the cells that take their places.
        """
        self.genuine, self._end, self._refine, self._most = genuine, first[-1], refine, most
        self._orders = to_orders(genuine)
        self._set(first[:-1], impostor)

    def _set(self, first: np.ndarray, impostor: np.ndarray) -> None:
        order = np.argsort(first)
        self._first = np.append(first[order], self._end)
        self._impostor = impostor[order]
        self._reached = np.append(self._impostor[::-1].cumsum()[::-1], 0)  # from each cell on

    @property
    def impostors(self) -> int:
        """See ``SortedScores``."""
        return int(self._reached[0])

    def accepted(self, thresholds: np.ndarray) -> np.ndarray:
        """See ``SortedScores``."""
        return self._reached[np.searchsorted(self._first, to_orders(thresholds))]

    def cell_of(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``SortedScores``."""
        cell = np.searchsorted(self._first, to_orders(scores), "right") - 1
        return self._edge(cell), self._edge(cell + 1)

    def reached_by(self, numbers: np.ndarray) -> np.ndarray:
        """See ``SortedScores``."""
        return self._edge(len(self._reached) - 1 - np.searchsorted(self._reached[::-1], numbers))

    def last_passing(self, tests: Sequence[Test]) -> np.ndarray:
        """Refines the cells that hold the thresholds, and those that make the AUC uncertain."""
        passes = 0
        while True:
            rejected = np.searchsorted(self._orders, self._first[:-1])
            found = np.array([np.flatnonzero(test(self._reached[:-1], rejected))[-1] for test in tests])
            wide = np.diff(self._first) > 1
            uncertain = self._uncertain(wide) if passes < AUC_PASSES else found[:0]
            cells = np.append(found[wide[found]], uncertain)
            if not len(cells):
                return self._edge(found)
            chosen = list(dict.fromkeys(cells.tolist()))[: self._most]
            self._split(np.sort(chosen))
            passes += 1

    def _uncertain(self, wide: np.ndarray) -> np.ndarray:
        """The cells with most pairs of an impostor and a genuine score, while there are too many such pairs."""
        genuine = np.diff(np.searchsorted(self._orders, self._first))
        pairs = np.where(wide, self._impostor * genuine, 0)
        if pairs.sum() < 2 * AUC_ERROR * self.impostors * len(self.genuine):
            return np.zeros(0, np.int64)
        falling = np.argsort(pairs)[::-1][: self._most]
        return falling[pairs[falling] > 0]

    def _split(self, cells: np.ndarray) -> None:
        """Replaces cells by finer ones."""
        parts = self._refine(self._first[cells], self._first[cells + 1])
        first, counts = (np.concatenate(part) for part in zip(*parts))
        kept = np.delete(self._first[:-1], cells), np.delete(self._impostor, cells)
        self._set(np.append(kept[0], first), np.append(kept[1], counts))

    def _edge(self, cells: np.ndarray) -> np.ndarray:
        return from_orders(self._first[cells], self.genuine.dtype)


ScoreAxis = SortedScores | CountedScores


def to_orders(scores: np.ndarray) -> np.ndarray:
    """Integers (int64) in the order of the floating-point numbers, as ``kernels.ordered``; both zeros are 0."""
    scores = scores + np.zeros((), scores.dtype)
    bits = scores.view(np.int64 if scores.dtype == np.float64 else np.int32)
    top = np.iinfo(bits.dtype)
    return (bits ^ ((bits >> (top.bits - 1)) & top.max)).astype(np.int64)


def from_orders(orders: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The floating-point number of each order."""
    integers = np.asarray(orders).astype(np.int64 if dtype == np.float64 else np.int32)
    top = np.iinfo(integers.dtype)
    return (integers ^ ((integers >> (top.bits - 1)) & top.max)).view(dtype)
