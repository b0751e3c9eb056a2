"""Which rows of a gallery to enrol again first: rows unlike the calibration data, and the loss to expect of each.

Two things are known of an enrolled row without its photograph: how far it lies from the old encoder's other rows
(Mahalanobis distance), and how near its mapped row lies to strangers (hubness). On calibration people, whose losses are
known, a least-squares quadratic of both says how many of a row's probes a new enrolment would save.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np

from jaxalign.gallery.choose import STRANGERS, CalibrationRows, Mover, Point
from jaxalign.gallery.comparisons import Pooled, sampled
from jaxalign.gallery.fingerprint import Fingerprint
from jaxalign.gallery.mixed import Sides
from jaxalign.gallery.verdict import Backfill

FALSE_ALARM = 0.01
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # of the gallery, enrolled again
CHUNK_ROWS = 4096
# Each has a bit, in this order; the last two are of mixed galleries.
FLAGS = {
    "distance": "far from the old encoder's other rows",
    "hubness": "near to many strangers once mapped",
    "kept": "like the new encoder's rows, and kept as it is",
    "unclear": "like neither encoder's rows, or like both",
}
BITS = {name: 1 << number for number, name in enumerate(FLAGS)}


class Signs(NamedTuple):
    """What is known of enrolled rows: the logarithm of the distance, and the nearness to strangers, shapes [n]."""

    distance: np.ndarray
    hubness: np.ndarray

    @classmethod
    def of(cls, mover: Mover, fingerprint: Fingerprint, old: np.ndarray, strangers: int) -> Self:
        """Of rows of the old encoder, by their nearness to so many strangers."""
        distance = np.minimum(fingerprint.distances(old), 1e6)  # a row of zeros lies infinitely far off
        return cls(np.log(np.maximum(distance, 1e-6)), mover.nearness(old, strangers))

    def design(self) -> np.ndarray:
        """The columns of the regression, shape [n, 6]."""
        d, h = self
        return np.stack([np.ones_like(d), d, h, d * d, h * h, d * h], axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Orders gallery rows by the loss to expect, and flags unlike ones.

    Attributes:
      limits: of each sign, the mean of those that a share ``FALSE_ALARM`` of the rows of one fold exceeds. (A gallery
        is mapped by one map; rows of all folds together spread more, as each fold has a map of its own.)
      weights: of the regression, shape [6].
      strangers: how many the nearness is to; the more they are, the nearer the nearest.
    """

    limits: Signs
    weights: np.ndarray
    strangers: int

    def losses(self, signs: Signs) -> np.ndarray:
        """The share of a row's probes that a new enrolment is expected to save, 0 to 1, shape [n]."""
        return np.clip(signs.design() @ self.weights, 0, 1)

    def flags(self, signs: Signs) -> np.ndarray:
        """The bits of the signs beyond their limit, shape [n]."""
        beyond = [sign > limit for sign, limit in zip(signs, self.limits)]
        return (beyond[0] * BITS["distance"] + beyond[1] * BITS["hubness"]).astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Losses:
    """What mapped rows of calibration people lose, each measured by maps that were not fitted on its person.

    Attributes:
      signs: of the compared rows of all folds, one fold after the other, shape [n] each.
      lost: the share of a row's probes that a new enrolment would save; NaN for rows without a mate, shape [n].
      fold: of each row.
      strangers: see ``Order``.
    """

    calibration: CalibrationRows
    movers: Sequence[Mover]
    point: Point
    signs: Signs
    lost: np.ndarray
    fold: np.ndarray
    strangers: int

    @classmethod
    def of(
        cls,
        calibration: CalibrationRows,
        movers: Sequence[Mover],
        pooled: Pooled,
        point: Point,
        normalize: str,
    ) -> Self:
        """Measures the losses at the operator's point.

        Args:
          calibration, movers, pooled, point: as for ``choose``; ``pooled`` of these movers.
          normalize: how the calibration's rows were scaled.
        """
        signs, strangers = [], min(STRANGERS, *(len(mover.cohort) for mover in movers))
        for k, (mover, rows) in enumerate(zip(movers, calibration.compared)):
            others = np.flatnonzero(calibration.fold != k)
            rows_of_others, people = calibration.old.select(others), calibration.identities[others]
            named = calibration.names[0]
            fingerprint = Fingerprint.of(rows_of_others, people, encoder=named, normalize=normalize)
            signs.append(Signs.of(mover, fingerprint, calibration.old.take(rows), strangers))
        fold = np.repeat(np.arange(len(movers)), [len(rows) for rows in calibration.compared])
        both = Signs(*(np.concatenate(parts) for parts in zip(*signs)))
        found = cls(calibration, movers, point, both, np.empty(len(fold)), fold, strangers)
        threshold = pooled.thresholds(point.fmr, np.ones((1, len(pooled.rows_of)), np.float32))[0]
        missed = [_missed(side, threshold) for side in (pooled, found.backfilled(np.ones(len(fold), bool)))]
        return dataclasses.replace(found, lost=missed[0] - missed[1])

    def order(self, but: int | None = None) -> Order:
        """Fits the order on the compared rows of all folds but one."""
        used = (self.fold != but) & np.isfinite(self.lost)
        weights = np.linalg.lstsq(Signs(*(sign[used] for sign in self.signs)).design(), self.lost[used])[0]
        folds = [self.fold == fold for fold in range(len(self.movers)) if fold != but]
        of_folds = ([np.quantile(sign[k], 1 - FALSE_ALARM) for k in folds] for sign in self.signs)
        limits = Signs(*(np.mean(found, axis=0) for found in of_folds))
        return Order(limits, weights, self.strangers)

    @functools.cached_property
    def expected(self) -> np.ndarray:
        """The expected loss of every compared row by the order that the other folds give, shape [n]."""
        found = np.empty(len(self.fold))
        for fold in range(len(self.movers)):
            here = self.fold == fold
            found[here] = self.order(fold).losses(Signs(*(sign[here] for sign in self.signs)))
        return found

    def backfilled(self, again: np.ndarray) -> Pooled:
        """A gallery in which some of the compared rows, a mask [n], are the new encoder's."""
        blocks = []
        for k, (mover, rows) in enumerate(zip(self.movers, self.calibration.compared)):
            old, new = self.calibration.old.take(rows), self.calibration.new.take(rows)
            mixed = np.where(again[self.fold == k][:, None], mover.enrolled(new), mover.gallery(old))
            blocks.append(self.calibration.block(k, mixed, mover.probes(new)))
        return Pooled.of(blocks)

    def backfills(self, weights: np.ndarray) -> Iterator[Backfill]:
        """Hits along ``SHARES`` on the resamples of ``everyone``: one gallery, one threshold for both kinds of rows."""
        first = np.lexsort((np.random.default_rng(0).random(len(self.expected)), -self.expected))
        random = np.random.default_rng(1).permutation(len(first))
        for share in SHARES:
            some = round(share * len(first))
            masks = (np.isin(np.arange(len(first)), order[:some]) for order in (first, random))
            ordered, at_random = map(self.backfilled, masks)
            by_chance = self.point.hits(at_random, weights[:1])[0]
            yield Backfill(share, sampled(self.point.hits(ordered, weights)), float(by_chance))


