"""The main command from photographs: embedded once and cached, joined with a store made elsewhere, and controls."""

import json
import math
import os
import pathlib
import shutil
from collections import Counter

import numpy as np
import pytest
from commands import read, succeed, value
from numpy_encoders import NumpyEncoder
from PIL import Image

from experiments import pairwise
from jaxalign.data import EmbeddingStore
from jaxalign.report import Measure, Row
from jaxalign.report.part import OWN, Part, relative_rows
from jaxalign.report.sections.comparison import controls_table
from jaxalign.report.tables import Cell

PEOPLE, PER_PERSON = 20, 4
WIDE = "python:numpy_encoders:wide?called="
FIRST, SECOND, THIRD = WIDE + "one&dim=12", WIDE + "two&dim=16", WIDE + "three&dim=12"
QUICK = ("--methods=orthogonal", "--seeds=1", "--heatmaps=none", "--measures=identification")


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Runs the command on ``faces``: people are mixtures of six patterns, with noise. Gives rank-1 of each pair."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    patterns = random.normal(0, 15, (6, 8, 8, 3))
    for person in range(PEOPLE):
        directory = tmp_path / "faces" / f"person{person:02d}"
        directory.mkdir(parents=True)
        face = 128 + np.tensordot(random.normal(size=6), patterns, 1)
        for number in range(PER_PERSON):
            noisy = np.clip(face + random.normal(0, 4, face.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(directory / f"{number}.png")

    def drive(*flags):
        flags = (
            "--controls=none",
            "--images=folder:faces",
            "--embedding_cache=cache",
            "--out=out",
            "--overwrite",
            "--nocurves",
            *flags,
        )
        succeed(pairwise, *QUICK, *flags)
        rows = [row for row in read(tmp_path / "out") if row["measure"] == "rank1"]
        return {(row["source"], row["target"]): float(row["value"]) for row in rows}

    return drive


def test_photographs_are_embedded_once(drive, monkeypatch):
    seen = Counter()
    encode = NumpyEncoder.encode

    def count(self, images):
        seen[self.name] += len(images)
        return encode(self, images)

    monkeypatch.setattr(NumpyEncoder, "encode", count)
    first = drive(f"--models={FIRST},{SECOND}")
    assert first.keys() == {("one", "two"), ("two", "one")}
    assert min(first.values()) > 0.8
    assert drive(f"--models={FIRST},{SECOND}") == first
    assert seen == {"one": 80, "two": 80}
    drive(f"--models={FIRST},{THIRD}")
    assert seen == {"one": 80, "two": 80, "three": 80}
    os.utime("faces/person03/2.png", (0, 0))
    drive(f"--models={FIRST},{SECOND}")
    assert seen == {"one": 80, "two": 80, "three": 80}  # its content counts, not its date
    (cached,) = pathlib.Path("cache").glob("*/*/one.npy")
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    assert drive(f"--models={FIRST},{SECOND}") == first
    assert seen == {"one": 160, "two": 160, "three": 80}  # what is damaged is embedded again


@pytest.mark.parametrize("kind", ["folder", "csv", "hub"])
def test_other_pictures_under_the_same_names_are_embedded_anew(drive, tmp_path, kind):
    """Noise in place of the faces, in files of the same sizes, dates and labels, recognises nobody."""
    datasets = pytest.importorskip("datasets") if kind == "hub" else None
    files = sorted((tmp_path / "faces").glob("*/*.png"))

    def photographs():
        if kind == "folder":
            return "folder:faces"
        if kind == "csv":
            lines = [f"{file},{file.parent.name}" for file in files]
            (tmp_path / "list.csv").write_text("\n".join(["path,identity", *lines]))
            return "csv:list.csv"
        columns = {
            "image": [file.read_bytes() for file in files],
            "identity": [file.parent.name for file in files],
        }
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "set")  # pyright: ignore[reportOptionalMemberAccess]
        return "hub:set"

    models = f"--models={FIRST},{SECOND}"
    assert min(drive(models, f"--images={photographs()}").values()) > 0.8
    random = np.random.default_rng(1)
    for file in files:
        status = file.stat()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert max(drive(models, f"--images={photographs()}").values()) < 0.5


def test_copies_of_photographs_do_not_flatter(drive, tmp_path):
    """Noise, and each picture twice: rank-1 is chance where the copies count as the same image."""
    random = np.random.default_rng(1)
    for folder in sorted((tmp_path / "faces").iterdir()):
        for number in (0, 2):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number}.png")
            shutil.copy(folder / f"{number}.png", folder / f"{number + 1}.png")
    assert max(drive(f"--models={FIRST},{SECOND}").values()) < 0.5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["store"]["copies"] == 40
    assert any("40 of 80 photographs are byte-identical copies" in warning for warning in config["warnings"])


