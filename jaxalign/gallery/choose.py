"""Chooses how old rows are compared with the new network's, by people whom no map was fitted on.

A *drop-in* way moves the gallery into the new network's own coordinates, where raw cosines with its rows are taken: the
side that probes stays as it is. A *two-sided* way moves both sides into the space where the pair is compared, and its
score may be corrected by a cohort. The candidates are few, closed-form and without settings of their own, so that what
choosing among them gains by chance stays small; ``Choice.optimism`` says how much it is.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from jaxalign.align.affine import AffineMap
from jaxalign.align.fit import fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.align.solvers import Fit, Shared, Solver
from jaxalign.biometrics import Cohort, Comparator, comparator
from jaxalign.biometrics.comparators import TOP, cohort_rows
from jaxalign.biometrics.inputs import nearly_parallel
from jaxalign.core.people import identity_folds, limit_per_person
from jaxalign.core.rows import LazyRows, unit_rows
from jaxalign.gallery.comparisons import ComparedFold, Pooled, require_support
from jaxalign.moments.moments import FoldMoments, Moments

METHODS = ("orthogonal", "ridge", "canonical", "shared")
COSINE = "cosine"
SCORES = (COSINE, "cohort")  # of two-sided ways
FOLDS = 5  # of people, without a person in two of them
STRANGERS = 512  # of these people, who say how near a gallery row lies to strangers
MOST_PER_PERSON, MOST_COMPARED = 20, 3000  # photographs of a person, and of a fold, that are compared


class Way(NamedTuple):
    """A candidate: a method, whether it leads to the new network's own coordinates, and the score."""

    method: str
    drop_in: bool
    score: str = COSINE

    def __str__(self) -> str:
        kind = "drop-in" if self.drop_in else "two-sided"
        return f"{self.method}, {kind}" + ("" if self.score == COSINE else f", {self.score}")

    def width(self, old: int, new: int) -> int:
        """Of moved rows, known before any fit from the widths of both networks."""
        method = SOLVERS[self.method]()
        assert isinstance(method, Solver | Shared)
        return (new if self.drop_in else method.space(old, new)) + (0 if self.score == COSINE else 2)


def ways(methods: Sequence[str] = METHODS, scores: Sequence[str] = SCORES) -> list[Way]:
    """All candidates of these methods, the two-sided ones by each of these scores."""
    of_both = [Way(method, False, score) for method in methods for score in scores]
    return [*(Way(method, True) for method in methods), *of_both]


class Point(NamedTuple):
    """The operator's own point: a false match rate, or an FPIR in a gallery of so many people."""

    fmr: float
    fpir: float | None = None
    gallery_size: int | None = None

    @classmethod
    def of_search(cls, fpir: float, gallery_size: int) -> Self:
        """The false match rate at which 1 − (1 − FMR)^N, an upper bound of the FPIR, is ``fpir``."""
        return cls(-np.expm1(np.log1p(-fpir) / gallery_size), fpir, gallery_size)

    @property
    def measure(self) -> str:
        """The name of what is measured there."""
        return f"tmr@fmr={self.fmr:g}" if self.fpir is None else f"tpir@fpir={self.fpir:g}"

    def hits(self, pooled: Pooled, weights: np.ndarray) -> np.ndarray:
        """TMR, or 1 − FNIR, with a threshold found anew in each resample, shape [resamples]."""
        return pooled.shares(pooled.thresholds(self.fmr, weights), weights, self.gallery_size)


