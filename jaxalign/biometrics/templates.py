"""Galleries with one row for each person: the first image, or one template pooled from all of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.identification import CUT, Identification, shares
from jaxalign.biometrics.inputs import checked
from jaxalign.biometrics.plan import EvaluationPlan
from jaxalign.biometrics.scores import Scored, Scorer
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows

ROWS_AT_ONCE = 1 << 14


def first_rows(identities: Sequence | np.ndarray) -> np.ndarray:
    """Row numbers of each person's first row, in order of first appearance."""
    return np.sort(np.unique(np.asarray(identities), return_index=True)[1])


def pooled(rows: ArrayLike | LazyRows, identities: Sequence | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One template for each person: the mean of the person's L2-normalised rows.

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
    return _template_sums(LazyRows.of(given), person) / np.bincount(person)[:, None], labels[first]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The gallery that is searched.

    Attributes:
      rows: images or templates, shape [m, d].
      identities: of these, None where they are the probes'.
      own: the row that holds the same image as each probe; None for the default.
      images: what was pooled, shape [images, d], and ``template_of`` each, shape [images], and ``own_image``, the same
        image as each probe among them, shape [n]; None where nothing was pooled.
    """

    rows: ArrayLike | LazyRows
    identities: Sequence | np.ndarray | None
    own: ArrayLike | None
    images: LazyRows | None = None
    template_of: np.ndarray | None = None
    own_image: np.ndarray | None = None

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
        own_image = EvaluationPlan.of(probe_identities, gallery_identities, own=own).own  # checked there
        chosen, person = _people(labels)
        place = np.full(len(labels) + 1, -1)  # the last one stands for −1, no same image
        if templates == "first":
            place[chosen] = np.arange(len(chosen))
            return cls(array.select(chosen), labels[chosen], place[own_image])
        place[:-1] = person
        return cls(pooled(array, labels)[0], labels[chosen], place[own_image], array, person, own_image)

    def leave_one_out_scores(self, probes: LazyRows) -> np.ndarray | None:
        """Cosine of each probe with the template of the person's other images.

        Args:
          probes: shape [n, d].

        Returns:
          float64, shape [n]; NaN where the same image or any other is missing; None where nothing was pooled.
        """
        if self.images is None or self.template_of is None or self.own_image is None:
            return None
        sums, size = _template_sums(self.images, self.template_of), np.bincount(self.template_of)
        scores = np.full(len(probes), np.nan)
        there = np.flatnonzero((self.own_image >= 0) & (size[self.template_of[self.own_image]] > 1))
        for start in range(0, len(there), ROWS_AT_ONCE):
            some = there[start : start + ROWS_AT_ONCE]
            images = self.own_image[some]
            others = sums[self.template_of[images]] - _unit(self.images.take(images))
            scores[some] = np.sum(_unit(probes.take(some)) * _unit(others), axis=1, dtype=np.float64)
        return scores


def identification_without_own(
    scorer: Scorer, scored: Scored, scores: np.ndarray, *, ranks: Sequence[int], cmc: int
) -> Identification:
    """Each probe's rank where the same image is left out of its template; the other templates stay as they are.

    Args:
      scorer, scored: the passes over the pooled templates.
      scores: from ``Gallery.leave_one_out_scores``. Probes without a score are left out if their image is the whole
        template, and keep their rank if it is not in the template.
      ranks, cmc: as in ``evaluate``.
    """
    plan = scorer.plan
    above = np.full(plan.probes, -1)
    strangers = plan.genuine_probe[~plan.genuine_own]
    above[strangers] = scored.above[~plan.genuine_own] - 1  # without the person's template
    without = ~np.isnan(scores)
    above[without] = 0
    limits = scores.astype(scored.genuine_scores.dtype)
    for rows, columns, found in scorer.strips(scored):
        impostor = plan.probe_codes[rows][:, None] != plan.gallery_codes[columns]
        above[rows] += np.sum((found >= limits[rows, None]) & impostor, axis=1)
    probe = np.flatnonzero(above >= 0)
    rank = 1 + above[probe]
    precision = 1 / rank
    cut = np.where(rank <= CUT, precision, np.nan)
    return Identification(probe, rank, precision, cut, *shares(rank, ranks, cmc))


def _people(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each person and each row's person number, both in order of first appearance."""
    _, index, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(index), np.int64)
    rank[np.argsort(index)] = np.arange(len(index))
    return np.sort(index), rank[inverse]


def _template_sums(rows: LazyRows, template_of: np.ndarray) -> np.ndarray:
    """Sums of the unit rows of each template, float64 or float32, shape [templates, d]; some are read at a time."""
    order = np.argsort(template_of, kind="stable")
    bounds = np.append(0, np.cumsum(np.bincount(template_of)))
    sums = np.empty((len(bounds) - 1, rows.width), np.float64 if rows.dtype == np.float64 else np.float32)
    first = 0
    while first < len(sums):
        last = int(np.searchsorted(bounds, bounds[first] + ROWS_AT_ONCE, "right")) - 1
        last = max(last, first + 1)
        here = _unit(rows.take(order[bounds[first] : bounds[last]]))
        sums[first:last] = np.add.reduceat(here, bounds[first:last] - bounds[first], axis=0)
        first = last
    return sums


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 (zero rows stay zero): float64 where ``rows`` is, float32 otherwise."""
    values = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)
