"""Comparisons of people whom no map was fitted on, pooled over folds: their rates, with intervals over people.

Each fold has a map of its own, fitted on all other people, so rows are compared within their fold only. All folds share
one threshold: scores of maps that differ by a fifth of their people lie on one scale to within what resampling shows.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from jaxalign.biometrics import Sampled, fpir_growth
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES
from jaxalign.core.errors import UserError
from jaxalign.gallery.operating import native_curve

KEPT = 0.25  # of the impostor scores, the highest, which serve false match rates up to ``HIGHEST``
HIGHEST = 0.1
MOST_DRAWN = 20_000  # people of a measurement; with more of them its own chance no longer counts
AT_ONCE = 1 << 23  # numbers of resamples in memory
MOST_ON_CURVE = 1 << 20  # comparisons that a curve of native scores is fitted to


class ComparedFold(NamedTuple):
    """The rows of one fold: vectors whose inner products are scores, the same photographs row for row on both sides.

    Attributes:
      gallery, probes: shape [n, d].
      people: a number for each row's person, from 0, over all folds, shape [n].
      images: a number for each row's photograph, equal for copies, shape [n].
    """

    gallery: np.ndarray
    probes: np.ndarray
    people: np.ndarray
    images: np.ndarray

    def scores(self) -> np.ndarray:
        """Score of each gallery row (first axis) with each probe, shape [n, n], of the rows' type."""
        return self.gallery @ self.probes.T


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled:
    """Scores of all folds, falling, with the people that they are of.

    Attributes:
      blocks: the rows.
      rows_of: photographs of each person, and ``fold_of`` the person's fold, shape [people].
      genuine, genuine_person: scores of two photographs of one person, shape [g].
      genuine_probe: the probe of each, numbered over all folds, shape [g].
      genuine_row: the gallery row of each, likewise.
      impostor, impostor_people: the highest scores of two people, shapes [h] and [2, h].
      impostors: how many comparisons of two people there are.
    """

    blocks: Sequence[ComparedFold]
    rows_of: np.ndarray
    fold_of: np.ndarray
    genuine: np.ndarray
    genuine_person: np.ndarray
    genuine_probe: np.ndarray
    genuine_row: np.ndarray
    impostor: np.ndarray
    impostor_people: np.ndarray
    impostors: int

    @classmethod
    def of(cls, blocks: Sequence[ComparedFold]) -> Self:
        """Compares all rows of each fold; copies of one photograph are no comparison."""
        people = 1 + max(int(block.people.max()) for block in blocks)
        rows_of, fold_of = np.zeros(people, np.int64), np.zeros(people, np.int64)
        genuine, impostor, total, start = [], [], 0, 0
        for number, block in enumerate(blocks):
            rows_of += np.bincount(block.people, minlength=people)
            fold_of[block.people] = number
            scores, person = block.scores(), block.people
            same = person[:, None] == person
            row, probe = np.nonzero(same & (block.images[:, None] != block.images))
            genuine.append((scores[row, probe], person[row], start + probe, start + row))
            other = scores[~same]
            total += len(other)
            least = np.partition(other, -(kept := max(1, int(KEPT * len(other)))))[-kept] if len(other) else 0
            row, probe = np.nonzero(~same & (scores >= least))
            impostor.append((scores[row, probe], person[row], person[probe]))
            start += len(person)
        mates, others = (list(map(np.concatenate, zip(*found))) for found in (genuine, impostor))
        mates, others = (
            [part[np.argsort(-side[0], kind="stable")] for part in side] for side in (mates, others)
        )
        scores, person, probe, row = mates
        pairs = others[0], np.stack(others[1:])
        return cls(blocks, rows_of, fold_of, scores, person, probe, row, pairs[0], pairs[1], total)

    def supports(self, fmr: float) -> bool:
        """Whether there are comparisons enough for a false match rate."""
        return bool(len(self.genuine)) and fmr <= HIGHEST and fmr * self.impostors >= LEAST_FALSE_MATCHES

    def thresholds(self, fmr: float, weights: np.ndarray) -> np.ndarray:
        """The smallest threshold whose achieved FMR does not exceed ``fmr``, in each resample of people.

        An impostor comparison of persons p and q weighs m_p m_q, where m counts how often a person is drawn.

        Args:
          fmr: a rate that is supported.
          weights: m, shape [resamples, people].
        """
        drawn = weights * self.rows_of
        folds = np.eye(len(self.blocks))[self.fold_of]
        allowed = fmr * (1 + 1e-9) * ((drawn @ folds) ** 2 - drawn**2 @ folds).sum(axis=1)
        size, places = (
            min(len(self.impostor), int(3 * fmr * self.impostors) + 100),
            np.zeros(len(weights), np.int64),
        )
        left = np.arange(len(weights))
        while len(left):
            one, other = self.impostor_people[:, :size]
            for some in np.array_split(left, -(-len(left) * size // AT_ONCE)):
                reached = np.cumsum(weights[some][:, one] * weights[some][:, other], axis=1)
                places[some] = np.sum(reached <= allowed[some, None], axis=1)
            left = left[places[left] == size] if size < len(self.impostor) else left[:0]
            size = min(2 * size, len(self.impostor))
        kind = self.impostor.dtype.type
        ends = np.append(np.nextafter(self.impostor, kind(np.inf)), kind(-np.inf))
        return ends[places]

    def shares(
        self, thresholds: np.ndarray, weights: np.ndarray, gallery_size: int | None = None
    ) -> np.ndarray:
        """TMR at each resample's own threshold, shape [resamples]; with ``gallery_size`` 1 − FNIR of such a gallery.

        For the TMR every comparison weighs the same, for FNIR every probe: it misses if its mate is below the threshold
        or beaten by one of so many other people, of whom each is enrolled with one photograph.
        """
        weight = np.ones(len(self.genuine)) if gallery_size is None else self.probe_weights
        found = weight if gallery_size is None else weight * self.first(gallery_size)
        places = np.searchsorted(-self.genuine, -np.asarray(thresholds, self.genuine.dtype), "right")
        shares = np.empty(len(weights))
        for some in np.array_split(np.arange(len(weights)), -(-len(weights) * len(weight) // AT_ONCE)):
            drawn = weights[some][:, self.genuine_person].astype(np.float64)
            reached = np.cumsum(np.pad(drawn * found, ((0, 0), (1, 0))), axis=1)
            shares[some] = reached[np.arange(len(some)), places[some]] / (drawn @ weight)
        return np.clip(shares, 0, 1)  # both sums are rounded

    @functools.cached_property
    def probe_weights(self) -> np.ndarray:
        """1 / the mates of each genuine comparison's probe, so that every probe weighs 1, shape [g]."""
        return 1 / np.bincount(self.genuine_probe)[self.genuine_probe]

    @functools.cached_property
    def beaten(self) -> np.ndarray:
        """The share of other people whose photograph scores as much as each genuine comparison or more, shape [g]."""
        shares, probes, scores = np.zeros(len(self.genuine)), self.genuine_probe, self.genuine
        by_probe = np.argsort(probes, kind="stable")
        ends = np.searchsorted(
            probes[by_probe], np.arange(sum(len(block.people) for block in self.blocks) + 1)
        )
        start = 0
        for block in self.blocks:
            matrix, own = block.scores(), self.person_weights(block)
            for probe, column in enumerate(matrix.T):
                mates = by_probe[ends[start + probe] : ends[start + probe + 1]]
                if len(mates):
                    weight = np.where(block.people == block.people[probe], 0, own)
                    order = np.argsort(-column, kind="stable")
                    reached = np.append(0, np.cumsum(weight[order]))
                    places = np.searchsorted(-column[order], -scores[mates], "right")
                    shares[mates] = np.minimum(reached[places], 1)
            start += len(block.people)
        return shares

    def person_weights(self, block: ComparedFold) -> np.ndarray:
        """The weight of each row of a fold where every other person counts the same and all of them count 1."""
        others = max(1, len(np.unique(block.people)) - 1)
        return 1 / self.rows_of[block.people] / others

    def first(self, gallery_size: int) -> np.ndarray:
        """The chance that no one of ``gallery_size`` − 1 other people beats each genuine comparison, shape [g]."""
        return (1 - self.beaten) ** (gallery_size - 1)

    def measured(
        self, threshold: float, gallery_size: int, people: int, weights: np.ndarray, seed: int = 0
    ) -> Sampled:
        """FNIR at a threshold, with what a measurement on so many other people may show.

        The samples are measurements, each on ``people`` people with a photograph enrolled, drawn like those at hand,
        plus what the estimate is off in a resample of these.

        Args:
          threshold, gallery_size: of the search.
          people: who are enrolled and searched for.
          weights: of ``everyone``, shape [1 + resamples, people at hand].
          seed: of the measurements.
        """
        missed = np.where(self.genuine >= threshold, 1 - self.first(gallery_size), 1.0)
        rows, place = np.unique(self.genuine_row, return_inverse=True)
        lost, searches = np.bincount(place, missed), np.bincount(place)
        of_row = np.empty(len(rows), np.int64)
        of_row[place] = self.genuine_person
        by_person = np.argsort(of_row, kind="stable")
        _, start, size = np.unique(of_row[by_person], return_index=True, return_counts=True)
        estimates = 1 - self.shares(np.full(len(weights), threshold), weights, gallery_size)
        random, found = np.random.default_rng(seed), np.empty(len(weights) - 1)
        for sample in range(len(found)):
            who = random.integers(len(size), size=min(people, MOST_DRAWN))
            drawn = by_person[start[who] + (random.random(len(who)) * size[who]).astype(np.int64)]
            found[sample] = lost[drawn].sum() / searches[drawn].sum()
        return Sampled(float(estimates[0]), np.clip(found + estimates[1:] - estimates[0], 0, 1))

    def fpir(self, threshold: float, gallery_size: int) -> tuple[float, float]:
        """FPIR of a gallery of so many people: by each probe's own rate of false matches, and its upper bound."""
        rates = [
            np.where(block.people[:, None] != block.people, self.person_weights(block)[:, None], 0)
            for block in self.blocks
        ]
        matched = [
            np.sum(weight * (block.scores() >= threshold), axis=0)
            for weight, block in zip(rates, self.blocks)
        ]
        growth = fpir_growth(np.minimum(np.concatenate(matched), 1), [gallery_size], 1)
        return float(growth.by_probe[0]), float(growth.independent[0])


def native(
    mapped: Sequence[ComparedFold], own: Sequence[ComparedFold], most: int = MOST_ON_CURVE, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The curve from scores of mapped rows to what the target gives the same photographs; see ``native_curve``.

    Args:
      mapped: mapped rows and the target's own, by fold.
      own: the target's own rows on both sides, of the same photographs.
      most: of more comparisons than these, so many gallery rows of each fold are drawn that about so many are left.
      seed: of the draw.
    """
    share = min(1, most / sum(len(block.people) ** 2 for block in mapped))
    random, found = np.random.default_rng(seed), []
    for block, alone in zip(mapped, own):
        rows = len(block.people)
        some = random.permutation(rows)[: max(1, round(share * rows))]
        different = block.images[some, None] != block.images
        found.append(
            [side._replace(gallery=side.gallery[some]).scores()[different] for side in (block, alone)]
        )
    return native_curve(*map(np.concatenate, zip(*found)))


def everyone(people: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each person is drawn, shape [1 + resamples, people]: the people as they are, then the resamples."""
    draws = np.random.default_rng(seed).integers(0, people, (resamples, people))
    counts = [np.bincount(draw, minlength=people) for draw in draws]
    return np.stack([np.ones(people, np.int64), *counts]).astype(np.float32)


def sampled(values: np.ndarray) -> Sampled:
    """A number of ``everyone``, shape [1 + resamples]."""
    return Sampled(float(values[0]), values[1:])


def people_needed(fmr: float, rows: float, folds: int) -> int:
    """How many people with so many compared rows each make the comparisons that a false match rate needs."""
    return int(np.ceil(folds * (0.5 + np.sqrt(0.25 + LEAST_FALSE_MATCHES / fmr / folds / rows**2))))


def require_support(pooled: Pooled, fmr: float, what: str) -> None:
    """Raises ``UserError`` where comparisons are too few for a rate, and says how many people are needed."""
    if fmr > HIGHEST:
        raise UserError(f"{what} is a false match rate of {fmr:g}; rates up to {HIGHEST:g} are measured.")
    if not pooled.supports(fmr):
        people, needed = len(pooled.rows_of), LEAST_FALSE_MATCHES / fmr
        enough = int(np.ceil(people * np.sqrt(needed / max(1, pooled.impostors))))
        raise UserError(
            f"{what} needs {needed:,.0f} comparisons of two people whom no map was fitted on; the {people:,} people of "
            f"--calibration make {pooled.impostors:,}, about {enough:,} people are needed."
        )
