"""The main command on stores: the contract others script against, and how a run of it ends."""

import errno
import json
import math
import os
import signal

import numpy as np
import pyarrow.parquet
import pytest
from commands import read, run, succeed, value
from planted import PEOPLE, make_store, planted, refused_with
from processes import finished, start

from experiments import pairwise
from experiments.run import measuring, results
from experiments.run.results import COLUMNS
from jaxalign.biometrics import plan
from jaxalign.core import devices
from jaxalign.data import EmbeddingStore
from jaxalign.moments import accumulate

DEFAULT = ["--controls=none", "--seeds=42,7", "--save_maps", "--fmr=0.001,0.1", "--heatmaps=none"]
DEFAULT += ["--methods=identity,translation,orthogonal,linear,ridge,canonical,shared"]
CONTRACT = ["store", "models", "methods", "ranks", "l2", "seeds", "protocol", "normalize", "out", "overwrite"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "planted")


@pytest.fixture(scope="module")
def default_run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "default"
    return out, succeed(pairwise, f"--store={store}", f"--out={out}", *DEFAULT)


@pytest.fixture(scope="module")
def published_run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "published"
    flags = ("--protocol=published", "--seeds=42", "--heatmaps=rank1,auc")
    succeed(pairwise, "--controls=none", f"--store={store}", f"--out={out}", *flags)
    return out


def test_table_has_the_contracted_columns_and_names(default_run):
    rows = read(default_run[0])
    assert list(rows[0]) == list(COLUMNS)
    assert {row["dataset"] for row in rows} == {"planted"}
    assert len({(row["source"], row["target"]) for row in rows}) == 6
    methods = {"identity", "translation", "orthogonal", "linear", "ridge", "canonical", "shared"}
    assert {row["method"] for row in rows} == methods
    assert {row["seed"] for row in rows} == {"42", "7"}
    names = {(row["measure"], row["own_photograph"]) for row in rows}
    identification = {(f"rank{k}", "excluded") for k in (1, 5, 10, 20)}
    verification = {(name, "") for name in ("auc", "eer", "tmr@fmr=0.001", "tmr@fmr=0.1")}
    assert identification | verification <= names
    assert not any(own == "included" for _, own in names)
    keys = [tuple(row[name] for name in (*COLUMNS[1:8], "score")) for row in rows]
    assert {row["score"] for row in rows} == {"cosine", "cohort"}
    assert len(set(keys)) == len(keys)
    by_run = {}
    for key in keys:
        by_run.setdefault((key[0], key[1], key[2], key[4]), set()).add(key[5:])
    assert len(by_run) == 6 * 7 * 2
    assert len({frozenset(found) for found in by_run.values()}) == 1


def test_maps_carry_identity_across_where_the_baseline_does_not(default_run):
    found = {}
    for row in read(default_run[0]):
        if row["measure"] == "rank1":
            found.setdefault(row["method"], []).append(float(row["value"]))
    assert all(0 <= number <= 1 for numbers in found.values() for number in numbers)
    assert np.mean(found["identity"]) < 0.5
    for method in ("orthogonal", "linear", "ridge", "canonical", "shared"):
        assert np.mean(found[method]) > 0.9, method


def test_ranks_are_empty_where_they_do_not_apply(default_run):
    ranks = {(row["method"], row["rank"]) for row in read(default_run[0])}
    assert {rank for method, rank in ranks if method == "shared"} == {"40"}  # 96, or as many as there are
    assert {rank for method, rank in ranks if method != "shared"} == {""}


def test_unsupported_rates_are_empty_and_supported_ones_are_complete(default_run):
    rows = read(default_run[0])
    low = [row for row in rows if row["measure"] == "tmr@fmr=0.001"]
    assert low and all(row["value"] == "" for row in low)
    for row in (row for row in rows if row["measure"] == "tmr@fmr=0.1"):
        assert 0 <= float(row["value"]) <= 1
        assert float(row["achieved"]) <= 0.1
        assert -1 <= float(row["threshold"]) <= 1
        assert int(row["comparisons"]) > 0
    table = (default_run[0] / "table.txt").read_text()
    assert "n/a: " in table and "too few comparisons" in table