def _missed(pooled: Pooled, threshold: float) -> np.ndarray:
    """The share of each gallery row's mates that stay below a threshold, NaN without any, shape [n]."""
    count = sum(len(block.people) for block in pooled.blocks)
    mates = np.bincount(pooled.genuine_row, minlength=count)
    missed = np.bincount(pooled.genuine_row, pooled.genuine < threshold, count)
    return np.where(mates > 0, missed / np.maximum(mates, 1), np.nan)


class Ordered(NamedTuple):
    """The gallery's rows: keys, losses and bits of ``FLAGS``, shapes [n]; in ``order`` the greatest loss is first."""

    keys: np.ndarray
    losses: np.ndarray
    flags: np.ndarray
    order: np.ndarray

    def count(self, flag: str) -> int:
        """How many rows have a flag."""
        return int(np.count_nonzero(self.flags & BITS[flag]))

    def lines(self) -> Iterator[tuple[str, float, str, str]]:
        """Key, expected loss, reason and flags of each row as texts, one after the other."""
        held = [[name for name in FLAGS if flags & BITS[name]] for flags in range(1 << len(FLAGS))]
        texts = [(" and ".join(map(FLAGS.__getitem__, names)), " ".join(names)) for names in held]
        for row in self.order:  # no copy of the keys
            yield str(self.keys[row]), round(float(self.losses[row]), 6), *texts[self.flags[row]]


def ordered(
    order: Order,
    mover: Mover,
    fingerprint: Fingerprint,
    chunks: Iterable[tuple[np.ndarray, np.ndarray]],
    sides: Sides | None = None,
) -> Ordered:
    """Orders a gallery.

    ``chunks`` are keys and rows, scaled as the maps take them; memory holds no more than one chunk of rows. ``sides``
    tells rows of a mixed gallery apart: nothing is expected to be lost of those that are kept.
    """
    keys, losses, flags = [], [], []
    for names, rows in chunks:
        signs = Signs.of(mover, fingerprint, rows, order.strangers)
        loss, bits = order.losses(signs), order.flags(signs)
        if sides is not None:
            kept, clear = sides.of(rows)
            loss[kept], bits[kept] = 0, BITS["kept"]
            bits[~clear] |= BITS["unclear"]
        keys.append(np.asarray(names))
        losses.append(loss)
        flags.append(bits)
    names, expected, bits = map(np.concatenate, (keys, losses, flags))
    return Ordered(names, expected, bits, np.argsort(-expected, kind="stable"))