@dataclasses.dataclass(frozen=True, eq=False)
class CalibrationRows:
    """Photographs under both networks, in folds without a person in two of them.

    Attributes:
      names: of the old encoder and the new one.
      old, new: their rows, scaled as the maps take them, shapes [n, p] and [n, q].
      identities: of the rows, shape [n]; ``people`` as numbers.
      images: a number for each photograph, equal for copies, shape [n].
      fold: of each row, shape [n].
      compared: the rows of each fold that are compared.
    """

    names: tuple[str, str]
    old: LazyRows
    new: LazyRows
    identities: np.ndarray
    people: np.ndarray
    images: np.ndarray
    fold: np.ndarray
    compared: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls,
        names: tuple[str, str],
        old: LazyRows,
        new: LazyRows,
        identities: np.ndarray,
        images: np.ndarray | None = None,
        folds: int = FOLDS,
    ) -> Self:
        """Divides the people; a ``UserError`` if they are fewer than ``folds``."""
        people = np.unique(identities, return_inverse=True)[1]
        fold = identity_folds(identities, folds)
        rows = limit_per_person(np.arange(len(people)), identities, MOST_PER_PERSON)
        compared = tuple(rows[fold[rows] == k][:MOST_COMPARED] for k in range(folds))
        images = np.arange(len(people)) if images is None else images
        return cls(names, old, new, identities, people, images, fold, compared)

    @functools.cached_property
    def moments(self) -> FoldMoments:
        """Of all rows and of each fold, in one pass."""
        return FoldMoments.of(dict(zip(self.names, (self.old, self.new))), fold=self.fold)

    @functools.cached_property
    def dtype(self) -> npt.DTypeLike:
        """Rows are compared in it: float64 where many of either network's are nearly parallel, as in ``evaluate``."""
        return np.float64 if any(nearly_parallel(side, side) for side in (self.old, self.new)) else np.float32

    @functools.cached_property
    def least_people(self) -> int:
        """How many people are left beside those of a fold, the least of all folds."""
        folds = range(len(self.compared))
        return min(len(np.unique(self.people[self.fold != fold])) for fold in folds)

    @property
    def scores(self) -> tuple[str, ...]:
        """What two-sided ways may be compared by: no score takes a cohort that the people beside a fold do not fill."""
        return SCORES if self.least_people >= TOP else (COSINE,)

    def without(self, fold: int | None) -> tuple[FoldMoments, np.ndarray]:
        """The moments of all other folds, and their rows; of everybody for None."""
        if fold is None:
            return self.moments, np.arange(len(self.fold))
        others = self.moments.folds[:fold] + self.moments.folds[fold + 1 :]
        return FoldMoments(functools.reduce(Moments.merge, others), others), np.flatnonzero(self.fold != fold)

    def fit(self, method: str, moments: FoldMoments) -> Fit:
        """The fit from the old encoder to the new one, its penalty chosen by the folds of the moments."""
        options: dict[str, Any] = (
            {"l2": "cv" if len(moments.folds) > 1 else "gcv"} if method == "ridge" else {}
        )
        return fit_pairs(moments, method, pairs=[self.names], **options)[self.names]

    def movers(self, fold: int | None, candidates: Sequence[Way]) -> Iterator["Mover"]:
        """The candidates, fitted without one fold, or on everybody for None."""
        moments, rows = self.without(fold)
        fits = {
            method: self.fit(method, moments) for method in dict.fromkeys(way.method for way in candidates)
        }
        for way in candidates:
            yield Mover.of(way, fits[way.method], self, rows)

    def block(self, fold: int, gallery: np.ndarray, probes: np.ndarray) -> ComparedFold:
        """The compared rows of one fold by their vectors."""
        rows = self.compared[fold]
        return ComparedFold(gallery, probes, self.people[rows], self.images[rows])

    def own(self, name: str) -> Pooled:
        """One encoder against itself by raw cosine: what the operator has, or would have."""
        given = self.old if name == self.names[0] else self.new
        return Pooled.of(
            [
                self.block(k, *2 * (unit(given.take(rows), self.dtype),))
                for k, rows in enumerate(self.compared)
            ]
        )

    def compare(self, fold: int, mover: "Mover") -> ComparedFold:
        """Mapped old rows of one fold against its new probes."""
        rows = self.compared[fold]
        return self.block(fold, mover.gallery(self.old.take(rows)), mover.probes(self.new.take(rows)))

    def pooled(self, movers: Sequence["Mover"]) -> Pooled:
        """The comparisons of all folds, each by a mover of its own."""
        return Pooled.of([self.compare(fold, mover) for fold, mover in enumerate(movers)])


