"""What is measured beside the methods."""

import csv
import math

import numpy as np
import pytest
from PIL import Image
from test_pairwise_images import drive

from experiments import pairwise
from experiments.run import cli
from jaxalign.data import EmbeddingStore
from jaxalign.report import Measure, Row
from jaxalign.report.part import OWN, Part, relative_rows
from jaxalign.report.sections.comparison import controls_table
from jaxalign.report.tables import Cell

MODELS = "--models=zoo:arcface_plain,zoo:untrained_residual"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on made faces with every control."""
    place = tmp_path_factory.mktemp("controls")
    done = drive(place, "--images=faces:40x6", MODELS, "--controls=all")
    assert done.returncode == 0, done.stderr
    return place, done.stdout


def rank1(place):
    with (place / "out" / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["measure"].startswith("rank1")]
    return {
        (row["measure"], row["method"], row["source"], row["target"]): float(row["value"]) for row in rows
    }


def test_controls_stand_beside_the_methods(place):
    found = rank1(place[0])
    values = {key[1:]: value for key, value in found.items() if key[0] == "rank1"}
    known, blind, pixels = "arcface_plain", "untrained_residual", "pixels"
    assert {key for key in values if key[0] == "own"} == {("own", n, n) for n in (known, blind, pixels)}
    assert {key[1:] for key in values if key[0] == "shuffled"} == {(known, blind), (blind, known)}
    assert {key[1:] for key in values if key[0] == "pixels"} == {(pixels, known), (pixels, blind)}
    assert values["own", known, known] > 0.7 > 0.4 > values["own", blind, blind]
    assert max(value for key, value in values.items() if key[0] == "shuffled") < 0.3  # chance is 5 of 71
    for (measure, method, source, target), value in found.items():
        if measure == "rank1_relative":
            bound = math.sqrt(values["own", source, source] * values["own", target, target])
            assert value == pytest.approx(values[method, source, target] / bound)
    assert ("rank1_relative", "orthogonal", known, blind) in found
    assert "own: each encoder against itself" in place[1] and "relative" in place[1]


def test_own_figures_are_those_of_the_rows_themselves(place):
    """Rank-1 of the test people's rows against themselves, by numpy."""
    path = next((place[0] / "cache").glob("jaxalign/embeddings/*/*/manifest.json")).parent
    store = EmbeddingStore.open(path, encoders=["arcface_plain"])
    people = sorted(set(store.identities))
    np.random.RandomState(1).shuffle(people)
    test = np.isin(store.identities, people[int(0.7 * len(people)) :])
    rows, who = np.asarray(store["arcface_plain"], np.float64)[test], np.asarray(store.identities)[test]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -2)
    expected = np.mean(who[scores.argmax(1)] == who)
    assert rank1(place[0])["rank1", "own", "arcface_plain", "arcface_plain"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--controls=pixels"], "needs the photographs"),
        (["--controls=own,luck"], "there is no control 'luck'"),
    ],
)
def test_what_cannot_be_a_control(tmp_path, capsys, flags, said):
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    EmbeddingStore.create(tmp_path / "s", {"a": rows, "b": rows}, identities=np.arange(12) // 2, dataset="s")
    with pytest.raises(SystemExit) as end:
        cli.run(
            pairwise.main,
            ["pairwise", f"--store={tmp_path / 's'}", f"--out={tmp_path / 'o'}", *flags],
            values=pairwise.FLAGS,
        )
    assert end.value.code == 2
    assert said in capsys.readouterr().err


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


def test_a_photograph_of_a_pixel_control_may_be_black(tmp_path):
    """Pixels are no encoder: a black picture is a row of zeros that must not stop the run."""
    seeing = "--models=zoo:arcface_plain,zoo:cosface_residual"
    generator = np.random.default_rng(0)
    for person in range(8):
        (tmp_path / "faces" / f"p{person}").mkdir(parents=True)
        base = generator.integers(0, 256, (16, 16, 3))
        for number in range(4):
            noisy = np.clip(base + generator.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy * ((person, number) != (0, 0))).save(
                tmp_path / "faces" / f"p{person}" / f"{number}.png"
            )
    done = drive(tmp_path, "--images=folder:faces", seeing, "--controls=pixels", "--measures=identification")
    assert done.returncode == 0, done.stderr
