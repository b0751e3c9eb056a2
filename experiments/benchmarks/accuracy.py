"""Compares maps of ours with the best published map, with intervals over people.

  python -m experiments.benchmarks.accuracy --store=my_store --models=arcface,clip,dinov2

All settings of `canonical`, `shared`, `low_rank` and `joint` are chosen here, on folds of the training people of this
seed, for all pairs together; what was compared is printed with its held-out figure. Then every method is measured once
on the test people. The opponent is the best of orthogonal, linear and ridge (α = 0.1), chosen for each ordered pair
with hindsight, in each resample anew. The figure is TMR at one false match rate, averaged over the ordered pairs.

--ranks=8,16,32,64,128,full measures `low_rank` and `joint` in so many dimensions too, with the settings chosen before.
`full` is the narrower width of each pair; for `joint` the largest that two encoders share.
"""

import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.run import cli
from experiments.run.flags import ranks as ranks_of
from experiments.run.flags import words
from jaxalign import EmbeddingStore, FoldMoments, PairwiseMaps, evaluate, fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.analysis.tuning import tune
from jaxalign.biometrics import EvaluationPlan, Resampling, Sampled, maximum, mean_of
from jaxalign.core.errors import UserError
from jaxalign.core.people import limit_per_person, published_split

VALUES = flags.FlagValues()
STORE = flags.DEFINE_string("store", None, "Directory of embeddings.", required=True, flag_values=VALUES)
MODELS = flags.DEFINE_list("models", None, "Encoders; all of the store by default.", flag_values=VALUES)
SEED = flags.DEFINE_integer("seed", 42, "Seed of the published split.", flag_values=VALUES)
FMR = flags.DEFINE_float("fmr", 1e-4, "False match rate of the operating point.", flag_values=VALUES)
RANK = flags.DEFINE_integer("rank", 96, "Dimensions of the closed-form shared space.", flag_values=VALUES)
MOST = flags.DEFINE_integer("max_per_person", 20, "Test rows of one person at most.", flag_values=VALUES)
RESAMPLES = flags.DEFINE_integer("resamples", 1000, "Resamples of the test people.", flag_values=VALUES)
WANTED = flags.DEFINE_string(
    "gradient", "low_rank,joint", "Maps fitted by gradient to compare too; may be empty.", flag_values=VALUES
)
STEPS = flags.DEFINE_integer("steps", 400, "Steps of Adam for maps fitted by gradient.", flag_values=VALUES)
FOLDS = flags.DEFINE_integer(
    "folds_compared", 1, "Of three folds, how many low_rank and joint are chosen on.", flag_values=VALUES
)
RANKS = flags.DEFINE_string(
    "ranks", None, "Measure low_rank and joint in so many dimensions: 8,16,full.", flag_values=VALUES
)
OUT = flags.DEFINE_string("out", None, "File to write the figures to, as JSON.", flag_values=VALUES)

GRADIENT = tuple(name for name, method in SOLVERS.items() if method.needs_rows)
PUBLISHED = {"orthogonal": {}, "linear": {}, "ridge": {"l2": 0.1}}
PEOPLE = {"low_rank": 512, "joint": 384}  # in a batch, as the issue that asked for these maps has it
Rates = dict[tuple[str, str], Sampled]
Rows = dict[str, np.ndarray]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rates(maps: PairwiseMaps, test: Rows, people: Resampling) -> Rates:
    """TMR of every pair, with its resamples."""
    found = {}
    for (source, target), fit in maps.items():
        probes, gallery = fit.source(test[source]), fit.target(test[target])
        result = evaluate(
            probes,
            gallery,
            people.plan,
            fmr=(FMR.value,),
            measures=("verification",),
            people_weights=people.weights,
        )
        found[source, target] = people.tmr(result, FMR.value)
    return found


