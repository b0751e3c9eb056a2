"""A made-up study: every file that drivers write, with numbers that follow from the names' places alone."""

import itertools
import json
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import made_security
import numpy as np
from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
from scipy.spatial.distance import squareform

from experiments.run import results
from experiments.run.results import FitRow
from jaxalign.report import Row
from jaxalign.report.records import Difference, Predicted, ProjectedPoint, ThreeWay

ENCODERS = ("arcface", "adaface", "magface", "clip", "dino")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "ärger_日本 %$#{}~^\\",
    "=1+1",
    "a&b",
)
HOSTILE_DATASETS = ('set "one" & <two>/..', "=cmd|x")
METHODS = (("identity", None), ("ridge", None), ("canonical", 64))
NAN = math.nan
UNSUPPORTED = "fewer than 10 expected false matches"
SINGULAR = "the moments of the source are singular"
PEOPLE = "rank1:people_for_{}%"
NEVER = "99 % of the final value is not reached with an interval"


def rate(source: int, target: int, method: int, seed: int = 42) -> float:
    """The rank-1 rate of a pair, by places of encoders and method; higher for later methods, lower for far encoders."""
    if method == 0:
        return 0.01 + 0.001 * source
    far, near = abs(source - target) % 7, target % 7
    return round(0.5 + 0.1 * method - 0.04 * far + 0.01 * near + 0.001 * (seed % 5), 6)


def pairs(encoders: Sequence[str]):
    """Ordered pairs with their places."""
    for (i, source), (j, target) in itertools.permutations(enumerate(encoders), 2):
        yield i, j, source, target


def write_part(folder: pathlib.Path, driver: str, rows: Sequence[Row], dataset: str, encoders: Sequence[str],
               seeds: Sequence[int], files: dict[str, Any] | None = None, about: dict[str, Any] | None = None,
               **config) -> None:  # fmt: skip
    """One results directory, as the drivers write it, with further files by name: records, or the content of JSON.

    ``about`` is what else config.json says, ``config`` are settings.
    """
    with results.writer(folder) as write:
        write.table(list(rows))
        for name, content in (files or {}).items():
            file = write.directory / name
            if file.suffix == ".json":
                file.write_text(json.dumps(content), encoding="utf-8")
            elif file.suffix == ".parquet":
                results.write_parquet(file, content)
            else:
                results.write_csv(file, content[0]._fields, content)
        protocol = {"name": "default", "normalize": "l2", "train_fraction": 0.7, "seeds": list(seeds)}
        protocol["methods"] = [method for method, _ in METHODS]
        store = {
            "path": f"stores/{dataset}",
            "dataset": dataset,
            "rows": 900,
            "dims": dict.fromkeys(encoders, 64),
        }
        store["checksums"] = {name: f"{place:064x}" for place, name in enumerate(encoders)}
        settings = {"protocol": protocol, "max_per_person": 0, "note": "made & <b>up</b>", **config}
        write.config(driver, settings, store=store, warnings=[], seconds=1.5, **(about or {}))


def of_methods(dataset, encoders, seeds):
    """Seeds, methods and ordered pairs: the first fields of a row, the pair's places, and its rate."""
    for seed in seeds:
        for number, (method, rank) in enumerate(METHODS):
            for i, j, source, target in pairs(encoders):
                yield (dataset, source, target, method, rank, seed), (i, j), rate(i, j, number, seed)


def pairwise_rows(dataset, encoders, seeds, **more):
    """Rank-k and verification; one pair fails altogether, one operating point is unsupported."""
    rows = []
    for here, places, value in of_methods(dataset, encoders, seeds):
        failed = len(encoders) > 3 and places == (3, 1) and here[3] == "ridge"
        value = NAN if failed else value
        why: Any = {"reason": SINGULAR if failed else "", **more}
        ends: Any = {} if failed else {"low": value - 0.03, "high": value + 0.03}
        for k in (1, 5, 10, 20):
            hit = float(np.minimum(1.0, value + 0.04 * math.log(k)))
            rows.append(Row(*here, "excluded", f"rank{k}", hit, **(ends if k == 1 else {}), **why))
        rows.append(Row(*here, "", "auc", float(np.minimum(1.0, value + 0.3)), **why))
        rows.append(Row(*here, "", "eer", 0.4 - value / 2.5, **why))
        rows.append(Row(*here, "", "tmr@fmr=0.0001", NAN, **{**why, "reason": why["reason"] or UNSUPPORTED}))
        rows.append(Row(*here, "", "tmr@fmr=0.001", value * 0.8, **ends, **why))
        rows.append(Row(*here, "", "tmr@fmr=0.01", value * 0.9, **why))
    return rows