def test_parquet_is_the_same_table(default_run):
    table = pyarrow.parquet.read_table(default_run[0] / "results.parquet").to_pylist()
    for one, other in zip(read(default_run[0]), table, strict=True):
        assert one["value"] == ("" if other["value"] is None else repr(other["value"]))
        for name in ("source", "measure", "seed", "rank"):
            assert one[name] == ("" if other[name] is None else str(other[name]))


def test_config_holds_what_another_would_need(default_run, store):
    config = json.loads((default_run[0] / "config.json").read_text())
    assert config["format"] == "jaxalign-results"
    assert config["driver"] == "pairwise"
    assert config["config"]["protocol"]["seeds"] == [42, 7]
    assert config["config"]["fmr"] == [0.001, 0.1]
    assert set(config["versions"]) == {"python", "jax", "jaxlib", "numpy", "jaxalign"}
    assert config["store"]["checksums"] == EmbeddingStore.open(store).checksums
    assert config["devices"]["platform"] == "cpu"
    assert [split["train_people"] + split["test_people"] for split in config["splits"]] == [PEOPLE, PEOPLE]


def test_every_fit_has_its_statistics(default_run):
    fits = read(default_run[0] / "fits.csv")
    assert len(fits) == 6 * 7 * 2
    for row in fits:
        assert (float(row["l2"] or 0) > 0) == (row["method"] == "ridge")  # chosen by cross-validation
        assert row["ok"] == "True"
        assert float(row["r2"]) > 0.8 or row["method"] in ("identity", "translation")


def test_saved_maps_are_those_that_were_measured(default_run, store):
    from jaxalign import PairwiseMaps
    from jaxalign.core.people import published_split

    maps = PairwiseMaps.load(default_run[0] / "maps" / "seed42" / "orthogonal")
    assert len(maps) == 6
    opened = EmbeddingStore.open(store)
    split, fit = published_split(opened.identities, 42), maps["alpha", "gamma"]

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def mapped(rows):
        embeddings = opened.take(rows)
        sides = fit.source(unit(embeddings["alpha"])), fit.target(unit(embeddings["gamma"]))
        return [unit(np.asarray(side)) for side in sides]

    def nearness(rows, others):
        people = opened.identities[split.train]
        cohort = unit(np.stack([others[people == person].mean(axis=0) for person in np.unique(people)]))
        return np.sort(rows @ cohort.T, axis=1)[:, -20:].mean(axis=1)

    (x, y), (source, target) = mapped(split.test), mapped(split.train)
    people = opened.identities[split.test]
    genuine = (people[:, None] == people) & ~np.eye(len(people), dtype=bool)
    cosines = x @ y.T
    centred = cosines - (nearness(x, target)[:, None] + nearness(y, source)) / 2
    wanted = {"source": "alpha", "target": "gamma", "method": "orthogonal", "seed": "42"}
    for score, scores in (("cosine", cosines), ("cohort", centred)):
        found = [value(read(default_run[0]), **wanted, score=score, measure=of) for of in ("rank1", "auc")]
        best = np.where(np.eye(len(people)), -np.inf, scores).argmax(axis=1)
        assert found[0] == pytest.approx(np.mean(people[best] == people), abs=1.5 / len(people))
        impostor = scores[people[:, None] != people]
        area = np.mean(scores[genuine][:, None] > impostor)
        assert found[1] == pytest.approx(area, abs=1e-5), score


def test_output_is_a_readable_table_and_nothing_is_left_beside_it(default_run):
    out, done = default_run
    assert "Mean over ordered pairs" in done.stdout and "canonical" in done.stdout
    assert "Wrote" in done.stdout.splitlines()[-1] and str(out) in done.stdout
    assert len(done.stderr.splitlines()) < 12, done.stderr  # no terminal: quiet
    assert [path.name for path in out.parent.iterdir()] == ["default"]
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "fits.csv", "maps", "results.csv", "results.parquet", "table.txt"),
        *("curves.csv", "curves.parquet", "projection.csv"),
    }


