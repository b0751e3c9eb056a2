"""Maps against themselves: fitted on two halves of the people, gone there and back, gone round by a third encoder.

Each number is a function of sums over test rows (``MEASURES``), so that resampled people are weighted sums.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jaxalign.align.pairwise import Pair, PairwiseMaps
from jaxalign.align.solvers import Fit
from jaxalign.analysis.agreement import agreement_of_sums, compare_scores, row_differences
from jaxalign.core.devices import concurrently, spare_workers


class Apart(NamedTuple):
    """What one number of a pair is made of.

    Attributes:
      pair: source and target.
      measure: a name in ``MEASURES``.
      via: the third encoder of "three_way"; "" elsewhere.
      rows: two numbers of each test row, shape [n, 2]; ``MEASURES[measure]`` of their sums is the result.
    """

    pair: Pair
    measure: str
    via: str
    rows: Float[np.ndarray, "n 2"]


def ratio_of_sums(sums: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape"]:
    """A mean, from the sum of values and their number."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "map_agreement": agreement_of_sums,
    "score_agreement": ratio_of_sums,
    "ranking_agreement": ratio_of_sums,
    "round_trip": agreement_of_sums,
    "three_way": agreement_of_sums,
}


def between(one: PairwiseMaps, other: PairwiseMaps, tested: Mapping[str, np.ndarray]) -> Iterator[Apart]:
    """Agreement of two fits of every pair.

    "map_agreement": of the images of rows in the target's coordinates, see ``row_differences``. "score_agreement" and
    "ranking_agreement": Pearson's and Spearman's correlation of each probe's scores, see ``compare_scores``.

    Args:
      one, other: maps of the same pairs.
      tested: test rows of every encoder, shape [n, d].
    """

    def compare(pair: Pair) -> list[Apart]:
        fits = one[pair], other[pair]
        rows, gallery = (tested[name] for name in pair)
        sides = [(fit.source(rows), fit.target(gallery)) for fit in fits]
        images = [np.asarray(_image(fit, rows, side[0])) for fit, side in zip(fits, sides)]
        center = np.mean([image.mean(axis=0, dtype=np.float64) for image in images], axis=0)
        apart = row_differences(images[0], images[1], center)
        scores, rankings = compare_scores(sides[0], sides[1])
        ones = np.ones(len(rows))
        return [
            Apart(pair, "map_agreement", "", apart),
            Apart(pair, "score_agreement", "", np.stack([scores, ones], axis=1)),
            Apart(pair, "ranking_agreement", "", np.stack([rankings, ones], axis=1)),
        ]

    spare = spare_workers(max(len(rows) for rows in tested.values()) ** 2)
    for found in concurrently(compare, list(one), spare=spare):
        yield from found


def _image(fit: Fit, rows: np.ndarray, mapped: Array) -> Array:
    """Rows in the target's coordinates; where the target is only shifted, mapped rows are shifted back."""
    return fit.to_target()(rows) if fit.two_sided else fit.target.inverse()(mapped)


def around(maps: PairwiseMaps, tested: Mapping[str, np.ndarray]) -> Iterator[Apart]:
    """Round trips A → B → A against the rows, and A → B → C against A → C for every B between, where maps are there.

    Args:
      maps: of several pairs, in the targets' coordinates.
      tested: test rows of every encoder, shape [n, d].
    """
    to = dict(zip(maps, concurrently(lambda pair: maps[pair].to_target(), list(maps))))
    names = list(dict.fromkeys(name for pair in maps for name in pair))

    def from_source(source: str) -> list[Apart]:
        rows = tested[source]
        image = {target: np.asarray(to[source, target](rows)) for target in names if (source, target) in to}
        found = []
        for target, direct in image.items():
            center = direct.mean(axis=0)
            if (target, source) in to:
                back = np.asarray(to[target, source](direct))
                apart = row_differences(rows, back, rows.mean(axis=0))
                found.append(Apart((source, target), "round_trip", "", apart))
            for via in image:
                if (via, target) in to:
                    there = np.asarray(to[via, target](image[via]))
                    apart = row_differences(there, direct, center)
                    found.append(Apart((source, target), "three_way", via, apart))
        return found

    for found in concurrently(from_source, names):
        yield from found