def curve_rows(dataset, encoders, seeds):
    """CMC and the curve behind the DET, with bands."""
    rows = []
    for here, _, value in of_methods(dataset, encoders, seeds):
        points: list = [("excluded", "cmc", "rank", k, value + 0.04 * math.log(k), 1) for k in range(1, 21)]
        for f in np.logspace(-3, -0.5, 9):
            points.append(("", "tmr", "fmr", float(f), 1 - (1 - value) * (1 - f**0.4), 0.999))
        for own, measure, axis, at, hit, most in points:
            ends: Any = {"low": min(1.0, hit) - 0.02, "high": min(most, hit + 0.02)}
            rows.append(Row(*here, own, measure, min(1.0, hit), axis=axis, at=at, **ends))
    return rows


def projection(dataset: str, encoders: Sequence[str]) -> list[ProjectedPoint]:
    """Six people, four photographs each, apart before the map and together after it."""
    random = np.random.default_rng(0)
    points = []
    places = itertools.product((0, 1), range(6), ("before", "after"), ("source", "target"))
    for first, person, stage, side in places:
        names = encoders[first], encoders[1 - first]
        angle = person if stage == "after" or side == "target" else person * 2 + 3
        for x, y in np.array([math.cos(angle), math.sin(angle)]) + 0.06 * random.normal(size=(4, 2)):
            points.append(ProjectedPoint(dataset, *names, "canonical", stage, side, person, x, y))
    return points


def write_pairwise(folder, dataset, encoders=ENCODERS, seeds=(42, 123), *, whole=True, **config) -> None:
    """What ``experiments.pairwise`` writes; with curves, projection and controls where ``whole``."""
    fits = [
        FitRow(dataset, s, t, method, 42, None, None, 0.5, 30.0, 9.0, (i, j, method) != (0, 1, "ridge"))
        for i, j, s, t in pairs(encoders)
        for method, _ in METHODS
    ]
    files: dict[str, Any] = {"fits.csv": fits}
    rows = pairwise_rows(dataset, encoders, seeds)
    if whole:  # with each encoder against itself
        own = "own", None, seeds[0], "excluded", "rank1", 0.9
        rows += [Row(dataset, name, name, *own) for name in encoders]
        here = (dataset, "", "", None, seeds[0], "", "", "ridge", "canonical r=64", "excluded", "rank1")
        curves = curve_rows(dataset, encoders, seeds)
        files |= {"differences.csv": [Difference(*here, -0.1, -0.12, -0.08)], "curves.csv": curves}
        files |= {"curves.parquet": curves, "projection.csv": projection(dataset, encoders)}
    write_part(folder, "pairwise", rows, dataset, encoders, seeds, files, **config)


def write_transfer(folder, datasets, encoders, seeds) -> None:
    """Each data set's maps on each."""
    rows = []
    for fitted, tested in itertools.product(datasets, datasets):
        loss, where = (0.0, "") if fitted == tested else (0.07, tested)
        for row in pairwise_rows(fitted, encoders, seeds, test_dataset=where):
            rows.append(row if row.reason else row._replace(value=max(0.0, row.value - loss)))
    write_part(folder, "transfer", rows, datasets[0], encoders, seeds)


def write_sweep(folder, driver, dataset, encoders, seeds) -> None:
    """Along one axis, and where it flattens."""
    axis, places = {
        "data_efficiency": ("train_people", (10, 30, 100, 300, 1000)),
        "rank_sweep": ("rank", (4, 8, 16, 32, 64)),
        "ridge_path": ("l2", (0.001, 0.01, 0.1, 1.0, 10.0)),
    }[driver]
    own, ends = "excluded", {"low": 80.0, "high": 400.0}
    people = [(own, PEOPLE.format(95), 150.0, 10, ends), (own, PEOPLE.format(99), NAN, 0, {"reason": NEVER})]
    ranks = [(own, "smallest_rank_within_1_point", 16.0, 1, {}), ("", "effective_rank", 20.5, 1, {})]
    # Same image, measure, value, more for source i.
    numbers: dict[str, list[tuple]] = {"data_efficiency": people, "rank_sweep": ranks}
    rows = []
    for seed in seeds:
        for (i, j, source, target), number in itertools.product(pairs(encoders), (1, 2)):
            here = dataset, source, target, ("ridge", "canonical")[number - 1]
            for place, at in enumerate(places):
                value = rate(i, j, number, seed) * (1 - 0.5 ** (place + 1))
                if driver == "ridge_path":
                    value = rate(i, j, number, seed) - 0.01 * (place - 2) ** 2
                rank = int(at) if axis == "rank" else None
                for own, measure, share in (("excluded", "rank1", 1.0), ("", "tmr@fmr=0.001", 0.8)):
                    reached = value * share
                    more: Any = {"axis": axis, "at": at, "low": reached - 0.02, "high": reached + 0.02}
                    rows.append(Row(*here, rank, seed, own, measure, reached, **more))
            for own, measure, start, step, more in numbers.get(driver, []):
                rows.append(Row(*here, None, seed, own, measure, start + step * i, **more))
        if driver == "data_efficiency":
            of_mean = dataset, "", "", "ridge", None, seed, "excluded", PEOPLE.format(95), 140.0
            rows.append(Row(*of_mean, low=90.0, high=300.0))
    write_part(folder, driver, rows, dataset, encoders, seeds)