def test_own_and_shuffled_controls_and_fits_are_shown_without_asking(store, tmp_path):
    flags = (
        f"--store={store}",
        f"--out={tmp_path / 'out'}",
        "--methods=ridge",
        "--seeds=1,2",
        "--heatmaps=none",
    )
    done = succeed(pairwise, *flags)
    rows = [row for row in read(tmp_path / "out") if row["measure"] == "rank1"]
    seeds = {name: {row["seed"] for row in rows if row["method"] == name} for name in ("own", "shuffled")}
    assert seeds == {"own": {"1", "2"}, "shuffled": {"1"}}
    assert "own: each encoder against itself" in done.stdout
    fits = read(tmp_path / "out" / "fits.csv")
    expected = np.mean([float(fit["r2"]) for fit in fits])
    (line,) = [
        line.split() for line in done.stdout.partition("Fits.")[2].splitlines() if line.startswith("ridge")
    ]
    assert line[2:] == ["12", "0"] and float(line[1]) == pytest.approx(expected, abs=6e-4)


def test_an_encoder_that_fails_by_itself_is_named(tmp_path):
    embeddings, _ = planted()
    random = np.random.default_rng(0)
    embeddings["blind"] = random.normal(size=embeddings.pop("gamma").shape).astype(np.float32)
    make_store(tmp_path / "store", embeddings)
    flags = (f"--store={tmp_path / 'store'}", "--methods=ridge", "--seeds=1", "--heatmaps=none", "--nocurves")
    succeed(pairwise, *flags, f"--out={tmp_path / 'out'}")
    named = [
        text
        for text in json.loads((tmp_path / "out" / "config.json").read_text())["warnings"]
        if "--crop" in text
    ]
    assert [text.split()[0] for text in named] == ["blind"]
    assert f"warning: {named[0]}\n" in (tmp_path / "out" / "table.txt").read_text()


def test_published_reports_both_and_centres_the_baseline(published_run):
    rows = read(published_run)
    assert {row["method"] for row in rows} == {"identity", "orthogonal", "linear", "ridge"}
    assert {row["own_photograph"] for row in rows if row["measure"] == "rank1"} == {"included", "excluded"}
    assert any(row["measure"] == "map50" and row["own_photograph"] == "included" for row in rows)
    config = json.loads((published_run / "config.json").read_text())["config"]["protocol"]
    assert (config["l2"], config["normalize"], config["train_fraction"]) == (0.1, "l2", 0.7)
    names = {path.name for path in (published_run / "heatmaps").iterdir()}
    assert len(names) == 4 * 3
    assert "ridge-rank1-included.png" in names


def test_heat_maps_are_one_for_each_method_and_measure(store, tmp_path):
    flags = ("--methods=orthogonal,shared", "--ranks=6,full", "--seeds=1", "--heatmaps=all", "--nocurves")
    succeed(
        pairwise,
        "--controls=none",
        f"--store={store}",
        f"--out={tmp_path / 'out'}",
        *flags,
        "--measures=identification",
    )
    expected = set()
    for row in read(tmp_path / "out"):
        method = row["method"] + (f"_r{row['rank']}" if row["rank"] else "")
        expected.add("-".join(filter(None, [method, row["measure"], row["own_photograph"]])) + ".png")
    files = {path.name: path for path in (tmp_path / "out" / "heatmaps").iterdir()}
    assert set(files) == expected and len({name.partition("-")[0] for name in files}) == 3
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in files.values())


def test_ranks_penalties_and_pairs_are_flags(store, tmp_path):
    flags = ("--methods=reduced_rank,canonical,shared,ridge", "--ranks=2,6,full", "--l2=0.01,1", "--seeds=1")
    more = ("--sources=gamma", "--measures=identification", "--heatmaps=none", "--rank_k=1")
    more += ("--normalize=none", "--max_per_person=2", "--scores=cosine", "--nocurves")
    succeed(pairwise, "--controls=none", f"--store={store}", f"--out={tmp_path / 'out'}", *flags, *more)
    rows = read(tmp_path / "out")
    assert {(row["source"], row["target"]) for row in rows} == {("gamma", "alpha"), ("gamma", "beta")}
    found = {}
    for row in rows:
        assert row["measure"].startswith(("rank1", "map"))
        found.setdefault(row["method"], set()).add(row["rank"])
    ranked = {name: {"2", "6", ""} for name in ("reduced_rank", "canonical", "shared")}
    assert found == {**ranked, "ridge": {""}}
    assert not (tmp_path / "out" / "heatmaps").exists()
    few, many = (
        value(rows, method="canonical", rank=rank, target="alpha", measure="rank1") for rank in (2, 6)
    )
    assert few < many <= 1


