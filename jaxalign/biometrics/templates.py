"""Galleries with one row for each person: the first image, or one template pooled from all of them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.inputs import checked
from jaxalign.biometrics.plan import EvaluationPlan
from jaxalign.core.checks import array_of
from jaxalign.core.errors import UserError
from jaxalign.core.names import labels
from jaxalign.core.rows import LazyRows, unit_rows

ROWS_AT_ONCE = 1 << 14
OfPairs = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # scores of rows [n, d] with rows [n, d], float64, [n]


def first_rows(identities: Sequence | np.ndarray) -> np.ndarray:
    """Row numbers of each person's first row, in order of first appearance."""
    return np.sort(np.unique(labels("identities", identities)[0], return_index=True)[1])


def pooled(
    rows: ArrayLike | LazyRows, identities: Sequence | np.ndarray, weights: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One template for each person: the mean of the person's L2-normalised rows, weighted where weights are given.

    Args:
      rows: embeddings, shape [n, d].
      identities: one for each row: text or numbers.
      weights: of the rows, 0 or more, shape [n], such as ``1 - cohort.nearness(rows, "gallery")``; None for equal ones.

    Returns:
      The templates, shape [people, d], float64 where ``rows`` is, float32 otherwise, and their identities,
      in order of first appearance.

    Raises:
      UserError: rows that are no array of numbers, or identities that are missing, mixed, more or fewer; weights of
        another shape, below 0 or not finite, or 0 for all rows of a person.
    """
    given, people = checked(rows, "rows"), labels("identities", identities)[0]
    if len(people) != len(given):
        raise UserError(f"pooled: expected one identity for each of {len(given)} rows, got {len(people)}")
    first, person = _people(people)
    if weights is None:
        return _template_sums(given, person) / np.bincount(person)[:, None], people[first]
    each = array_of(weights, "weights")
    numbers = each.dtype.kind in "iuf" and each.shape == (len(given),)
    if not numbers or not np.isfinite(each).all() or not (each >= 0).all():
        raise UserError(f"weights: expected a finite number of 0 or more for each of {len(given)} rows")
    each = each.astype(np.float64)
    totals = np.bincount(person, each)
    if not totals.all():
        raise UserError(f"weights: all rows of {str(people[first][np.argmin(totals)])!r} have the weight 0")
    return _template_sums(given, person, each) / totals[:, None], people[first]


@dataclasses.dataclass(frozen=True)
class SearchedGallery:
    """The gallery that is searched, and who is who among the probes and its rows.

    Where images were pooled, ``pooled`` has the template of each image, shape [images], for each probe the same image,
    −1 for none, shape [n], and for each image its first copy, shape [images].
    """

    rows: LazyRows  # images or templates, shape [m, d]
    plan: EvaluationPlan
    images: LazyRows  # what was given, shape [images, d]
    pooled: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(
        cls,
        gallery: ArrayLike | LazyRows,
        probes: Sequence | np.ndarray | EvaluationPlan,
        identities: Sequence | np.ndarray | None,
        own: ArrayLike | None,
        templates: str,
        copies: Sequence | np.ndarray | None = None,
    ) -> "SearchedGallery":
        """All rows, the first of each person, or one pooled template for each person; see ``evaluate``."""
        if templates not in ("all", "first", "pooled"):
            raise UserError(f"templates: expected 'all', 'first' or 'pooled', got {templates!r}")
        if not isinstance(probes, EvaluationPlan):
            plan = EvaluationPlan.of(probes, identities, own=own, images=copies)
        elif identities is None and own is None and copies is None and templates == "all":
            plan = probes
        else:
            raise UserError(
                "an EvaluationPlan has gallery_identities, own and images; templates need identities"
            )
        images = checked(gallery, "gallery", plan.gallery)
        if templates == "all":
            return cls(images, plan, images)
        codes = plan.gallery_codes
        chosen, person = _people(codes)
        place = np.full(len(codes) + 1, -1)  # the last one stands for −1, no same image
        if templates == "first":
            place[chosen] = np.arange(len(chosen))
            rows, groups = images.select(chosen), None
        else:
            place[:-1] = person
            rows, groups = LazyRows.of(pooled(images, codes)[0]), (person, plan.own, plan.image)
        searched = EvaluationPlan.of(plan.probe_codes, codes[chosen], own=place[plan.own])
        return cls(rows, searched, images, groups)

    def leave_one_out_scores(self, probes: LazyRows, score: OfPairs) -> np.ndarray | None:
        """Score of each probe [n, d] with the template of the person's other images, float64, shape [n].

        All copies of the probe's image are left out of the template.

        NaN where the same image or any other is missing; None where nothing was pooled.
        """
        if self.pooled is None:
            return None
        template_of, own_image, first_copy = self.pooled
        sums, size = _template_sums(self.images, template_of), np.bincount(template_of)
        copies = np.bincount(first_copy, minlength=len(first_copy))
        scores = np.full(len(probes), np.nan)
        there = np.flatnonzero((own_image >= 0) & (size[template_of[own_image]] > copies[own_image]))
        by_image = np.argsort(first_copy, kind="stable")
        first_of = np.cumsum(copies) - copies  # of each image's copies in ``by_image``
        for start in range(0, len(there), ROWS_AT_ONCE):
            some = there[start : start + ROWS_AT_ONCE]
            images = own_image[some]
            others = sums[template_of[images]]
            for number in range(copies[images].max()):
                more = np.flatnonzero(copies[images] > number)
                others[more] -= _unit(self.images.take(by_image[first_of[images[more]] + number]))
            scores[some] = score(probes.take(some), others)
        return scores


def _people(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each person and each row's person number, both in order of first appearance."""
    _, index, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(index), np.int64)
    rank[np.argsort(index)] = np.arange(len(index))
    return np.sort(index), rank[inverse]


def _template_sums(rows: LazyRows, template_of: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Sums of the unit rows of each template, times its weight if given; float64 or float32, shape [templates, d]."""
    order = np.argsort(template_of, kind="stable")
    bounds = np.append(0, np.cumsum(np.bincount(template_of)))
    sums = np.empty((len(bounds) - 1, rows.width), np.float64 if rows.dtype == np.float64 else np.float32)
    first = 0
    while first < len(sums):
        last = int(np.searchsorted(bounds, bounds[first] + ROWS_AT_ONCE, "right")) - 1
        last = max(last, first + 1)
        some = order[bounds[first] : bounds[last]]
        here = _unit(rows.take(some))
        if weights is not None:
            here = here * weights[some, None].astype(here.dtype)
        sums[first:last] = np.add.reduceat(here, bounds[first:last] - bounds[first], axis=0)
        first = last
    return sums


def cosines_of_pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The cosine of each row with the row beside it, float64, shape [n]."""
    return np.einsum("nd,nd->n", _unit(left), _unit(right), dtype=np.float64)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 (zero rows stay zero): float64 where ``rows`` is, float32 otherwise."""
    return unit_rows(rows).astype(np.float64 if rows.dtype == np.float64 else np.float32)