def test_a_store_stands_beside_photographs(drive, tmp_path):
    names = [f"person{person:02d}/{number}.png" for person in range(PEOPLE) for number in range(PER_PERSON)]
    order = np.random.default_rng(0).permutation(len(names))[5:]
    pixels = [np.asarray(Image.open(f"faces/{names[k]}"), np.float32).ravel() / 255 for k in order]
    people, names = [names[k].split("/")[0] for k in order], [names[k] for k in order]
    rows = {"mine": np.array(pixels), "unused": np.array(pixels)}
    EmbeddingStore.create(tmp_path / "elsewhere", rows, people, sample_ids=names)
    found = drive("--store=elsewhere", f"--models=mine,{FIRST}")
    assert found.keys() == {("mine", "one"), ("one", "mine")}
    assert min(found.values()) > 0.8


def test_a_photograph_of_a_pixel_control_may_be_black(drive):
    """Pixels are no encoder: a black picture is a row of zeros that must not stop the run."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("faces/person00/0.png")
    assert drive("--models=zoo:arcface_plain,zoo:arcface_plain?name=other", "--controls=pixels")


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """A run on synthetic faces with every control: its directory, what it printed, and rank-1."""
    place = tmp_path_factory.mktemp("controls")
    flags = (f"--out={place / 'out'}", f"--embedding_cache={place / 'cache'}", "--controls=all")
    models = "--models=zoo:arcface_plain,pixels:8?name=blind"
    done = succeed(pairwise, "--images=faces:40x6", models, *flags, *QUICK)
    return place, done.stdout, read(place / "out")


def test_controls_stand_beside_the_methods(controlled):
    _, printed, rows = controlled
    found = {
        (row["measure"], row["method"], row["source"], row["target"]): float(row["value"])
        for row in rows
        if row["measure"].startswith("rank1") and row["score"] == "cosine"
    }
    values = {key[1:]: value for key, value in found.items() if key[0] == "rank1"}
    known, blind, pixels = "arcface_plain", "blind", "pixels"
    assert {key for key in values if key[0] == "own"} == {("own", n, n) for n in (known, blind, pixels)}
    assert {key[1:] for key in values if key[0] == "shuffled"} == {(known, blind), (blind, known)}
    assert {key[1:] for key in values if key[0] == "pixels"} == {(pixels, known), (pixels, blind)}
    assert values["own", known, known] > 0.7 > 0.4 > values["own", blind, blind]
    assert max(value for key, value in values.items() if key[0] == "shuffled") < 0.3  # chance is 5 of 71
    for (measure, method, source, target), relative in found.items():
        if measure == "rank1_relative":
            bound = math.sqrt(values["own", source, source] * values["own", target, target])
            assert relative == pytest.approx(values[method, source, target] / bound)
    assert ("rank1_relative", "orthogonal", known, blind) in found
    assert "own: each encoder against itself, cohort" in printed and "relative" in printed


def test_own_figures_are_those_of_the_rows_themselves(controlled):
    """Rank-1 of the test people's rows against themselves, by numpy."""
    place, _, rows = controlled
    manifest = next((place / "cache").glob("*/*/manifest.json"))
    store = EmbeddingStore.open(manifest.parent, encoders=["arcface_plain"])
    people = sorted(set(store.identities))
    np.random.RandomState(1).shuffle(people)
    test = np.isin(store.identities, people[int(0.7 * len(people)) :])
    tested, who = np.asarray(store["arcface_plain"], np.float64)[test], np.asarray(store.identities)[test]
    tested /= np.linalg.norm(tested, axis=1, keepdims=True)
    scores = tested @ tested.T
    np.fill_diagonal(scores, -2)
    expected = np.mean(who[scores.argmax(1)] == who)
    wanted = {"method": "own", "source": "arcface_plain", "measure": "rank1", "score": "cosine"}
    assert value(rows, **wanted) == pytest.approx(expected)


def test_an_encoder_that_finds_nobody_has_no_relative_figure():
    rows = [
        Row("d", "a", "a", OWN, None, 1, "excluded", "rank1", 0.0),
        Row("d", "b", "b", OWN, None, 1, "excluded", "rank1", 0.5),
        Row("d", "a", "b", "ridge", None, 1, "excluded", "rank1", 0.1),
    ]
    (relative,) = relative_rows(rows)
    assert math.isnan(relative.value) and relative.reason
    table = controls_table(Part("p", "pairwise", {}, [*rows, relative]), Measure("rank1", "excluded"), set())
    (_, own, beside_own), (_, ridge, beside_ridge) = table.rows
    assert isinstance(own, Cell) and own.mean == 0.25 and beside_own is None
    assert isinstance(ridge, Cell) and ridge.mean == 0.1
    assert isinstance(beside_ridge, Cell) and beside_ridge.reason == relative.reason
