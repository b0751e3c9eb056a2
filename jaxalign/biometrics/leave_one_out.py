"""A pooled template without the probe's own photograph: the mean of the person's other photographs."""

import numpy as np

from jaxalign.biometrics.counting import Counter, Scored
from jaxalign.biometrics.identification import CUT, Identification, shares
from jaxalign.biometrics.sweep import count_at_least


def leave_one_out_scores(
    probes: np.ndarray, gallery: np.ndarray, template_of: np.ndarray, own: np.ndarray
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
    unit = gallery / _length(gallery)
    order = np.argsort(template_of, kind="stable")
    size = np.bincount(template_of)
    sums = np.add.reduceat(unit[order], np.cumsum(size) - size, axis=0)
    scores = np.full(len(probes), np.nan)
    there = np.flatnonzero((own >= 0) & (size[template_of[own]] > 1))
    left = probes[there] / _length(probes[there])
    others = sums[template_of[own[there]]] - unit[own[there]]
    scores[there] = np.sum(left * (others / _length(others)), axis=1, dtype=np.float64)
    return scores


def _length(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 0, length, 1)


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
    above = np.empty(plan.probes, np.int64)
    for number in range(len(plan.tables)):
        rows = plan.order[number * plan.segment : (number + 1) * plan.segment]
        limit = np.full(plan.segment, np.inf, scored.dtype)
        limit[: len(rows)] = np.where(np.isnan(mated[rows]), np.inf, mated[rows])
        shape = {"strip": plan.strip, "block": plan.block}
        found = count_at_least(
            counter.segment(number), counter.gallery, limit, counter.strips(number), **shape
        )
        above[rows] = np.asarray(found)[: len(rows)]
    above -= np.where(mated <= 0, plan.gallery_padded - plan.gallery, 0)
    above -= template >= mated  # the probe's own template is counted wherever it stands
    probe = np.flatnonzero(~np.isnan(mated))
    rank = 1 + above[probe]
    precision = 1 / rank
    return Identification(
        probe, rank, precision, np.where(rank <= CUT, precision, np.nan), *shares(rank, ranks, cmc)
    )
