"""What else a mapped template tells: attributes of a person or photograph, read by linear probes.

A probe is fitted on training people in the first network, in the second, and read across: rows of the first network are
mapped into the second one's coordinates and given to the second one's probe. Where that works, whoever holds a probe
for one network reads templates of another, of people nobody has labels for.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.core.checks import array_of
from jaxalign.core.errors import UserError
from jaxalign.core.rows import unit_rows
from jaxalign.data.readers.identity_files import Names, read_csv

RIDGE = 0.1  # the penalty of a probe, as a share of the mean eigenvalue of its Gram matrix
LEAST_EACH = 2  # training rows that a value of an attribute must have


class Probe(NamedTuple):
    """Ridge regression on one column for each value; the highest says which value it is.

    Attributes:
      values: of the attribute, sorted, text, shape [c].
      weights: shape [d, c].
      mean: of the training rows, shape [d].
      shares: of the values among training rows, shape [c].
    """

    values: np.ndarray
    weights: Float[np.ndarray, "d c"]
    mean: Float[np.ndarray, " d"]
    shares: Float[np.ndarray, " c"]

    @classmethod
    def fit(cls, rows: Float[np.ndarray, "n d"], labels: np.ndarray) -> Self:
        """Fits a probe.

        Args:
          rows: of training people; they are scaled to length 1.
          labels: the attribute's value on each row, shape [n].

        Equivalent: ``sklearn.linear_model.Ridge(alpha=RIDGE * trace / d)`` on the one-hot columns of the values, with
        the trace of the centred rows' Gram matrix: rows of some networks are nearly parallel.
        """
        values, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        unit, shares = unit_rows(rows), counts / counts.sum()
        mean = unit.mean(axis=0)
        wanted = np.eye(len(values))[place] - shares
        gram = (unit - mean).T @ (unit - mean)
        penalty = RIDGE * np.trace(gram) / len(gram)
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), (unit - mean).T @ wanted)
        return cls(values, weights, mean, shares)

    def read(self, rows: Float[np.ndarray, "n d"]) -> np.ndarray:
        """The value that each row is read to have, shape [n]."""
        return self.values[((unit_rows(rows) - self.mean) @ self.weights + self.shares).argmax(axis=1)]


def require_values(attribute: str, labels: np.ndarray) -> None:
    """Raises ``UserError`` for training labels of one value, or with a value on fewer than ``LEAST_EACH`` rows."""
    values, counts = np.unique(labels, return_counts=True)
    if len(values) < 2 or counts.min() < LEAST_EACH:
        few = f", {str(values[counts.argmin()])!r} on {counts.min():,}" if len(values) else ""
        raise UserError(
            f"attribute {attribute!r}: expected two values or more, each on {LEAST_EACH} training rows or more; got "
            f"{len(values):,}{few}"
        )


class Inversion(NamedTuple):
    """Which test rows a probe reads rightly.

    Attributes:
      attribute: its name.
      source: rows of the first network by its own probe, shape [n].
      target: rows of the second by its own probe.
      across: rows of the first, mapped, by the second network's probe.
      chance: the most frequent value of the training rows, said of every test row.
    """

    attribute: str
    source: Bool[np.ndarray, " n"]
    target: Bool[np.ndarray, " n"]
    across: Bool[np.ndarray, " n"]
    chance: Bool[np.ndarray, " n"]


def inversion(
    attribute: str,
    train: tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m k"], np.ndarray],
    test: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n k"], np.ndarray],
    mapped: Float[np.ndarray, "n k"],
) -> Inversion:
    """Reads an attribute in both networks and across.

    Args:
      attribute: its name.
      train: rows of both networks and labels, of training people.
      test: the same of other people.
      mapped: the test rows of the first network in the second one's own coordinates.

    Raises:
      UserError: the training labels do not allow a probe; the message names the attribute.
    """
    require_values(attribute, train[2])
    own, theirs = (Probe.fit(rows, train[2]) for rows in train[:2])
    read = [own.read(test[0]), theirs.read(test[1]), theirs.read(mapped)]
    read.append(np.broadcast_to(own.values[own.shares.argmax()], len(test[2])))
    return Inversion(attribute, *(values == test[2] for values in read))


def read_attributes(
    path: pathlib.Path, sample_ids: Sequence[str] | np.ndarray, sample_column: str | None = None
) -> tuple[Int[np.ndarray, " n"], dict[str, np.ndarray]]:
    """The attributes of a CSV file with a line for each photograph: its sample id and columns of values.

    Args:
      path: of the file; its first line names the columns.
      sample_ids: of the rows of a store.
      sample_column: which column holds the sample ids; by default one of the usual names.

    Returns:
      Indices of the rows that have a line, ascending, and for each column the values on these rows, as text.

    Raises:
      UserError: the file cannot be read, has no sample ids or no further column, names a sample twice or one that the
        store does not have, or leaves a value out.
    """
    found = read_csv(path, Names(identity="", sample_id=sample_column))
    columns = found.columns
    if found.sample_ids is None:
        raise UserError(f"{path}: expected a column sample_id, got {', '.join(columns) or 'none'}.")
    if not columns:
        raise UserError(f"{path}: expected columns of attributes beside the sample ids, got none.")
    order = {name: row for row, name in enumerate(np.asarray(sample_ids).tolist())}
    unknown = [name for name in found.sample_ids.tolist() if name not in order]
    if unknown:
        raise UserError(f"{path}: {len(unknown):,} samples are not in the store (first: {unknown[0]!r}).")
    rows = np.array([order[name] for name in found.sample_ids.tolist()], np.int64)
    if len(np.unique(rows)) < len(rows):
        names, counts = np.unique(found.sample_ids, return_counts=True)
        raise UserError(f"{path}: sample {str(names[counts > 1][0])!r} has two lines.")
    for name, values in columns.items():
        empty = np.flatnonzero(np.char.strip(values) == "")
        if len(empty):
            raise UserError(
                f"{path}: column {name!r} has no value for sample {found.sample_ids[empty[0]]!r}."
            )
    ascending = np.argsort(rows)
    return rows[ascending], {name: values[ascending] for name, values in columns.items()}


def above_median(traits: Mapping[str, Float[np.ndarray, " n"]]) -> dict[str, np.ndarray]:
    """Attributes of two values, "low" and "high", from numbers: whether each lies above the median of all.

    Args:
      traits: numbers by name, such as the traits of synthetic faces (``jaxalign.vision.faces.identities``).
    """
    found = {}
    for name, numbers in traits.items():
        values = array_of(numbers, name).astype(np.float64)
        found[name] = np.where(values > np.median(values), "high", "low")
    return found
