"""Where thresholds will lie, guessed from a sample, so that one pass can count every float there singly.

A guess that fails costs another pass, never a wrong number.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxalign.biometrics.floats import from_ordered, ordered
from jaxalign.biometrics.score_axis import BINS, INTERVALS, Bins, Intervals

SAMPLE_GROUPS = 16
STANDARD_ERRORS = 5.0  # half the width of a bracket, in standard errors over groups of sampled probes
FLOATS = 1 << 22  # in all brackets together
OUTERMOST = 2.0  # cosines stay within ±1 but for rounding; differences of orders must fit an int32


@dataclasses.dataclass(frozen=True)
class Binning:
    """The bins of ``score_axis.Bins``, with the same rounding, on the host."""

    scale: np.ndarray
    base: int

    @classmethod
    def of(cls, bins: Bins) -> "Binning":
        """From the device's."""
        return cls(np.asarray(bins.scale), int(bins.base))

    def bin_of(self, scores: np.ndarray) -> np.ndarray:
        """The bin of each score; as ``score_axis.bin_of``."""
        return np.clip(np.floor(scores * self.scale).astype(np.int64) - self.base, 0, BINS - 1)

    def first(self, numbers: np.ndarray) -> np.ndarray:
        """Order of the first float of some bins: the rounded edge, moved to where the bin really changes.

        The number of bins stands for the float after the last one.
        """
        numbers = np.asarray(numbers)
        dtype = self.scale.dtype
        edges = ((numbers + float(self.base)) / float(self.scale)).astype(dtype)
        near = ordered(edges)[:, None] + np.arange(-4, 5)
        belongs = self.bin_of(from_ordered(near, dtype)) >= numbers[:, None]
        starts = near[np.arange(len(near)), belongs.argmax(axis=1)]
        outermost = int(ordered(np.array([OUTERMOST], dtype))[0])
        starts = np.where(numbers <= 0, -outermost, starts)
        return np.where(numbers >= BINS, outermost, starts)

    def order_at(self, position: float) -> int:
        """Order of the float at a fractional bin number."""
        score = np.clip((position + self.base) / float(self.scale), -OUTERMOST, OUTERMOST)
        return int(ordered(np.array([score], self.scale.dtype))[0])


@dataclasses.dataclass(frozen=True)
class Brackets:
    """Disjoint runs of floats that are counted one by one.

    Attributes:
      first, last: orders, inclusive.
      slots: floats that all runs may hold together; with ``places`` it fixes the compiled program.
      places: runs there may be; overlapping ones were merged.
    """

    first: np.ndarray
    last: np.ndarray
    slots: int
    places: int

    @property
    def offset(self) -> np.ndarray:
        """The first slot of each run."""
        length = self.last - self.first + 1
        return np.cumsum(length) - length

    def intervals(self, dtype: np.dtype) -> Intervals:
        """For the device; slots follow the bins."""
        offset = self.offset + BINS
        return Intervals.of(self.first, self.last, offset, None, places=self.places, dtype=dtype)

    def counted(self, totals: np.ndarray, genuine: np.ndarray, padding: int) -> "FineCounts":
        """Impostors at each float: all scores less the mated ones and the zeros of padding rows."""
        result = FineCounts(self.first, self.last, self.offset, totals)
        inside = genuine[result.covers(genuine)]
        np.subtract.at(totals, result.slot(inside), 1)
        zero = np.zeros(1, np.int64)
        if result.covers(zero)[0]:
            totals[result.slot(zero)] -= padding
        return result


