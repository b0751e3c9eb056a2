"""The sweep driver: every item once, whoever computes it; resumed, refused, merged."""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from collections import Counter

import jax
import pyarrow.parquet
import pytest
from planted import make_store, planted, refused_with

from experiments import pairwise, sweep
from experiments.run import cli, ray_workers
from experiments.run.aligning import Aligning
from experiments.run.grid import Item
from experiments.run.results import COLUMNS
from jaxalign.core.errors import UserError

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


def items(out):
    return sorted(path.stem for path in (out / "items").glob("*.json"))


def wait_for_items(out, process, count=1):
    deadline = time.monotonic() + 200
    while len(items(out)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


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
def finished(store, cache, tmp_path_factory):
    """A sweep in three parts by two processes at once and a third one after them, and what each printed."""
    out = tmp_path_factory.mktemp("sweeps") / "parts"
    flags = (f"--stores={store}", f"--out={out}", "--seeds=1,2,3", *QUICK)
    started = [start(*flags, f"--part={part}/3", cache=cache) for part in (1, 3)]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in started]
    last = start(*flags, "--part=2/3", cache=cache)
    ended.append((*last.communicate(timeout=300), last.returncode))
    return out, flags, ended


def test_parts_do_each_item_once_and_the_last_merges(finished):
    out, _, ended = finished
    assert [status for _, _, status in ended] == [0, 0, 0], ended
    assert all("This process did 3 items." in printed for printed, _, _ in ended)
    assert all(len(err.splitlines()) == 3 for _, err, _ in ended)
    assert len(items(out)) == 9
    assert "9 of 9 items are done." in ended[2][0]
    assert {path.name for path in out.iterdir()} == {
        *("fits.csv", "items", "results.csv", "results.parquet", "sweep.json")
    }


def test_the_merge_is_what_pairwise_writes(finished, store, drive_here, tmp_path):
    out, flags, _ = finished
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


def test_merging_again_changes_nothing(finished, drive_here):
    out, flags, _ = finished
    before = {name: (out / name).read_bytes() for name in ("results.csv", "results.parquet", "fits.csv")}
    (out / "results.csv").unlink()
    for more in (["--merge_only"], []):  # by hand, and by a process that finds nothing to do
        done = drive_here(*flags, *more)
        assert done.returncode == 0, done.stderr
        assert {name: (out / name).read_bytes() for name in before} == before
    assert "This process did 0 items." in done.stdout


def test_another_configuration_is_refused(finished, drive_here):
    out, flags, _ = finished
    before = sorted(path.name for path in out.rglob("*"))
    for changed, words in {
        "--seeds=1,2": "protocol seeds is 1,2,3 there, 1,2 here",
        "--l2=0.5": "l2 is 0.1 there, 0.5 here",
        "--max_per_person=2": "max_per_person is 0 there, 2 here",
    }.items():
        assert words in refused_with(drive_here(*flags, changed))
    assert sorted(path.name for path in out.rglob("*")) == before


def test_a_store_that_differs_is_refused(finished, drive_here, tmp_path):
    _, flags, _ = finished
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
def test_a_killed_process_loses_one_item_at_most(finished, cache, drive_here, tmp_path):
    there, flags, _ = finished
    out = tmp_path / "out"
    flags = [flag for flag in flags if not flag.startswith("--out")] + [f"--out={out}"]
    killed = start(*flags, cache=cache)
    wait_for_items(out, killed)
    killed.kill()
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in (out / "items").glob("*.json")}
    done = drive_here(*flags)
    assert done.returncode == 0, done.stderr
    assert f"This process did {9 - len(before)} items." in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    same_numbers(read(out), read(there))


def test_a_damaged_item_is_done_again(finished, drive_here):
    out, flags, _ = finished
    expected = read(out)
    file = out / "items" / f"{items(out)[4]}.json"
    file.write_text(file.read_text()[:-100])
    partly = drive_here(*flags, "--merge_only")
    assert "8 of 9 items are done, 1 left." in partly.stdout
    assert len(read(out)) == len(expected) * 8 // 9
    assert "This process did 1 item." in drive_here(*flags).stdout
    same_numbers(read(out), expected)


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_ray_workers_do_every_item_though_one_is_killed(finished, cache, tmp_path):
    pytest.importorskip("ray")
    there, flags, _ = finished
    out = tmp_path / "out"
    flags = [flag for flag in flags if not flag.startswith("--out")] + [f"--out={out}"]
    process = start(*flags, "--workers=2", cache=cache)
    wait_for_items(out, process)
    first = json.loads((out / "items" / f"{items(out)[0]}.json").read_text())["content"]
    assert first["process"] != process.pid
    os.kill(first["process"], signal.SIGKILL)
    printed, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "This process did 9 items." in printed
    assert sorted(line.partition(":")[0] for line in err.splitlines()) == items(there)
    same_numbers(read(out), read(there))


def test_a_sweep_goes_on_where_it_stopped(store, drive_here, tmp_path):
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--seeds=1,2,3", *ONE_METHOD)
    first = drive_here(*flags, "--max_items=2")
    assert first.returncode == 0
    assert "2 of 3 items are done, 1 left." in first.stdout
    assert not (tmp_path / "out" / "results.csv").exists()
    assert "This process did 0 items." in drive_here(*flags, "--minutes=1e-9").stdout
    second = drive_here(*flags)
    assert "This process did 1 item." in second.stdout
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


