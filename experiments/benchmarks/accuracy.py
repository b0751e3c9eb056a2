"""Compares maps of ours with the best published map, with intervals over people.

  python -m experiments.benchmarks.accuracy --store=my_store --models=arcface,clip,dinov2

All settings of `canonical`, `shared`, `low_rank` and `joint` are chosen here, on folds of the training people of this
seed, for all pairs together and for each score; what was compared is printed with its held-out figure. Then every
method is measured once on the test people, by cosine and by scores that a cohort of the training people corrects. The
opponent is the best of orthogonal, linear and ridge (α = 0.1, 1 and 10), chosen for each ordered pair with hindsight,
in each resample anew: by cosine, and given the same score. The figure is TMR at one false match rate, averaged over the
ordered pairs. A second table has the misses of open-set searches, FNIR at one FPIR, averaged over pairs and galleries
(--draws), and how much lower they are than by cosine.

--ranks=8,16,32,64,128,full measures `low_rank` and `joint` in so many dimensions too, with the settings chosen before.
`full` is the narrower width of each pair; for `joint` the largest that two encoders share.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from experiments.benchmarks import define, write
from experiments.run import cli, flags
from jaxalign import SOLVERS, EmbeddingStore, FoldMoments, PairwiseMaps, evaluate, fit_pairs
from jaxalign.analysis.tuning import tune
from jaxalign.biometrics import (
    SCORES,
    Cohort,
    Draw,
    EvaluationPlan,
    Resampling,
    Sampled,
    combine,
    comparator,
    draw,
    maximum,
    mean_of,
    open_set,
)
from jaxalign.biometrics.open_set import LEAST_FALSE_POSITIVES
from jaxalign.core.errors import UserError
from jaxalign.core.people import limit_per_person, published_split

VALUES = define(
    store=flags.Flag(None, "Directory of embeddings."),
    models=flags.Flag(None, "Encoders, separated by commas; all of the store by default."),
    seed=flags.Flag(42, "Seed of the published split."),
    fmr=flags.Flag(1e-4, "False match rate of the operating point."),
    fpir=flags.Flag(1e-2, "False positive identification rate of open-set searches."),
    draws=flags.Flag(10, "Galleries to draw for open-set searches; 0 for none."),
    scores=flags.Flag("cosine,cohort", "Scores to compare mapped rows by, cosine among them."),
    rank=flags.Flag(96, "Dimensions of the closed-form shared space."),
    max_per_person=flags.Flag(20, "Test rows of one person at most."),
    resamples=flags.Flag(1000, "Resamples of the test people."),
    gradient=flags.Flag("low_rank,joint", "Maps fitted by gradient to compare too; may be empty."),
    steps=flags.Flag(400, "Steps of Adam for maps fitted by gradient."),
    folds_compared=flags.Flag(1, "Of three folds, how many low_rank and joint are chosen on."),
    ranks=flags.Flag(None, "Measure low_rank and joint in so many dimensions: 8,16,full."),
)
GRADIENT = tuple(name for name, method in SOLVERS.items() if method.needs_rows)
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "orthogonal": ("orthogonal", {}),
    "linear": ("linear", {}),
}
PUBLISHED |= {f"ridge, α = {l2:g}": ("ridge", {"l2": l2}) for l2 in (0.1, 1.0, 10.0)}
PEOPLE = {"low_rank": 512, "joint": 384}  # in a batch
Rates = dict[tuple[str, str], Sampled]
Rows = dict[str, np.ndarray]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class TestPeople(NamedTuple):
    """Rows to measure on, with the resamples of their people and the draws of open-set searches."""

    rows: Rows
    people: Resampling
    searches: Sequence[tuple[Draw, EvaluationPlan]]

    @classmethod
    def of(cls, rows: Rows, identities: np.ndarray, seed: int) -> Self:
        """Draws people and galleries."""
        people = Resampling.of(EvaluationPlan.of(identities), resamples=VALUES.resamples)
        searches = []
        for number in range(VALUES.draws):
            of = draw(identities, number, seed)
            searches.append((of, EvaluationPlan.of(identities[of.probes], identities[of.gallery])))
            strangers = np.sum(~np.isin(identities[of.probes], identities[of.gallery]))
            if VALUES.fpir * strangers < LEAST_FALSE_POSITIVES:
                raise UserError(
                    f"--fpir={VALUES.fpir:g} is too low for {strangers:,} searches for people who are not enrolled; "
                    "give a higher one, or --draws=0."
                )
        return cls(rows, people, searches)


def rates(
    maps: PairwiseMaps, train: Rows, identities: np.ndarray, test: TestPeople, score: str
) -> tuple[Rates, Rates]:
    """TMR and, where galleries are drawn, FNIR of every pair by a score, with their resamples."""
    found, missed, people = {}, {}, test.people
    for (source, target), fit in maps.items():
        probes, gallery = fit.source(test.rows[source]), fit.target(test.rows[target])
        cohort = Cohort.of(fit.source(train[source]), fit.target(train[target]), identities)
        rule = comparator(score, cohort)
        options: dict[str, Any] = {"fmr": (VALUES.fmr,), "measures": ("verification",)}
        options |= {"people_weights": people.weights, "score": rule}
        found[source, target] = people.tmr(evaluate(probes, gallery, people.plan, **options), VALUES.fmr)
        drawn = []
        for sets, plan in test.searches:
            sides = np.asarray(probes)[sets.probes], np.asarray(gallery)[sets.gallery]
            searched = open_set(*sides, plan, score=rule, fpir=(VALUES.fpir,))
            drawn.append(searched.resampled(people.weights)[f"fnir@fpir={VALUES.fpir:g}"])
        if drawn:
            missed[source, target] = mean_of(drawn)
    return found, missed


def chosen(
    method: str, train: Rows, identities: np.ndarray, fixed: Mapping[str, Any], score: str
) -> dict[str, Any]:
    """Settings of a method by held-out training people; prints what was compared."""
    started = time.perf_counter()
    folds = VALUES.folds_compared if method in GRADIENT else None
    options: dict[str, Any] = {"fixed": fixed, "fmr": VALUES.fmr, "folds_compared": folds, "score": score}
    tuned = tune(train, identities, method, **options)
    print(
        f"{method}, {score}: TMR of held-out training people, in % ({time.perf_counter() - started:.0f} s)",
        flush=True,
    )
    for candidate, tmr in zip(tuned.candidates, tuned.tmr):
        mark = "  chosen" if candidate == tuned.settings else ""
        named = ", ".join(f"{name} {value}" for name, value in candidate.items())
        print(f"  {100 * tmr:6.2f}  {named}{mark}", flush=True)
    return dict(tuned.settings)


def gains_of(by_method: Mapping[str, Rates]) -> tuple[dict[str, Sampled], dict[str, Sampled]]:
    """Means over pairs, and differences to the best published map, by cosine and by the same score."""
    pairs, endings = by_method["canonical"], [ending_of(score) for score in VALUES.scores.split(",")]
    means = {name: mean_of(list(found.values())) for name, found in by_method.items()}
    best: dict[str, Rates] = {}
    for ending in endings:
        best[ending] = {
            pair: maximum([by_method[name + ending][pair] for name in PUBLISHED]) for pair in pairs
        }
        means[f"best published{ending}, hindsight"] = mean_of(list(best[ending].values()))

    def gain(name: str, over: Rates) -> Sampled:
        return mean_of([by_method[name][pair] - over[pair] for pair in pairs])

    gains = {}
    for name in by_method:
        ending = next((ending for ending in endings if ending and name.endswith(ending)), "")
        if name.removesuffix(ending) in PUBLISHED:
            continue
        for of_score in dict.fromkeys(["", ending]):
            gains[f"{name} − best published{of_score}"] = gain(name, best[of_score])
        if name.startswith("low_rank"):
            gains[f"{name} − canonical{ending}"] = gain(name, by_method["canonical" + ending])
    return means, gains


def misses_of(by_method: Mapping[str, Rates]) -> tuple[dict[str, Sampled], dict[str, Sampled]]:
    """Means over pairs, and how much lower than the same map and the best published one have them by cosine."""
    pairs = by_method["canonical"]
    least = functools.partial(np.min, axis=0)
    best = {pair: combine(least, [by_method[name][pair] for name in PUBLISHED]) for pair in pairs}
    means = {name: mean_of(list(found.values())) for name, found in by_method.items()}
    means["best published, hindsight"] = mean_of(list(best.values()))
    lower = {}
    for name, found in by_method.items():
        map_, _, score = name.rpartition(", ")
        if score in SCORES:
            lower[f"{map_} − {name}"] = mean_of([by_method[map_][pair] - found[pair] for pair in pairs])
            lower[f"best published − {name}"] = mean_of([best[pair] - found[pair] for pair in pairs])
    return means, lower


def ending_of(score: str) -> str:
    """What a score adds to the name of a method."""
    return "" if score == "cosine" else f", {score}"


def shown(*groups: Mapping[str, Sampled]) -> dict[str, dict[str, float]]:
    """Prints figures with their intervals, and returns them."""
    report = {}
    for name, value in (figure for group in groups for figure in group.items()):
        low, high = show(name, value)
        report[name] = {"estimate": value.estimate, "low": low, "high": high}
    return report


def show(name: str, value: Sampled) -> tuple[float, float]:
    """Prints a figure with its interval, and returns that."""
    low, high = value.interval(0.95)
    line = f"{100 * value.estimate:6.2f}   95 % interval {100 * low:6.2f} ... {100 * high:6.2f}"
    print(f"{name:36s} {line}", flush=True)
    return low, high


def main(_: Sequence[str]) -> None:
    """Chooses, fits, resamples, prints a table."""
    path = flags.required(VALUES, "store")
    gradient = flags.words("gradient", VALUES.gradient, GRADIENT, "method") if VALUES.gradient else ()
    sizes = () if VALUES.ranks is None else flags.ranks("ranks", VALUES.ranks)
    if isinstance(sizes, str):
        raise UserError("--ranks: cv is for reduced_rank; give numbers or full.")
    scores = flags.words("scores", VALUES.scores, SCORES, "score")
    if "cosine" not in scores:
        raise UserError("--scores: the opponent is measured by cosine, which is missing.")
    store = EmbeddingStore.open(path, encoders=VALUES.models and VALUES.models.split(","))
    split = published_split(store.identities, VALUES.seed)
    rows = limit_per_person(split.test, store.identities, VALUES.max_per_person)
    train = {name: unit(array) for name, array in store.take(split.train).items()}
    test = {name: unit(array) for name, array in store.take(rows).items()}
    identities = store.identities[split.train]
    tested = TestPeople.of(test, store.identities[rows], VALUES.seed)
    moments = FoldMoments.of(train)
    settings: dict[str, dict] = {"canonical": {}, "shared": {"rank": VALUES.rank}}
    settings |= {name: {"people": PEOPLE[name], "steps": VALUES.steps} for name in gradient}
    tuned = {
        method: {score: chosen(method, train, identities, fixed, score) for score in scores}
        for method, fixed in settings.items()
    }
    by_method: dict[str, Rates] = {}
    missed: dict[str, Rates] = {}

    def measure(name: str, method: str, of: Mapping[str, Any], scores: Sequence[str] = scores) -> None:
        started = time.perf_counter()
        if method in GRADIENT:
            maps = fit_pairs(train, method, identities=identities, moments=moments, **of)
            doubtful = [pair for pair, fit in maps.items() if not bool(fit.ok)]
            note = f", of {len(doubtful)} pairs the loss diverged" if doubtful else ""
            print(f"{method}: fitted in {time.perf_counter() - started:.0f} s{note}", flush=True)
        else:
            maps = fit_pairs(moments, method, **of)
        for score in scores:
            here = name + ending_of(score)
            by_method[here], missed[here] = rates(maps, train, identities, tested, score)
            show(here, mean_of(list(by_method[here].values())))

    for name, (method, of) in PUBLISHED.items():
        measure(name, method, of)
    for method, by_score in tuned.items():
        for score, of in by_score.items():
            measure(method, method, of, [score])
    widest_shared = sorted(rows.shape[1] for rows in train.values())[-2]
    for size in sizes:
        for method in gradient:
            full = widest_shared if method == "joint" else "full"
            for score, of in tuned[method].items():
                measure(f"{method}, rank {size or 'full'}", method, {**of, "rank": size or full}, [score])
    print(f"mean TMR at FMR {VALUES.fmr:g} over {len(by_method['canonical'])} ordered pairs, ", end="")
    print(f"{len(rows):,} test rows, seed {VALUES.seed}, in %")
    report = {"tmr": shown(*gains_of(by_method))}
    if VALUES.draws:
        print(f"mean FNIR at FPIR {VALUES.fpir:g} over these pairs and {VALUES.draws} galleries of ", end="")
        print(f"{len(tested.searches[0][0].gallery):,} people, in %")
        report["fnir"] = shown(*misses_of(missed))
    write(VALUES.out, {**report, "settings": tuned})


if __name__ == "__main__":
    cli.run(main, values=VALUES)
