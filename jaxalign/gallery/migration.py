"""A migration measured before anything is moved: the way chosen, its rates, what it loses, and the verdict."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from jaxalign.biometrics import Sampled
from jaxalign.biometrics.open_set import FPIRS, LEAST_FALSE_POSITIVES
from jaxalign.core.errors import UserError
from jaxalign.gallery.choose import (
    FOLDS,
    METHODS,
    MOST_PER_PERSON,
    CalibrationRows,
    Choice,
    Mover,
    Point,
    Way,
    choose,
    ways,
)
from jaxalign.gallery.comparisons import Pooled, everyone, native, people_needed, require_support, sampled
from jaxalign.gallery.operating import Threshold
from jaxalign.gallery.people_curve import Size, people_curve
from jaxalign.gallery.reenrol import Losses
from jaxalign.gallery.verdict import KEPT, Backfill, Evidence, Verdict, decide

FMRS = (1e-2, 1e-3, 1e-4)
TOO_FEW = "too few comparisons to support a number"


class Rate(NamedTuple):
    """A number with its interval of 95 % over people, and the threshold where it has one; NaN with a ``reason``."""

    value: float
    low: float
    high: float
    threshold: float | None = None
    threshold_low: float | None = None
    threshold_high: float | None = None
    reason: str = ""

    @classmethod
    def of(cls, value: Sampled, threshold: Sampled | None = None) -> Self:
        """Of resampled numbers."""
        rate = cls(value.estimate, *value.interval())
        if threshold is None:
            return rate
        low, high = threshold.interval()
        return rate._replace(threshold=threshold.estimate, threshold_low=low, threshold_high=high)

    @classmethod
    def missing(cls, reason: str) -> Self:
        """No number."""
        return cls(np.nan, np.nan, np.nan, reason=reason)


Rates = dict[str, Rate]


class Back(NamedTuple):
    """The way back, from the new encoder into the old one's own coordinates: the gallery stays, probes are mapped.

    Attributes:
      mover: fitted on everybody.
      rates: of mapped probes against old rows, by measure.
      native: the curve from these scores to the old encoder's own.
    """

    mover: Mover
    rates: Rates
    native: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Migration:
    """What calibration people say of moving a gallery, each measured by maps that were not fitted on them.

    Attributes:
      calibration, point: the people, and the operator's point.
      choice: the candidates; ``drop_in`` says which kind the operator wants.
      verdict, evidence: see ``verdict``.
      threshold: to use with the chosen way, and its interval.
      rates: of the systems "old", "new", "mapped" and "other" (the best way of the other kind), by measure.
      losses: of rows of the calibration people.
      sizes: what fewer calibration people would have reached.
      gallery_size: people that searches and identification are for.
    """

    calibration: CalibrationRows
    point: Point
    drop_in: bool
    choice: Choice
    verdict: Verdict
    evidence: Evidence
    threshold: Sampled
    rates: dict[str, Rates]
    losses: Losses
    sizes: Sequence[Size]
    gallery_size: int

    @classmethod
    def of(
        cls,
        calibration: CalibrationRows,
        point: Point,
        *,
        gallery_size: int,
        drop_in: bool = True,
        max_loss: float = 0.02,
        normalize: str = "l2",
        methods: Sequence[str] = METHODS,
        resamples: int = 1000,
        progress: Callable[[str], None] = lambda label: None,
    ) -> Self:
        """Chooses, measures and decides.

        Args:
          calibration: people with both encoders' rows.
          point: where the operator decides.
          gallery_size: people in the gallery.
          drop_in: move the gallery into the new encoder's own coordinates, or both sides into a space of their own.
          max_loss: the hits that may be lost of what the old system has.
          normalize: how the calibration's rows were scaled.
          methods: candidates.
          resamples: of people, for intervals.
          progress: told what is done.

        Raises:
          UserError: too few people or probes for the point.
        """
        require_point(calibration, point)
        choice = choose(calibration, point, ways(methods, calibration.scores), progress)
        chosen, other = choice.best[drop_in], choice.best[not drop_in]
        systems = {name: calibration.own(encoder) for name, encoder in zip(("old", "new"), calibration.names)}
        systems |= {
            "mapped": calibration.pooled(choice.movers[chosen]),
            "other": calibration.pooled(choice.movers[other]),
        }
        weights = everyone(len(systems["old"].rows_of), resamples)
        hits, rates = {}, {}
        for name, pooled in systems.items():
            progress(f"rates of {name}")
            hits[name] = sampled(point.hits(pooled, weights))
            rates[name] = rates_of(pooled, point, weights, gallery_size)
        progress("rows enrolled again")
        losses = Losses.of(calibration, choice.movers[chosen], systems["mapped"], point, normalize)
        backfills: list[Backfill] = list(losses.backfills(weights))
        evidence = Evidence(hits["old"], hits["new"], hits["mapped"], choice.optimism[drop_in], backfills)
        progress("fewer calibration people")
        sizes = list(people_curve(calibration, choice.movers[chosen], point))
        threshold = sampled(systems["mapped"].thresholds(point.fmr, weights))
        rates["mapped"]["fnir@threshold"] = Rate.of(
            systems["mapped"].measured(threshold.estimate, gallery_size, gallery_size, weights), threshold
        )
        found = decide(evidence, max_loss)
        return cls(
            calibration,
            point,
            drop_in,
            choice,
            found,
            evidence,
            threshold,
            rates,
            losses,
            sizes,
            gallery_size,
        )

    @property
    def way(self) -> Way:
        """The way chosen."""
        return self.choice.best[self.drop_in]

    def thresholds(self, rates: Rates) -> list[Threshold]:
        """Those among the rates, by false match rate; rates without support have none."""
        given: set[float] = {*FMRS, *([self.point.fmr] if self.point.fpir is None else [])}
        found = [(fmr, rates[f"tmr@fmr={fmr:g}"]) for fmr in sorted(given)]
        return [
            Threshold(fmr, rate.threshold, rate.threshold_low or 0.0, rate.threshold_high or 0.0)
            for fmr, rate in found
            if rate.threshold is not None
        ]

    @functools.cached_property
    def native(self) -> tuple[np.ndarray, np.ndarray]:
        """The curve from scores of the chosen way to the new encoder's own."""
        pooled = self.calibration.pooled(self.choice.movers[self.way])
        return native(pooled.blocks, self.calibration.own(self.calibration.names[1]).blocks)

    def mover(self) -> Mover:
        """The chosen way, fitted on everybody."""
        return next(self.calibration.movers(None, [self.way]))

    @functools.cached_property
    def back(self) -> Back:
        """The drop-in way back, for whoever keeps the gallery, measured on the same people as the way there.

        It is of the method that serves best on the way there.
        """
        there, way = self.calibration, self.choice.best[True]
        turned = dataclasses.replace(there, names=there.names[::-1], old=there.new, new=there.old)
        mapped = [turned.compare(k, next(turned.movers(k, [way]))) for k in range(len(there.compared))]
        # The rows that are mapped are the probes here.
        blocks = [block._replace(gallery=block.probes, probes=block.gallery) for block in mapped]
        pooled = Pooled.of(blocks)
        weights = everyone(len(pooled.rows_of), len(self.threshold.samples))
        rates = rates_of(pooled, self.point, weights, self.gallery_size)
        curve = native(blocks, there.own(there.names[0]).blocks)
        return Back(next(turned.movers(None, [way])), rates, curve)

    def helps(self, max_loss: float) -> list[str]:
        """What would help where the gate fails: the other kind of map, more people, another threshold."""
        found = []
        other, failing = (
            self.choice.best[not self.drop_in],
            self.verdict.name in ("map_and_reenrol", "reenrol"),
        )
        value, now = (self.choice.reached[way] for way in (other, self.way))
        if failing and value > now + 0.005 and value >= KEPT * self.evidence.new.estimate:
            kind = (
                "where probes are mapped too (--nodrop_in)"
                if self.drop_in
                else "without a map of probes (--drop_in)"
            )
            found.append(
                f"{str(other).capitalize()}, reaches {100 * value:.1f} % instead of {100 * now:.1f} %, {kind}."
            )
        if len(self.sizes) > 1 and self.sizes[-1].value - self.sizes[-2].value > 0.005:
            gain = 100 * (self.sizes[-1].value - self.sizes[-2].value)
            found.append(
                f"More calibration people: the last doubling, from {self.sizes[-2].people:,} to "
                f"{self.sizes[-1].people:,}, gained {gain:.1f} points."
            )
        short = -(self.evidence.mapped - self.evidence.old).estimate
        if failing and self.evidence.keeps(self.evidence.mapped) and short <= max_loss:
            found.append(
                "More calibration people narrow the interval: the estimate itself is within the allowed loss."
            )
        if self.verdict.name == "reenrol":
            found.append(
                "Enrol again with the new network, from the photographs or as people are seen again."
            )
        return found