def pair_list(path, identities):
    """Every genuine and as many impostor pairs within folds of people, as a CSV."""
    lines = ["left,right,genuine,fold"]
    for row in range(0, len(identities) - 4, 4):
        fold = (row // 12) % 3
        lines += [f"{row:03d},{row + 1:03d},1,{fold}", f"{row:03d},{row + 5:03d},0,{fold}"]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["pair list", "balanced", "first", "pooled"])
def test_other_comparisons(kind, store, tmp_path):
    pair_list(tmp_path / "pairs.csv", planted()[1])
    flag = {"pair list": f"--pair_list={tmp_path / 'pairs.csv'}", "balanced": "--comparisons=balanced"}
    flags = [f"--out={tmp_path / 'out'}", "--methods=orthogonal", "--seeds=1", "--heatmaps=none", "--fmr=0.5"]
    flags += ["--models=alpha,beta", "--train_fraction=0.4"]
    succeed(pairwise, "--controls=none", f"--store={store}", *flags, flag.get(kind, f"--gallery={kind}"))
    rows = {
        (row["measure"], row["own_photograph"]): row
        for row in read(tmp_path / "out")
        if row["source"] == "alpha"
    }
    assert {("auc", ""), ("eer", ""), ("rank1", "excluded"), ("tmr@fmr=0.5", "")} <= set(rows)
    assert (("accuracy", "") in rows) == (kind == "pair list")
    comparisons, people = int(rows["auc", ""]["comparisons"]), 18
    expected = {
        "balanced": people * 6 * 2,  # every genuine pair once and as many impostors
        "first": people * 4 * people - people,  # less each first photograph with itself
        "pooled": people * 4 * people,  # of its own person a probe meets the template of the others
    }
    if kind in expected:
        assert comparisons == expected[kind]
    else:
        split = json.loads((tmp_path / "out" / "config.json").read_text())["splits"][0]
        assert comparisons == split["listed_pairs"] < 58
    assert float(rows["rank1", "excluded"]["value"]) > 0.8


