"""Re-identification: a leaked database without names is searched with public photographs of people who may be in it.

The leaked rows are of network A, the photographs go through network B, a map joins both. Rates are those of galleries
of N people drawn from all enrolled ones, in expectation over every such gallery: each size is of the same people, and
no draw adds noise. What is said of more people than are enrolled is extrapolated.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.biometrics import ParetoTail, Sampled
from jaxalign.biometrics.gallery_size import LEAST_EXCESSES, SHARE
from jaxalign.biometrics.open_set import LEAST_FALSE_POSITIVES
from jaxalign.core.errors import UserError
from jaxalign.core.people import legacy_generator

THRESHOLDS = 400  # that are tried for a bounded FPIR
LEAST_FITTED = 3  # sizes for a log-linear model
TAIL, LEAST_TAIL = 0.01, 100  # share of the scores of strangers; at least so many, but no more than a tenth


class Sets(NamedTuple):
    """Photographs that are enrolled, one for each person, and those that search, of enrolled people and of others."""

    gallery: np.ndarray
    mated: np.ndarray
    non_mated: np.ndarray


def search_sets(person: np.ndarray, image: np.ndarray | None = None, seed: int = 0) -> Sets:
    """Enrols the first photograph of half of the people, at random; all other photographs search.

    Args:
      person: of each photograph, integers, shape [n].
      image: equal for copies of a photograph: those of an enrolled one do not search; None for no copies.
      seed: of the halves.

    Raises:
      UserError: nobody who is enrolled has another photograph, or nobody is left to be a stranger.
    """
    people, first = np.unique(person, return_index=True)
    chosen = legacy_generator(seed).permutation(len(people))[: len(people) // 2]
    gallery, enrolled = np.sort(first[chosen]), np.isin(person, people[chosen])
    images = np.arange(len(person)) if image is None else image
    left = ~np.isin(images, images[gallery])
    sets = Sets(gallery, np.flatnonzero(enrolled & left), np.flatnonzero(~enrolled & left))
    if not len(sets.mated) or not len(sets.non_mated):
        raise UserError(
            f"re-identification: of {len(people):,} people {len(chosen):,} are enrolled, with {len(sets.mated):,} "
            f"other photographs; {len(sets.non_mated):,} are of strangers; some of either are needed"
        )
    return sets


@dataclasses.dataclass(frozen=True, eq=False)
class Reidentification:
    """Searches of one leaked database.

    Attributes:
      sizes: numbers of enrolled people, ascending, shape [S].
      fpir: false positive identification rates asked for.
      rank1: the right person is the first candidate, of searches for enrolled people; one for each size.
      hits: for each FPIR, the right person is the first candidate and at or above the threshold that bounds the FPIR of
        a gallery of that size; NaN for an FPIR that has too few strangers.
      mate: the score of each search for an enrolled person with that person, shape [mated].
      tail: of the scores of strangers; None where there are too few.
      searches: by whether the person is enrolled.
    """

    sizes: tuple[int, ...]
    fpir: tuple[float, ...]
    rank1: tuple[Sampled, ...]
    hits: dict[float, tuple[Sampled, ...]]
    mate: np.ndarray
    tail: ParetoTail | None
    searches: tuple[int, int]


def reidentify(
    mated: ArrayLike,
    non_mated: ArrayLike,
    own: ArrayLike,
    sizes: Sequence[int],
    fpir: Sequence[float] = (0.01,),
    *,
    people: tuple[np.ndarray, np.ndarray] | None = None,
    weights: np.ndarray | None = None,
) -> Reidentification:
    """Measures searches against the size of the gallery.

    A search whose mate is beaten or tied by k of the M − 1 others finds it first in a gallery of its mate and N − 1
    others with the probability C(M − 1 − k, N − 1) / C(M − 1, N − 1); a stranger who matches f of M people raises a
    false alarm in one of N people with 1 − C(M − f, N) / C(M, N).

    Args:
      mated: scores of searches for enrolled people with all enrolled, shape [mated, M].
      non_mated: those of searches for others, shape [non-mated, M].
      own: the column of the mate of each search, shape [mated].
      sizes: numbers of people N, ascending, each from 2 to M.
      fpir: rates; the smallest threshold of some hundred that does not exceed each is taken.
      people: the index of the person of each mated and of each non-mated search, for intervals.
      weights: how often each person is drawn in each resample, shape [resamples, people]. Thresholds are found anew.

    Raises:
      UserError: sizes outside 2 to M or not ascending.
    """
    scores, strangers, column = np.asarray(mated), np.asarray(non_mated), np.asarray(own)
    enrolled = scores.shape[1]
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 2 or sizes[-1] > enrolled:
        raise UserError(f"sizes: expected rising numbers of people from 2 to {enrolled:,}, got {list(sizes)}")
    mate = scores[np.arange(len(scores)), column]
    beaten = (scores >= mate[:, None]).sum(axis=1) - 1
    ascending = np.sort(strangers, axis=1)
    falling = np.sort(ascending, axis=None)[::-1]
    at = np.geomspace(1, len(falling), THRESHOLDS).astype(np.int64) - 1
    thresholds = np.nextafter(np.append(falling[np.unique(at)], -np.inf), np.inf)
    matched = np.stack([enrolled - np.searchsorted(row, thresholds) for row in ascending])
    weights = np.zeros((0, 1)) if weights is None else np.asarray(weights, np.float64)
    drawn = [np.ones((1, len(side))) for side in (scores, strangers)]
    if people is not None:
        drawn = [np.concatenate([one, weights[:, of]]) for one, of in zip(drawn, people, strict=True)]
    left_out = [_left_out(enrolled - 1, size - 1) for size in sizes]
    rank1, hits = [], {rate: [] for rate in fpir}
    for size, none_above in zip(sizes, left_out, strict=True):
        first = none_above[beaten]
        rank1.append(_sampled(_mean(first[:, None], drawn[0])[:, 0]))
        alarms = _mean(1 - _left_out(enrolled, size)[matched], drawn[1])
        found = _mean(first[:, None] * (mate[:, None] >= thresholds), drawn[0])
        for rate in fpir:
            # Thresholds fall, so the last that keeps to the rate is the smallest; the first lies above all strangers.
            last = (alarms <= rate).sum(axis=1) - 1
            hit = np.where(last >= 0, np.take_along_axis(found, np.maximum(last, 0)[:, None], 1)[:, 0], 0)
            few = rate * len(strangers) < LEAST_FALSE_POSITIVES
            hits[rate].append(_sampled(np.full_like(hit, np.nan) if few else hit))
    number, tail = int(max(TAIL * len(falling), min(LEAST_TAIL, SHARE * len(falling)))), None
    above = falling[falling > falling[number]]
    if len(above) >= LEAST_EXCESSES:
        tail = ParetoTail.of(above, len(falling), float(falling[number]), enrolled)
    counts = len(scores), len(strangers)
    of_rates = {rate: tuple(values) for rate, values in hits.items()}
    return Reidentification(tuple(sizes), tuple(fpir), tuple(rank1), of_rates, mate, tail, counts)


def _left_out(others: int, drawn: int) -> np.ndarray:
    """P(none of k marked is among ``drawn`` of ``others``), for k = 0 ... others, shape [others + 1]."""
    share = np.ones(others + 1)
    # C(others − k, drawn) / C(others, drawn) is the product of (others − drawn − i) / (others − i) for i < k.
    i = np.arange(others)
    share[1:] = np.cumprod(np.maximum(others - drawn - i, 0) / (others - i))
    return share


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over searches [n, T] for weights [1 + resamples, n]."""
    with np.errstate(invalid="ignore"):
        return (weights @ values) / weights.sum(axis=1, keepdims=True)