def require_people(identities: np.ndarray, point: Point) -> None:
    """Raises ``UserError`` where people are too few to be divided and compared, whatever the point."""
    people, rows = len(np.unique(identities)), len(identities)
    if people < 2 * FOLDS:
        needed = people_needed(point.fmr, min(MOST_PER_PERSON, rows / people), FOLDS)
        raise UserError(
            f"--calibration has {people} people, of whom no two are left to compare by maps that were not fitted on "
            f"them; for {point.measure} about {needed:,} people are needed."
        )


def require_point(calibration: CalibrationRows, point: Point) -> None:
    """Raises ``UserError`` where the compared photographs cannot support the operator's point."""
    pooled = calibration.own(calibration.names[1])
    probes = sum(len(rows) for rows in calibration.compared)
    if point.fpir is not None and point.fpir * probes < LEAST_FALSE_POSITIVES:
        needed = int(np.ceil(LEAST_FALSE_POSITIVES / point.fpir))
        raise UserError(
            f"--at_fpir={point.fpir:g} needs {needed:,} probes, so that {LEAST_FALSE_POSITIVES:g} false positives are "
            f"expected; --calibration has {probes:,} that can be compared."
        )
    what = f"--at_fmr={point.fmr:g}"
    if point.fpir is not None:
        what = f"--at_fpir={point.fpir:g} in a gallery of {point.gallery_size:,} people, an FMR of {point.fmr:.2g},"
    require_support(pooled, point.fmr, what)


