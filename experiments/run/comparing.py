"""What a run measures and writes beside its methods: controls, differences between methods, curves, views of people.

Controls: ``own`` is every encoder against itself, which bounds what a map can reach; ``shuffled`` are maps fitted on
rows that do not belong together, which reach chance; ``pixels`` are maps from principal components of the pixels, which
reach what can be drawn from the picture alone.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.run.aligning import Aligning, Pair, Place
from experiments.run.computing import mesh_for
from experiments.run.data import PIXELS, Data
from experiments.run.measuring import Compared, Measuring, TestRows, padded_rows
from experiments.run.results import Writer
from jaxalign import FoldMoments, PairwiseMaps, fit_pairs
from jaxalign.align.subspaces import principal_components
from jaxalign.analysis.curves import two_dimensions
from jaxalign.biometrics import Cohort, Sampled, combine, mean_of
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.core.rows import LazyRows
from jaxalign.report import Row, Setting
from jaxalign.report.part import OWN, PIXEL_MAPS, SHUFFLED
from jaxalign.report.records import COSINE, Difference, ProjectedPoint

FEW_PEOPLE, FEW_PHOTOGRAPHS = 6, 5  # of a view
COMPONENTS = 64  # of the pixels
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
        alike.setdefault(place._replace(method="", rank=None, score=""), []).append(place)
    for where, places in alike.items():
        here = [getattr(where, name) for name in Difference._fields[:7]]
        for one, other in itertools.combinations(places, 2):
            names = [str(Setting(place.method, place.rank, place.score)) for place in (one, other)]
            for key in everything[one]:
                if key in everything[other]:
                    less = everything[one][key] - everything[other][key]
                    yield Difference._make((*here, *names, *key, less.estimate, *less.interval()))


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


def numbers_of(
    measuring: Measuring, rows: tuple[Any, Any], cohort: Cohort | None = None
) -> dict[str, Compared] | str:
    """The numbers, by each score, of rows that lie in one space already, or why there are none."""
    try:
        return measuring.by_score(rows, cohort)
    except UserError as error:
        return str(error)


def views(data: Data, measuring: Measuring, method: str, maps: PairwiseMaps) -> Iterator[ProjectedPoint]:
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
                    yield ProjectedPoint(*here, int(number), float(x), float(y))


def _few(test: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and person numbers of a few photographs of a few people, of those who have most."""
    _, person, counts = np.unique(identities, return_inverse=True, return_counts=True)
    most = np.argsort(-np.minimum(counts, FEW_PHOTOGRAPHS), kind="stable")[:FEW_PEOPLE]
    rows = [test[person == who][:FEW_PHOTOGRAPHS] for who in most]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(found) for found in rows])


def write_extras(write: Writer, run: Aligning) -> None:
    """Writes curves, differences and views, each where there are some."""
    if run.curves:
        write.table(run.curves, "curves")
    if run.sampled:
        write.csv("differences.csv", Difference._fields, list(differences(run.sampled)))
    if run.views:
        write.csv("projection.csv", ProjectedPoint._fields, run.views)


def control_rows(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """The rows of every control that the run has, on one split; each of several processes has its share."""
    for rows in (own, shuffled, pixels):
        # Chance is the same for every split, so the moments of shuffled rows are made once.
        once = rows is shuffled and measuring.seed != run.protocol.seeds[0]
        if rows.__name__ in run.config.controls and not once:
            yield from rows(run, measuring, test)


def own(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """Encoders against themselves: in float64, since the cosines of rows that share a large mean hardly differ."""
    encoders = run.encoders[run.hosts.share(len(run.encoders))]

    def compare(name: str) -> dict[str, Compared] | str:
        rows, wide = test[name], moment_dtype()
        with double_precision(wide == np.float64):
            rows = rows.then(wide.type, dtype=wide) if isinstance(rows, LazyRows) else np.asarray(rows, wide)
            return numbers_of(measuring, (rows, rows), measuring.people_of(test, (name, name)))

    for name, found in zip(encoders, measuring.concurrently(compare, encoders, run.data)):
        for score, numbers in () if isinstance(found, str) else found.items():
            yield from _rows(run, measuring, OWN, (name, name), numbers, score=score)


def shuffled(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """Maps fitted on training rows in another random order for each encoder."""
    train = measuring.split.train
    random = np.random.default_rng(measuring.seed)
    order = {name: random.permutation(len(train)) for name in run.encoders}
    whole = run.data.select(train)
    used = list(dict.fromkeys(name for pair in run.pairs for name in pair))

    def rows(part: slice) -> Mapping[str, LazyRows]:
        return {name: whole[name].select(order[name][part]) for name in used}

    moments = run.moments_of(rows, len(train), measuring.fold)
    pairs = run.hosts.pairs(run.pairs, "source")
    if pairs:  # there may be fewer pairs than processes
        mesh = mesh_for(run.devices, moments)
        yield from _fitted(run, measuring, SHUFFLED, moments, test, pairs, mesh=mesh)


def pixels(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """Maps from principal components of the pixels, and these components against themselves."""
    seen = run.data.take_pixels(measuring.split.train)
    components = principal_components(seen, min(COMPONENTS, *seen.shape))
    targets = list(dict.fromkeys(target for _, target in run.pairs))
    selected = run.data.select(measuring.split.train)
    train = {PIXELS: LazyRows.of(components(seen)), **{name: selected[name] for name in targets}}
    tested = padded_rows(np.asarray(components(run.data.take_pixels(measuring.split.test))))
    moments = FoldMoments.of(train, fold=measuring.fold)
    pairs = [(PIXELS, name) for name in targets]
    yield from _fitted(run, measuring, PIXEL_MAPS, moments, {PIXELS: tested, **test}, pairs)
    yield from _rows(run, measuring, OWN, (PIXELS, PIXELS), measuring.compare(tested, tested))


def _fitted(
    run: Aligning,
    measuring: Measuring,
    method: str,
    moments: FoldMoments,
    test: Mapping[str, Any],
    pairs: list[Pair],
    **options: Any,
) -> Iterator[Row]:
    l2 = (
        run.config.protocol.l2
        if run.config.needs_folds() or isinstance(run.config.protocol.l2, float)
        else "gcv"
    )
    maps = fit_pairs(moments, "ridge", pairs=pairs, l2=l2, **options)

    def compare(pair: Pair) -> Compared:
        try:
            return measuring.evaluate(maps[pair], TestRows(test), pair)[COSINE]
        except UserError:  # a map that carries nothing: as good as chance, but not a number
            return Compared([])

    for pair, numbers in zip(pairs, measuring.concurrently(compare, pairs, run.data)):
        yield from _rows(run, measuring, method, pair, numbers)


def _rows(
    run: Aligning, measuring: Measuring, method: str, pair: Pair, numbers: Compared, **more: str
) -> list[Row]:
    return numbers.rows(run.data.store.dataset, *pair, method, None, measuring.seed, **more)
