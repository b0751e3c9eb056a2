"""The main driver from photographs: embedded once, kept, and mixed with a store of embeddings made elsewhere."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from planted import refused_with

from jaxalign import EmbeddingStore

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PEOPLE, PER_PERSON = 20, 4
MODULE = '''
import pathlib
import numpy as np
from jaxalign.vision.encoders import Preprocessing


class Pixels:
    """A random projection of pixels that notes each of its calls."""

    batch_size = 16
    preprocessing = Preprocessing(size=(8, 8), resize=(8, 8))

    def __init__(self, seed, dim):
        self.name, self.dim = f"pixels{seed}", dim
        self.weights = np.random.default_rng(seed).standard_normal((192, dim)).astype(np.float32)

    def prepare(self, image):
        return self.preprocessing.prepare(image)

    def encode(self, images):
        with open("calls.txt", "a") as file:
            file.write(f"{self.name} {len(images)}\\n")
        return (images.reshape(len(images), -1) / np.float32(255)) @ self.weights

    def describe(self):
        return {"name": self.name}


def pixels(seed, dim="12"):
    return Pixels(int(seed), int(dim))
'''


@pytest.fixture
def place(tmp_path):
    """Photographs (people are mixtures of six patterns, with noise) and a module with encoders."""
    random = np.random.default_rng(0)
    patterns = random.normal(0, 15, (6, 8, 8, 3))
    for person in range(PEOPLE):
        directory = tmp_path / "faces" / f"person{person:02d}"
        directory.mkdir(parents=True)
        face = 128 + np.tensordot(random.normal(size=6), patterns, 1)
        for number in range(PER_PERSON):
            noisy = np.clip(face + random.normal(0, 4, face.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(directory / f"{number}.png")
    (tmp_path / "made.py").write_text(MODULE)
    return tmp_path


def drive(place, *flags):
    path = os.pathsep.join([str(REPOSITORY), str(place)])
    more = {"XDG_CACHE_HOME": str(place / "cache"), "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.pairwise", "--methods=orthogonal", "--seeds=1"]
    command += ["--heatmaps=none", "--measures=identification", "--overwrite", "--out=out", *flags]
    options = {"env": {**os.environ, **more}, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command, cwd=place, **options)


def results(place):
    with (place / "out" / "results.csv").open(newline="") as file:
        return {
            (row["source"], row["target"]): float(row["value"])
            for row in csv.DictReader(file)
            if row["measure"] == "rank1"
        }


def calls(place):
    path = place / "calls.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


FIRST, SECOND = "python:made:pixels?seed=1", "python:made:pixels?seed=2&dim=16"


def test_photographs_are_embedded_once(place):
    flags = ["--images=folder:faces", f"--models={FIRST},{SECOND}"]
    done = drive(place, *flags)
    assert done.returncode == 0, done.stderr
    first = results(place)
    assert first.keys() == {("pixels1", "pixels2"), ("pixels2", "pixels1")}
    assert min(first.values()) > 0.8
    there = len(calls(place))
    assert there == 4  # 80 photographs, 64 in a batch, two encoders
    assert drive(place, *flags).returncode == 0
    assert len(calls(place)) == there
    assert results(place) == first
    assert (
        drive(place, "--images=folder:faces", f"--models={FIRST},python:made:pixels?seed=3").returncode == 0
    )
    assert [call.split()[0] for call in calls(place)[there:]] == ["pixels3", "pixels3"]
    os.utime(place / "faces" / "person03" / "2.png", (0, 0))
    assert drive(place, *flags).returncode == 0
    assert len(calls(place)) > there + 2  # a photograph whose file changed is another photograph


def test_a_store_stands_beside_photographs(place):
    names = [f"person{person:02d}/{number}.png" for person in range(PEOPLE) for number in range(PER_PERSON)]
    order = np.random.default_rng(0).permutation(len(names))[5:]
    pixels = [np.asarray(Image.open(place / "faces" / names[k]), np.float32).ravel() / 255 for k in order]
    EmbeddingStore.create(
        place / "elsewhere",
        {"mine": np.array(pixels), "unused": np.array(pixels)},
        [names[k].split("/")[0] for k in order],
        sample_ids=[names[k] for k in order],
    )
    done = drive(place, "--store=elsewhere", "--images=folder:faces", f"--models=mine,{FIRST}")
    assert done.returncode == 0, done.stderr
    found = results(place)
    assert found.keys() == {("mine", "pixels1"), ("pixels1", "mine")}
    assert min(found.values()) > 0.8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images=folder:faces"], "--images needs --models"),
        (["--images=faces", f"--models={FIRST}"], "Did you mean folder:faces?"),
        (["--images=folder:faces", f"--models={FIRST},nothing"], "encoder 'nothing' is not known"),
        (["--images=folder:faces", f"--models={FIRST}"], "at least two encoders"),
        (["--images=folder:faces", f"--models={FIRST},{SECOND}", "--crop=round"], "round"),
        (["--images=", f"--models={FIRST},{SECOND}"], "--images is empty"),
        (["--images=faces:1x8", f"--models={FIRST},{SECOND}"], "2 people or more; got faces:1x8"),
        (["--models=a,b"], "encoder 'a' is not known"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(place, flags, words):
    assert words in refused_with(drive(place, *flags))
    assert not (place / "out").exists()
