"""The analyses in one process: what they measure against numpy and scikit-learn, and what bad input gets."""

import importlib
import json
import shutil
from typing import Any

import numpy as np
import pytest
from commands import read, run, succeed, value
from planted import planted, refused_with
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from experiments import (
    capacity,
    data_efficiency,
    pairwise,
    rank_sweep,
    ridge_path,
    stability,
    study,
    transfer,
)
from experiments.run import doubts
from experiments.run.results import COLUMNS
from jaxalign.core.people import identity_folds, published_split
from jaxalign.data import EmbeddingStore

PEOPLE, SECOND = range(30), range(18, 48)
LIGHT = "--intervals=40"


def names(people):
    return np.repeat([f"person_{number:03d}" for number in people], 4)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores of two encoders that the same rotations belong to; twelve people occur in both."""
    place = tmp_path_factory.mktemp("stores")
    rows, _ = planted(people=48, noise=0.4)
    for name, people in (("first", PEOPLE), ("second", SECOND)):
        chosen = {key: rows[key][4 * people.start : 4 * people.stop] for key in ("alpha", "gamma")}
        EmbeddingStore.create(place / name, chosen, names(people), dataset=name)
    return place


def measured(command, out, *flags):
    """Runs a command, whose rows and configuration it gives."""
    succeed(command, f"--out={out}", LIGHT, *flags)
    return read(out), json.loads((out / "config.json").read_text())


def ridge_rank1(train, test, l2, people):
    """Rank-1 from alpha to gamma by scikit-learn, centred by the training means, the same image excluded."""
    (x, y), (x_test, y_test) = train, test
    mapped = Ridge(alpha=l2).fit(x, y).predict(x_test)
    unit: list[Any] = [normalize(rows - y.mean(axis=0)) for rows in (mapped, y_test)]
    scores = unit[0] @ unit[1].T
    np.fill_diagonal(scores, -2)
    return np.mean(people[scores.argmax(axis=1)] == people)


def sides(store, rows) -> list[Any]:
    """Rows of alpha and of gamma, scaled to length 1."""
    opened = EmbeddingStore.open(store)
    return [normalize(np.asarray(opened[name], np.float64))[rows] for name in ("alpha", "gamma")]


class Split:
    """The published split of a store, as NumPy arrays: its people, and (alpha, gamma) rows of both sides."""

    def __init__(self, store):
        self.store, self.people = store, np.asarray(EmbeddingStore.open(store).identities)
        self.rows = published_split(self.people, 42)
        self.train, self.test = (sides(store, rows) for rows in (self.rows.train, self.rows.test))
        self.tested = self.people[self.rows.test]

    def ridge_rank1(self, l2, train=None):
        """By scikit-learn, fitted on the training side unless other rows are given."""
        return ridge_rank1(self.train if train is None else train, self.test, l2, self.tested)


@pytest.fixture(scope="module")
def first(stores):
    return Split(stores / "first")


@pytest.fixture(scope="module")
def second(stores):
    return Split(stores / "second")


def test_ridge_path_is_scikit_learns(first, tmp_path):
    rows, config = measured(ridge_path, tmp_path / "o", f"--store={first.store}", "--penalties=0.01,3")
    assert list(rows[0]) == list(COLUMNS) and config["driver"] == "ridge_path"
    for l2 in (0.01, 3.0):
        here = {"source": "alpha", "target": "gamma", "axis": "l2", "at": l2, "measure": "rank1"}
        assert value(rows, **here) == pytest.approx(first.ridge_rank1(l2), abs=1e-9)
        x, y = first.train
        mapped = Ridge(alpha=l2).fit(x, y).predict(x)
        variance = np.linalg.eigvalsh(np.cov(mapped.T))
        here["measure"] = "effective_rank"
        assert value(rows, **here) == pytest.approx(variance.sum() ** 2 / (variance**2).sum(), rel=1e-4)
    best = [row for row in rows if row["measure"] == "best_l2"]
    assert len(best) == 3 and all(float(row["value"]) in (0.01, 3.0) for row in best)
    assert all(float(row["low"]) <= float(row["high"]) for row in best)


def test_data_efficiency_fits_on_the_first_people_of_the_split(first, tmp_path):
    flags = ("--train_people=5,21", "--train_pairs=40,84", "--l2=0.1", "--methods=ridge")
    rows, _ = measured(data_efficiency, tmp_path / "o", f"--store={first.store}", *flags)
    order = sorted(set(first.people))
    np.random.RandomState(42).shuffle(order)
    whole = {"source": "alpha", "target": "gamma", "measure": "rank1"}
    for number in (5, 21):
        expected = first.ridge_rank1(0.1, sides(first.store, np.isin(first.people, order[:number])))
        found = value(rows, **whole, axis="train_people", at=float(number))
        assert found == pytest.approx(expected, abs=1e-9)
    assert value(rows, **whole, axis="train_pairs", at=84.0) == value(
        rows, **whole, axis="train_people", at=21.0
    )
    flat = [row for row in rows if row["measure"].startswith("rank1:")]
    assert {row["measure"] for row in flat} == {
        f"rank1:{unit}_for_{p}%" for unit in ("people", "pairs") for p in (95, 99)
    }
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in flat)


def test_published_sizes_are_shares_of_all_people(stores, tmp_path):
    flags = ("--protocol=published", "--train_pairs=none", "--methods=ridge")
    rows, _ = measured(data_efficiency, tmp_path / "o", f"--store={stores / 'first'}", *flags)
    assert {float(row["at"]) for row in rows if row["axis"]} == {3, 6, 9, 12, 15, 18, 21}


def test_transfer_leaves_common_people_out_and_keeps_the_test_people(first, second, tmp_path):
    flags = ("--l2=0.1", "--methods=ridge", "--measures=identification")
    rows, config = measured(transfer, tmp_path / "o", f"--stores={first.store},{second.store}", *flags)
    tested = set(second.tested)
    dropped = len(set(first.people) & tested)
    assert 0 < dropped < 12
    (way,) = [entry for entry in config["left_out"] if entry["fitted_on"] == "first"]
    assert way["people"] == dropped and way["tested_on"] == "second"
    here = {"source": "alpha", "target": "gamma", "measure": "rank1"}
    train = sides(first.store, ~np.isin(first.people, list(tested)))
    found = value(rows, **here, dataset="first", test_dataset="second")
    assert found == pytest.approx(second.ridge_rank1(0.1, train), abs=1e-9)
    found = value(rows, **here, dataset="second", test_dataset="")
    assert found == pytest.approx(second.ridge_rank1(0.1), abs=1e-9)


def test_published_transfer_fits_on_all_and_tests_on_all(first, second, tmp_path):
    flags = ("--protocol=published", "--methods=ridge", "--same_names=unrelated", "--measures=identification")
    rows, config = measured(transfer, tmp_path / "o", f"--stores={first.store},{second.store}", *flags)
    assert all(entry["people"] == 0 for entry in config["left_out"])
    train, test = (sides(split.store, slice(None)) for split in (first, second))
    here = {"source": "alpha", "target": "gamma", "measure": "rank1", "own_photograph": "excluded"}
    found = value(rows, **here, dataset="first", test_dataset="second")
    assert found == pytest.approx(ridge_rank1(train, test, 0.1, second.people), abs=1e-9)


def test_transfer_reads_what_stores_reach_by_their_own_maps(stores, tmp_path):
    both = f"--stores={stores / 'first'},{stores / 'second'}"
    asked = ("--l2=0.1", "--methods=ridge", "--measures=identification")
    found, _ = measured(transfer, tmp_path / "measured", both, *asked)
    here = f"--store={stores / 'first'}"
    plain = (here, *asked, "--seeds=42", "--heatmaps=none", "--nocurves")
    measured(pairwise, tmp_path / "own", *plain, "--methods=identity,ridge")
    read_, _ = measured(transfer, tmp_path / "read", both, *asked, f"--results={tmp_path / 'own'}")
    same = {frozenset(row.items()) for row in found}
    assert len(read_) == len(found) and {frozenset(row.items()) for row in read_} == same
    fits = read(tmp_path / "read" / "fits.csv")
    assert {row["dataset"] for row in fits} == {"first", "second"} and len(fits) == 6  # 3 ways of 2 pairs
    measured(stability, tmp_path / "halves", here, "--l2=0.1", "--methods=ridge")
    measured(pairwise, tmp_path / "half", *plain, "--targets=gamma")
    for earlier, flag, sentence in (
        ("own", "--l2=0.2", "made with --l2=0.1, this run has 0.2"),
        ("own", "--seeds=7", "none of --seeds=7"),
        ("halves", "--l2=0.1", "expected results of pairwise, got those of stability"),
        ("half", "--l2=0.1", "has nothing of gamma → alpha by ridge, seed 42"),
        ("none", "--l2=0.1", "holds no results"),
    ):
        again = (both, *asked, f"--results={tmp_path / earlier}", f"--out={tmp_path / 'o'}", flag, LIGHT)
        assert sentence in refused_with(run(transfer, *again))
    assert not (tmp_path / "o").exists()


def test_rank_sweep_ends_at_the_full_maps(first, tmp_path):
    rows, _ = measured(rank_sweep, tmp_path / "o", f"--store={first.store}", "--ranks=2,12,full", "--l2=0.1")
    expected = first.ridge_rank1(0.1)
    here = {"source": "alpha", "target": "gamma", "axis": "rank", "measure": "rank1"}
    assert value(rows, **here, at=12.0, method="reduced_rank") == pytest.approx(expected, abs=1e-9)
    assert {row["at"] for row in rows if row["axis"]} == {"2.0", "12.0"}
    for method in ("reduced_rank", "orthogonal_subspaces", "canonical"):
        least = value(rows, measure="smallest_rank_within_1_point", method=method, source="alpha")
        good = (
            value(rows, **here, at=2.0, method=method) >= value(rows, **here, at=12.0, method=method) - 0.01
        )
        assert least == (2 if good else 12)
        assert 1 <= value(rows, measure="effective_rank", method=method, source="alpha") <= 12


def test_stability_compares_two_halves(first, tmp_path):
    flags = ("--methods=ridge", "--l2=0.1")
    rows, _ = measured(stability, tmp_path / "o", f"--store={first.store}", *flags)
    train, test = first.train, first.test
    half = identity_folds(first.people[first.rows.train], 2, 42)
    fitted = [Ridge(alpha=0.1).fit(train[0][half == k], train[1][half == k]) for k in (0, 1)]
    images: list[Any] = [ridge.predict(test[0]) for ridge in fitted]
    centre = (images[0].mean(axis=0) + images[1].mean(axis=0)) / 2
    here = {"method": "ridge", "source": "alpha"}
    assert value(rows, **here, measure="map_agreement") == pytest.approx(
        closeness(images[0], images[1], centre), abs=1e-4
    )
    scores = []
    for k, image in enumerate(images):
        mean = train[1][half == k].mean(axis=0)
        unit: list[Any] = [normalize(image - mean), normalize(test[1] - mean)]
        scores.append(unit[0] @ unit[1].T)
    each = list(zip(*scores))
    expected = np.mean([correlation(pearsonr, *pair) for pair in each])
    assert value(rows, **here, measure="score_agreement") == pytest.approx(expected, abs=1e-4)
    expected = np.mean([correlation(spearmanr, *pair) for pair in each])
    assert value(rows, **here, measure="ranking_agreement") == pytest.approx(expected, abs=1e-3)
    there, back = Ridge(alpha=0.1).fit(train[0], train[1]), Ridge(alpha=0.1).fit(train[1], train[0])
    around = back.predict(there.predict(test[0]))
    expected = closeness(test[0], around, test[0].mean(axis=0))
    assert value(rows, **here, measure="round_trip") == pytest.approx(expected, abs=1e-4)
    assert not [row for row in rows if row["measure"] == "three_way"]  # there is no third encoder
    assert read(tmp_path / "o" / "three_way.csv") == []


def correlation(kind, left, right) -> float:
    found: Any = kind(left, right)
    return float(found[0])


def closeness(one, other, centre):
    """1 − relative Frobenius distance."""
    size = (np.sum((one - centre) ** 2) + np.sum((other - centre) ** 2)) / 2
    return 1 - np.sqrt(np.sum((one - other) ** 2) / size)


def test_three_encoders_are_gone_round_by_the_third(tmp_path):
    rows, people = planted(people=12)
    EmbeddingStore.create(tmp_path / "three", rows, people, dataset="three")
    flags = ("--methods=orthogonal", "--seeds=1,2")
    rows, _ = measured(stability, tmp_path / "o", f"--store={tmp_path / 'three'}", *flags)
    ways = read(tmp_path / "o" / "three_way.csv")
    assert len(ways) == 2 * 6 and {way["via"] for way in ways} == {"alpha", "beta", "gamma"}
    here = {"source": "alpha", "target": "beta", "seed": 2}
    way = value(ways, **here, via="gamma")
    assert value(rows, **here, measure="three_way") == pytest.approx(way)
    assert 0.5 < way < 1


def test_capacity_begins_with_ridge(first, tmp_path):
    flags = ("--l2=0.1", "--features=20", "--hidden=8", "--steps=20", "--measures=identification")
    one_way = (f"--store={first.store}", "--sources=alpha")
    rows, _ = measured(capacity, tmp_path / "o", *one_way, *flags)
    here = {"source": "alpha", "target": "gamma", "measure": "rank1"}
    expected = first.ridge_rank1(0.1)
    assert value(rows, **here, method="linear_features") == pytest.approx(expected, abs=1e-9)
    for method in ("random_fourier", "polynomial", "mlp"):
        assert value(rows, **here, method=method) > 0.5 * expected
    better = read(tmp_path / "o" / "differences.csv")
    mean = [row for row in better if row["source"] == "" and row["measure"] == "rank1"]
    assert len(mean) == 6 and all(float(row["low"]) <= float(row["high"]) for row in mean)


def test_the_main_command_writes_intervals_differences_curves_and_views(stores, tmp_path):
    out = tmp_path / "o"
    flags = ("--methods=orthogonal,ridge", "--l2=0.1", "--fmr=0.01,0.1", "--heatmaps=none", "--seeds=42")
    flags += ("--scores=cosine",)
    rows, _ = measured(pairwise, out, f"--store={stores / 'first'}", *flags)
    here = {"source": "alpha", "target": "gamma", "measure": "map"}
    for row in rows:
        if row["value"]:
            assert float(row["low"]) - 0.1 <= float(row["value"]) <= float(row["high"]) + 0.1
        else:
            assert row["reason"] and not row["low"]
        at_threshold = bool(row["value"]) and row["measure"].startswith("tmr@")
        assert at_threshold == bool(row["threshold_low"]) == bool(row["threshold_high"])
        if at_threshold:
            assert float(row["threshold_low"]) <= float(row["threshold"]) <= float(row["threshold_high"])
    found = read(out / "differences.csv")
    of_pair = {**here, "method": "orthogonal", "other": "ridge"}
    gains = [value(rows, **here, method=method) for method in ("orthogonal", "ridge")]
    assert value(found, **of_pair) == pytest.approx(gains[0] - gains[1])
    mean = value(found, **{**of_pair, "source": "", "target": ""})
    back = value(found, **{**of_pair, "source": "gamma", "target": "alpha"})
    assert mean == pytest.approx((gains[0] - gains[1] + back) / 2)
    curves = read(out / "curves.csv")
    assert list(curves[0]) == list(COLUMNS)
    here = {"source": "gamma", "target": "alpha", "method": "ridge"}
    assert value(curves, **here, measure="cmc", at=5.0) == value(rows, **here, measure="rank5")
    assert value(curves, **here, measure="tmr", at=0.1) == value(rows, **here, measure="tmr@fmr=0.1")
    views = read(out / "projection.csv")
    assert list(views[0]) == "dataset source target method stage side person x y".split()
    assert len(views) == 2 * 2 * 2 * 2 * 6 * 4 and {view["person"] for view in views} == set("012345")
    apart = {}  # mean distance of the two sides of a photograph, in units of the whole picture
    for stage in ("before", "after"):
        place = [[float(view["x"]), float(view["y"])] for view in views if view["stage"] == stage]
        place = np.reshape(place, (-1, 2, 24, 2))
        apart[stage] = np.linalg.norm(place[:, 0] - place[:, 1], axis=2).mean() / place.std()
    assert apart["after"] < 0.5 * apart["before"]


def test_a_study_writes_every_part_as_its_command_does(stores, tmp_path, monkeypatch):
    out, both, told = tmp_path / "s", f"--stores={stores / 'first'},{stores / 'second'}", []
    monkeypatch.setattr(study.report, "write", lambda tree, *given, **more: told.append((tree, *given)))
    parts = ["ridge_path-first", "ridge_path-second", "transfer"]
    succeed(study, both, f"--out={out}", "--parts=transfer,ridge_path", "--tables=latex", LIGHT)
    config = json.loads((out / "config.json").read_text())
    assert (config["driver"], config["parts"], config["failed"]) == ("study", parts, {})
    for part in parts:
        inside = json.loads((out / part / "config.json").read_text())
        assert inside["driver"] == part.partition("-")[0]
        assert inside["config"]["intervals"] == 40
        assert read(out / part / "results.csv")
    ((tree, where, formats),) = told
    assert ([part.name for part in tree.parts], where, formats) == (parts, out / "report", ("latex",))


def test_a_study_measures_maps_of_one_store_once(stores, tmp_path, monkeypatch):
    out, both = tmp_path / "s", f"--stores={stores / 'first'},{stores / 'second'}"
    monkeypatch.setattr(study.report, "write", lambda *given, **more: None)
    monkeypatch.setattr(doubts, "WEAK", {"rank1": 1.01})
    done = succeed(study, both, f"--out={out}", "--parts=pairwise,transfer", "--rank_k=1", LIGHT)
    for name in ("first", "second"):
        (told, *_) = json.loads((out / f"pairwise-{name}" / "config.json").read_text())["warnings"]
        assert told.startswith("alpha is weak by itself") and f"warning: {told}" in done.stderr
    rows = read(out / "transfer" / "results.csv")
    for name in ("first", "second"):
        own = [row for row in rows if row["dataset"] == name and not row["test_dataset"]]
        methods = {row["method"] for row in own}
        assert methods == {"identity", "orthogonal", "ridge", "canonical"}
        there = read(out / f"pairwise-{name}" / "results.csv")
        assert {row["score"] for row in there} == {"cosine", "cohort"}
        plain = [
            row for row in there if not row["measure"].endswith("_relative") and row["score"] == "cosine"
        ]
        assert own == [row for row in plain if row["method"] in methods]
        assert {row["source"] for row in plain if row["method"] == "own"} == {"alpha", "gamma"}
        assert any(row["dataset"] == name and row["test_dataset"] for row in rows)
    assert len(read(out / "transfer" / "fits.csv")) == 2 * 4 * 2  # none of a store by itself


def test_a_study_compares_by_the_scores_asked_for(stores, tmp_path, monkeypatch):
    out, both = tmp_path / "s", f"--stores={stores / 'first'},{stores / 'second'}"
    monkeypatch.setattr(study.report, "write", lambda *given, **more: None)
    parts = ("--parts=pairwise,transfer", "--scores=cohort", "--rank_k=1")
    succeed(study, both, f"--out={out}", *parts, LIGHT)
    assert {row["score"] for row in read(out / "pairwise-first" / "results.csv")} == {"cohort"}
    assert {row["score"] for row in read(out / "transfer" / "results.csv")} == {"cosine"}
    of_cohort = (both, "--rank_k=1", f"--results={out / 'pairwise-first'}", LIGHT, f"--out={tmp_path / 't'}")
    assert "--scores=cohort" in refused_with(run(transfer, *of_cohort))


def test_a_study_keeps_what_is_finished_and_replaces_other_settings(stores, tmp_path, monkeypatch):
    out, store = tmp_path / "s", stores / "first"
    part = out / "ridge_path-first"
    succeed(ridge_path, f"--store={store}", f"--out={part}", "--penalties=7", LIGHT)
    shutil.copytree(part, out / "stability-first")  # of an older study
    again = (f"--stores={store}", f"--out={out}", "--parts=ridge_path", LIGHT)
    assert "add --overwrite" in refused_with(run(study, *again))
    older = (part / "results.csv").read_bytes()
    for flag in ("--rank_k=900", "--train_fraction=0.01"):  # with the second, no part could be done
        assert run(study, *again, "--overwrite", flag).returncode == 2
    assert (part / "results.csv").read_bytes() == older
    succeed(study, *again, "--overwrite")
    everything = {"config.json", "ridge_path-first", "stability-first", "report"}
    assert {path.name for path in out.iterdir()} == everything
    assert {row["at"] for row in read(part)} > {"0.001", "100.0"}
    page = (out / "report" / "report.html").read_bytes()
    assert b'id="ridge_path-first"' in page and b'id="stability-first"' not in page
    made = part.stat().st_ino, (part / "results.csv").stat().st_mtime_ns
    for more in ((), ("--overwrite",)):
        assert "ridge_path-first: is there already" in succeed(study, *again, *more).stdout
        assert (part.stat().st_ino, (part / "results.csv").stat().st_mtime_ns) == made
    page = (out / "report" / "report.html").read_bytes()
    monkeypatch.setattr(study.report, "write", lambda *given, **more: 1 / 0)
    failed = run(study, *again)
    assert failed.returncode == 1 and "report: failed: ZeroDivisionError" in failed.stdout
    assert (out / "report" / "report.html").read_bytes() == page
    (out / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in refused_with(run(study, *again, "--overwrite"))
    assert {path.name for path in out.iterdir()} == {*everything, "thesis.tex"}


@pytest.mark.parametrize(
    "flag, words", {"--stores=": "takes at least one directory", "--out=": "--out is empty"}.items()
)
def test_a_study_refuses_an_empty_flag(stores, tmp_path, monkeypatch, flag, words):
    monkeypatch.chdir(tmp_path)
    given = {"--stores": f"--stores={stores / 'first'}", "--out": f"--out={tmp_path / 's'}"}
    flags = [other for name, other in given.items() if not flag.startswith(name)]
    assert words in refused_with(run(study, flag, *flags, "--parts=ridge_path", LIGHT))
    assert not any(tmp_path.iterdir())


def test_a_study_of_stores_that_share_no_encoders_has_no_transfer(stores, tmp_path, monkeypatch):
    rows, people = planted(people=30)
    EmbeddingStore.create(tmp_path / "other", {"beta": rows["beta"], "delta": rows["alpha"]}, people)
    monkeypatch.setattr(study.report, "write", lambda *given, **more: None)
    both = f"--stores={stores / 'first'},{tmp_path / 'other'}"
    succeed(study, both, f"--out={tmp_path / 'a'}", "--parts=ridge_path", LIGHT)
    done = run(study, both, f"--out={tmp_path / 'b'}", "--parts=ridge_path,transfer", LIGHT)
    assert done.returncode == 1 and "transfer: failed: maps cross between stores" in done.stdout
    for out in ("a", "b"):
        names = {row["source"] for row in read(tmp_path / out / "ridge_path-other")}
        assert names - {""} == {"beta", "delta"}  # nobody for what is of all pairs


def test_a_study_goes_on_where_it_was_interrupted(stores, tmp_path, monkeypatch):
    out = tmp_path / "s"
    again = (f"--stores={stores / 'first'}", f"--out={out}", "--parts=ridge_path,stability", LIGHT)
    monkeypatch.setattr(study.report, "write", lambda *given, **more: None)
    analyse = study.analysis.run

    def interrupted(part, job):
        if part.name == "stability":
            raise KeyboardInterrupt
        return analyse(part, job)

    monkeypatch.setattr(study.analysis, "run", interrupted)
    assert run(study, *again).returncode == 130
    assert [path.name for path in out.iterdir()] == ["ridge_path-first"]
    monkeypatch.setattr(study.analysis, "run", analyse)
    done = succeed(study, *again)
    assert "ridge_path-first: is there already" in done.stdout
    assert "Wrote 1 part to" in done.stdout
    config = json.loads((out / "config.json").read_text())
    assert config["parts"] == ["ridge_path-first", "stability-first"]


def test_every_part_of_the_table_is_there():
    for name in study.PARTS:
        part = importlib.import_module(f"experiments.{name}").ANALYSIS
        assert part.name == name
        assert {"out", "overwrite"} <= set(part.flags)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (ridge_path, ["--penalties=0.1"]),
        (data_efficiency, ["--train_fractions=0.7", "--train_pairs=none", "--methods=ridge"]),
    ],
)
def test_published_numbers_on_real_embeddings(shared, lfw_dev, tmp_path, command, flags):
    """As an independent float64 script has them for ridge with penalty 0.1 on 70 % of the people."""
    more = ("--protocol=published", "--models=mobilefacenet,dlib_resnet")
    more += ("--measures=identification,verification", f"--store={lfw_dev}")
    rows, _ = measured(command, tmp_path / "o", *flags, *more)
    reference = json.loads((shared / "data" / "reference.json").read_text())["rows"]
    for source, target in (("mobilefacenet", "dlib_resnet"), ("dlib_resnet", "mobilefacenet")):
        here = {"source": source, "target": target}
        wanted = {**here, "method": "ridge0.1", "seed": 42}
        (expected,) = [row for row in reference if all(row[key] == item for key, item in wanted.items())]
        for own in ("included", "excluded"):
            for name in ("rank1", "rank5", "rank10", "rank20"):
                found = value(rows, **here, own_photograph=own, measure=name)
                assert found == pytest.approx(expected[f"own_{own}"][name], abs=1e-3), (source, own, name)
        for name in ("auc", "eer", "tmr@fmr=0.01", "tmr@fmr=0.001"):
            found = value(rows, **here, measure=name)
            assert found == pytest.approx(expected["verification"][name], abs=1e-3), (source, name)