def rates_of(pooled: Pooled, point: Point, weights: np.ndarray, gallery_size: int) -> Rates:
    """Verification, identification and search of one system, with intervals over people.

    Verification at an FMR and search at an FPIR find their threshold anew in each resample.
    """
    found: Rates = {}
    fmrs, fpirs = set(FMRS), set(FPIRS)
    if point.fpir is None:
        fmrs.add(point.fmr)
    else:
        fpirs.add(point.fpir)
    for fmr in sorted(fmrs, reverse=True):
        found[f"tmr@fmr={fmr:g}"] = Rate.missing(TOO_FEW)
        if pooled.supports(fmr):
            at = pooled.thresholds(fmr, weights)
            found[f"tmr@fmr={fmr:g}"] = Rate.of(sampled(pooled.shares(at, weights)), sampled(at))
    anywhere = np.full(len(weights), -np.inf)
    found["rank1"] = Rate.of(sampled(pooled.shares(anywhere, weights, gallery_size)))
    for fpir in sorted(fpirs):
        search, name = Point.of_search(fpir, gallery_size), f"fnir@fpir={fpir:g}"
        found[name] = Rate.missing(TOO_FEW)
        if pooled.supports(search.fmr) and fpir * pooled.rows_of.sum() >= LEAST_FALSE_POSITIVES:
            at = pooled.thresholds(search.fmr, weights)
            found[name] = Rate.of(sampled(1 - pooled.shares(at, weights, gallery_size)), sampled(at))
    return found


def described(migration: Migration) -> dict[str, Any]:
    """The migration as JSON can hold it."""
    way, point, verdict = migration.way, migration.point, migration.verdict
    evidence, best = migration.evidence, migration.choice.best.values()
    rates = {system: plain_rates(found) for system, found in migration.rates.items()}
    reached = migration.choice.reached.items()
    return {
        "verdict": verdict.name,
        "reason": verdict.reason,
        "reenrol_share": verdict.share,
        "margin": verdict.margin,
        **way._asdict(),
        "threshold": migration.threshold.estimate,
        "threshold_interval": list(migration.threshold.interval()),
        "operating_point": {**point._asdict(), "measure": point.measure, "gallery": migration.gallery_size},
        "hits": {name: _interval(getattr(evidence, name)) for name in ("old", "new", "mapped")},
        "optimism": evidence.optimism,
        "rates": rates,
        "rates_keeping_gallery": plain_rates(migration.back.rates),
        "candidates": [{**way._asdict(), "value": value, "chosen": way in best} for way, value in reached],
        "people": [size._asdict() for size in migration.sizes],
        "reenrolled": [
            {"share": step.share, **_interval(step.hits), "at_random": step.at_random}
            for step in evidence.backfills
        ],
    }


def plain_rates(rates: Rates) -> dict[str, Any]:
    """Rates as JSON can hold them."""
    return {name: plain_rate(rate) for name, rate in rates.items()}


def plain_rate(rate: Rate) -> dict[str, Any]:
    """A rate as JSON can hold it: null with a reason where there is no number."""
    if rate.reason:
        return {"value": None, "low": None, "high": None, "reason": rate.reason}
    return {name: value for name, value in rate._asdict().items() if value is not None and name != "reason"}


def _interval(value: Sampled) -> dict[str, float]:
    low, high = value.interval()
    return {"value": value.estimate, "low": low, "high": high}