def chosen(method: str, train: Rows, identities: np.ndarray, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method by held-out training people; prints what was compared."""
    started = time.perf_counter()
    folds = FOLDS.value if method in GRADIENT else None
    tuned = tune(train, identities, method, fixed=fixed, fmr=FMR.value, folds_compared=folds)
    print(
        f"{method}: TMR of held-out training people, in % ({time.perf_counter() - started:.0f} s)", flush=True
    )
    for options, tmr in zip(tuned.candidates, tuned.tmr):
        mark = "  chosen" if options == tuned.settings else ""
        print(f"  {100 * tmr:6.2f}  {_words(options)}{mark}", flush=True)
    return dict(tuned.settings)


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


class Fitting:
    """Fits by gradient with settings that are chosen already."""

    def __init__(self, train: Rows, identities: np.ndarray, moments: FoldMoments) -> None:
        self.train, self.identities, self.moments = train, identities, moments

    def __call__(self, method: str, settings: Mapping[str, Any]) -> PairwiseMaps:
        """Maps of all ordered pairs."""
        started = time.perf_counter()
        known = {"identities": self.identities, "moments": self.moments}
        maps = fit_pairs(self.train, method, **known, **settings)
        doubtful = [pair for pair, fit in maps.items() if not bool(fit.ok)]
        note = f", of {len(doubtful)} pairs the loss diverged" if doubtful else ""
        print(f"{method}: fitted in {time.perf_counter() - started:.0f} s{note}", flush=True)
        return maps

    def at_rank(self, method: str, rank: int | None, settings: Mapping[str, Any]) -> PairwiseMaps:
        """In ``rank`` dimensions; None for as many as there are."""
        if method == "joint" and rank is None:
            rank = sorted(rows.shape[1] for rows in self.train.values())[-2]
        return self(method, {**settings, "rank": rank or "full"})


def gains_of(by_method: Mapping[str, Rates]) -> tuple[dict[str, Sampled], dict[str, Sampled]]:
    """Means over pairs, and differences to the best published map and to ``canonical``."""
    pairs = list(by_method["canonical"])
    best = {pair: maximum([by_method[name][pair] for name in PUBLISHED]) for pair in pairs}
    means = {name: mean_of([found[pair] for pair in pairs]) for name, found in by_method.items()}
    means["best published, hindsight"] = mean_of([best[pair] for pair in pairs])
    own = [name for name in by_method if name not in PUBLISHED]
    gains = {
        f"{name} − best published": mean_of([by_method[name][pair] - best[pair] for pair in pairs])
        for name in own
    }
    for name in own:
        if name.startswith("low_rank"):
            differences = [by_method[name][pair] - by_method["canonical"][pair] for pair in pairs]
            gains[f"{name} − canonical"] = mean_of(differences)
    return means, gains


def show(name: str, value: Sampled) -> tuple[float, float]:
    """Prints a figure with its interval, and returns that."""
    low, high = value.interval(0.95)
    line = f"{100 * value.estimate:6.2f}   95 % interval {100 * low:6.2f} ... {100 * high:6.2f}"
    print(f"{name:36s} {line}", flush=True)
    return low, high


def main(_: Sequence[str]) -> None:
    """Chooses, fits, resamples, prints a table."""
    gradient = words("gradient", WANTED.value, GRADIENT, "method") if WANTED.value else ()
    sizes = () if RANKS.value is None else ranks_of("ranks", RANKS.value)
    if isinstance(sizes, str):
        raise UserError("--ranks: cv is for reduced_rank; give numbers or full.")
    store = EmbeddingStore.open(STORE.value, encoders=MODELS.value)
    split = published_split(store.identities, SEED.value)
    rows = limit_per_person(split.test, store.identities, MOST.value)
    train = {name: unit(array) for name, array in store.take(split.train).items()}
    test = {name: unit(array) for name, array in store.take(rows).items()}
    identities = store.identities[split.train]
    moments = FoldMoments.of(train)
    settings: dict[str, dict] = {**PUBLISHED, "canonical": {}, "shared": {"rank": RANK.value}}
    settings |= {name: {"people": PEOPLE[name], "steps": STEPS.value} for name in gradient}
    for method in ("canonical", "shared", *gradient):
        settings[method] = chosen(method, train, identities, settings[method])
    people = Resampling.of(EvaluationPlan.of(store.identities[rows]), resamples=RESAMPLES.value)
    fit = Fitting(train, identities, moments)
    by_method: dict[str, Rates] = {}

    def measure(name: str, maps: PairwiseMaps) -> None:
        by_method[name] = rates(maps, test, people)
        show(name, mean_of(list(by_method[name].values())))

    for name, of in settings.items():
        measure(name, fit(name, of) if name in GRADIENT else fit_pairs(moments, name, **of))
    for size in sizes:
        for name in gradient:
            measure(f"{name}, rank {size or 'full'}", fit.at_rank(name, size, settings[name]))
    print(f"mean TMR at FMR {FMR.value:g} over {len(by_method['canonical'])} ordered pairs, ", end="")
    print(f"{len(rows):,} test rows, seed {SEED.value}, in %")
    report = {}
    for group in gains_of(by_method):
        for name, value in group.items():
            low, high = show(name, value)
            report[name] = {"estimate": value.estimate, "low": low, "high": high}
    if OUT.value:
        path = pathlib.Path(OUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"tmr": report, "settings": settings, "jax": jax.__version__}, indent=1) + "\n"
        )


if __name__ == "__main__":
    cli.run(main, values=VALUES)