def tree(encoders: Sequence[str]) -> dict:
    """Average linkage over 100 − symmetrised rank-1, by scipy."""
    count = len(encoders)
    values = np.full((count, count), 100.0)
    for i, j, _, _ in pairs(encoders):
        values[i, j] = 100 * rate(i, j, 2)
    distances = 100 - (values + values.T) / 2
    merges = linkage(squareform(distances, checks=False), "average")
    return {
        "encoders": list(encoders),
        "distances": distances.tolist(),
        "linkage": merges.tolist(),
        "order": [encoders[leaf] for leaf in leaves_list(merges)],
        "cophenetic": float(cophenet(merges, squareform(distances, checks=False))[0]),
        "source": {name: float(np.delete(values[i], i).mean()) / 100 for i, name in enumerate(encoders)},
        "sink": {name: float(np.delete(values[:, i], i).mean()) / 100 for i, name in enumerate(encoders)},
        "labels": {name: "face" if i < 3 else "foundation" for i, name in enumerate(encoders)},
        "permutation": {"statistic": 8.1, "p": 0.03, "permutations": 999},
    }


def write_families(folder, dataset, encoders, seeds) -> None:
    """Trees by two measures."""
    trees = {"rank1": tree(encoders), "auc": {**tree(encoders), "labels": None, "permutation": None}}
    here = "families", None, seeds[0], "", "source_score", 0.5
    rows = [Row(dataset, name, name, *here) for name in encoders]
    write_part(folder, "families", rows, dataset, encoders, seeds, {"families.json": trees})


def write_geometry(folder, dataset, encoders, seeds) -> None:
    """Similarities with their nulls, single encoders, and what predicts alignability."""
    names = ("linear_cka_unbiased", "mutual_knn", "procrustes_distance")
    here = "geometry", None, 42, ""
    rows = []
    for i, j, source, target in pairs(encoders):
        for place, name in enumerate(names if i < j else ()):
            value = round(0.9 - 0.1 * place - 0.05 * (j - i), 6)
            calibrated = round((value - 0.1) / 0.9, 6)
            ends = (("", value), (":null_mean", 0.1), (":null_95%", 0.14), (":calibrated", calibrated))
            rows += [Row(dataset, source, target, *here, name + end, number) for end, number in ends]
    for i, name in enumerate(encoders):
        for measure in ("intrinsic_dimension_twonn", "participation_ratio", "anisotropy"):
            rows.append(Row(dataset, name, name, *here, measure, 11.25 + i))
        number: Any = {"value": NAN, "reason": "fewer than 10 neighbours"} if i == 1 else {"value": 1.5}
        rows.append(Row(dataset, name, name, *here, "hubness_skewness", **number))
    predictions = []
    for method in ("canonical", "ridge"):
        for (place, name), calibrated in itertools.product(enumerate(names), ("no", "yes")):
            value = 0.3 + 0.1 * place + 0.05 * (calibrated == "yes")
            value = -value if name == "procrustes_distance" and calibrated == "no" else value
            numbers = value, value - 0.2, min(1, value + 0.15), 10, 0.01
            predictions.append(Predicted(name, calibrated, method, "rank1", *numbers))
        predictions.append(Predicted("mean_cca", "yes", method, "rank1", NAN, NAN, NAN, 10, NAN))
    reached = pairwise_rows(dataset, encoders, seeds)
    files = {"prediction.csv": predictions, "alignability.parquet": reached}
    write_part(folder, "geometry", rows, dataset, encoders, seeds, files)


