"""Galleries with one row a person: the first photograph, or one template pooled from all of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.layout import EvaluationPlan
from jaxalign.biometrics.leave_one_out import leave_one_out_scores, template_sums
from jaxalign.biometrics.rows import checked
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows


def first_rows(identities: Sequence | np.ndarray) -> np.ndarray:
    """Row numbers of each person's first row, in order of first appearance."""
    return np.sort(np.unique(np.asarray(identities), return_index=True)[1])


def pooled(rows: ArrayLike | LazyRows, identities: Sequence | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    labels, given = np.asarray(identities), rows if isinstance(rows, LazyRows) else np.asarray(rows)
    if given.ndim != 2 or labels.shape != given.shape[:1]:
        raise UserError(
            f"pooled: expected rows of shape [n, width] and n identities, got {given.shape} and {labels.shape}"
        )
    first, person = _people(labels)
    return template_sums(LazyRows.of(given), person) / np.bincount(person)[:, None], labels[first]


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

    rows: ArrayLike | LazyRows
    identities: Sequence | np.ndarray | None
    own: ArrayLike | None
    photographs: LazyRows | None = None
    template_of: np.ndarray | None = None
    own_photograph: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        gallery: ArrayLike | LazyRows,
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
            return cls(array.select(chosen), labels[chosen], place[photographs])
        place[:-1] = person
        return cls(pooled(array, labels)[0], labels[chosen], place[photographs], array, person, photographs)

    def left_out(self, probes: LazyRows) -> np.ndarray | None:
        """Scores of the probes with their templates without their own photographs; None where nothing was pooled."""
        if self.photographs is None or self.template_of is None or self.own_photograph is None:
            return None
        return leave_one_out_scores(probes, self.photographs, self.template_of, self.own_photograph)
