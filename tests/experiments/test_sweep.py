"""The sweep driver: items done once by several real processes, taken over, resumed, refused, merged."""

import csv
import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections import Counter

import jax
import pyarrow.parquet
import pytest
from planted import make_store, planted, refused_with

from experiments import pairwise, sweep
from experiments.run import cli
from experiments.run.aligning import Aligning
from experiments.run.claims import CLAIMED, State
from experiments.run.results import COLUMNS, read_parquet, write_parquet
from experiments.run.sweep_config import Item
from experiments.run.sweep_work import Doing, by_shared_work
from jaxalign.core.errors import UserError
from jaxalign.report import Row

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
QUICK = ("--methods=identity,orthogonal,ridge", "--l2=0.1", "--fmr=0.1", "--rank_k=1")
ONE_METHOD = ("--methods=orthogonal", "--measures=identification", "--rank_k=1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "planted")


@pytest.fixture(autouse=True)
def compilation_settings():
    """Runs in this process leave no settings behind."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.fixture
def drive_here(capsys):
    def drive(*flags, driver=sweep):
        with pytest.raises(SystemExit) as ended:
            cli.run(
                driver.main, ["driver", "--compilation_cache=none", *map(str, flags)], values=driver.FLAGS
            )
        out, err = capsys.readouterr()
        assert ended.value.code is None or isinstance(ended.value.code, int)
        return subprocess.CompletedProcess([], ended.value.code or 0, out, err)

    return drive


def start(*flags, cache):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.sweep", f"--compilation_cache={cache}", *map(str, flags)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, text=True, stdout=pipe, stderr=pipe)


def files(out, kind):
    return sorted(path.name for path in (out / "items").glob(f"*.{kind}"))


def read(out):
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_numbers(one, other):
    """Row by row in one order; numbers of float32 from processes with other device counts."""
    assert len(one) == len(other) > 0
    for row, expected in zip(one, other):
        for name in COLUMNS:
            if name in ("value", "threshold", "achieved") and expected[name]:
                assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-6), (row, expected)
            else:
                assert row[name] == expected[name], (name, row, expected)


@pytest.fixture(scope="module")
def shared_sweep(store, cache, tmp_path_factory):
    """Two processes at once on one directory, neither of which may do all of it."""
    out = tmp_path_factory.mktemp("sweeps") / "two"
    flags = (f"--stores={store}", f"--out={out}", "--seeds=1,2,3", *QUICK)
    processes = [start(*flags, "--max_items=5", cache=cache) for _ in range(2)]
    ended = [(process, *process.communicate(timeout=300)) for process in processes]
    for process, _, err in ended:
        assert process.returncode == 0, err
    return out, flags, ended


def test_two_processes_do_each_item_once(shared_sweep):
    out, _, ended = shared_sweep
    claims, done = files(out, "claim"), files(out, "done")
    assert len(claims) == len(done) == 9
    assert all(name.endswith(".1.claim") for name in claims)
    records = [json.loads((out / "items" / name).read_text()) for name in done]
    by = Counter(record["pid"] for record in records)
    assert set(by) == {process.pid for process, _, _ in ended}
    assert any("9 of 9 items are done." in printed for _, printed, _ in ended)
    for process, printed, err in ended:
        assert f"This process did {by[process.pid]} items." in printed
        assert len(err.splitlines()) == by[process.pid]
    assert {path.name for path in out.iterdir()} == {
        *("fits.csv", "items", "results", "results.csv", "results.parquet", "sweep.json")
    }


def test_the_merge_is_what_pairwise_writes(shared_sweep, store, drive_here, tmp_path):
    out, flags, _ = shared_sweep
    shared = [flag for flag in flags if not flag.startswith(("--stores", "--out"))]
    alone = tmp_path / "alone"
    done = drive_here(f"--store={store}", f"--out={alone}", "--heatmaps=none", *shared, driver=pairwise)
    assert done.returncode == 0, done.stderr
    same_numbers(read(out), read(alone))
    types = pyarrow.parquet.read_schema(alone / "results.parquet")
    assert pyarrow.parquet.read_schema(out / "results.parquet") == types
    table = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert [row["source"] for row in table] == [row["source"] for row in read(out)]
    lines = [(run / "fits.csv").read_text().splitlines() for run in (out, alone)]
    assert [line.split(",")[:7] for line in lines[0]] == [line.split(",")[:7] for line in lines[1]]


def test_merging_again_changes_nothing(shared_sweep, drive_here):
    out, flags, _ = shared_sweep
    before = {name: (out / name).read_bytes() for name in ("results.csv", "results.parquet", "fits.csv")}
    (out / "results.csv").unlink()
    for more in (["--merge_only"], []):  # by hand, and by a process that finds nothing to do
        done = drive_here(*flags, *more)
        assert done.returncode == 0, done.stderr
        assert {name: (out / name).read_bytes() for name in before} == before
    assert "This process did 0 items." in done.stdout


def test_another_configuration_is_refused(shared_sweep, drive_here):
    out, flags, _ = shared_sweep
    before = sorted(path.name for path in out.rglob("*"))
    for changed, words in {
        "--seeds=1,2": "protocol seeds is 1,2,3 there, 1,2 here",
        "--l2=0.5": "l2 is 0.1 there, 0.5 here",
        "--max_per_person=2": "max_per_person is 0 there, 2 here",
    }.items():
        assert words in refused_with(drive_here(*flags, changed))
    assert sorted(path.name for path in out.rglob("*")) == before


def test_a_store_that_differs_is_refused(shared_sweep, drive_here, tmp_path):
    _, flags, _ = shared_sweep
    embeddings, _ = planted()
    embeddings["beta"][0, 0] += 1
    other = make_store(tmp_path / "planted", embeddings)
    sentence = refused_with(drive_here(*flags, f"--stores={other}"))
    assert "store 'planted': checksum of beta is" in sentence
    assert "alpha" not in sentence
    moved = make_store(tmp_path / "elsewhere")  # the same content at another path is the same store
    assert drive_here(*flags, f"--stores={moved}").returncode == 0


def test_a_store_altered_on_this_host_is_refused(store, drive_here, tmp_path):
    make_store(tmp_path / "store")
    file = tmp_path / "store" / "beta.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = drive_here(f"--stores={tmp_path / 'store'}", f"--out={tmp_path / 'out'}", *ONE_METHOD)
    assert "beta.npy" in refused_with(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_the_item_of_a_killed_process_is_done_by_the_next(store, cache, drive_here, tmp_path):
    out = tmp_path / "out"
    flags = (f"--stores={store}", f"--out={out}", "--seeds=1,2", *ONE_METHOD)
    killed = start(*flags, cache=cache)
    deadline = time.monotonic() + 120
    while not files(out, "claim"):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(files(out, "claim")) == 1
    assert files(out, "done") == []
    others = drive_here(*flags, "--stale_seconds=3600")  # held by a process that may still live
    assert "1 of 2 items are done, 1 in work." in others.stdout
    assert not (out / "results.csv").exists()
    done = drive_here(*flags, "--stale_seconds=1", "--wait")
    assert done.returncode == 0, done.stderr
    assert "This process did 1 item." in done.stdout
    assert len(files(out, "claim")) == 3
    keys = [tuple(row[name] for name in COLUMNS[1:8]) for row in read(out)]
    assert len(set(keys)) == len(keys) == 2 * 6 * 3
    assert {row["seed"] for row in read(out)} == {"1", "2"}


def test_a_sweep_goes_on_where_it_stopped(store, drive_here, tmp_path):
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--seeds=1,2,3", *ONE_METHOD)
    first = drive_here(*flags, "--max_items=2")
    assert first.returncode == 0
    assert "2 of 3 items are done, 1 free." in first.stdout
    assert not (tmp_path / "out" / "results.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "items").iterdir()}
    assert "This process did 0 items." in drive_here(*flags, "--minutes=1e-9").stdout
    second = drive_here(*flags)
    assert "This process did 1 item." in second.stdout
    assert "3 of 3 items are done." in second.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {row["seed"] for row in read(tmp_path / "out")} == {"1", "2", "3"}


def test_a_failed_item_stops_no_other_and_can_be_retried(store, drive_here, tmp_path, monkeypatch):
    out = tmp_path / "out"
    flags = (f"--stores={store}", f"--out={out}", "--methods=orthogonal,linear", "--seeds=1", "--rank_k=1")
    fit = Aligning.fit

    def refuse(self, moments, method, measuring):
        if method == "orthogonal":
            raise UserError("this cannot be fitted.")
        return fit(self, moments, method, measuring)

    monkeypatch.setattr(Aligning, "fit", refuse)
    done = drive_here(*flags)
    assert done.returncode == 1
    assert "1 of 2 items are done, 1 failed." in done.stdout
    assert "failed: 00000-planted-seed1-orthogonal: this cannot be fitted." in done.stdout
    assert {row["method"] for row in read(out)} == {"linear"}
    assert "did 0 items" in drive_here(*flags).stdout
    again = drive_here(*flags, "--retry_failed")
    assert again.returncode == 1
    assert "did 1 item." in again.stdout  # once, not for ever
    monkeypatch.undo()
    mended = drive_here(*flags, "--retry_failed")
    assert mended.returncode == 0, mended.stderr
    assert [row["method"] for row in read(out)] == sorted(row["method"] for row in read(out))[::-1]


def test_a_split_that_cannot_be_made_fails_its_items_only(store, drive_here, tmp_path):
    identities = [f"person_{k // 20}" for k in range(120)]
    make_store(tmp_path / "few", identities=identities)
    stores = f"{store},{rename(tmp_path / 'few', 'few people')}"
    flags = (f"--stores={stores}", f"--out={tmp_path / 'out'}", "--methods=ridge", "--folds=5", "--seeds=1,2")
    done = drive_here(*flags, "--l2=0.1,1", "--measures=identification")
    assert done.returncode == 1
    assert "2 of 4 items are done, 2 failed." in done.stdout
    assert done.stdout.count("fewer people than folds") == 2
    assert {row["dataset"] for row in read(tmp_path / "out")} == {"planted"}


def rename(store, dataset):
    """The same store as a data set of another name."""
    content = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**content, "dataset": dataset}))
    return store


def test_a_defect_keeps_its_traceback_and_marks_the_item(store, drive_here, tmp_path, monkeypatch):
    def break_down(*_):
        raise ValueError("ours")

    monkeypatch.setattr(Aligning, "fit", break_down)
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--seeds=1", *ONE_METHOD)
    with pytest.raises(ValueError, match="ours"):
        cli.run(sweep.main, ["sweep", "--compilation_cache=none", *flags], values=sweep.FLAGS)
    (name,) = files(tmp_path / "out", "failed")
    assert "Traceback" in json.loads((tmp_path / "out" / "items" / name).read_text())["traceback"]


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_gives_its_claim_back(kind, store, drive_here, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def interrupt(self, item, progress):
        os.kill(os.getpid(), kind)
        time.sleep(10)

    monkeypatch.setattr(Doing, "do", interrupt)
    flags = (f"--stores={store}", f"--out={out}", "--seeds=1", *ONE_METHOD)
    done = drive_here(*flags)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    (name,) = files(out, "claim")
    assert (out / "items" / name).stat().st_mtime == 0
    monkeypatch.undo()
    assert "1 of 1 items are done." in drive_here(*flags).stdout


def test_ranks_and_penalties_are_items_and_share_their_fit(store, drive_here, tmp_path, monkeypatch):
    fitted = Counter()
    fit, moments = Aligning.fit, Aligning.moments

    def count_fit(self, moments, method, measuring):
        fitted[method, self.protocol.l2] += 1
        return fit(self, moments, method, measuring)

    def count_moments(self, measuring):
        fitted["moments"] += 1
        return moments(self, measuring)

    monkeypatch.setattr(Aligning, "fit", count_fit)
    monkeypatch.setattr(Aligning, "moments", count_moments)
    shared = ("--methods=ridge,canonical", "--ranks=full,2", "--seeds=5", "--rank_k=1", "--fmr=0.1")
    out = tmp_path / "out"
    done = drive_here(f"--stores={store}", f"--out={out}", "--penalties=0.1,10,cv", *shared)
    assert done.returncode == 0, done.stderr
    assert len(files(out, "done")) == 5
    expected = {
        ("ridge", 0.1): 1,
        ("ridge", 10.0): 1,
        ("ridge", "cv"): 1,
        ("canonical", "cv"): 1,
        "moments": 1,
    }
    assert fitted == expected
    rows = read(out)
    kinds = {(row["method"], row["rank"], row["axis"], row["at"]) for row in rows}
    ridge = {("ridge", "", "l2", at) for at in ("0.1", "10.0", "")}
    assert kinds == ridge | {("canonical", "", "", ""), ("canonical", "2", "", "")}
    alone = drive_here(
        f"--store={store}", f"--out={tmp_path / 'alone'}", "--heatmaps=none", *shared, driver=pairwise
    )
    assert alone.returncode == 0, alone.stderr
    chosen = [{**row, "axis": ""} for row in rows if (row["axis"], row["at"]) in (("", ""), ("l2", ""))]
    same_numbers(chosen, read(tmp_path / "alone"))


def test_pairs_without_a_value_have_their_rows(drive_here, tmp_path):
    embeddings, _ = planted()
    embeddings["gamma"] = embeddings["gamma"] * 0 + 1
    dead = make_store(tmp_path / "store", embeddings)
    shared = ("--methods=orthogonal,linear", "--seeds=1", "--measures=identification", "--rank_k=1")
    assert drive_here(f"--stores={dead}", f"--out={tmp_path / 'out'}", *shared).returncode == 0
    alone = (f"--store={dead}", f"--out={tmp_path / 'alone'}", "--heatmaps=none")
    assert drive_here(*alone, *shared, driver=pairwise).returncode == 0
    same_numbers(read(tmp_path / "out"), read(tmp_path / "alone"))
    assert sum(row["reason"] != "" for row in read(tmp_path / "out")) == 2 * 4 * 3


def test_a_dry_run_counts_and_writes_nothing(store, drive_here, tmp_path):
    flags = ("--methods=ridge,canonical", "--ranks=2,full", "--penalties=0.1,cv", "--seeds=1,2")
    done = drive_here(f"--stores={store}", f"--out={tmp_path / 'out'}", "--dry_run", *flags)
    assert done.returncode == 0, done.stderr
    first, line = done.stdout.splitlines()
    assert first == "8 items"
    assert "planted: 8 items on 2 splits, 6 ordered pairs of 3 encoders" in line
    assert "84 training rows" in line
    assert "36 test rows × 6 pairs = 216, all items 1,728" in line
    assert list(tmp_path.iterdir()) == []


BAD_FLAGS = {
    "no store": ([], "--stores is missing"),
    "missing store": (["--stores=nowhere"], "there is no store at nowhere"),
    "store twice": (["--stores={store},{store}"], "twice"),
    "one name twice": (["--stores={store},{other}"], "hold a data set of one name"),
    "unknown model": (["--stores={store}", "--models=alpha,delta"], "delta"),
    "penalties and l2": (["--stores={store}", "--l2=1", "--penalties=1"], "exclude each other"),
    "penalty": (["--stores={store}", "--penalties=1,-1"], "--penalties takes a number above 0"),
    "penalty twice": (["--stores={store}", "--penalties=1,1.0"], "--penalties names one twice"),
    "cv and gcv": (["--stores={store}", "--penalties=cv,gcv"], "not both"),
    "no penalised method": (["--stores={store}", "--penalties=1", "--methods=linear"], "applies to"),
    "published": (["--stores={store}", "--penalties=1", "--protocol=published"], "fixes the penalty"),
    "stale": (["--stores={store}", "--stale_seconds=0"], "--stale_seconds"),
    "minutes": (["--stores={store}", "--minutes=-1"], "--minutes"),
    "nothing to merge": (["--stores={store}", "--merge_only"], "there is no sweep"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_flag_is_one_sentence_and_nothing_is_written(case, store, tmp_path, drive_here):
    flags, words = BAD_FLAGS[case]
    other = make_store(tmp_path / "other") if "{other}" in str(flags) else None
    given = [flag.format(store=store, other=other) for flag in flags]
    assert words in refused_with(drive_here(f"--out={tmp_path / 'out'}", *given))
    assert not (tmp_path / "out").exists()


def test_a_directory_of_other_files_is_refused(store, drive_here, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "thesis.txt" in refused_with(drive_here(f"--stores={store}", f"--out={tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_items_are_tried_in_the_order_of_shared_work():
    def item(number, seed, method, rank=None):
        return Item(number, 0, "planted", seed, method, None, rank)

    items = [item(0, 1, "canonical", 2), item(1, 1, "canonical"), item(2, 1, "linear"), item(3, 2, "linear")]
    states = {each.id: State("pending") for each in items}
    order = lambda last: [each.number for each in by_shared_work(items, states, last)]  # noqa: E731
    assert order(None) == [0, 1, 2, 3]
    assert order(items[1]) == [0, 1, 2, 3]
    assert order(items[3]) == [3, 0, 1, 2]
    states[items[0].id] = State(CLAIMED, 1)
    assert order(None) == [3, 2, 0, 1]  # where nobody is; then another fit than his
    assert order(items[2]) == [2, 0, 1, 3]


def test_item_names_are_file_names_and_differ():
    odd = Item(3, 0, "../a b/ü", 1, "ridge", (0.1, 1.0), None)
    assert odd.id == "00003-___a_b__-seed1-ridge-l2_grid"
    assert dataclasses.replace(odd, number=4).id != odd.id
    assert Item(0, 0, "lfw", 1, "ridge", 1e-3, 16).id == "00000-lfw-seed1-ridge-l2_0_001-rank16"


def test_rows_come_back_from_parquet_as_they_were(tmp_path):
    rows = [
        Row("lfw", "a", "b", "ridge", None, 42, "excluded", "rank1", 0.5, comparisons=7),
        Row("lfw", "a", "b", "shared", 96, 42, "", "auc", 1.0, 0.25, 0.1, axis="l2", at=0.1),
        Row("lfw", "a", "b", "linear", None, 42, "", "eer", math.nan, reason="too few"),
    ]
    write_parquet(tmp_path / "rows.parquet", rows)
    assert repr(read_parquet(tmp_path / "rows.parquet")) == repr(rows)