@dataclasses.dataclass(frozen=True)
class FineCounts:
    """Impostors at each float of the brackets."""

    starts: np.ndarray
    last: np.ndarray
    offset: np.ndarray
    impostor: np.ndarray

    def _run(self, order: np.ndarray) -> np.ndarray:
        return np.maximum(np.searchsorted(self.starts, order, "right") - 1, 0)

    def covers(self, order: np.ndarray) -> np.ndarray:
        """Which orders lie in a bracket."""
        run = self._run(order)
        return (order >= self.starts[run]) & (order <= self.last[run])

    def slot(self, order: np.ndarray) -> np.ndarray:
        """Slots of orders that lie in a bracket."""
        run = self._run(order)
        return self.offset[run] + order - self.starts[run]

    def between(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Orders and counts of a stretch that one bracket holds; None if none does."""
        run = int(self._run(np.asarray(first)))
        if first < self.starts[run] or last > self.last[run]:
            return None
        start = int(self.offset[run] + first - self.starts[run])
        return np.arange(first, last + 1), self.impostor[start : start + int(last - first) + 1]

    def add_to(self, impostor: np.ndarray, binning: Binning) -> None:
        """Adds the counts to those of the bins they belong to."""
        for first, last, offset in zip(self.starts, self.last, self.offset):
            edge = binning.bin_of(from_ordered(np.array([first, last]), binning.scale.dtype))
            numbers = np.arange(edge[0], edge[1] + 1)
            begins = np.maximum(binning.first(numbers), first) - first
            counts = self.impostor[offset : offset + int(last - first) + 1]
            impostor[numbers] += np.add.reduceat(counts, begins)


def guessed_brackets(
    impostor: np.ndarray, genuine: np.ndarray, fmr: Sequence[float], binning: Binning
) -> Brackets | None:
    """Brackets for the thresholds of some false match rates and of the equal error rate.

    A bracket is as wide as the jackknife over groups of sampled probes says it must be.

    Args:
      impostor, genuine: comparisons of the sample by group and bin, shape [groups, bins].
      fmr: the rates.
      binning: the bins.

    Returns:
      The brackets; None where there is nothing to look for.
    """
    rates = tuple(fmr)[: INTERVALS - 1]
    if not rates or not genuine.sum():
        return None
    samples = [_positions(*sums, rates) for sums in _left_out(impostor, genuine)]
    centres, others = samples[0], np.array(samples[1:])
    halves = STANDARD_ERRORS * np.sqrt((len(others) - 1) * others.var(axis=0)) + 2
    runs = [
        [binning.order_at(centre + shift) for shift in (-half, 0, half)]
        for centre, half in zip(centres, halves)
    ]
    first, centre, last = np.array(runs).T
    most = FLOATS
    while np.minimum(last - first + 1, most).sum() > FLOATS:
        most = most * 7 // 8
    first = np.maximum(first, np.minimum(centre - most // 2, last - most + 1))
    last = np.minimum(last, first + most - 1)
    return _merged(sorted(zip(first.tolist(), last.tolist())), len(rates) + 1)


def _left_out(impostor: np.ndarray, genuine: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Impostors accepted from each bin on, from the top, and the share of genuine ones rejected below each bin.

    First for all groups together, then without each in turn.
    """
    accepted = impostor[:, ::-1].cumsum(axis=1)
    rejected = genuine.cumsum(axis=1) - genuine
    both = accepted.sum(axis=0), rejected.sum(axis=0)
    matched = genuine.sum()
    yield both[0], both[1] / max(matched, 1)
    for k in range(len(impostor)):
        yield both[0] - accepted[k], (both[1] - rejected[k]) / max(matched - genuine[k].sum(), 1)


def _positions(accepted: np.ndarray, rejected: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Fractional bins of the rates' thresholds, and the bin in which FMR and FNMR cross."""
    wanted = np.array(rates) * accepted[-1]
    number = np.minimum(np.searchsorted(accepted, wanted), len(accepted) - 1)
    here = accepted[number] - np.where(number > 0, accepted[number - 1], 0)
    inside = np.clip((accepted[number] - wanted) / np.maximum(here, 1), 0, 1)
    crossing = np.argmax(rejected * accepted[-1] > accepted[::-1])
    return np.append(len(accepted) - 1 - number + inside, crossing - 1)


def _merged(runs: list[tuple[int, int]], places: int) -> Brackets:
    """Overlapping runs become one."""
    merged = [runs[0]]
    for first, last in runs[1:]:
        if first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    first, last = (np.array(side, np.int64) for side in zip(*merged))
    return Brackets(first, last, FLOATS, places)
