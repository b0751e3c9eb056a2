"""How many calibration people are enough: what maps reach that are fitted on fewer of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxalign.biometrics.comparators import TOP
from jaxalign.core.people import legacy_generator
from jaxalign.gallery.choose import COSINE, CalibrationRows, Mover, Point
from jaxalign.gallery.comparisons import ComparedFold, Pooled, everyone, sampled
from jaxalign.moments.moments import nested_moments

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the training people


class Size(NamedTuple):
    """What a way reaches when it is fitted on so many people: mean over folds, and the interval over people."""

    people: int
    value: float
    low: float
    high: float


def people_curve(
    calibration: CalibrationRows, movers: Sequence[Mover], point: Point, resamples: int = 200
) -> Iterator[Size]:
    """What fewer calibration people reach: nested parts of each fold's training people, always the same comparisons.

    ``movers`` are those of each fold, fitted on all others; they are the last size. Sizes smaller than the cohort of
    the way's score takes are left out.
    """
    way, order = movers[0].way, legacy_generator(0).permutation(int(calibration.people.max()) + 1)
    found: dict[float, list[tuple[int, ComparedFold]]] = {share: [] for share in SHARES}
    for fold, last in enumerate(movers):
        train = np.flatnonzero(calibration.fold != fold)
        rows = train[np.argsort(order[calibration.people[train]], kind="stable")]
        ends = (
            np.flatnonzero(np.diff(order[calibration.people[rows]], append=-1)) + 1
        )  # of each person's rows
        people = [max(2, round(share * len(ends))) for share in SHARES]
        sizes = sorted({int(ends[number - 1]) for number in people[:-1]})
        arrays = {
            name: side.take(rows) for name, side in zip(calibration.names, (calibration.old, calibration.new))
        }
        fits = {
            size: calibration.fit(way.method, moments)
            for size, moments in zip(sizes, nested_moments(arrays, sizes))
        }
        for share, number in zip(SHARES, people):
            size = int(ends[number - 1])
            if way.score == COSINE or number >= TOP:
                mover = last if share == SHARES[-1] else Mover.of(way, fits[size], calibration, rows[:size])
                found[share].append((number, calibration.compare(fold, mover)))
    for several in (blocks for blocks in found.values() if len(blocks) == len(movers)):
        pooled = Pooled.of([block for _, block in several])
        hits = sampled(point.hits(pooled, everyone(len(pooled.rows_of), resamples)))
        yield Size(round(np.mean([number for number, _ in several])), hits.estimate, *hits.interval())
