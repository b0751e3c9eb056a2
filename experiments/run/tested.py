"""What a migration reaches on the gallery's own people, where both networks' rows are there; rows of results."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.run.data import image_numbers, prepared
from jaxalign.biometrics import Evaluation, EvaluationPlan, MeasuredValue, Resampling, draw, evaluate
from jaxalign.core.people import limit_per_person
from jaxalign.core.rows import LazyRows
from jaxalign.data import EmbeddingStore
from jaxalign.gallery.choose import MOST_PER_PERSON, Mover, mapped
from jaxalign.gallery.comparisons import everyone
from jaxalign.gallery.migration import FMRS, TOO_FEW, Migration, Rate, plain_rates
from jaxalign.report import Row

OLD, NEW, MAPPED, BACK = "old", "new", "mapped", "back"


class Tested(NamedTuple):
    """The gallery's people, of whom nothing was used before.

    Attributes:
      dataset, people: whose.
      numbers: every measure of the systems "old", "new" and "mapped", as ``experiments.pairwise`` has them: for
        identification mapped rows search the new network's.
      rates: the same with intervals, by system and measure.
      enrolled, fnir, fpir: of one draw of enrolled people, at the migration's threshold.
      expected: the interval that the migration gives for such a measurement of FNIR.
    """

    dataset: str
    people: int
    numbers: dict[str, list[MeasuredValue]]
    rates: dict[str, dict[str, Rate]]
    enrolled: int
    fnir: float
    fpir: float
    expected: tuple[float, float]

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        rates = {of: plain_rates(found) for of, found in self.rates.items()}
        own = {name: getattr(self, name) for name in ("dataset", "people", "enrolled", "fnir", "fpir")}
        return {**own, "expected": list(self.expected), "rates": rates}


def tested_on(
    migration: Migration,
    mover: Mover,
    store: EmbeddingStore,
    rows: np.ndarray,
    normalize: str,
    resamples: int,
) -> Tested:
    """Measures the final way on people who were used for nothing.

    Args:
      migration, mover: what was found, and its way fitted on everybody.
      store, rows: with both networks.
      normalize: how rows are scaled before the map.
      resamples: of people.
    """
    old, new = (
        np.asarray(prepared(LazyRows.of(store[name]), normalize).select(rows))
        for name in migration.calibration.names
    )
    identities = np.asarray(store.identities)[rows]
    plan = EvaluationPlan.of(identities, images=image_numbers(store, rows))
    people = Resampling.of(plan, resamples=resamples)
    gallery = mapped(mover.gallery_map, old)
    probes = new if mover.probe_map is None else mapped(mover.probe_map, new)
    # To a comparator the probes are the rows of a fit's source, which are enrolled here: verification is the same.
    systems = {OLD: (old, old, None), NEW: (new, new, None), MAPPED: (gallery, probes, mover.score)}
    numbers, rates = {}, {}
    for name, (left, right, score) in systems.items():
        fmr = tuple(sorted({*FMRS, migration.point.fmr}))
        found = evaluate(left, right, plan, score=score, fmr=fmr, people_weights=people.weights)
        numbers[name], rates[name] = list(found.measures()), dict(_rates(found, people))
    enrolled, fnir, fpir = searched(mover, old, new, identities, migration.threshold.estimate)
    pooled = migration.calibration.pooled(migration.choice.movers[migration.way])
    weights = everyone(len(pooled.rows_of), resamples)
    expected = pooled.measured(migration.threshold.estimate, enrolled, enrolled, weights).interval()
    dataset = store.dataset
    return Tested(dataset, len(np.unique(identities)), numbers, rates, enrolled, fnir, fpir, expected)


def _rates(found: Evaluation, people: Resampling) -> Iterator[tuple[str, Rate]]:
    """Verification and rank-1 without the same image, with intervals."""
    sampled = people.measures(found)
    for number in found.measures():
        if number.own_photograph == "included" or not number.measure.startswith(("tmr@", "rank1", "auc")):
            continue
        if number.measure.startswith("rank") and number.measure != "rank1":
            continue
        value = sampled.get((number.own_photograph, number.measure))
        yield (
            number.measure,
            Rate.missing(TOO_FEW) if value is None else Rate.of(value),
        )


def searched(
    mover: Mover, old: np.ndarray, new: np.ndarray, identities: np.ndarray, threshold: float
) -> tuple[int, float, float]:
    """How many people draw 0 enrols by their old rows, and FNIR and FPIR of searches for new ones at a threshold."""
    some = limit_per_person(np.arange(len(identities)), identities, MOST_PER_PERSON)
    sets = draw(identities[some])
    gallery, probes = mover.gallery(old[some[sets.gallery]]), mover.probes(new[some[sets.probes]])
    scores = probes @ gallery.T
    mates = identities[some[sets.probes]][:, None] == identities[some[sets.gallery]]
    mated = mates.any(axis=1)
    mate, other = np.where(mates, scores, -np.inf).max(axis=1), np.where(mates, -np.inf, scores).max(axis=1)
    missed = (mate < threshold) | (other >= mate)
    return len(sets.gallery), float(missed[mated].mean()), float(np.mean(other[~mated] >= threshold))


def result_rows(migration: Migration, dataset: str, tested: Tested | None) -> Iterator[Row]:
    """Rows of results.csv: each system on calibration people, and on the gallery's people as test data set."""
    old, new = migration.calibration.names
    other = migration.choice.best[not migration.drop_in]
    pairs = {OLD: (old, old), NEW: (new, new), MAPPED: (old, new), "other": (old, new), BACK: (new, old)}
    ways = {OLD: ("own", "cosine"), NEW: ("own", "cosine")}
    ways[BACK] = migration.choice.best[True].method, "cosine"
    ways |= {MAPPED: (migration.way.method, migration.way.score), "other": (other.method, other.score)}
    for system, rates in {**migration.rates, BACK: migration.back.rates}.items():
        method, score = ways[system]
        for name, rate in rates.items():
            numbers = {key: getattr(rate, key) for key in Rate._fields if key != "value"}
            yield Row(dataset, *pairs[system], method, None, 0, "", name, rate.value, score=score, **numbers)
    for system, numbers in ({} if tested is None else tested.numbers).items():
        method, score = ways[system]
        for number in numbers:
            reason = TOO_FEW if np.isnan(number.value) else ""
            at = {**number._asdict(), "reason": reason, "score": score, "test_dataset": tested.dataset}  # pyright: ignore[reportOptionalMemberAccess]
            yield Row(dataset, *pairs[system], method, None, 0, **at)
