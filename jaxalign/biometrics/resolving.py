"""Counting impostors more finely between two floats, down to each single one."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxalign.biometrics.brackets import FineCounts
from jaxalign.biometrics.score_axis import INTERVALS

SLOTS = 4096  # slots of one interval in one pass
Resolved = tuple[np.ndarray, np.ndarray]  # orders of the slots' first floats, impostors in each


@dataclasses.dataclass(frozen=True)
class Resolver:
    """Counts impostors in slots of intervals, from what the first pass counted or by another pass.

    Attributes:
      genuine: orders of all mated scores, own photographs included.
      padding: zeros that belong to padding rows and are counted with the rest.
      fine: floats that the first pass counted singly.
      count: one pass: first and last orders and shifts of up to eight disjoint intervals to all scores in each
        slot, shape [intervals, SLOTS].
    """

    genuine: np.ndarray
    padding: int
    fine: FineCounts | None
    count: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, first: np.ndarray, last: np.ndarray) -> list[Resolved]:
        """Resolves intervals from ``first`` to ``last`` (orders, both inclusive); they may repeat or overlap."""
        runs = [(int(start), int(end)) for start, end in zip(first, last)]
        known = {} if self.fine is None else {run: self.fine.between(*run) for run in set(runs)}
        known = {run: found for run, found in known.items() if found is not None}
        while open_ := sorted(set(runs) - set(known)):
            chosen = [open_[0]]
            for run in open_[1:]:
                if run[0] > chosen[-1][1] and len(chosen) < INTERVALS:
                    chosen.append(run)
            known.update(zip(chosen, self._passed(np.array(chosen))))
        return [known[run] for run in runs]

    def _passed(self, runs: np.ndarray) -> list[Resolved]:
        """One pass over disjoint intervals, shape [intervals, 2]."""
        first, last = runs.T
        shift = np.array([max(0, int(width).bit_length() - SLOTS.bit_length() + 1) for width in last - first])
        total = self.count(first, last, shift)
        found = []
        for k in range(len(runs)):
            slots = int((last[k] - first[k]) >> shift[k]) + 1
            inside = self.genuine[(self.genuine >= first[k]) & (self.genuine <= last[k])]
            counts = total[k, :slots] - np.bincount((inside - first[k]) >> shift[k], minlength=slots)
            if first[k] <= 0 <= last[k]:
                counts[-first[k] >> shift[k]] -= self.padding
            found.append((first[k] + (np.arange(slots) << shift[k]), counts))
        return found
