"""Galleries with one row a person: the first photograph, or one template pooled from all of them."""

from collections.abc import Sequence

import numpy as np

from jaxalign.errors import UserError


def first_rows(identities: Sequence | np.ndarray) -> np.ndarray:
    """Row numbers of each person's first row, in order of first appearance."""
    return np.sort(np.unique(np.asarray(identities), return_index=True)[1])


def pooled(rows: np.ndarray, identities: Sequence | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One template a person: the mean of the person's L2-normalised rows.

    Args:
      rows: embeddings, shape [n, d].
      identities: one for each row.

    Returns:
      The templates, shape [people, d], float64 where ``rows`` is, float32 otherwise, and their identities,
      in order of first appearance.

    Raises:
      UserError: ``rows`` and ``identities`` differ in length.
    """
    rows, labels = np.asarray(rows), np.asarray(identities)
    if rows.ndim != 2 or labels.shape != (len(rows),):
        raise UserError(
            f"pooled: expected rows of shape [n, width] and n identities, got {rows.shape} and {labels.shape}"
        )
    values = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(length > 0, length, 1)
    first, person = _people(labels)
    order = np.argsort(person, kind="stable")
    starts = np.flatnonzero(np.diff(person[order], prepend=-1))
    sums = np.add.reduceat(unit[order], starts, axis=0)
    return sums / np.bincount(person)[:, None], labels[first]


def _people(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each person and each row's person number, both in order of first appearance."""
    _, index, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(index), np.int64)
    rank[np.argsort(index)] = np.arange(len(index))
    return np.sort(index), rank[inverse]