def test_a_defect_marks_its_item_and_keeps_its_traceback(store, drive_here, tmp_path, monkeypatch):
    def break_down(*_):
        raise ValueError("ours")

    monkeypatch.setattr(Aligning, "fit", break_down)
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--seeds=1", *ONE_METHOD)
    done = drive_here(*flags)
    assert done.returncode == 1
    assert "ValueError('ours')" in done.stdout
    (name,) = items(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "items" / f"{name}.json").read_text())["content"]
    assert "Traceback" in content["traceback"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_not_the_fault_of_an_item_leaves_it_to_be_done(
    error, store, drive_here, tmp_path, monkeypatch
):
    def stop(*_):
        raise error

    monkeypatch.setattr(Aligning, "fit", stop)
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--seeds=1", *ONE_METHOD)
    if isinstance(error, OSError):
        assert "No space left" in refused_with(drive_here(*flags))
    else:
        assert drive_here(*flags).returncode == 130
    assert items(tmp_path / "out") == []
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
    assert len(items(out)) == 5
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
    "part": (["--stores={store}", "--part=3/2"], "--part"),
    "no part": (["--stores={store}", "--part=half"], "--part"),
    "part and workers": (["--stores={store}", "--part=1/2", "--workers=2"], "exclude each other"),
    "no workers": (["--stores={store}", "--workers=0"], "--workers"),
    "cluster alone": (["--stores={store}", "--cluster=auto"], "--cluster needs --workers"),
    "a flag of 0.1": (["--stores={store}", "--stale_seconds=9"], "--stale_seconds"),
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


def item(number, seed, method, rank=None):
    return Item(number, 0, "planted", seed, method, None, rank)


def test_a_worker_gets_the_items_that_share_most_with_its_last():
    left = [item(0, 1, "canonical", 2), item(1, 1, "canonical"), item(2, 1, "linear"), item(3, 2, "linear")]
    first = lambda last: ray_workers.next_item(left, last).number  # noqa: E731
    assert first(None) == 0  # of the split with the most items left
    assert first(item(9, 1, "canonical", 8)) == 0  # whose maps it has
    assert first(item(9, 2, "ridge")) == 3  # whose moments it has
    assert first(item(9, 1, "linear")) == 2
    left = left[1:] + [item(4, 2, "ridge"), item(5, 2, "ridge", 2)]
    assert first(None) == 4  # the fit with the most items left


class FakeRay:
    """Ray's calls as they are made, in order; a call dies as often as ``deaths`` says, of an item or "open"."""

    def __init__(self, deaths):
        self.deaths, self.hired, self.killed = Counter(deaths), 0, 0
        death, mistake = type("RayError", (Exception,), {}), type("RayTaskError", (Exception,), {})
        self.exceptions = types.SimpleNamespace(RayError=death, RayTaskError=mistake)

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **_):
        return lambda _: types.SimpleNamespace(remote=self.hire)

    def hire(self):
        self.hired += 1
        call = lambda function: types.SimpleNamespace(remote=lambda *given: (self.hired, function, *given))  # noqa: E731
        return types.SimpleNamespace(open=call("open"), content=call("content"))

    def wait(self, references):
        return references[:1], references[1:]

    def get(self, reference):
        _, function, *given = reference
        what = given[0] if function == "content" else function
        if self.deaths[what]:
            self.deaths[what] -= 1
            raise self.exceptions.RayError("the node died")
        return {"rows": [what]}

    def kill(self, _):
        self.killed += 1


ITEMS = [item(number, number // 3, "linear", number + 1) for number in range(7)]


@pytest.mark.parametrize(
    "deaths", [{}, {ITEMS[0]: 1}, {ITEMS[6]: 2}, {"open": 2}, {"open": 1, **dict.fromkeys(ITEMS, 1)}], ids=str
)
def test_an_item_whose_worker_dies_is_given_to_another(deaths):
    ray = FakeRay(deaths)
    found = list(ray_workers.computed(ray, 3, ITEMS, ["opening"]))
    assert sorted((done for done, _ in found), key=ITEMS.index) == ITEMS
    assert all(content == {"rows": [done]} for done, content in found)
    assert ray.killed == sum(deaths.values())


def test_an_item_that_kills_its_workers_fails_alone():
    found = dict(ray_workers.computed(FakeRay({ITEMS[2]: 99}), 2, ITEMS, ["opening"]))
    assert set(found) == set(ITEMS)
    assert [done for done, content in found.items() if "failed" in content] == [ITEMS[2]]
    with pytest.raises(UserError, match="opened"):
        list(ray_workers.computed(FakeRay({"open": 99}), 2, ITEMS, ["opening"]))
    assert list(ray_workers.computed(FakeRay({}), 2, ITEMS, ["opening"], deadline=0)) == []


def test_workers_without_ray_or_without_a_cluster_are_refused(store, drive_here, tmp_path, monkeypatch):
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--workers=2", *ONE_METHOD)
    for there in ("127.0.0.1:1", "nowhere", "127.0.0.1:port"):
        assert f"--cluster={there}" in refused_with(drive_here(*flags, f"--cluster={there}"))
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "jaxalign[cluster]" in refused_with(drive_here(*flags))
    assert items(tmp_path / "out") == []


def test_item_names_are_file_names_and_differ():
    odd = Item(3, 0, "../a b/ü", 1, "ridge", (0.1, 1.0), None)
    assert odd.id == "00003-___a_b__-seed1-ridge-l2_grid"
    assert dataclasses.replace(odd, number=4).id != odd.id
    assert Item(0, 0, "lfw", 1, "ridge", 1e-3, 16).id == "00000-lfw-seed1-ridge-l2_0_001-rank16"
