"""The main driver from the command line: the contract others script against, and what bad input gets."""

import csv
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
from planted import PEOPLE, PER_PERSON, make_store, planted, refused_with

from experiments import pairwise
from experiments.run import cli
from experiments.run.results import COLUMNS
from jaxalign.data import EmbeddingStore

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "planted")


def start(*flags, cache, cwd=REPOSITORY):
    """The command as a process of its own."""
    more = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.pairwise", *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **more}, **pipes)


def drive(*flags, **options):
    with start(*flags, **options) as run:
        out, err = run.communicate(timeout=600)
    return subprocess.CompletedProcess(run.args, run.returncode, out, err)


def read(out):
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def default_run(store, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "default"
    done = drive(
        f"--store={store}", f"--out={out}", "--seeds=42,7", "--save_maps", "--fmr=0.001,0.1", cache=cache
    )
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def published_run(store, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "published"
    flags = ["--protocol=published", "--seeds=42", "--heatmaps=rank1,auc"]
    done = drive(f"--store={store}", f"--out={out}", *flags, cache=cache)
    assert done.returncode == 0, done.stderr
    return out, done


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


def test_every_pair_method_and_seed_has_the_same_measures(default_run):
    rows = read(default_run[0])
    keys = [tuple(row[name] for name in COLUMNS[1:8]) for row in rows]
    assert len(set(keys)) == len(keys)
    by_run = {}
    for key in keys:
        by_run.setdefault((key[0], key[1], key[2], key[4]), set()).add(key[5:])
    assert len(by_run) == 6 * 7 * 2
    assert len({frozenset(found) for found in by_run.values()}) == 1


def test_maps_carry_identity_across_where_the_baseline_does_not(default_run):
    value = {}
    for row in read(default_run[0]):
        if row["measure"] == "rank1":
            value.setdefault(row["method"], []).append(float(row["value"]))
    assert all(0 <= number <= 1 for numbers in value.values() for number in numbers)
    assert np.mean(value["identity"]) < 0.5
    for method in ("orthogonal", "linear", "ridge", "canonical", "shared"):
        assert np.mean(value[method]) > 0.9, method


def test_ranks_are_empty_where_they_do_not_apply(default_run):
    ranks = {(row["method"], row["rank"]) for row in read(default_run[0])}
    assert {rank for method, rank in ranks if method == "shared"} == {"40"}  # 96, or as many as there are
    assert {rank for method, rank in ranks if method != "shared"} == {""}


def test_unsupported_rates_are_empty_and_supported_ones_are_complete(default_run):
    rows = read(default_run[0])
    low = [row for row in rows if row["measure"] == "tmr@fmr=0.001"]
    high = [row for row in rows if row["measure"] == "tmr@fmr=0.1"]
    assert low
    assert all(row["value"] == "" for row in low)
    for row in high:
        assert 0 <= float(row["value"]) <= 1
        assert float(row["achieved"]) <= 0.1
        assert -1 <= float(row["threshold"]) <= 1
        assert int(row["comparisons"]) > 0
    table = (default_run[0] / "table.txt").read_text()
    assert "n/a: " in table and "too few comparisons" in table


def test_parquet_is_the_same_table(default_run):
    out, _ = default_run
    table = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    for one, other in zip(read(out), table, strict=True):
        assert one["value"] == ("" if other["value"] is None else repr(other["value"]))
        assert one["rank"] == ("" if other["rank"] is None else str(other["rank"]))
        assert (one["source"], one["measure"], one["seed"]) == (
            other["source"],
            other["measure"],
            str(other["seed"]),
        )


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
    with (default_run[0] / "fits.csv").open(newline="", encoding="utf-8") as file:
        fits = list(csv.DictReader(file))
    assert len(fits) == 6 * 7 * 2
    for row in fits:
        assert (float(row["l2"] or 0) > 0) == (row["method"] == "ridge")  # chosen by cross-validation
        assert row["ok"] == "True"
        assert float(row["r2"]) > 0.8 or row["method"] in ("identity", "translation")


def test_heat_maps_are_one_for_each_method_and_measure(default_run):
    out, _ = default_run
    settings = {(row["method"], row["rank"]) for row in read(out)}
    measures = {(row["measure"], row["own_photograph"]) for row in read(out) if row["value"]}
    found = {path.name for path in (out / "heatmaps").iterdir()}
    for method, rank in settings:
        for measure, own in measures:
            label = "-".join(filter(None, [method + (f"_r{rank}" if rank else ""), measure, own]))
            assert f"{label}.png" in found
            assert (out / "heatmaps" / f"{label}.png").read_bytes()[:4] == b"\x89PNG"


def test_saved_maps_are_those_that_were_measured(default_run, store):
    from jaxalign import PairwiseMaps
    from jaxalign.core.people import published_split

    maps = PairwiseMaps.load(default_run[0] / "maps" / "seed42" / "orthogonal")
    assert len(maps) == 6
    opened = EmbeddingStore.open(store)
    test = published_split(opened.identities, 42).test
    rows = {
        name: array / np.linalg.norm(array, axis=1, keepdims=True)
        for name, array in opened.take(test).items()
    }
    fit = maps["alpha", "gamma"]
    x, y = np.asarray(fit.source(rows["alpha"])), np.asarray(fit.target(rows["gamma"]))
    scores = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T
    np.fill_diagonal(scores, -np.inf)
    people = opened.identities[test]
    hit = np.mean(people[scores.argmax(axis=1)] == people)
    wanted = {"source": "alpha", "target": "gamma", "method": "orthogonal", "seed": "42", "measure": "rank1"}
    (row,) = [row for row in read(default_run[0]) if all(row[key] == value for key, value in wanted.items())]
    assert float(row["value"]) == pytest.approx(hit, abs=1.5 / len(people))


def test_output_is_a_readable_table_and_nothing_is_left_beside_it(default_run):
    out, done = default_run
    assert "Mean over ordered pairs" in done.stdout
    assert "canonical" in done.stdout
    assert "Wrote" in done.stdout.splitlines()[-1]
    assert str(out) in done.stdout
    assert len(done.stderr.splitlines()) < 12, done.stderr  # no terminal: quiet
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]
    kept = {"config.json", "fits.csv", "heatmaps", "maps", "results.csv", "results.parquet", "table.txt"}
    kept |= {"curves.csv", "curves.parquet", "projection.csv"}
    assert {path.name for path in out.iterdir()} == kept


def test_published_reports_both_and_centres_the_baseline(published_run):
    rows = read(published_run[0])
    assert {row["method"] for row in rows} == {"identity", "orthogonal", "linear", "ridge"}
    assert {row["own_photograph"] for row in rows if row["measure"] == "rank1"} == {"included", "excluded"}
    assert any(row["measure"] == "map50" and row["own_photograph"] == "included" for row in rows)
    config = json.loads((published_run[0] / "config.json").read_text())["config"]["protocol"]
    assert (config["l2"], config["normalize"], config["train_fraction"]) == (0.1, "l2", 0.7)
    names = {path.name for path in (published_run[0] / "heatmaps").iterdir()}
    assert len(names) == 4 * 3
    assert "ridge-rank1-included.png" in names


def test_ranks_penalties_and_pairs_are_flags(store, cache, tmp_path):
    flags = ["--methods=reduced_rank,canonical,shared,ridge", "--ranks=2,6,full", "--l2=0.01,1", "--seeds=1"]
    more = [
        "--sources=gamma",
        "--measures=identification",
        "--heatmaps=none",
        "--rank_k=1",
        "--normalize=none",
    ]
    done = drive(
        f"--store={store}", f"--out={tmp_path / 'out'}", *flags, *more, "--max_per_person=2", cache=cache
    )
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "out")
    assert {(row["source"], row["target"]) for row in rows} == {("gamma", "alpha"), ("gamma", "beta")}
    found = {}
    for row in rows:
        assert row["measure"].startswith(("rank1", "map"))
        found.setdefault(row["method"], set()).add(row["rank"])
    assert found == {name: {"2", "6", ""} for name in ("reduced_rank", "canonical", "shared")} | {
        "ridge": {""}
    }
    assert not (tmp_path / "out" / "heatmaps").exists()
    value = {
        (r["method"], r["rank"], r["target"]): float(r["value"]) for r in rows if r["measure"] == "rank1"
    }
    assert value["canonical", "2", "alpha"] < value["canonical", "6", "alpha"] <= 1


