"""Galleries with one row a person: the first photograph, or one template pooled from all of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.layout import EvaluationPlan
from jaxalign.biometrics.leave_one_out import leave_one_out_scores
from jaxalign.biometrics.rows import checked
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


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The gallery that is searched.

    Attributes:
      rows: photographs or templates, shape [m, d].
      identities: of these, None where they are the probes'.
      own: the row that holds each probe's own photograph; None for the default.
      photographs: what was pooled, shape [photographs, d], and ``template_of`` each, shape [photographs], and
        ``own_photograph``, each probe's among them, shape [n]; None where nothing was.
    """

    rows: ArrayLike
    identities: Sequence | np.ndarray | None
    own: ArrayLike | None
    photographs: np.ndarray | None = None
    template_of: np.ndarray | None = None
    own_photograph: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        gallery: ArrayLike,
        probe_identities: Sequence | np.ndarray,
        gallery_identities: Sequence | np.ndarray | None,
        own: ArrayLike | None,
        templates: str,
    ) -> "Gallery":
        """All rows, the first of each person, or one pooled template for each person; see ``evaluate``."""
        if templates == "all":
            return cls(gallery, gallery_identities, own)
        if templates not in ("first", "pooled"):
            raise UserError(f"templates: expected 'all', 'first' or 'pooled', got {templates!r}")
        labels = np.asarray(probe_identities if gallery_identities is None else gallery_identities)
        array = checked(gallery, "gallery", len(labels))
        # The plan checks the probes' own photographs among all rows; here its numbering only changes.
        photographs = EvaluationPlan.of(probe_identities, gallery_identities, own=own).own
        chosen, person = _people(labels)
        place = np.full(len(labels) + 1, -1)  # the last one stands for −1, no own photograph
        if templates == "first":
            place[chosen] = np.arange(len(chosen))
            return cls(array[chosen], labels[chosen], place[photographs])
        place[:-1] = person
        return cls(pooled(array, labels)[0], labels[chosen], place[photographs], array, person, photographs)

    def left_out(self, probes: np.ndarray) -> np.ndarray | None:
        """Scores of the probes with their templates without their own photographs; None where nothing was pooled."""
        if self.photographs is None or self.template_of is None or self.own_photograph is None:
            return None
        return leave_one_out_scores(probes, self.photographs, self.template_of, self.own_photograph)
