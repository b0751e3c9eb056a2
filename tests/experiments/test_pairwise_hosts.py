"""The main command as two real processes: one is killed, both start again, and the results are those of one process."""

import json
import os
import signal
import time
import types

import jax
import pytest
from commands import read, run, succeed
from planted import make_store, planted, refused_with
from processes import TESTS, finished, free_port, start

from experiments import pairwise
from experiments.run.units import Units

SEED = 42
RUN = (f"--seeds={SEED}", "--methods=identity,orthogonal,ridge", "--controls=own,shuffled", "--scores=cosine")
RUN += ("--fmr=0.1", "--rank_k=1", "--heatmaps=none")
TAMPERED = 0.123456
SCRIPT = TESTS / "experiments/run_pairwise.py"


def start_both(store, out, cache, logs):
    """Two processes that find each other as under SLURM."""
    slurm = {"SLURM_JOB_ID": 1, "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": 2}
    shared = {**slurm, "JAX_COORDINATOR_PORT": free_port()}
    given = (f"--store={store}", f"--out={out}", "--hosts=auto", "--devices=2", *RUN)
    return [
        start(SCRIPT, log, *given, cache=cache, SLURM_PROCID=index, SLURM_LOCALID=index, **shared)
        for index, log in enumerate(logs)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "planted")


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """One process, this one."""
    out = tmp_path_factory.mktemp("alone") / "out"
    succeed(pairwise, f"--store={store}", f"--out={out}", *RUN)
    return out


@pytest.fixture(scope="module")
def together(store, tmp_path_factory):
    """Two processes, one killed after the first part; then two again. What is left of both."""
    directory, cache = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("cache")
    out = directory / "out"
    started = start_both(store, out, cache, [directory / "first0", directory / "first1"])
    deadline = time.monotonic() + 200
    while not list(directory.glob("out.*.parts/*.json")):
        assert started[0].poll() is None and time.monotonic() < deadline, "no part was kept"
        time.sleep(0.02)
    started[1].send_signal(signal.SIGKILL)
    killed = finished(started, timeout=30)
    kept = list(directory.glob("out.*.parts/*.json"))
    left = sorted(path.name for path in directory.iterdir() if not path.name.startswith("first"))
    units = Units(kept[0].parent, json.loads(kept[0].read_text())["of"])
    content = units.read(kept[0].stem)
    content["rows"][0][8] = TAMPERED
    units.write(kept[0].stem, content)
    logs = [directory / "again0", directory / "again1"]
    again = finished(start_both(store, out, cache, logs))
    noise = [list(map(int, log.read_text().split())) for log in logs]
    return types.SimpleNamespace(out=out, killed=killed, kept=kept, left=left, again=again, noise=noise)


def test_the_end_of_one_ends_the_other_with_a_sentence(together):
    survivor = together.killed[0]
    assert survivor.returncode == 1
    *_, sentence = survivor.stderr.splitlines()
    assert sentence.startswith("error: a process of the run ended, or process 0 of 2 cannot go on: ")
    assert "Traceback" not in survivor.stderr
    assert "stack trace" not in survivor.stderr
    assert len(together.left) == 1  # the parts; neither results nor anything half-written
    assert together.left[0].endswith(".parts")


def test_a_rerun_goes_on_and_computes_no_finished_part_again(together, alone):
    assert [done.returncode for done in together.again] == [0, 0], together.again[0].stderr
    assert [path.stem for path in together.kept] == [f"seed{SEED}-identity"]
    assert "Goes on where a run was cut short: 1 parts are done." in together.again[0].stderr
    first, other = (done.stdout for done in together.again)
    assert (together.out / "table.txt").read_text() in first and first.splitlines()[-1].startswith("Wrote ")
    assert "Gloo" not in first and other == ""
    changed = [row for row in read(together.out / "results.csv") if row["value"] == str(TAMPERED)]
    assert {row["method"] for row in changed} == {"identity"}  # itself, and relative to the encoders' own
    assert not list(together.out.parent.glob("*.parts"))


def test_numbers_are_those_of_one_process(together, alone):
    for name, least in (("results.csv", 7 * 3 * 6), ("fits.csv", 3 * 6)):
        ours, theirs = read(together.out / name), read(alone / name)
        assert len(ours) == len(theirs) >= least
        for one, other in zip(ours, theirs):
            for column, value in one.items():
                # Ridge's is in another norm where a device's pairs of a source differ in their penalties.
                if column != "condition" and value not in (other[column], str(TAMPERED)):
                    expected = pytest.approx(float(other[column]), rel=1e-5, abs=1e-5)
                    assert float(value) == expected, (column, one)
    assert json.loads((together.out / "config.json").read_text())["processes"] == 2


def test_every_process_reads_only_its_training_rows(together, alone):
    """``run_pairwise.py`` has overwritten all others, and the numbers above are still those of one process."""
    for counts in together.noise:
        assert len(counts) == 3
        assert min(counts) >= 10  # of 84, for each encoder


def refused(cases, tmp_path):
    """Starts a process with the flags of each case; the sentence of each, all of which exit with status 2."""
    together = (f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={len(cases)}")
    common = ("-m", "experiments.pairwise", f"--out={tmp_path / 'out'}", "--heatmaps=none", *together)
    started = [
        start(*common, f"--process_id={index}", *case, cache=tmp_path) for index, case in enumerate(cases)
    ]
    return [refused_with(done) for done in finished(started)]


def test_what_differs_between_hosts_is_named_before_any_work(store, tmp_path):
    embeddings, _ = planted()
    embeddings["beta"][0, 0] += 1
    other = make_store(tmp_path / "planted", embeddings)
    same = make_store(tmp_path / "elsewhere")
    cases = [[f"--store={store}"], [f"--store={same}"], [f"--store={other}", "--max_per_person=3"]]
    sentences = refused(cases, tmp_path)
    assert len(set(sentences)) == 1
    assert "max_per_person is 0 at process 0, 3 at process 2" in sentences[0]
    assert "store 'planted': checksum of beta is" in sentences[0]
    assert "alpha" not in sentences[0]


def test_a_mistake_of_one_process_is_told_to_all(store, tmp_path):
    """The manifest of an altered store still agrees; process 1 finds the mistake when it takes checksums."""
    altered = make_store(tmp_path / "planted")
    content = bytearray((altered / "beta.npy").read_bytes())
    content[-1] ^= 1
    (altered / "beta.npy").write_bytes(content)
    first, second = refused([[f"--store={store}"], [f"--store={altered}"]], tmp_path)
    assert first == f"error: process 1 of 2: {second.removeprefix('error: ')}"
    assert "beta.npy" in second


def test_processes_that_cannot_be_found_are_refused(store, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR"))]:
        monkeypatch.delenv(name)
    command = (f"--store={store}", f"--out={tmp_path / 'out'}", "--hosts=auto")
    (done,) = finished([start("-m", "experiments.pairwise", *command, cache=tmp_path)])
    assert "neither a TPU pod slice nor SLURM" in refused_with(done)
    assert not (tmp_path / "out").exists()


def test_one_process_among_one_is_a_usual_run(store, tmp_path):
    one = ("--coordinator=127.0.0.1:9", "--num_processes=1", "--process_id=0", "--ranks=full")
    run(pairwise, f"--store={store}", f"--out={tmp_path / 'out'}", *one)
    assert not jax.distributed.is_initialized()