def _pair_list(path, identities):
    """Every genuine and as many impostor pairs within folds of people, as a CSV."""
    lines = ["left,right,genuine,fold"]
    for row in range(0, len(identities) - 4, 4):
        fold = (row // 12) % 3
        lines += [f"{row:03d},{row + 1:03d},1,{fold}", f"{row:03d},{row + 5:03d},0,{fold}"]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["pair list", "balanced", "first", "pooled"])
def test_other_comparisons(kind, store, cache, tmp_path):
    _pair_list(tmp_path / "pairs.csv", planted()[1])
    flag = {"pair list": f"--pair_list={tmp_path / 'pairs.csv'}", "balanced": "--comparisons=balanced"}
    flags = [f"--out={tmp_path / 'out'}", "--methods=orthogonal", "--seeds=1", "--heatmaps=none", "--fmr=0.5"]
    flags += ["--models=alpha,beta", "--train_fraction=0.4"]
    done = drive(f"--store={store}", *flags, flag.get(kind, f"--gallery={kind}"), cache=cache)
    assert done.returncode == 0, done.stderr
    rows = {
        (row["measure"], row["own_photograph"]): row
        for row in read(tmp_path / "out")
        if row["source"] == "alpha"
    }
    assert {("auc", ""), ("eer", ""), ("rank1", "excluded"), ("tmr@fmr=0.5", "")} <= set(rows)
    assert (("accuracy", "") in rows) == (kind == "pair list")
    comparisons = int(rows["auc", ""]["comparisons"])
    people = 18
    expected = {
        "balanced": people * 6 * 2,  # every genuine pair once and as many impostors
        "first": people * 4 * people - people,  # less each first photograph with itself
        "pooled": people
        * 4
        * people,  # of its own person a probe meets the template of the other photographs
    }
    if kind in expected:
        assert comparisons == expected[kind]
    else:
        split = json.loads((tmp_path / "out" / "config.json").read_text())["splits"][0]
        assert comparisons == split["listed_pairs"] < 58
    assert float(rows["rank1", "excluded"]["value"]) > 0.8


