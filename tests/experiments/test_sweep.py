"""The sweep: every item once, whoever computes it; resumed, refused, merged."""

import dataclasses
import errno
import json
import os
import signal
import sys
import time
import types
from collections import Counter

import pyarrow.parquet
import pytest
from commands import read, run, succeed
from planted import make_store, planted, refused_with
from processes import finished, start

from experiments import pairwise, report, sweep
from experiments.run import cli, ray_workers
from experiments.run.aligning import Aligning
from experiments.run.config import USUAL
from experiments.run.grid import Item, SweepConfig
from experiments.run.results import COLUMNS
from experiments.run.results_tree import read_tree
from jaxalign.core.errors import UserError

QUICK = ("--methods=identity,orthogonal,ridge", "--l2=0.1", "--fmr=0.1", "--rank_k=1", "--seeds=1,2,3")
ONE_METHOD = ("--methods=orthogonal", "--measures=identification", "--rank_k=1")
kills = pytest.mark.skipif(os.name != "posix", reason="kills a process")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "planted")


def items(out):
    return sorted(path.stem for path in (out / "items").glob("*.json"))


def content(out, name):
    return json.loads((out / "items" / f"{name}.json").read_text())["content"]


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
def cache(tmp_path_factory):
    """Compiled programs of the process beside ``parts``."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def parts(store, cache, tmp_path_factory):
    """A sweep in three parts, two of them at once, one of these in another process; and how each ended."""
    out = tmp_path_factory.mktemp("sweeps") / "parts"
    flags = (f"--stores={store}", f"--out={out}", *QUICK)
    beside = start("-m", "experiments.sweep", *flags, "--part=1/3", cache=cache)
    ended = [run(sweep, *flags, "--part=3/3"), *finished([beside])]
    return out, flags, [*ended, run(sweep, *flags, "--part=2/3")]


def test_parts_do_each_item_once_and_the_last_merges(parts):
    out, _, ended = parts
    for done in ended:
        assert done.returncode == 0, done.stderr
        assert "This process did 3 items." in done.stdout
        assert len(done.stderr.splitlines()) == 3
    assert len(items(out)) == 9
    assert "9 of 9 items are done." in ended[2].stdout
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "fits.csv", "items", "results.csv", "results.parquet", "sweep.json")
    }


def test_the_merge_is_what_pairwise_writes(parts, store, tmp_path):
    out, alone = parts[0], tmp_path / "alone"
    succeed(pairwise, f"--store={store}", f"--out={alone}", "--heatmaps=none", "--controls=none", *QUICK)
    same_numbers(read(out), read(alone))
    types = pyarrow.parquet.read_schema(alone / "results.parquet")
    assert pyarrow.parquet.read_schema(out / "results.parquet") == types
    table = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert [row["source"] for row in table] == [row["source"] for row in read(out)]
    lines = [(place / "fits.csv").read_text().splitlines() for place in (out, alone)]
    assert [line.split(",")[:7] for line in lines[0]] == [line.split(",")[:7] for line in lines[1]]


def test_a_sweep_has_a_table_and_a_report(parts, tmp_path):
    out, _, ended = parts
    assert "Methods on planted" in ended[2].stdout
    (part,) = read_tree(out).parts
    assert (part.driver, part.datasets, len(part.rows)) == ("pairwise", ["planted"], len(read(out)))
    with pytest.raises(SystemExit) as end:
        cli.run(
            *(report.main, ["report", str(out), f"--out={tmp_path / 'page'}"]),
            values=report.FLAGS,
            argument=report.ARGUMENT,
        )
    assert not end.value.code
    assert 'id="pairwise-planted"' in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["results.parquet", "fits.csv", "config.json"])
def test_altered_tables_are_refused_until_they_are_merged_again(parts, name):
    out, flags, _ = parts
    content = (out / name).read_bytes()
    place = content.rindex(b"planted")
    (out / name).write_bytes(content[:place] + b"P" + content[place + 1 :])
    with pytest.raises(UserError, match=f"{name} is not as it was written"):
        read_tree(out)
    succeed(sweep, *flags, "--merge_only")
    read_tree(out)


def test_merging_again_changes_nothing(parts):
    out, flags, _ = parts
    before = {name: (out / name).read_bytes() for name in ("results.csv", "results.parquet", "fits.csv")}
    (out / "results.csv").unlink()
    (out / ".merge.0123abcd.unfinished").mkdir()  # of a killed process
    for more in (["--merge_only"], []):  # by hand, and by a process that finds nothing to do
        done = succeed(sweep, *flags, *more)
        assert {name: (out / name).read_bytes() for name in before} == before
    assert "This process did 0 items." in done.stdout
    assert not list(out.glob(".merge*"))


def test_a_full_disk_leaves_the_tables_as_they_were(parts, monkeypatch):
    out, flags, _ = parts
    before = {path: path.read_bytes() for path in out.glob("*.*")}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("experiments.run.results.write_parquet", full)
    done = run(sweep, *flags, "--merge_only")
    assert done.returncode == 2
    assert "results.parquet cannot be written: No space left" in done.stderr
    assert {path: path.read_bytes() for path in out.glob("*.*")} == before


def test_another_configuration_is_refused(parts):
    out, flags, _ = parts
    before = sorted(out.rglob("*"))
    for changed, words in {
        "--seeds=1,2": "protocol seeds is 1,2,3 there, 1,2 here",
        "--l2=0.5": "l2 is 0.1 there, 0.5 here",
        "--max_per_person=2": "max_per_person is 0 there, 2 here",
    }.items():
        assert words in refused_with(run(sweep, *flags, changed))
    assert sorted(out.rglob("*")) == before


def test_a_store_that_differs_is_refused(parts, tmp_path):
    _, flags, _ = parts
    embeddings, _ = planted()
    embeddings["beta"][0, 0] += 1
    other = make_store(tmp_path / "planted", embeddings)
    sentence = refused_with(run(sweep, *flags, f"--stores={other}"))
    assert "store 'planted': checksum of beta is" in sentence
    assert "alpha" not in sentence
    moved = make_store(tmp_path / "elsewhere")  # the same content at another path is the same store
    succeed(sweep, *flags, f"--stores={moved}")


def started(store, out, cache, *more):
    """The sweep in another process, once its first item is there."""
    flags = (f"--stores={store}", f"--out={out}", *QUICK)
    process = start("-m", "experiments.sweep", *flags, *more, cache=cache)
    deadline = time.monotonic() + 200
    while not items(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process


@kills
def test_a_killed_process_loses_one_item_at_most(parts, store, tmp_path):
    out = tmp_path / "out"
    killed = started(store, out, tmp_path)  # with every method still to compile
    killed.kill()
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in (out / "items").glob("*.json")}
    assert 0 < len(before) < 9
    done = succeed(sweep, f"--stores={store}", f"--out={out}", *QUICK)
    assert f"This process did {9 - len(before)} items." in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    same_numbers(read(out), read(parts[0]))


@kills
def test_ray_workers_do_every_item_though_one_is_killed(parts, store, cache, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    process = started(store, out, cache, "--workers=2")
    first = content(out, items(out)[0])["process"]
    assert first != process.pid
    os.kill(first, signal.SIGKILL)
    (done,) = finished([process])
    assert done.returncode == 0, done.stderr
    assert "This process did 9 items." in done.stdout
    assert sorted(line.partition(":")[0] for line in done.stderr.splitlines()) == items(parts[0])
    workers = Counter(content(out, name)["process"] for name in items(out))
    assert workers[first] < 9 and len(workers) > 1
    same_numbers(read(out), read(parts[0]))


def test_a_damaged_item_is_done_again(parts):
    out, flags, _ = parts
    expected = read(out)
    file = out / "items" / f"{items(out)[4]}.json"
    file.write_text(file.read_text()[:-100])
    partly = succeed(sweep, *flags, "--merge_only")
    assert "8 of 9 items are done, 1 left." in partly.stdout
    assert len(read(out)) == len(expected) * 8 // 9
    assert "This process did 1 item." in succeed(sweep, *flags).stdout
    same_numbers(read(out), expected)


def test_a_sweep_goes_on_where_it_stopped(store, tmp_path):
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--seeds=1,2,3", *ONE_METHOD)
    assert "2 of 3 items are done, 1 left." in succeed(sweep, *flags, "--max_items=2").stdout
    assert not (tmp_path / "out" / "results.csv").exists()
    assert "This process did 0 items." in succeed(sweep, *flags, "--minutes=1e-9").stdout
    assert "This process did 1 item." in succeed(sweep, *flags).stdout
    assert {row["seed"] for row in read(tmp_path / "out")} == {"1", "2", "3"}


def test_a_failed_item_stops_no_other_and_can_be_retried(store, tmp_path, monkeypatch):
    out = tmp_path / "out"
    flags = (f"--stores={store}", f"--out={out}", "--methods=orthogonal,linear", "--seeds=1", "--rank_k=1")
    fit = Aligning.fit

    def refuse(self, moments, method, measuring):
        if method == "orthogonal":
            raise UserError("this cannot be fitted.")
        return fit(self, moments, method, measuring)

    monkeypatch.setattr(Aligning, "fit", refuse)
    done = run(sweep, *flags)
    assert done.returncode == 1
    assert "1 of 2 items are done, 1 failed." in done.stdout
    assert "failed: 00000-planted-seed1-orthogonal: this cannot be fitted." in done.stdout
    assert {row["method"] for row in read(out)} == {"linear"}
    assert "did 0 items" in run(sweep, *flags).stdout
    again = run(sweep, *flags, "--retry_failed")
    assert again.returncode == 1
    assert "did 1 item." in again.stdout  # once, not for ever
    monkeypatch.undo()
    succeed(sweep, *flags, "--retry_failed")
    assert [row["method"] for row in read(out)] == sorted(row["method"] for row in read(out))[::-1]


def test_a_split_that_cannot_be_made_fails_its_items_only(store, tmp_path):
    few = make_store(tmp_path / "few", identities=[f"person_{k // 20}" for k in range(120)])
    manifest = json.loads((few / "manifest.json").read_text())
    del manifest["checksum"]
    (few / "manifest.json").write_text(json.dumps({**manifest, "dataset": "few people"}))
    flags = (f"--stores={store},{few}", f"--out={tmp_path / 'out'}", "--methods=ridge", "--folds=5")
    done = run(sweep, *flags, "--seeds=1,2", "--l2=0.1,1", "--measures=identification")
    assert done.returncode == 1
    assert "2 of 4 items are done, 2 failed." in done.stdout
    assert done.stdout.count("fewer people than folds") == 2
    assert {row["dataset"] for row in read(tmp_path / "out")} == {"planted"}


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("ours"), 1), (OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)],
    ids=["defect", "disk", "interruption"],
)
def test_a_defect_is_the_items_fault_and_else_it_stays_to_be_done(
    error, status, store, tmp_path, monkeypatch
):
    def stop(*_):
        raise error

    monkeypatch.setattr(Aligning, "fit", stop)
    out = tmp_path / "out"
    flags = (f"--stores={store}", f"--out={out}", "--seeds=1", *ONE_METHOD)
    done = run(sweep, *flags)
    assert done.returncode == status
    if status == 1:
        (name,) = items(out)
        assert "ValueError('ours')" in done.stdout and "Traceback" in content(out, name)["traceback"]
        return
    assert status == 130 or "No space left" in refused_with(done)
    assert items(out) == []
    monkeypatch.undo()
    assert "1 of 1 items are done." in succeed(sweep, *flags).stdout


def test_ranks_and_penalties_are_items_and_share_their_fit(store, tmp_path, monkeypatch):
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
    out, alone = tmp_path / "out", tmp_path / "alone"
    done = succeed(sweep, f"--stores={store}", f"--out={out}", "--penalties=0.1,10,cv", *shared)
    assert "against penalty" in done.stdout
    plain, varied = read_tree(out).parts
    assert (plain.driver, {row.at for row in varied.rows}) == ("pairwise", {0.1, 10.0})
    assert len(items(out)) == 5
    fits = [("ridge", 0.1), ("ridge", 10.0), ("ridge", "cv"), ("canonical", "cv")]
    assert fitted == dict.fromkeys([*fits, "moments"], 1)
    rows = read(out)
    kinds = {(row["method"], row["rank"], row["axis"], row["at"]) for row in rows}
    ridge = {("ridge", "", "l2", at) for at in ("0.1", "10.0", "")}
    assert kinds == ridge | {("canonical", "", "", ""), ("canonical", "2", "", "")}
    succeed(pairwise, f"--store={store}", f"--out={alone}", "--heatmaps=none", "--controls=none", *shared)
    chosen = [{**row, "axis": ""} for row in rows if (row["axis"], row["at"]) in (("", ""), ("l2", ""))]
    same_numbers(chosen, read(alone))


def test_pairs_without_a_value_have_their_rows(tmp_path):
    embeddings, _ = planted()
    embeddings["gamma"] = embeddings["gamma"] * 0 + 1
    dead, out, alone = make_store(tmp_path / "store", embeddings), tmp_path / "out", tmp_path / "alone"
    shared = ("--methods=orthogonal,linear", "--seeds=1", "--measures=identification", "--rank_k=1")
    succeed(sweep, f"--stores={dead}", f"--out={out}", *shared)
    succeed(pairwise, f"--store={dead}", f"--out={alone}", "--heatmaps=none", "--controls=none", *shared)
    same_numbers(read(out), read(alone))
    assert sum(row["reason"] != "" for row in read(out)) == 2 * 4 * 3 * 2  # by both scores


def test_a_dry_run_counts_and_writes_nothing(store, tmp_path):
    flags = ("--methods=ridge,canonical", "--ranks=2,full", "--penalties=0.1,cv", "--seeds=1,2")
    done = succeed(sweep, f"--stores={store}", f"--out={tmp_path / 'out'}", "--dry_run", *flags)
    first, line = done.stdout.splitlines()
    assert first == "8 items"
    assert "planted: 8 items on 2 splits, 6 ordered pairs of 3 encoders" in line
    assert "84 training rows" in line
    assert "36 test rows × 6 pairs = 216, all items 1,728" in line
    assert list(tmp_path.iterdir()) == []


def test_defaults_are_those_of_pairwise(store, tmp_path):
    """One split and one method of each kind."""
    done = succeed(sweep, f"--stores={store}", f"--out={tmp_path / 'out'}", "--dry_run")
    assert "planted: 5 items on 1 split, 6 ordered pairs" in done.stdout
    sweep.FLAGS(["sweep", f"--stores={store}"])
    protocol = SweepConfig.from_flags(sweep.FLAGS).pairwise.protocol
    assert (",".join(protocol.methods), protocol.seeds) == (USUAL["methods"], (int(USUAL["seeds"]),))


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

    def wait(self, references, timeout):
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


def test_workers_without_ray_or_without_a_cluster_are_refused(store, tmp_path, monkeypatch):
    flags = (f"--stores={store}", f"--out={tmp_path / 'out'}", "--workers=2", *ONE_METHOD)
    for there in ("127.0.0.1:1", "nowhere", "127.0.0.1:port"):
        assert f"--cluster={there}" in refused_with(run(sweep, *flags, f"--cluster={there}"))
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "jaxalign[cluster]" in refused_with(run(sweep, *flags))
    assert items(tmp_path / "out") == []


def test_item_names_are_file_names_and_differ():
    odd = Item(3, 0, "../a b/ü", 1, "ridge", (0.1, 1.0), None)
    assert odd.id == "00003-___a_b__-seed1-ridge-l2_grid"
    assert dataclasses.replace(odd, number=4).id != odd.id
    assert Item(0, 0, "lfw", 1, "ridge", 1e-3, 16).id == "00000-lfw-seed1-ridge-l2_0_001-rank16"
