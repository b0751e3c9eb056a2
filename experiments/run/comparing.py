"""What a run writes beside its rows: differences between methods, curves, and views of a few people."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.run.aligning import Aligning, Place
from experiments.run.data import Data
from experiments.run.measuring import Compared, Measuring
from experiments.run.results import Writer
from jaxalign import PairwiseMaps
from jaxalign.analysis.curves import two_dimensions
from jaxalign.biometrics import Sampled, combine, mean_of
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.report import Row, Setting
from jaxalign.report.result_table import Difference, Point

FEW_PEOPLE, FEW_PHOTOGRAPHS = 6, 5
Samples = Mapping[tuple[str, str], Sampled]


def means_over_pairs(sampled: Mapping[Place, Samples]) -> dict[Place, dict[tuple[str, str], Sampled]]:
    """The mean over pairs of encoders, for every method, rank, seed and place on the axis of an analysis."""
    together: dict[Place, list[Samples]] = {}
    for place, found in sampled.items():
        if place.source != place.target:
            together.setdefault(place._replace(source="", target=""), []).append(found)
    means = {}
    for place, several in together.items():
        common = [key for key in several[0] if all(key in found for found in several)]
        means[place] = {key: mean_of([found[key] for found in several]) for key in common}
    return means


def differences(sampled: Mapping[Place, Samples]) -> Iterator[Difference]:
    """Compares every two methods on the same resamples: for each pair of encoders, and for the mean over pairs."""
    everything = {**means_over_pairs(sampled), **sampled}
    alike: dict[Place, list[Place]] = {}
    for place in everything:
        alike.setdefault(place._replace(method="", rank=None), []).append(place)
    for where, places in alike.items():
        for one, other in itertools.combinations(places, 2):
            for key in everything[one]:
                if key in everything[other]:
                    difference = everything[one][key] - everything[other][key]
                    names = (str(Setting(one.method, one.rank)), str(Setting(other.method, other.rank)))
                    here = (where.dataset, where.test_dataset, where.axis, where.at, where.seed)
                    pair = (where.source, where.target)
                    numbers = (difference.estimate, *difference.interval())
                    yield Difference._make((*here, *pair, *names, *key, *numbers))


class Curve(NamedTuple):
    """One measure along an axis: of one pair, or the mean over pairs (``source`` and ``target`` empty)."""

    place: Place
    own_photograph: str
    measure: str
    at: tuple[float, ...]
    sampled: list[Sampled]


def curves_along(run: Aligning) -> Iterator[Curve]:
    """Every measure of every pair and of the mean over pairs along the axis of an analysis, where resampled."""
    points: dict[Place, dict[float, Samples]] = {}
    for place, found in {**run.sampled, **means_over_pairs(run.sampled)}.items():
        points.setdefault(place._replace(at=None), {})[place.at or 0.0] = found
    for place, found in points.items():
        at = sorted(found)
        for own, measure in found[at[-1]]:
            if all((own, measure) in found[where] for where in at):
                yield Curve(place, own, measure, tuple(at), [found[where][own, measure] for where in at])


def curves_of_first(run: Aligning) -> Iterator[Curve]:
    """The curves of the first measure of the run."""
    first = next(((row.own_photograph, row.measure) for row in run.rows), None)
    return (curve for curve in curves_along(run) if (curve.own_photograph, curve.measure) == first)


def number_of_curve(curve: Curve, name: str, function: Callable[..., np.ndarray], **more: Any) -> Row:
    """A row with ``function(at, values, **more)``, a number of the whole curve, and its interval."""
    found = combine(lambda values: function(curve.at, np.moveaxis(values, 0, -1), **more), curve.sampled)
    low, high = found.interval()
    reason = "" if np.isfinite(found.estimate) else "the curve ends at 0"
    more_fields = {"test_dataset": curve.place.test_dataset, "low": low, "high": high, "reason": reason}
    return Row(*curve.place[:6], curve.own_photograph, name, found.estimate, **more_fields)


def numbers_of(measuring: Measuring, probes: Any, gallery: Any) -> Compared | str:
    """The numbers of rows that lie in one space already, or why there are none."""
    try:
        return measuring.compare(probes, gallery)
    except UserError as error:
        return str(error)


def views(data: Data, measuring: Measuring, method: str, maps: PairwiseMaps) -> Iterator[Point]:
    """A few test people before and after the maps of a method."""
    rows, person = _few(measuring.split.test, measuring.identities)
    chosen = data.take(rows)

    def place(pair: tuple[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        fit, (left, right) = maps[pair], (chosen[name] for name in pair)
        try:
            after = two_dimensions(fit.source.apply_on_host(left), fit.target.apply_on_host(right))
            return {"before": two_dimensions(left, right), "after": after}
        except (UserError, np.linalg.LinAlgError):
            return {}

    for (source, target), placed in zip(maps, concurrently(place, list(maps))):
        for stage, sides in placed.items():
            for side, points in zip(("source", "target"), sides):
                for number, (x, y) in zip(person, points):
                    here = (data.store.dataset, source, target, method, stage, side)
                    yield Point(*here, int(number), float(x), float(y))


def _few(test: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and person numbers of a few photographs of a few people, of those who have most."""
    _, person, counts = np.unique(identities, return_inverse=True, return_counts=True)
    most = np.minimum(counts, FEW_PHOTOGRAPHS)
    chosen = np.argsort(-most, kind="stable")[:FEW_PEOPLE]
    rows, numbers = [], []
    for number, who in enumerate(chosen):
        found = test[person == who][:FEW_PHOTOGRAPHS]
        rows.append(found)
        numbers.append(np.full(len(found), number))
    return np.concatenate(rows), np.concatenate(numbers)


def write_extras(write: Writer, run: Aligning) -> None:
    """Writes curves, differences and views, each where there are some."""
    if run.curves:
        write.table(run.curves, "curves")
    if run.sampled:
        write.csv("differences.csv", Difference._fields, list(differences(run.sampled)))
    if run.views:
        write.csv("projection.csv", Point._fields, run.views)
