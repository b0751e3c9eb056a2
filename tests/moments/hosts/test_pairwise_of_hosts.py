"""The main driver as two real processes: one is killed, both start again, and the results are those of one process."""

import csv
import functools
import json
import os
import pathlib
import signal
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from planted import make_store, planted, refused_with
from processes import finished, free_port, start

from experiments import pairwise
from experiments.run import cli, processes
from experiments.run.config import PairwiseConfig
from experiments.run.units import Units
from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import Links, Place

SEED = 42
RUN = (f"--seeds={SEED}", "--methods=identity,orthogonal,ridge", "--controls=own,shuffled")
RUN += ("--fmr=0.1", "--rank_k=1", "--heatmaps=none")
TAMPERED = 0.123456


def start_both(store, out, cache, logs):
    """Two processes that find each other as under SLURM."""
    slurm = {"SLURM_JOB_ID": 1, "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": 2}
    shared = {**slurm, "JAX_COORDINATOR_PORT": free_port(), "JAX_NUM_CPU_DEVICES": 2}
    given = (f"--store={store}", f"--out={out}", "--hosts=auto", "--devices=2", *RUN)
    return [
        start("run_pairwise.py", log, *given, cache=cache, SLURM_PROCID=index, SLURM_LOCALID=index, **shared)
        for index, log in enumerate(logs)
    ]


def wait_for_a_part(directory, started):
    deadline = time.monotonic() + 200
    while not (found := list(directory.glob("out.*.parts/*.json"))):
        assert started[0].poll() is None and time.monotonic() < deadline, "no part was kept"
        time.sleep(0.02)
    return found


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "planted")


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """One process, this one."""
    out = tmp_path_factory.mktemp("alone") / "out"
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(SystemExit) as ended:
        cli.run(
            pairwise.main,
            ["driver", f"--store={store}", f"--out={out}", "--compilation_cache=none", *RUN],
            values=pairwise.FLAGS,
        )
    jax.config.update("jax_enable_compilation_cache", before)
    assert not ended.value.code
    return out


@pytest.fixture(scope="module")
def together(store, tmp_path_factory):
    """Two processes, one killed after the first part; then two again. What is left of both."""
    directory, cache = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("cache")
    out = directory / "out"
    started = start_both(store, out, cache, [directory / "first0", directory / "first1"])
    wait_for_a_part(directory, started)
    started[1].send_signal(signal.SIGKILL)
    killed = finished(started, timeout=30)
    kept = wait_for_a_part(directory, [types.SimpleNamespace(poll=lambda: None)])
    left = sorted(path.name for path in directory.iterdir() if not path.name.startswith("first"))
    units = Units(kept[0].parent, json.loads(kept[0].read_text())["of"])
    content = units.read(kept[0].stem)
    content["rows"][0][8] = TAMPERED
    units.write(kept[0].stem, content)
    logs = [directory / "again0", directory / "again1"]
    again = finished(start_both(store, out, cache, logs))
    overwritten = [list(map(int, log.read_text().split())) for log in logs]
    return types.SimpleNamespace(
        out=out, killed=killed, kept=kept, left=left, again=again, overwritten=overwritten
    )


def test_the_end_of_one_ends_the_other_with_a_sentence(together):
    survivor = together.killed[0]
    assert survivor.returncode == 1
    *_, sentence = survivor.stderr.splitlines()
    assert sentence.startswith(
        "error: process 1 of 2 is gone before the run was done. Methods that were finished"
    )
    assert "Traceback" not in survivor.stderr
    assert "stack trace" not in survivor.stderr
    assert len(together.left) == 1  # the parts; neither results nor anything half-written
    assert together.left[0].endswith(".parts")


def test_a_rerun_goes_on_and_computes_no_finished_part_again(together, alone):
    assert [done.returncode for done in together.again] == [0, 0], together.again[0].stderr
    assert [path.stem for path in together.kept] == [f"seed{SEED}-identity"]
    assert "Goes on where a run was cut short: 1 parts are done." in together.again[0].stderr
    assert together.again[1].stdout == ""
    changed = [row for row in read(together.out / "results.csv") if row["value"] == str(TAMPERED)]
    assert {row["method"] for row in changed} == {
        "identity"
    }  # as it stands, and relative to the encoders' own
    assert not list(together.out.parent.glob("*.parts"))


def test_numbers_are_those_of_one_process(together, alone):
    for name, least in (("results.csv", 7 * 3 * 6), ("fits.csv", 3 * 6)):
        ours, theirs = read(together.out / name), read(alone / name)
        assert len(ours) == len(theirs) >= least
        for one, other in zip(ours, theirs):
            for column, value in one.items():
                # Ridge's is in another norm where a device's pairs of a source differ in their penalties.
                if column != "condition" and value not in (other[column], str(TAMPERED)):
                    assert float(value) == pytest.approx(float(other[column]), rel=1e-5, abs=1e-5), (
                        column,
                        one,
                    )
    assert json.loads((together.out / "config.json").read_text())["processes"] == 2


def test_every_process_reads_only_its_training_rows(together, alone):
    """``run_pairwise.py`` has overwritten all others, and the numbers above are still those of one process."""
    for counts in together.overwritten:
        assert len(counts) == 3
        assert min(counts) >= 10  # of 84, for each encoder