def unit(rows: np.ndarray, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    """Rows of length 1; rows of zeros stay zero."""
    return unit_rows(rows).astype(dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Mover:
    """One way, fitted: what becomes of gallery rows and probes so that inner products are scores.

    Attributes:
      gallery_map: takes old rows; ``probe_map`` takes new ones, None where they stay as they are.
      cohort: centroids of the people of the fit, ``source`` of mapped old rows, ``target`` of the probes' side.
      score: corrects by the cohort; None for cosines. To a ``Comparator`` the probes are the rows of a fit's source,
        which are enrolled here.
      dtype: of unit rows; see ``Calibration``. Two-sided ways centre rows, so that float32 serves other scores.
    """

    way: Way
    fit: Fit
    gallery_map: AffineMap
    probe_map: AffineMap | None
    cohort: Cohort
    score: Comparator | None
    dtype: npt.DTypeLike

    @classmethod
    def of(cls, way: Way, fit: Fit, calibration: CalibrationRows, rows: np.ndarray) -> Self:
        """The maps of a fit; the cohort is of some of the ``rows``, those of the fit."""
        gallery_map = fit.to_target(True) if way.drop_in else fit.source
        probe_map = None if way.drop_in else fit.target
        some = cohort_rows(rows, calibration.identities)
        new = calibration.new.take(some)
        sides = (
            mapped(gallery_map, calibration.old.take(some)),
            new if probe_map is None else mapped(probe_map, new),
        )
        cohort = Cohort.of(*sides, calibration.identities[some])
        score = comparator(way.score, cohort)
        return cls(way, fit, gallery_map, probe_map, cohort, score, calibration.dtype)

    def gallery(self, old: np.ndarray) -> np.ndarray:
        """Vectors of enrolled rows of the old encoder, shape [n, w]."""
        return self._vectors(mapped(self.gallery_map, old), "probes")

    def probes(self, new: np.ndarray) -> np.ndarray:
        """Vectors of probes of the new encoder."""
        return self._vectors(self._moved(new), "gallery")

    def enrolled(self, new: np.ndarray) -> np.ndarray:
        """Vectors of gallery rows that the new encoder made: they stand in one gallery with mapped rows."""
        return self._vectors(self._moved(new), "probes")

    def nearness(self, old: np.ndarray, people: int = STRANGERS) -> np.ndarray:
        """How near enrolled rows lie to strangers: the mean of their 20 highest cosines with the cohort, shape [n].

        The first ``people`` of the cohort are taken: the same ones in all folds and in the end, but for the fold's own.
        It is no score, and of fewer than 20 people the mean of all.
        """
        strangers = np.asarray(self.cohort.target[:people], self.dtype)
        near = unit(mapped(self.gallery_map, old), self.dtype) @ strangers.T
        top = min(TOP, near.shape[1])
        return np.partition(near, -top, axis=1)[:, -top:].mean(axis=1)

    def _moved(self, new: np.ndarray) -> np.ndarray:
        return new if self.probe_map is None else mapped(self.probe_map, new)

    def _vectors(self, rows: np.ndarray, side: str) -> np.ndarray:
        return unit(rows, self.dtype) if self.score is None else self.score.vectors(rows, side)


def mapped(map_: AffineMap, rows: np.ndarray) -> np.ndarray:
    """Rows through a map, float32."""
    return np.asarray(map_(LazyRows.of(rows)), np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """What each candidate reaches on people whom it was not fitted on, and the best of either kind.

    Attributes:
      reached: TMR, or 1 − FNIR, at the operator's point.
      best: the way chosen among the drop-in ones (True) and among the two-sided ones (False).
      optimism: by how much choosing by the same people may flatter the best: what it loses where each fold is measured
        by the way that the other folds choose.
      movers: of the best ways, for each fold.
    """

    reached: dict[Way, float]
    best: dict[bool, Way]
    optimism: dict[bool, float]
    movers: dict[Way, list[Mover]]


def choose(
    calibration: CalibrationRows,
    point: Point,
    candidates: Sequence[Way] | None = None,
    progress: Callable[[str], None] = lambda label: None,
) -> Choice:
    """Compares candidates at the operator's point, by comparisons of people whom the maps were not fitted on.

    Args:
      calibration: people with both encoders' rows.
      point: where to compare.
      candidates: all of ``METHODS`` by default, by the scores that the people support.
      progress: told what was compared.

    Raises:
      UserError: too few people for the point; the sentence says how many are needed.
    """
    given = ways(scores=calibration.scores) if candidates is None else list(candidates)
    folds = range(len(calibration.compared))
    movers: dict[Way, list[Mover]] = {way: [] for way in given}
    for fold in folds:
        for mover in calibration.movers(fold, given):
            movers[mover.way].append(mover)
        progress(f"fitting maps without fold {fold + 1} of {len(folds)}")
    reached, without, alone = {}, {}, {}
    for way in given:
        pooled = calibration.pooled(movers[way])
        require_support(pooled, point.fmr, f"an operating point of {point.measure}")
        member = pooled.fold_of == np.arange(len(folds))[:, None]
        masks = np.concatenate([np.ones((1, member.shape[1])), ~member]).astype(np.float32)
        thresholds = pooled.thresholds(point.fmr, masks)
        reached[way], *others = pooled.shares(thresholds, masks, point.gallery_size).tolist()
        without[way] = others
        alone[way] = pooled.shares(thresholds[1:], member.astype(np.float32), point.gallery_size).tolist()
        progress(f"{way}: {point.measure} {reached[way]:.3f}")
    best, optimism = {}, {}
    for drop_in in {way.drop_in for way in given}:
        kind = [way for way in given if way.drop_in == drop_in]
        best[drop_in] = max(kind, key=reached.__getitem__)
        crossed = [alone[max(kind, key=lambda way: without[way][fold])][fold] for fold in folds]
        optimism[drop_in] = max(0.0, float(np.mean(alone[best[drop_in]]) - np.mean(crossed)))
    return Choice(reached, best, optimism, {way: movers[way] for way in best.values()})