def test_nonfinite_rows_are_dropped_from_all_encoders_when_asked(cache, tmp_path):
    embeddings, _identities = planted()
    embeddings["beta"][[3, 50]] = np.nan
    embeddings["gamma"][7] = 0
    make_store(tmp_path / "store", embeddings)
    flags = [f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'out'}", "--seeds=1", "--heatmaps=none"]
    refused = drive(*flags, cache=cache)
    sentence = refused_with(refused)
    assert "'beta' has 2 rows of NaN" in sentence
    assert "'gamma' has 1 row of all zeros (first: row 7)" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
    done = drive(*flags, "--nonfinite=drop", "--methods=orthogonal", cache=cache)
    assert done.returncode == 0
    assert "3 of 120 rows" in done.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["store"]["rows"] == 120
    assert config["store"]["rows_used"] == 117
    assert "3 of 120 rows" in config["warnings"][0]


@pytest.fixture
def drive_here(capsys, monkeypatch, tmp_path):
    """Runs the driver in this process, for what ends before any work starts."""

    def drive(*flags):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            cli.run(pairwise.main, ["pairwise", *map(str, flags)], values=pairwise.FLAGS)
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess([], ended.value.code, out, err)

    return drive


BAD_FLAGS = {
    "unknown model": (["--models=alpha,delta"], "delta"),
    "one model": (["--models=alpha"], "two encoders"),
    "model twice": (["--models=alpha,alpha"], "twice"),
    "unknown source": (["--sources=delta"], "no encoder 'delta' among alpha, beta, gamma"),
    "no pair": (["--sources=alpha", "--targets=alpha"], "no pair"),
    "unknown method": (["--methods=ridge,magic"], "no method 'magic'; there are identity"),
    "unknown protocol": (["--protocol=mine"], "default or published"),
    "unknown flag": (["--modles=all"], "--models"),
    "loose argument": (["alpha"], "alpha"),
    "penalty": (["--l2=-1"], "--l2"),
    "penalty of the published protocol": (["--protocol=published", "--l2=3"], "fixes --l2=0.1"),
    "rows of the published protocol": (["--protocol=published", "--normalize=none"], "fixes --normalize"),
    "ranks": (["--ranks=0"], "--ranks"),
    "ranks without a method": (["--ranks=3", "--methods=ridge"], "--ranks applies to"),
    "rank cv without a method": (["--ranks=cv", "--methods=shared"], "reduced_rank"),
    "seeds": (["--seeds=a"], "--seeds"),
    "fmr": (["--fmr=2"], "--fmr"),
    "fraction": (["--train_fraction=1.5"], "--train_fraction"),
    "tiny fraction": (["--train_fraction=0.001"], "people"),
    "measures": (["--measures=speed"], "--measures"),
    "heat maps": (["--heatmaps=rank3"], "--heatmaps"),
    "normalize": (["--normalize=l3"], "--normalize"),
    "folds": (["--folds=1"], "--folds"),
    "fewer people than folds": (["--folds=25"], "fewer people than folds"),
    "missing pair list": (["--pair_list=nothing.txt"], "nothing.txt"),
    "pair list without verification": (["--pair_list=x.csv", "--measures=identification"], "--pair_list"),
    "missing store": (["--store=nowhere"], "nowhere"),
    "empty store": (["--store="], "--store is empty"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_flag_is_one_sentence_and_nothing_is_written(case, store, drive_here, tmp_path):
    flags, words = BAD_FLAGS[case]
    done = drive_here(f"--store={store}", "--out=deep/out", "--seeds=1", *flags)
    assert words in refused_with(done)
    assert list(tmp_path.iterdir()) == []


def _alter(path, change):
    path.write_bytes(change(path.read_bytes()))


def _drop_identities(path):
    table = pyarrow.parquet.read_table(path).drop_columns(["identity"])
    pyarrow.parquet.write_table(table, path)


SPOILT = {  # how, and what the sentence names
    "cut short": (lambda store: _alter(store / "beta.npy", lambda rows: rows[:-100]), "beta.npy"),
    "altered": (
        lambda store: _alter(store / "beta.npy", lambda rows: rows[:-1] + bytes([rows[-1] ^ 1])),
        "beta.npy",
    ),
    "bad manifest": (lambda store: _alter(store / "manifest.json", lambda _: b"{"), "manifest.json"),
    "missing file": (lambda store: (store / "gamma.npy").unlink(), "gamma.npy"),
    "row count": (
        lambda store: _alter(
            store / "manifest.json",
            lambda text: json.dumps({**json.loads(text), "rows": 7}).encode(),
        ),
        "rows",
    ),
    "no identity": (lambda store: _drop_identities(store / "samples.parquet"), "identity"),
    "one photograph a person": (
        lambda store: (shutil.rmtree(store), make_store(store, identities=[f"p{k}" for k in range(120)])),
        "no genuine comparison",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_store_is_one_sentence_and_nothing_is_written(case, drive_here, tmp_path):
    spoil, words = SPOILT[case]
    make_store(tmp_path / "store")
    spoil(tmp_path / "store")
    done = drive_here("--store=store", "--out=out")
    assert words in refused_with(done)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_other_results_are_not_overwritten_unless_asked(published_run, store, cache):
    out, _ = published_run
    before = (out / "results.csv").read_bytes()
    flags = [f"--store={store}", f"--out={out}", "--methods=orthogonal", "--seeds=3", "--heatmaps=none"]
    assert "--overwrite" in refused_with(drive(*flags, cache=cache))
    assert (out / "results.csv").read_bytes() == before
    assert drive(*flags, "--overwrite", cache=cache).returncode == 0
    assert {row["seed"] for row in read(out)} == {"3"}
    assert not (out / "heatmaps").exists()


def test_a_refusal_from_the_shell(cache, tmp_path):
    assert "nowhere" in refused_with(drive("--store=nowhere", cache=cache, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_help_says_how_to_run_it(cache):
    done = drive("--help", cache=cache)
    assert done.returncode == 0
    assert "python -m experiments.pairwise --store=my_store" in done.stdout
    for name in "store models methods ranks l2 seeds protocol normalize out overwrite".split():
        assert f"--{name}=" in done.stdout or f"--[no]{name} " in done.stdout


def test_agrees_with_the_independent_float64_reference(shared, cache, tmp_path):
    reference = json.loads((shared / "data" / "reference.json").read_text())["rows"]
    models = ("dlib_resnet", "mobilefacenet", "nsfw_mobilenet_v2")
    flags = ["--protocol=published", "--seeds=42", "--heatmaps=none", f"--models={','.join(models)}"]
    done = drive(f"--store={shared / 'data' / 'lfw_dev'}", f"--out={tmp_path / 'out'}", *flags, cache=cache)
    assert done.returncode == 0, done.stderr
    measured = {}
    for row in read(tmp_path / "out"):
        key = row["source"], row["target"], row["method"], row["own_photograph"], row["measure"]
        measured[key] = float(row["value"])
    compared = 0
    for row in reference:
        if row["source"] not in models or row["target"] not in models:
            continue
        here = row["source"], row["target"], row["method"].removesuffix("0.1")
        expected = {
            (own, name): value
            for own in ("included", "excluded")
            for name, value in row[f"own_{own}"].items()
        }
        expected |= {("", name): value for name, value in row["verification"].items()}
        for (own, name), value in expected.items():
            if name in ("probes", "genuine", "impostor") or name.startswith("achieved"):
                continue
            # A few comparisons lie so close to a threshold that float32 decides them otherwise.
            flips = 3 / row[f"own_{own}"]["probes"] if own else 30 / row["verification"]["genuine"]
            assert math.isclose(measured[*here, own, name], value, abs_tol=max(flips, 1e-4)), (
                here,
                own,
                name,
            )
            compared += 1
    assert compared == 6 * 4 * 15


def test_one_dead_encoder_does_not_stop_the_sweep(cache, tmp_path):
    embeddings, _ = planted()
    embeddings["dead"] = np.ones((PEOPLE * PER_PERSON, 5), np.float32)
    make_store(tmp_path / "store", embeddings)
    flags = [
        "--models=alpha,beta,dead",
        "--methods=orthogonal,ridge",
        "--seeds=1",
        "--measures=identification",
    ]
    done = drive(f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'out'}", *flags, cache=cache)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "out")
    names = {(row["source"], row["target"], row["method"], row["measure"]) for row in rows}
    assert len(names) == len(rows) == 6 * 2 * 6
    for row in rows:
        assert (row["value"] == "") == ("dead" in (row["source"], row["target"]))
    assert "*: at least one fit was numerically doubtful" in done.stdout
    assert "4 pairs without any number left out" in " ".join(done.stdout.split())
    assert "warning: 8 comparisons of spaces have no value" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupted_run_leaves_nothing(store, cache, tmp_path):
    seeds = ",".join(map(str, range(400)))
    run = start(f"--store={store}", "--out=deep/out", f"--seeds={seeds}", cache=cache, cwd=tmp_path)
    assert run.stderr is not None
    assert "planted: 6 ordered pairs" in run.stderr.readline()
    assert (tmp_path / "deep").exists()
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []
