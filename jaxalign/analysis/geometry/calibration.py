"""A similarity beside what it is without any relation: the rows of one side permuted."""

import dataclasses

import numpy as np

from jaxalign.core.errors import UserError

LOWER_IS_CLOSER = frozenset({"procrustes_distance"})  # these are 0 for spaces that agree, the others 1
SATURATED = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrated:
    """One similarity of two encoders with its permutation null.

    Attributes:
      value: on the rows as they belong together.
      null: on rows of which one side is permuted, shape [permutations].
      best: the value of spaces that agree, 1, or 0 for a distance.
      items: rows, people or pairs of rows that it rests on.
    """

    value: float
    null: np.ndarray
    best: float
    items: int

    @property
    def null_mean(self) -> float:
        """What is expected of unrelated spaces of these widths on so many rows."""
        return float(np.mean(self.null))

    def null_quantile(self, level: float = 0.95) -> float:
        """Beyond what a share 1 − ``level`` of unrelated spaces is at least as close (for a distance: as near)."""
        return float(np.quantile(self.null, 1 - level if self.best == 0 else level))

    @property
    def calibrated(self) -> float:
        """(value − null mean) / (best − null mean): 0 in expectation for unrelated spaces, 1 for spaces that agree.

        NaN where permuted rows reach the best value as well, so that the similarity says nothing.

        References:
          Hubert, Arabie, "Comparing partitions", Journal of Classification 1985 (adjustment for chance).
          Gröger, Wen, Brbić, "Revisiting the Platonic Representation Hypothesis", arXiv 2602.14486, 2026, who subtract
          the null's upper quantile instead of its mean.
        """
        room = self.best - self.null_mean
        return (self.value - self.null_mean) / room if abs(room) > SATURATED else float("nan")

    @property
    def reason(self) -> str:
        """Why there is no calibrated value, in words; "" where there is one."""
        if np.isnan(self.value):
            return "an encoder has no variance on these rows"
        if np.isnan(self.calibrated):
            return "permuted rows reach the best value too: too few rows for so many dimensions"
        return ""


def permutations(items: int, count: int, seed: int) -> np.ndarray:
    """Random orders of so many items, int32, shape [count, items].

    Raises:
      UserError: ``count`` is below 1.
    """
    if count < 1:
        raise UserError(f"permutations: expected at least 1, got {count}")
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(items) for _ in range(count)]).astype(np.int32)