def write_side_by_side(folder, driver, dataset, encoders, seeds: Sequence[int]) -> None:
    """More capacity, or halves of the training people."""
    methods, measures = {
        "capacity": ("linear_features random_fourier polynomial mlp", "rank1 auc"),
        "stability": ("ridge canonical", "map_agreement score_agreement ranking_agreement round_trip"),
    }[driver]
    rows = []
    for seed, (place, method) in itertools.product(seeds, enumerate(methods.split())):
        for i, j, source, target in pairs(encoders):
            for number, measure in enumerate(measures.split()):
                value = min(1.0, rate(i, j, 1, seed) + 0.01 * place + 0.1 * number)
                own = "excluded" if measure == "rank1" else ""
                row = Row(dataset, source, target, method, None, seed, own, measure, value)
                if (method, measure) == ("mlp", "auc"):
                    row = row._replace(value=NAN, reason="the network did not converge")
                rows.append(row)

    around = [*encoders, *encoders[:2]]
    threes = zip(around, around[1:], around[2:])
    ways = [ThreeWay(dataset, *names, "ridge", 42, 0.5, 0.4, 0.6) for names in threes]
    files = {"three_way.csv": ways} if driver == "stability" else {}
    write_part(folder, driver, rows, dataset, encoders, seeds, files)


def ensembles_of(encoders: Sequence[str]) -> dict[str, list[str]]:
    """The members of every set, by its name, as config.json of an ensemble has them."""
    sizes = range(1, len(encoders) + 1)
    every = (members for size in sizes for members in itertools.combinations(encoders, size))
    return {"+".join(members): list(members) for members in every}


def ensemble_rows(dataset: str, encoders: Sequence[str], seed: int) -> list[Row]:
    """Encoders in the galleries of others, and sets: the first encoder is the best, and no set is better."""
    rows = []

    def add(source: str, target: str, method: str, value: float, **more: Any) -> None:
        here = dataset, source, target, method, None, seed
        rows.append(Row(*here, "excluded", "rank1", value, **more))
        rows.append(Row(*here, "", "tmr@fmr=0.01", value / 2, **more))

    for i, j, source, target in pairs(encoders):
        add(source, target, "shared", 0.5 - 0.1 * abs(i - j))
    for name, members in ensembles_of(encoders).items():
        places = [encoders.index(each) for each in members]
        mean = 0.8 - 0.2 * sum(places) / len(places)
        add(name, name, "mean", mean)
        second = ("heterogeneous", 0.6 - 0.1 * len(places)) if len(places) > 1 else ("concatenation", 0.3)
        add(name, name, *second)
        if places == [*range(len(places))]:
            add(name, name, "mean", mean, axis="budget", at=float(len(places)))
    return rows


def write_ensemble(folder, dataset, encoders, seed) -> None:
    """Every set of the encoders, by a fusion and as a mixed gallery."""
    rows = ensemble_rows(dataset, encoders, seed)
    kinds = ("rank1 (excluded)", "tmr@fmr=0.01")
    found = [Predicted("alignability", "no", "mean", kind, -0.5, -1.0, 0.25, 3, 0.4) for kind in kinds]
    about = {"ensembles": ensembles_of(encoders)}
    write_part(folder, "ensemble", rows, dataset, encoders, [seed], {"prediction.csv": found}, about)


def write_security(folder, dataset, encoders, seed) -> None:
    """Every part of the attacks."""
    files = {"security.json": made_security.content(encoders)}
    write_part(
        folder, "security", made_security.rows(dataset, encoders, seed), dataset, encoders, [seed], files
    )


def write_study(folder: pathlib.Path, encoders=ENCODERS, seeds=(42, 123), datasets=("made", "other")) -> None:
    """A whole study without one of its parts, and the results of commands that are no part of a study."""
    first = datasets[0]
    safe = re.sub(r"\W+", "_", first)
    write_pairwise(folder / f"pairwise-{safe}", first, encoders, seeds)
    write_transfer(folder / "transfer", datasets, encoders, seeds)
    for driver in ("data_efficiency", "rank_sweep", "ridge_path"):
        write_sweep(folder / f"{driver}-{safe}", driver, first, encoders, seeds)
    write_families(folder / f"families-{safe}", first, encoders, seeds)
    write_geometry(folder / f"geometry-{safe}", first, encoders, seeds)
    for driver in ("capacity", "stability"):
        write_side_by_side(folder / f"{driver}-{safe}", driver, first, encoders, seeds)
    write_ensemble(folder / f"ensemble-{safe}", first, encoders[:3], seeds[0])
    write_security(folder / f"security-{safe}", first, encoders[:2], seeds[0])
    parts = sorted(path.name for path in folder.iterdir()) + [f"capacity-{datasets[-1]}"]
    results.Writer(folder).config("study", {}, parts=parts)
