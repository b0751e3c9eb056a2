"""People: identity-disjoint splits and folds (no person is on both sides), and growing training sets.

Functions take ``identities``, the person of each row.
"""

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.core.errors import UserError
from jaxalign.core.names import labels

Places = dict[int, list[tuple[str, int]]]  # for each number of rows, the axes and units where it occurs


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Rows (indices, int64) to fit on and rows to test on, no person in both."""

    train: np.ndarray
    test: np.ndarray
    seed: int  # of the shuffle of people


def published_split(identities: ArrayLike, seed: int, train_fraction: float = 0.7) -> Split:
    """Splits people as the published protocol does; the same seed gives the same people.

    People are sorted by name and shuffled with NumPy's legacy generator; the first ⌊train_fraction · people⌋
    train, the others test. Rows follow person by person, people in the order in which they first appear.

    Args:
      identities: the person of each row, shape [n].
      seed: of the shuffle, from 0 to 2³² − 1.
      train_fraction: of people (not of rows), between 0 and 1.

    Raises:
      UserError: a side would have no people, or an argument is out of range.

    Equivalent: ``people = sorted(set(identities)); numpy.random.RandomState(seed).shuffle(people);
    people[:int(train_fraction * len(people))]``.

    References:
      Rubab, Tong, Ross, arXiv 2604.07282, 2026.
    """
    people, person = _people(identities)
    if not 0 < train_fraction < 1:
        raise UserError(f"the fraction of training people must lie between 0 and 1, got {train_fraction!r}.")
    order = legacy_generator(seed).permutation(len(people))
    trained = trained_people(len(people), train_fraction)
    if not 0 < trained < len(people):
        raise UserError(
            f"{len(people):,} people of whom {train_fraction:g} train leave one side without people; "
            "more people or another fraction are needed."
        )
    trains = np.zeros(len(people), bool)
    trains[order[:trained]] = True
    rows = person_by_person(person)
    side = trains[person[rows]]
    return Split(rows[side], rows[~side], int(seed))


def trained_people(people: int, train_fraction: float) -> int:
    """How many of so many people the published split trains on."""
    return int(train_fraction * people)


def without_people(identities: ArrayLike, others: ArrayLike) -> tuple[np.ndarray, int]:
    """Indices (int64) of the rows of people who are not among ``others``, and how many people are left out.

    Raises:
      UserError: fewer than two people are left.
    """
    sides = labels("identities", identities, *([others] if np.size(others) else []))  # pyright: ignore
    people, person = _people(sides[0])
    known = np.isin(people, sides[1:])
    if np.sum(~known) < 2:
        raise UserError(
            f"of {len(people):,} people {np.sum(known):,} have the name of one who is tested, which leaves fewer than "
            "two to fit on."
        )
    return np.flatnonzero(~known[person]), int(np.sum(known))


def identity_folds(identities: ArrayLike, folds: int, seed: int = 0) -> np.ndarray:
    """Assigns people to folds of about equally many rows.

    People are shuffled, then assigned in descending order of their rows, each to the fold with the fewest rows so
    far; no fold is empty. ``sklearn.model_selection.GroupKFold`` assigns in the same way, without a shuffle.

    Args:
      identities: the person of each row, shape [n].
      folds: how many, 2 or more.
      seed: of the shuffle, from 0 to 2³² − 1.

    Returns:
      The fold of each row, 0 to folds − 1, int32, shape [n].

    Raises:
      UserError: there are fewer people than folds, or an argument is out of range.
    """
    people, person = _people(identities)
    if folds < 2:
        raise UserError(f"cross-validation needs at least 2 folds, got {folds}.")
    if len(people) < folds:
        raise UserError(
            f"there are fewer people than folds: {len(people):,} people cannot fill {folds} folds with "
            "nobody in two of them; use fewer folds or more people."
        )
    counts = np.bincount(person)
    shuffled = legacy_generator(seed).permutation(len(people))
    largest_first = shuffled[np.argsort(-counts[shuffled], kind="stable")]
    fold_of_person = np.empty(len(people), np.int32)
    filled = [(0, fold) for fold in range(folds)]
    for index, rows in zip(largest_first.tolist(), counts[largest_first].tolist()):
        held, fold = filled[0]
        fold_of_person[index] = fold
        heapq.heapreplace(filled, (held + rows, fold))
    return fold_of_person[person]


def first_people(rows: np.ndarray, identities: np.ndarray, people: int) -> np.ndarray:
    """The rows, in their order, of the first ``people`` people among them.

    Args:
      rows: indices, shape [m].
      identities: of all rows, shape [n].
      people: how many.
    """
    _, first, person = np.unique(identities[rows], return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return rows[place[person] < people]


def limit_per_person(
    rows: ArrayLike, identities: ArrayLike, most: int, seed: int | None = None
) -> np.ndarray:
    """The row indices (int64) that remain, in their order, where each person has at most ``most``.

    Args:
      rows: row indices, shape [m].
      identities: the person of every row of the data set (not only of ``rows``), shape [n].
      most: rows of each person, 1 or more.
      seed: None keeps the first rows of each person; a number keeps rows chosen at random.

    Raises:
      UserError: ``most`` is below 1, or an index is out of range.
    """
    rows = np.asarray(rows, np.int64).reshape(-1)
    _, person = _people(identities)
    if most < 1:
        raise UserError(f"the largest number of rows per person must be 1 or more, got {most}.")
    outside = rows[(rows < 0) | (rows >= len(person))]
    if len(outside):
        raise UserError(f"row numbers must lie from 0 to {len(person) - 1:,}, got {outside[0]}.")
    preference = np.arange(len(rows)) if seed is None else legacy_generator(seed).permutation(len(rows))
    order = np.lexsort((preference, person[rows]))
    grouped = person[rows][order]
    position = np.arange(len(rows)) - np.searchsorted(grouped, grouped)
    return rows[np.sort(order[position < most])]


def require_repeated_identities(identities: ArrayLike, where: str = "the data set") -> None:
    """Raises a ``UserError`` that begins with ``where`` if every person has one image: nothing is genuine then."""
    people, person = _people(identities)
    if len(people) == len(person):
        raise UserError(
            f"{where}: each of the {len(people):,} people has one image, so there is no genuine comparison; "
            "check the column 'identity'."
        )


def person_by_person(person: np.ndarray) -> np.ndarray:
    """Row indices grouped by person, people in order of first appearance, rows of one person ascending."""
    _, first, inverse = np.unique(person, return_index=True, return_inverse=True)
    return np.argsort(first[inverse], kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingGrowth:
    """Training rows in the order in which they are added."""

    rows: np.ndarray  # indices, shape [n]
    ends: np.ndarray  # rows that the first k units (people or rows) have, for k = 1 ... units, shape [units]

    @classmethod
    def by_people(cls, identities: np.ndarray, split: Split) -> "TrainingGrowth":
        """People in the order in which ``published_split`` trains on them, so that smaller training sets nest."""
        people, person = _people(identities)
        rank = np.argsort(legacy_generator(split.seed).permutation(len(people)))[person[split.train]]
        order = np.argsort(rank, kind="stable")
        return cls(split.train[order], np.flatnonzero(np.diff(rank[order], append=-1)) + 1)

    @classmethod
    def by_rows(cls, split: Split) -> "TrainingGrowth":
        """Photographs of all training people, in random order."""
        rows = np.random.default_rng(split.seed).permutation(split.train)
        return cls(rows, np.arange(1, len(rows) + 1))

    def sizes(self, units: Sequence[int]) -> list[int]:
        """The number of rows of each number of units; raises a ``UserError`` for less than two, or more than all."""
        most = len(self.ends)
        wrong = [number for number in units if not 2 <= number <= most]
        if wrong:
            raise UserError(f"a training size of {wrong[-1]:,} is asked for; there are 2 to {most:,}.")
        return [int(self.ends[number - 1]) for number in units]


def distinct(
    axes: Iterable[tuple[str, TrainingGrowth, Sequence[int]]],
) -> list[tuple[TrainingGrowth, Places]]:
    """Training sets along several axes (name, growth, numbers of units), each set of rows once.

    For each axis come the sizes of sets that no earlier axis has, and where they occur on this axis and on later ones.
    """
    found: list[tuple[TrainingGrowth, Places]] = []
    known: dict[bytes, list[tuple[str, int]]] = {}
    for axis, growth, units in axes:
        found.append((growth, {}))
        for unit, size in zip(units, growth.sizes(units)):
            rows = hashlib.sha256(np.sort(growth.rows[:size]).tobytes()).digest()
            if rows not in known:
                known[rows] = found[-1][1].setdefault(size, [])
            known[rows].append((axis, unit))
    return found


def _people(identities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The people sorted by name, and the index of each row's person among them."""
    people, person = np.unique(labels("identities", identities)[0], return_inverse=True)  # pyright: ignore
    return people, person.astype(np.int64)


def legacy_generator(seed: int) -> np.random.RandomState:
    """NumPy's legacy generator: its stream never changes between versions."""
    if not 0 <= seed < 2**32:
        raise UserError(f"a seed must be a whole number from 0 to 4294967295, got {seed!r}.")
    return np.random.RandomState(seed)
