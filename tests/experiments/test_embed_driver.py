"""The command from photographs to a store: what it prints, how it ends, and three real networks."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from numpy_encoders import content, small, wide, write_people

from experiments import embed
from experiments.run import cli, progress
from experiments.run.data import EmbeddingProgress
from jaxalign.data import EmbeddingStore
from jaxalign.vision.images import open_images

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SMALL, WIDE = "python:numpy_encoders:small", "python:numpy_encoders:wide"


@pytest.fixture
def files(tmp_path):
    return write_people(tmp_path / "faces")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty directory; gives exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    flags = ["--images=folder:faces", f"--models={SMALL}", "--out=store", "--compilation_cache=none"]

    def run(*arguments, without=()):
        kept = [flag for flag in flags if flag.split("=")[0] not in without]
        with pytest.raises(SystemExit) as ended:
            cli.run(embed.main, ["embed", *kept, *arguments], values=embed.FLAGS)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def in_a_process(module, *flags, cwd, timeout=300):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}",
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(cwd / "cache"),
    }
    command = [sys.executable, "-m", f"experiments.{module}", *map(str, flags)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def test_photographs_become_a_store(run, files):
    status, out, err = run(f"--models={SMALL},{WIDE}", "--dtype=float32", "--crop=center:0.5")
    assert (status, err) == (0, "")
    assert out.startswith("store: 150 photographs under 2 encoders (150 embedded now) in ")
    assert out.count("\n") == 1
    store = EmbeddingStore.open("store")
    for encoder in (small(), wide()):
        np.testing.assert_allclose(store[encoder.name], encoder.expected(files, 0.5), atol=1e-5)


def test_a_second_run_embeds_nothing_and_another_encoder_is_added(run, files):
    run()
    assert run()[1].startswith("store: 150 photographs under 1 encoders (0 embedded now) in ")
    assert run(f"--models={SMALL},{WIDE}")[1].startswith(
        "store: 150 photographs under 2 encoders (150 embedded"
    )
    assert EmbeddingStore.open("store").encoders == ("small", "wide")
    status, _, err = run(f"--models={SMALL}?scale=2")
    assert status == 2 and err.startswith(
        "error: store 'faces' has an encoder 'small' that was loaded or fed other"
    )
    assert run(f"--models={SMALL}?scale=2", "--overwrite")[0] == 0
    assert EmbeddingStore.open("store").encoders == ("small",)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("without --images", "--images is missing"),
        ("without --models", "--models is missing"),
        ("without --out", "--out is missing"),
        ("--images=faces", "images are given as folder:DIR"),
        ("--images=zip:faces", "images are given as folder:DIR"),
        ("--images=folder:nowhere", "nowhere is missing"),
        ("--models=magic:1", "encoder 'magic:1' is not known"),
        ("--models=onnx:nowhere.onnx", "there is no file nowhere.onnx"),
        (f"--models={SMALL},,{WIDE}", f"--models={SMALL},,{WIDE} has an empty item"),
        (f"--models={SMALL},", f"--models={SMALL}, has an empty item"),
        (f"--models={SMALL},{SMALL}", "there is already an encoder 'small'"),
        ("--crop=center:2", "above 0 and at most 1, got 2.0"),
        ("--crop=landmarks", "faces has no landmarks for 150 of 150 photographs"),
        ("--bad_images=mend", "--bad_images takes fail or skip; got 'mend'"),
        ("--dtype=int8", "--dtype takes float16 or float32 or bfloat16; got 'int8'"),
        ("--batch_size=0", "--batch_size takes a positive integer; got '0'"),
        ("--split=train", "the option split"),
        ("--config=aligned", "the option config"),
        ("--out=faces", "faces exists and is not a store"),
        ("--out=faces/p0/00.png", "00.png exists and is not a store"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(run, files, tmp_path, arguments, named):
    flag = arguments.removeprefix("without ")
    status, out, err = run(without=(flag,)) if flag != arguments else run(flag)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert named in err
    assert [file.name for file in tmp_path.iterdir()] == ["faces"]


def test_help_shows_every_flag(run):
    status, out, _ = run("--help")
    assert status == 0 and "python -m experiments.embed --images=folder:faces" in out
    for name in embed.FLAGS:
        assert f"--{name}=" in out or f"--[no]{name}" in out or name.startswith(("help", "?"))


def test_bad_photographs_are_named_and_counted(run, files):
    files[3].write_bytes(b"")
    files[9].write_bytes(b"no picture")
    status, out, err = run()
    assert (status, out) == (2, "")
    assert "faces: the photograph 'p0/03.png' (faces/p0/03.png) cannot be used: the file is empty." in err
    status, out, err = run("--bad_images=skip")
    assert status == 0
    assert out.startswith("store: 148 photographs under 1 encoders (148 embedded now, 2 skipped) in ")
    assert err.splitlines()[0] == "skipped p0/03.png: the file is empty"
    assert err.splitlines()[1].startswith("skipped p0/09.png: it is not an image")
    assert EmbeddingStore.open("store").info["small"]["skipped"] == 2


def test_progress_goes_to_standard_error(run, files, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    status, out, err = run()
    lines = err.splitlines()
    assert status == 0 and len(out.splitlines()) == 1
    assert (
        lines[0].startswith(" 43 %  64 of 150 photographs, ")
        and "a second  0s elapsed, about 0s left" in lines[0]
    )
    assert lines[-1].startswith("100 %  150 of 150 photographs, ") and "left" not in lines[-1]


def test_times_and_shares_are_of_this_run(files, monkeypatch):
    """After a kill, what an earlier run did must not make the time left look short."""
    now = [0.0]
    report = EmbeddingProgress(open_images(f"folder:{files[0].parents[1]}"))
    report.progress.clock, report.progress.started = (lambda: now[0]), 0.0
    now[0] = 10.0
    report(110, 10, [])  # the first hundred were there
    assert report.progress.line("", 10.0).strip() == "20 %    10s elapsed, about 40s left"


def test_a_killed_run_is_taken_up_by_the_same_command(tmp_path, files):
    """A batch was embedded and lost, because it had no time to last: the store is the same nevertheless."""
    flags = ["--images=folder:faces", "--out=store", "--compilation_cache=none"]
    killed = in_a_process("embed", *flags, f"--models={SMALL}?killed_at=2", cwd=tmp_path)
    assert killed.returncode == -9 and not (tmp_path / "store").exists()
    assert (tmp_path / ".store.unfinished").exists()
    done = in_a_process("embed", *flags, f"--models={SMALL}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("store: 150 photographs under 1 encoders (150 embedded now) in ")
    assert in_a_process("embed", *flags, f"--models={SMALL}", "--out=whole", cwd=tmp_path).returncode == 0
    assert content(tmp_path / "store") == content(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "cache") == [
        "faces",
        "store",
        "whole",
    ]


def test_three_real_networks_on_real_photographs(tmp_path, shared):
    pytest.importorskip("onnxruntime")
    reference = EmbeddingStore.open(shared / "data" / "att_reference")
    models = ",".join(f"onnx:{shared / 'models' / name}.onnx" for name in reference.encoders)
    photographs = f"--images=folder:{shared / 'data' / 'att_photos'}"
    made = in_a_process("embed", photographs, f"--models={models}", "--out=att", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("att: 380 photographs under 3 encoders (380 embedded now) in ")
    store = EmbeddingStore.open(tmp_path / "att")
    assert store.encoders == reference.encoders
    theirs = {name: row for row, name in enumerate(reference.sample_ids.tolist())}
    order = [theirs[name] for name in store.sample_ids.tolist()]
    assert len(set(order)) == 380
    assert store.identities.tolist() == reference.identities[order].tolist()
    for name in reference.encoders:
        ours, wanted = store[name].astype(np.float64), reference[name][order].astype(np.float64)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(wanted, axis=1)
        assert ((ours * wanted).sum(axis=1) / norms).min() > 0.99
    quick = ("--methods=orthogonal", "--seeds=0", "--heatmaps=none")
    aligned = in_a_process("pairwise", "--store=att", "--out=results", *quick, cwd=tmp_path)
    assert aligned.returncode == 0, aligned.stderr
    assert (tmp_path / "results" / "results.csv").exists()