def test_open_sets_and_decision_costs_are_measured_when_asked(tmp_path):
    from jaxalign import PairwiseMaps
    from jaxalign.biometrics import decision_costs
    from jaxalign.core.people import published_split

    store, out = (
        make_store(tmp_path / "many", *planted(people=50)),
        tmp_path / "out",
    )  # 20 of them fill a cohort
    flags = (f"--store={store}", f"--out={out}", "--models=alpha,beta", "--methods=orthogonal", "--seeds=1")
    flags += ("--train_fraction=0.4", "--open_set", "--fpir=0.05,0.2", "--intervals=20", "--heatmaps=none")
    flags += ("--calibration", "--prior=0.1")
    succeed(pairwise, *flags, "--save_maps", "--controls=own", "--measures=identification")
    opened = EmbeddingStore.open(store)
    test = published_split(opened.identities, 1, 0.4).test
    fit = PairwiseMaps.load(out / "maps" / "seed1" / "orthogonal")["alpha", "beta"]
    sides = (np.asarray(opened.take(test)[name], np.float64) for name in ("alpha", "beta"))
    sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    mapped = [np.asarray(way(side)) for way, side in zip((fit.source, fit.target), sides)]
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in mapped)
    people = opened.identities[test]
    first = {person: row for row, person in reversed(list(enumerate(people)))}
    enrolled = sorted(first)[::2]
    rows = [first[person] for person in enrolled]
    scores, searching = np.delete(x @ y[rows].T, rows, axis=0), np.delete(people, rows)
    mated = np.isin(searching, enrolled)
    highest = np.sort(scores[~mated].max(axis=1))[::-1]
    threshold = highest[len(highest) // 5]
    found = scores[np.arange(len(scores)), np.searchsorted(enrolled, searching).clip(0, len(enrolled) - 1)]
    missed = np.mean((found[mated] <= threshold) | (found[mated] < scores[mated].max(axis=1)))
    read_rows = {
        (row["method"], row["score"], row["measure"]): row
        for row in read(out)
        if (row["source"], row["own_photograph"]) == ("alpha", "")
    }
    names = [f"{kind}@fpir={rate}" for rate in ("0.05", "0.2") for kind in ("fnir", "fnir20", "sel")]
    methods, scores_of_run = ("orthogonal", "own"), ("cosine", "cohort")
    costs = ["cllr", "min_cllr", "calibration_loss", "min_dcf@prior=0.1"]
    assert set(read_rows) == {(m, s, n) for m in methods for s in scores_of_run for n in names + costs}
    by_cost = {name: float(read_rows["orthogonal", "cosine", name]["value"] or np.nan) for name in costs}
    expected = decision_costs(mapped[0], mapped[1], people, prior=0.1, seed=1)
    assert by_cost == pytest.approx({row.measure: row.value for row in expected}, abs=1e-6, nan_ok=True)
    for name, row in read_rows.items():
        if name[2] in costs:
            continue
        supported = name[2].endswith("0.2")  # 0.05 of the searches of strangers are fewer than 5
        assert (row["value"] != "") == supported == (row["reason"] == "")
        assert int(row["comparisons"]) == len(highest)
        assert (row["low"] != "") == (supported and not name[2].startswith("sel"))
    row = read_rows["orthogonal", "cosine", "fnir@fpir=0.2"]
    assert float(row["threshold"]) == pytest.approx(threshold, abs=1e-5)
    assert float(row["achieved"]) == np.mean(highest > threshold)
    assert float(row["value"]) == pytest.approx(missed, abs=1e-12)
    above = np.mean(np.sum(scores[~mated] > threshold, axis=1))
    assert float(read_rows["orthogonal", "cosine", "sel@fpir=0.2"]["value"]) == pytest.approx(
        above, abs=1e-12
    )


def test_nonfinite_rows_are_dropped_from_all_encoders_when_asked(tmp_path):
    embeddings, _ = planted()
    embeddings["beta"][[3, 50]] = np.nan
    embeddings["gamma"][7] = 0
    make_store(tmp_path / "store", embeddings)
    flags = [f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'out'}", "--seeds=1", "--heatmaps=none"]
    sentence = refused_with(run(pairwise, *flags))
    assert "'beta' has 2 rows of NaN" in sentence
    assert "'gamma' has 1 row of all zeros (first: row 7)" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    done = succeed(pairwise, "--controls=none", *flags, "--nonfinite=drop", "--methods=orthogonal")
    assert "3 of 120 rows" in done.stdout
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["store"]["rows"], config["store"]["rows_used"]) == (120, 117)
    assert "3 of 120 rows" in config["warnings"][0]


def test_a_full_disk_costs_no_computation(store, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "write_parquet", full)
    flags = [f"--store={store}", f"--out={tmp_path / 'out'}", "--methods=orthogonal", "--heatmaps=none"]
    done = run(pairwise, *flags, "--models=alpha,beta", "--controls=all")
    assert done.returncode == 2
    assert "orthogonal" in done.stdout  # the table
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'out'}: results.parquet cannot be")
    assert "The control pixels is left out" in done.stderr
    (kept,) = tmp_path.iterdir()
    assert {row["method"] for row in read(kept)} > {"orthogonal"}
    assert {row["seed"] for row in read(kept)} == {"42"}  # without --seeds, as without data


