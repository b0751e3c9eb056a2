"""How often what a migration promises comes true on people who were used for nothing.

  python -m experiments.benchmarks.migration --store=my_store --old=arcface --new=adaface

For each split of the people, `experiments.migrate` chooses a map on the training people and gives a threshold and an
interval for FNIR there. The test people are then enrolled by their old rows and searched for by new ones: half of those
with two photographs, with the first one. Printed is how often their FNIR lay inside the interval, the size of the
interval, and both error rates beside those that were expected.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks import define, show, write
from experiments.run import cli, flags
from experiments.run.data import prepared
from experiments.run.tested import searched
from jaxalign import EmbeddingStore
from jaxalign.biometrics import draw
from jaxalign.core.people import limit_per_person, published_split
from jaxalign.core.rows import LazyRows
from jaxalign.gallery.choose import METHODS, MOST_PER_PERSON, CalibrationRows, Point, choose, ways
from jaxalign.gallery.comparisons import everyone

VALUES = define(
    store=flags.Flag(None, "Directory of embeddings."),
    old=flags.Flag(None, "The old encoder."),
    new=flags.Flag(None, "The new encoder."),
    at_fpir=flags.Flag(0.05, "FPIR of the threshold."),
    drop_in=flags.Flag(True, "Choose among drop-in maps, or among two-sided ones."),
    methods=flags.Flag(",".join(METHODS), "Ways to map that are compared."),
    splits=flags.Flag(100, "Splits of the people.", least=1),
    seconds=flags.Flag(170.0, "Begin no further split after so long."),
    resamples=flags.Flag(500, "Resamples of people.", least=100),
)


def promised(
    store: EmbeddingStore, names: tuple[str, str], seed: int, drop_in: bool, methods: Sequence[str]
) -> dict[str, float]:
    """What one split's migration expects, and what its test people show."""
    split = published_split(store.identities, seed)
    sides = [prepared(LazyRows.of(store[name]), "l2") for name in names]
    calibration = CalibrationRows.of(
        names, sides[0].select(split.train), sides[1].select(split.train), store.identities[split.train]
    )
    test = limit_per_person(split.test, store.identities, MOST_PER_PERSON)
    size = len(draw(store.identities[test]).gallery)
    point = Point.of_search(VALUES.at_fpir, size)
    choice = choose(calibration, point, [way for way in ways(methods) if way.drop_in == drop_in])
    way = choice.best[drop_in]
    pooled = calibration.pooled(choice.movers[way])
    weights = everyone(len(pooled.rows_of), VALUES.resamples)
    threshold = float(pooled.thresholds(point.fmr, weights[:1])[0])
    expected = pooled.measured(threshold, size, size, weights)
    low, high = expected.interval()
    mover = next(calibration.movers(None, [way]))
    old, new = (np.asarray(side.select(test)) for side in sides)
    _, fnir, fpir = searched(mover, old, new, store.identities[test], threshold)
    by_probe, bound = pooled.fpir(threshold, size)
    found: dict[str, Any] = {
        "inside": low <= fnir <= high,
        "width": high - low,
        "expected": expected.estimate,
    }
    return {
        **found,
        "fnir": fnir,
        "fpir": fpir,
        "fpir expected": by_probe,
        "fpir bound": bound,
        "people": size,
    }


def main(_: Sequence[str]) -> None:
    """Splits, migrates, measures, prints."""
    names = flags.required(VALUES, "old"), flags.required(VALUES, "new")
    store = EmbeddingStore.open(flags.required(VALUES, "store"), encoders=names)
    methods = flags.words("methods", VALUES.methods, METHODS, "method")
    started, found = time.monotonic(), []
    for seed in range(VALUES.splits):
        if found and time.monotonic() - started > VALUES.seconds:
            break
        found.append(promised(store, names, seed, VALUES.drop_in, methods))
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    figures = {
        "splits": float(len(found)),
        "FNIR inside its interval, share of splits": means["inside"],
        "FNIR, mean over splits": means["fnir"],
        "FNIR expected, mean": means["expected"],
        "size of the interval, mean": means["width"],
        "FPIR asked for": VALUES.at_fpir,
        "FPIR, mean over splits": means["fpir"],
        "FPIR expected from each probe's false matches": means["fpir expected"],
        "FPIR, upper bound": means["fpir bound"],
        "people enrolled, mean": means["people"],
        "seconds a split": (time.monotonic() - started) / len(found),
    }
    show(figures)
    write(VALUES.out, {"migration": figures})


if __name__ == "__main__":
    cli.run(main, values=VALUES)
