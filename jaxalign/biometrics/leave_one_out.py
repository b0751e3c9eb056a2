"""A pooled template without the probe's own photograph: the mean of the person's other photographs."""

import numpy as np

from jaxalign.biometrics.counting import Counter, Scored
from jaxalign.biometrics.identification import CUT, Identification, shares
from jaxalign.core.rows import LazyRows

ROWS_AT_ONCE = 1 << 14


def template_sums(rows: LazyRows, template_of: np.ndarray) -> np.ndarray:
    """Sums of the rows of each template, scaled to length 1 before, shape [templates, d]; read some at a time.

    Args:
      rows: shape [n, d].
      template_of: of each row, 0 ... templates − 1, none without rows, shape [n].

    Returns:
      float64 where ``rows`` is, float32 otherwise.
    """
    order = np.argsort(template_of, kind="stable")
    bounds = np.append(0, np.cumsum(np.bincount(template_of)))
    sums = np.empty((len(bounds) - 1, rows.width), np.float64 if rows.dtype == np.float64 else np.float32)
    first = 0
    while first < len(sums):
        last = int(np.searchsorted(bounds, bounds[first] + ROWS_AT_ONCE, "right")) - 1
        last = max(last, first + 1)
        here = unit(rows.take(order[bounds[first] : bounds[last]]))
        sums[first:last] = np.add.reduceat(here, bounds[first:last] - bounds[first], axis=0)
        first = last
    return sums


def leave_one_out_scores(
    probes: LazyRows, gallery: LazyRows, template_of: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """Cosine of each probe with its person's template from the other photographs.

    Args:
      probes: shape [n, d].
      gallery: the photographs that were pooled, shape [m, d].
      template_of: number of each photograph's template, shape [m].
      own: each probe's own photograph among them, −1 for none, shape [n].

    Returns:
      float64, shape [n]; NaN where there is no own photograph, or no other.
    """
    sums, size = template_sums(gallery, template_of), np.bincount(template_of)
    scores = np.full(len(probes), np.nan)
    there = np.flatnonzero((own >= 0) & (size[template_of[own]] > 1))
    for start in range(0, len(there), ROWS_AT_ONCE):
        some = there[start : start + ROWS_AT_ONCE]
        others = sums[template_of[own[some]]] - unit(gallery.take(own[some]))
        scores[some] = np.sum(unit(probes.take(some)) * unit(others), axis=1, dtype=np.float64)
    return scores


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 (zero rows stay zero): float64 where ``rows`` is, float32 otherwise."""
    values = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def identification_without_own(
    counter: Counter, scored: Scored, scores: np.ndarray, *, ranks, cmc: int
) -> Identification:
    """Each probe's rank with its own photograph left out of its template; the other templates stay as they are.

    Args:
      counter, scored: the pass over the pooled templates.
      scores: from ``leave_one_out_scores``; probes without one are those whose photograph is their template,
        or who have none there: the former are no probes, the latter keep their rank.
      ranks, cmc: as in ``evaluate``.
    """
    plan = counter.plan
    template = np.full(plan.probes, np.nan, scored.dtype)
    template[plan.genuine_probe] = scored.genuine_scores
    mated = np.full(plan.probes, np.nan, scored.dtype)
    without = np.flatnonzero(~np.isnan(scores))
    mated[without] = scores[without]
    strangers = plan.genuine_probe[~plan.genuine_own]
    mated[strangers] = template[strangers]
    above = counter.at_least(scored, mated)
    above -= template >= mated  # the probe's own template is counted wherever it stands
    probe = np.flatnonzero(~np.isnan(mated))
    rank = 1 + above[probe]
    precision = 1 / rank
    return Identification(
        probe, rank, precision, np.where(rank <= CUT, precision, np.nan), *shares(rank, ranks, cmc)
    )