def test_a_run_says_beforehand_that_memory_is_short(store, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.aligning.available_memory", lambda: 2**29)
    flags = [f"--store={store}", f"--out={tmp_path / 'out'}"]
    assert "GiB of memory, 0.5 GiB are free" in refused_with(run(pairwise, *flags))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("experiments.run.aligning.available_memory", lambda: 2**30)
    small = "--methods=orthogonal --models=alpha,beta --controls=none --heatmaps=none --scores=cosine".split()
    done = succeed(pairwise, *flags, *small)  # it may do: what is expected is not certain
    assert "takes about 1.1 GiB of memory, 1.0 GiB are free" in done.stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_memory_that_runs_out_is_one_sentence(store, tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("experiments.run.aligning.Aligning.fit", fails)
    done = run(pairwise, f"--store={store}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: memory ran out")
    assert list(tmp_path.iterdir()) == []


def test_other_results_are_not_overwritten_unless_asked(published_run, store):
    before = (published_run / "results.csv").read_bytes()
    flags = (f"--store={store}", f"--out={published_run}", "--methods=orthogonal", "--seeds=3")
    assert "--overwrite" in refused_with(run(pairwise, *flags, "--heatmaps=none"))
    assert (published_run / "results.csv").read_bytes() == before
    succeed(pairwise, "--controls=none", *flags, "--heatmaps=none", "--overwrite")
    assert {row["seed"] for row in read(published_run)} == {"3"}
    assert not (published_run / "heatmaps").exists()


def test_agrees_with_the_independent_float64_reference(shared, tmp_path):
    reference = json.loads((shared / "data" / "reference.json").read_text())["rows"]
    models = ("dlib_resnet", "mobilefacenet")
    flags = ("--protocol=published", "--seeds=42", "--heatmaps=none", "--nocurves")
    succeed(
        pairwise,
        "--controls=none",
        f"--store={shared / 'data' / 'lfw_dev'}",
        f"--models={','.join(models)}",
        f"--out={tmp_path / 'out'}",
        *flags,
    )
    measured = {}
    for row in read(tmp_path / "out"):
        key = row["source"], row["target"], row["method"], row["own_photograph"], row["measure"]
        measured[key] = float(row["value"])
    compared = 0
    for row in reference:
        if row["source"] not in models or row["target"] not in models:
            continue
        here = row["source"], row["target"], row["method"].removesuffix("0.1")
        sides = [(own, row[f"own_{own}"]) for own in ("included", "excluded")]
        for own, figures in [*sides, ("", row["verification"])]:
            # A few comparisons lie so close to a threshold that float32 decides them otherwise.
            flips = 3 / figures["probes"] if own else 30 / figures["genuine"]
            for name, expected in figures.items():
                if name in ("probes", "genuine", "impostor") or name.startswith("achieved"):
                    continue
                found = measured[*here, own, name]
                assert math.isclose(found, expected, abs_tol=max(flips, 1e-4)), (here, own, name)
                compared += 1
    assert compared == 2 * 4 * 15


def test_one_dead_encoder_does_not_stop_the_run(tmp_path):
    embeddings, _ = planted()
    embeddings["dead"] = np.ones_like(embeddings.pop("gamma"))
    make_store(tmp_path / "store", embeddings)
    flags = ("--methods=orthogonal,ridge", "--seeds=1")
    more = ("--measures=identification", "--heatmaps=none", "--scores=cosine")
    done = succeed(
        pairwise,
        "--controls=none",
        f"--store={tmp_path / 'store'}",
        f"--out={tmp_path / 'out'}",
        *flags,
        *more,
    )
    rows = read(tmp_path / "out")
    names = {(row["source"], row["target"], row["method"], row["measure"]) for row in rows}
    assert len(names) == len(rows) == 6 * 2 * 6
    for row in rows:
        assert (row["value"] == "") == ("dead" in (row["source"], row["target"]))
    assert "*: at least one fit was numerically doubtful" in done.stdout
    assert "4 pairs without any number left out" in " ".join(done.stdout.split())
    assert "warning: 8 comparisons of spaces have no value" in done.stdout


def test_results_do_not_depend_on_what_is_in_memory_nor_on_devices(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    identities = random.permutation(np.arange(300) % 30)
    latent = random.normal(size=(30, 8))[identities] + random.normal(size=(300, 8))
    rows = {
        name: (latent @ random.normal(size=(8, width))).astype(np.float16)
        for name, width in (("a", 9), ("b", 12))
    }
    EmbeddingStore.create(tmp_path / "store", rows, identities)
    flags = [f"--store={tmp_path / 'store'}", "--methods=orthogonal,ridge", "--l2=0.1", "--seeds=7"]
    flags += ["--controls=own,shuffled", "--heatmaps=none", "--max_per_person=9", "--nocurves"]
    succeed(pairwise, "--controls=none", *flags, f"--out={tmp_path / 'one'}")
    monkeypatch.setattr(measuring, "TEST_BYTES", 0)
    monkeypatch.setattr(plan, "SORTED_SCORES", 0)
    monkeypatch.setattr(plan, "STRIP_ROWS", 16)
    monkeypatch.setattr(plan, "SEGMENT_ROWS", 16)
    monkeypatch.setattr(accumulate, "CHUNK_ELEMENTS", 500)
    monkeypatch.setattr(devices, "_least_pairs", lambda *_: 2)  # the matrix on two devices
    succeed(pairwise, "--controls=none", *flags, f"--out={tmp_path / 'two'}", "--devices=2")
    expected, found = read(tmp_path / "one"), read(tmp_path / "two")
    assert len(found) == len(expected) > 20
    for one, other in zip(expected, found):
        for name in ("source", "target", "method", "measure", "comparisons"):
            assert one[name] == other[name]
        np.testing.assert_allclose(*(np.float64(row["value"] or "nan") for row in (one, other)), atol=1e-4)


def test_programs_compiled_as_usual_give_the_same_numbers(default_run, store, cache, tmp_path):
    """The suite has XLA compile quickly; a run from the shell has its programs as users have them."""
    flags = ["-m", "experiments.pairwise", f"--store={store}", "--out=out", *DEFAULT]
    (done,) = finished([start(*flags, cache=cache, cwd=tmp_path, XLA_FLAGS="")])
    assert done.returncode == 0, done.stderr
    pairs = list(zip(read(default_run[0]), read(tmp_path / "out"), strict=True))
    for name in ("source", "target", "method", "score", "seed", "measure"):
        assert all(one[name] == other[name] for one, other in pairs)
    one, other = (np.array([float(pair[side]["value"] or "nan") for pair in pairs]) for side in (0, 1))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_refusal_from_the_shell(cache, tmp_path):
    (done,) = finished([start("-m", "experiments.pairwise", "--store=nowhere", cache=cache, cwd=tmp_path)])
    assert "nowhere" in refused_with(done)
    assert list(tmp_path.iterdir()) == []


def test_help_says_how_to_run_it():
    done = succeed(pairwise, "--controls=none", "--help")
    assert "python -m experiments.pairwise --store=my_store" in done.stdout
    for name in CONTRACT:
        assert f"--{name}=" in done.stdout or f"--[no]{name} " in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupted_run_leaves_nothing(store, cache, tmp_path):
    flags = (f"--store={store}", "--out=deep/out", f"--seeds={','.join(map(str, range(400)))}")
    run = start("-m", "experiments.pairwise", *flags, cache=cache, cwd=tmp_path)
    assert run.stderr is not None
    assert "planted: 6 ordered pairs" in run.stderr.readline()
    assert (tmp_path / "deep").exists()
    run.send_signal(signal.SIGINT)
    (done,) = finished([run], timeout=120)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert [path for path in tmp_path.rglob("*") if path.name != "deep"] == []


def test_a_cohort_of_too_few_people_is_left_out_with_a_note(tmp_path):
    few = make_store(tmp_path / "few", *planted(people=27))
    flags = (
        f"--store={few}",
        "--methods=orthogonal",
        "--heatmaps=none",
        "--nocurves",
        f"--out={tmp_path / 'o'}",
    )
    note = "the score cohort is left out: a cohort takes 20 training people or more, and there are 18"
    assert note in succeed(pairwise, *flags).stdout
    assert json.loads((tmp_path / "o" / "config.json").read_text())["warnings"] == [f"planted: {note}"]
    assert {row["score"] for row in read(tmp_path / "o")} == {"cosine"}