def _sampled(values: np.ndarray) -> Sampled:
    return Sampled(float(values[0]), values[1:])


class Extrapolated(NamedTuple):
    """What a model says of a gallery that nobody has enrolled.

    Attributes:
      model: "log_linear" or "pareto".
      rank1, hits: the rates of ``Reidentification``; hits by FPIR.
      fitted_on: the sizes, or the one gallery, that the model was fitted on.
    """

    model: str
    size: int
    rank1: float
    hits: dict[float, float]
    fitted_on: tuple[int, ...]


def extrapolated(found: Reidentification, size: int = 1_000_000) -> list[Extrapolated]:
    """Rates of a gallery of ``size`` people, by two models that may differ widely.

    log_linear: a straight line in the logarithm of the size through all measured sizes, by least squares, within 0 and
    1. pareto: a generalised Pareto tail of the strangers' scores says how many of ``size`` people beat each mate, as if
    all probes were alike; NaN without a tail. Mates below the tail's start are lost there, as more strangers beat them
    than are enrolled.

    Raises:
      UserError: fewer than 3 measured sizes.
    """
    if len(found.sizes) < LEAST_FITTED:
        raise UserError(
            f"extrapolation: expected at least {LEAST_FITTED} measured sizes, got {list(found.sizes)}"
        )
    logs = np.log(found.sizes)

    def line(values: Sequence[Sampled]) -> float:
        slope, level = np.polyfit(logs, [value.estimate for value in values], 1)
        return float(np.clip(level + slope * np.log(size), 0, 1))

    straight = {
        rate: np.nan if np.isnan(values[0].estimate) else line(values) for rate, values in found.hits.items()
    }
    models = [Extrapolated("log_linear", size, line(found.rank1), straight, found.sizes)]
    tail = found.tail
    if tail is None:
        return [*models, Extrapolated("pareto", size, np.nan, dict.fromkeys(straight, np.nan), ())]
    above = np.maximum(found.mate, tail.start)
    first = np.exp((size - 1) * np.log1p(-tail.reached(above))) * (found.mate >= tail.start)
    hits = {}
    for rate, line_of in straight.items():
        kept = first * (found.mate >= float(tail.threshold(size, rate)))
        hits[rate] = np.nan if np.isnan(line_of) else float(kept.mean())
    assert tail.gallery is not None
    return [*models, Extrapolated("pareto", size, float(first.mean()), hits, (tail.gallery,))]