def configured(store, **given):
    return PairwiseConfig.from_flags(types.SimpleNamespace(store=str(store), heatmaps="none", **given))


def disagree(monkeypatch, configs):
    """What each of several processes, here threads, is told."""
    monkeypatch.setattr(Links, "join", functools.partial(Links.join, on_end=lambda *_: None))
    port = free_port()

    def outcome(index):
        values = types.SimpleNamespace(
            hosts=None, coordinator=f"127.0.0.1:{port}", num_processes=len(configs), process_id=index
        )
        with pytest.raises(UserError) as raised, processes.joined(values, configs[index]) as hosts:
            processes.open_data(hosts, configs[index])
        return str(raised.value)

    with ThreadPoolExecutor(len(configs)) as pool:
        return list(pool.map(outcome, range(len(configs))))


def test_a_store_that_differs_between_hosts_is_named_before_any_work(store, monkeypatch, tmp_path):
    embeddings, _ = planted()
    embeddings["beta"][0, 0] += 1
    other = make_store(tmp_path / "planted", embeddings)
    same = make_store(tmp_path / "elsewhere")
    sentences = disagree(monkeypatch, [configured(store), configured(same), configured(other)])
    assert len(set(sentences)) == 1
    assert "store 'planted': checksum of beta is" in sentences[0]
    assert "at process 2" in sentences[0]
    assert "alpha" not in sentences[0]


def test_flags_that_differ_between_hosts_are_named(store, monkeypatch):
    sentences = disagree(monkeypatch, [configured(store), configured(store, max_per_person=3)])
    assert set(sentences) == {
        "the processes do not agree: max_per_person is 0 at process 0, 3 at process 1. Give all of them the same "
        "flags and stores."
    }


def test_a_store_altered_on_one_host_stops_all(store, tmp_path):
    """Its manifest still agrees; process 1 finds it when it takes checksums, and process 0 is told."""
    altered = make_store(tmp_path / "planted")
    content = bytearray((altered / "beta.npy").read_bytes())
    content[-1] ^= 1
    (altered / "beta.npy").write_bytes(content)
    values = types.SimpleNamespace(
        hosts=None, coordinator=f"127.0.0.1:{free_port()}", num_processes=2, process_id=1
    )
    told, sentences = threading.Event(), []

    def on_end(sentence, status):
        sentences.append((sentence, status))
        told.set()

    def first():
        links = Links.join(Place.of(values.coordinator, 2, 0), on_end=on_end)
        assert links.gather(None) == [None, processes.described(configured(store))]
        links.spread()
        return told.wait(60)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first)
        with (
            pytest.raises(UserError, match=r"beta\.npy"),
            processes.joined(values, configured(altered)) as hosts,
        ):
            processes.open_data(hosts, configured(altered))
        assert waiting.result()
    ((sentence, status),) = sentences
    assert sentence.startswith("process 1 of 2: store 'planted'")
    assert "beta.npy" in sentence
    assert status == 2


BAD = {
    "both ways": (["--hosts=auto", "--process_id=0"], "--hosts=auto and --process_id exclude each other"),
    "incomplete": (
        ["--coordinator=127.0.0.1:1"],
        "--coordinator needs --num_processes and --process_id as well",
    ),
    "number": (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "got process 2"),
    "no port": (["--coordinator=a", "--num_processes=2", "--process_id=0"], "written host:port"),
    "nothing detected": (["--hosts=auto"], "JAX finds neither a TPU pod slice nor SLURM"),
    "photographs": (
        ["--images=folder:x", "--models=clip", "--coordinator=a:1", "--num_processes=2", "--process_id=0"],
        "several processes align a store",
    ),
    "maps": (
        ["--save_maps", "--coordinator=a:1", "--num_processes=2", "--process_id=0"],
        "--save_maps is for one process",
    ),
    "unreachable": (
        ["--coordinator=127.0.0.1:9", "--num_processes=2", "--process_id=1"],
        "the coordinator 127.0.0.1:9 cannot be reached within 0.5 s by process 1 of 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_sentence_and_nothing_is_written(case, store, tmp_path, monkeypatch, capsys):
    given, words = BAD[case]
    monkeypatch.setattr(Links, "join", functools.partial(Links.join, seconds=0.5))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR"))]:
        monkeypatch.delenv(name)
    out = pathlib.Path(tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        cli.run(
            pairwise.main,
            ["driver", f"--store={store}", f"--out={out}", "--heatmaps=none", *given],
            values=pairwise.FLAGS,
        )
    captured = capsys.readouterr()
    done = types.SimpleNamespace(returncode=ended.value.code, stdout=captured.out, stderr=captured.err)
    assert words in refused_with(done)
    assert list(tmp_path.iterdir()) == []


def test_one_process_among_one_is_a_usual_run(store):
    values = types.SimpleNamespace(hosts=None, coordinator="127.0.0.1:9", num_processes=1, process_id=0)
    with processes.joined(values, configured(store)) as hosts:
        assert hosts.count == 1
    assert not jax.distributed.is_initialized()
