"""Growing training sides: rows in the order in which they are added, by person or by photograph."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.splits import Split, shuffled_people

Places = dict[int, list[tuple[str, int]]]  # by number of rows, the axes and the units at which so many stand


@dataclasses.dataclass(frozen=True, eq=False)
class Growth:
    """Training rows in the order in which they are added.

    Attributes:
      rows: row numbers, shape [n].
      ends: how many rows the first k units (people or rows) have, for k = 1 ... units, shape [units].
    """

    rows: np.ndarray
    ends: np.ndarray

    @classmethod
    def by_people(cls, identities: np.ndarray, split: Split) -> "Growth":
        """People in the order of ``published_split``, so that a share of all people nests in a larger one."""
        place = {person: k for k, person in enumerate(shuffled_people(identities, split.seed))}
        rank = np.array([place[person] for person in identities[split.train]])
        order = np.argsort(rank, kind="stable")
        return cls(split.train[order], np.flatnonzero(np.diff(rank[order], append=-1)) + 1)

    @classmethod
    def by_rows(cls, split: Split) -> "Growth":
        """Photographs drawn at random from all training people."""
        rows = np.random.default_rng(split.seed).permutation(split.train)
        return cls(rows, np.arange(1, len(rows) + 1))

    def sizes(self, units: Sequence[int]) -> list[int]:
        """Numbers of rows of so many units.

        Raises:
          UserError: there are fewer units, or fewer than two are asked for.
        """
        wrong = [number for number in units if not 2 <= number <= len(self.ends)]
        if wrong:
            raise UserError(
                f"a training size of {wrong[-1]:,} is asked for; there are 2 to {len(self.ends):,}."
            )
        return [int(self.ends[number - 1]) for number in units]


def distinct(axes: Iterable[tuple[str, Growth, Sequence[int]]]) -> list[tuple[Growth, Places]]:
    """What to fit on along several axes, the same rows, such as all of them, only once.

    Args:
      axes: of each its name, how it grows, and the numbers of units to stop at.

    Returns:
      Of each axis the numbers of rows that none before it has, and where they stand on this axis and on later ones.

    Raises:
      UserError: see ``Growth.sizes``.
    """
    found: list[tuple[Growth, Places]] = []
    known: dict[bytes, list[tuple[str, int]]] = {}
    for axis, growth, units in axes:
        found.append((growth, {}))
        for unit, size in zip(units, growth.sizes(units)):
            rows = hashlib.sha256(np.sort(growth.rows[:size]).tobytes()).digest()
            if rows not in known:
                known[rows] = found[-1][1].setdefault(size, [])
            known[rows].append((axis, unit))
    return found
