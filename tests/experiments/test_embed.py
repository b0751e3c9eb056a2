"""The command from photographs to a store: what it prints, how it ends, and three real networks."""

import pathlib
import shutil

import face_oracles
import numpy as np
import PIL.Image
import pytest
from commands import run, succeed
from numpy_encoders import content, small, wide, write_people
from planted import refused_with
from processes import TESTS, finished, start

from experiments import embed, pairwise
from experiments.run import crops, progress
from experiments.run.photographs import EmbeddingProgress
from jaxalign.data import EmbeddingStore
from jaxalign.vision.images import open_images

SMALL, WIDE = "python:numpy_encoders:small", "python:numpy_encoders:wide"
FLAGS = ("--images=folder:faces", "--out=store", f"--models={SMALL}")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """150 photographs in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_people(tmp_path / "faces")


def test_photographs_become_a_store(files):
    done = succeed(embed, *FLAGS, f"--models={SMALL},{WIDE}", "--dtype=float32", "--crop=center:0.5")
    assert done.stdout.startswith("store: 150 photographs under 2 encoders (150 embedded now) in ")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    store = EmbeddingStore.open("store")
    for encoder in (small(), wide()):
        np.testing.assert_allclose(store[encoder.name], encoder.expected(files, 0.5), atol=1e-5)


def test_a_second_run_embeds_nothing_and_another_encoder_is_added(files):
    succeed(embed, *FLAGS)
    assert "150 photographs under 1 encoders (0 embedded now)" in succeed(embed, *FLAGS).stdout
    both = succeed(embed, *FLAGS, f"--models={SMALL},{WIDE}")
    assert "150 photographs under 2 encoders (150 embedded now)" in both.stdout
    assert EmbeddingStore.open("store").encoders == ("small", "wide")
    other = (*FLAGS, f"--models={SMALL}?scale=2")
    assert "store 'faces' has an encoder 'small'" in refused_with(run(embed, *other))
    succeed(embed, *other, "--overwrite")
    assert EmbeddingStore.open("store").encoders == ("small",)


def test_a_crop_that_was_chosen_is_kept(files, monkeypatch):
    """A second call tries no crop for rows that are there, so that it cannot choose another one; --overwrite does."""
    tried, choose = [], crops.choose_crops

    def recorded(source, encoders):
        tried.append([encoder.name for encoder in encoders])
        return choose(source, encoders)

    monkeypatch.setattr(crops, "choose_crops", recorded)
    succeed(embed, *FLAGS, "--crop=center:0.8")
    again = succeed(embed, *FLAGS, f"--models={SMALL},{WIDE}", "--crop=auto")
    assert "crop of small: center:0.8, as its rows have it already" in again.stderr
    assert "crop of wide: " in again.stderr and "under 2 encoders (150 embedded now)" in again.stdout
    both = succeed(embed, *FLAGS, f"--models={SMALL},{WIDE}", "--crop=auto")
    assert both.stderr.count("as its rows have it already") == 2 and "(0 embedded now)" in both.stdout
    assert tried == [["wide"]]
    succeed(embed, *FLAGS, "--crop=auto", "--overwrite")
    assert tried == [["wide"], ["small"]]


@pytest.fixture
def key_points(tmp_path, monkeypatch):
    """Faces of two people in files, five key points of each in ``points.csv``, by sample id and by path in turns."""
    monkeypatch.chdir(tmp_path)
    random, shape = np.random.default_rng(0), (5, face_oracles.KPRPE_SIZE, face_oracles.KPRPE_SIZE, 3)
    pictures, points = random.integers(0, 256, shape, np.uint8), random.uniform(-0.1, 1.1, (5, 5, 2))
    lines = ["photograph,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5"]
    for number, picture in enumerate(pictures):
        name = pathlib.Path(f"p{number // 3}/{number}.png")
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(picture).save(tmp_path / "faces" / name)
        called = name if number % 2 else "faces" / name
        lines.append(",".join([str(called), *map(repr, points[number].ravel().tolist())]))
    (tmp_path / "points.csv").write_text("\n".join(lines))
    return pictures, points


@pytest.mark.parametrize("flip", ["none", "add"])
def test_key_points_of_a_file_are_those_of_each_photograph(flip, key_points, tmp_path):
    pytest.importorskip("torch")
    network, folder = face_oracles.write_face_checkpoint("kprpe", tmp_path), tmp_path
    command = ["--images=folder:faces", "--out=store", "--dtype=float32", "--batch_size=2"]
    model = f"--models=hf:{folder}?name=kprpe&flip={flip}&keypoints=points.csv"
    succeed(embed, *command, model)
    wanted = face_oracles.expected("kprpe", network, *key_points, flip=flip == "add")
    np.testing.assert_allclose(
        EmbeddingStore.open("store")["kprpe"], wanted, atol=1e-4 * np.abs(wanted).max()
    )
    text = pathlib.Path("points.csv").read_text()
    pathlib.Path("points.csv").write_text(text.replace("0.5", "0.4"))  # other points make another encoder
    assert "loaded or fed otherwise" in refused_with(run(embed, *command, model))
    pathlib.Path("points.csv").write_text(text[: text.rindex("\n")])
    sentence = refused_with(run(embed, *command, model, "--out=other"))
    assert "points.csv has no key points for 1 of 5 photographs (first: 'p1/4.png')" in sentence
    assert "name it by --crop" in refused_with(run(embed, *command, model, "--crop=auto", "--out=other"))
    assert not pathlib.Path("other").exists()


def test_help_shows_every_flag():
    shown = succeed(embed, "--help").stdout
    assert "python -m experiments.embed --images=folder:faces" in shown
    for name in embed.FLAGS:
        assert f"--{name}=" in shown or f"--[no]{name}" in shown or name.startswith(("help", "?"))


def test_bad_photographs_are_named_and_counted(files):
    files[3].write_bytes(b"")
    files[9].write_bytes(b"no picture")
    sentence = refused_with(run(embed, *FLAGS))
    assert "'p0/03.png' (faces/p0/03.png) cannot be used: the file is empty." in sentence
    done = succeed(embed, *FLAGS, "--bad_images=skip")
    assert "148 photographs under 1 encoders (148 embedded now, 2 skipped)" in done.stdout
    first, second = done.stderr.splitlines()
    assert first == "skipped p0/03.png: the file is empty"
    assert second.startswith("skipped p0/09.png: it is not an image")
    assert EmbeddingStore.open("store").info["small"]["skipped"] == 2


def test_progress_goes_to_standard_error(files, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    done = succeed(embed, *FLAGS)
    first, *_, last = done.stderr.splitlines()
    assert len(done.stdout.splitlines()) == 1
    assert first.startswith(" 43 %  64 of 150 photographs, ")
    assert "a second  0s elapsed" in first
    assert last.startswith("100 %  150 of 150 photographs, ") and "left" not in last


def test_times_and_shares_are_of_this_run(files):
    """After a kill, what an earlier run did must not make the time left look short."""
    now = [0.0]
    report = EmbeddingProgress(open_images("folder:faces"))
    report.progress.clock, report.progress.started = (lambda: now[0]), 0.0
    now[0] = 10.0
    report(110, 10, [])  # the first hundred were there
    now[0] = 20.0
    report(120, 20, [])
    assert report.progress.line("", 20.0).strip() == "40 %    20s elapsed, about 30s left"


def test_a_killed_run_is_taken_up_by_the_same_command(tmp_path, files):
    """A batch was embedded and lost, because it had no time to last: the store is the same nevertheless."""
    path = f"{TESTS.parent}:{TESTS}"
    process = start(
        *("-m", "experiments.embed", *FLAGS),
        cache=tmp_path / "cache",
        cwd=tmp_path,
        PYTHONPATH=path,
        KILLED_AT="2",
    )
    (killed,) = finished([process])
    assert killed.returncode == -9 and not (tmp_path / "store").exists()
    assert (tmp_path / ".store.unfinished").exists()
    done = succeed(embed, *FLAGS)
    assert done.stderr == ""
    assert done.stdout.startswith("store: 150 photographs under 1 encoders (150 embedded now) in ")
    succeed(embed, *FLAGS, "--out=whole")
    assert content(tmp_path / "store") == content(tmp_path / "whole")
    assert {file.name for file in tmp_path.iterdir()} - {"cache"} == {"faces", "store", "whole"}


def test_three_real_networks_on_real_photographs(tmp_path, shared):
    pytest.importorskip("onnxruntime")
    reference = EmbeddingStore.open(shared / "data" / "att_reference")
    models = ",".join(f"onnx:{shared / 'models' / name}.onnx" for name in reference.encoders)
    for person in sorted((shared / "data" / "att_photos").iterdir())[:6]:
        shutil.copytree(person, tmp_path / "faces" / person.name)
    photographs, out = f"--images=folder:{tmp_path / 'faces'}", tmp_path / "att"
    done = succeed(embed, photographs, f"--models={models}", f"--out={out}")
    store = EmbeddingStore.open(out)
    assert f"{store.rows} photographs under 3 encoders ({store.rows} embedded now)" in done.stdout
    assert store.encoders == reference.encoders
    theirs = {name: row for row, name in enumerate(reference.sample_ids.tolist())}
    order = [theirs[name] for name in store.sample_ids.tolist()]
    assert len(set(order)) == store.rows > 50
    assert store.identities.tolist() == reference.identities[order].tolist()
    for name in reference.encoders:
        ours, wanted = store[name].astype(np.float64), reference[name][order].astype(np.float64)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(wanted, axis=1)
        assert ((ours * wanted).sum(axis=1) / norms).min() > 0.99
    quick = ("--methods=orthogonal", "--seeds=0", "--heatmaps=none", "--measures=identification")
    quick += ("--controls=none", "--scores=cosine", "--nocurves")
    succeed(pairwise, f"--store={out}", f"--out={tmp_path / 'results'}", *quick)
