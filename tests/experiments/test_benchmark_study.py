"""The benchmark of the whole study, on little."""

import json

import numpy as np
import pytest

from experiments.benchmarks import study as benchmark_study
from experiments.run import cli
from jaxalign.data import EmbeddingStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    random = np.random.default_rng(0)
    people = random.permutation(np.repeat(np.arange(60), random.integers(2, 8, 60)))
    centres = random.normal(size=(60, 6))[people]
    rows = {
        name: (
            centres @ random.normal(size=(6, width)) + 0.5 * random.normal(size=(len(people), width))
        ).astype("f4")
        for name, width in (("a", 5), ("b", 8))
    }
    path = tmp_path_factory.mktemp("stores") / "given"
    return EmbeddingStore.create(path, rows, [f"p{k}" for k in people])


def end(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.run(benchmark_study.main, ["benchmark_study", *arguments], values=benchmark_study.VALUES)
    return ended.value.code or 0


def test_a_drawn_store_has_whole_people_and_as_many_photographs_as_fit(store, tmp_path):
    drawn = benchmark_study.draw(store, tmp_path / "one", 100, 0)
    assert 93 < drawn.rows <= 100  # nobody left out has so few photographs
    names, counts = np.unique(drawn.identities, return_counts=True)
    whole = dict(zip(*np.unique(store.identities, return_counts=True)))
    assert {name: whole[name.removeprefix("one ")] for name in names} == dict(zip(names, counts))
    there = {row.tobytes() for row in np.asarray(store["b"])}
    assert all(row.tobytes() in there for row in np.asarray(drawn["b"]))


def test_it_tells_of_every_part_and_of_the_whole(store, tmp_path):
    out = tmp_path / "figures.json"
    assert end(f"--store={store.path}", "--rows=150", "--parts=ridge_path", f"--out={out}") == 0
    figures = json.loads(out.read_text())
    assert [name for name in figures if name.startswith("ridge_path")] == [
        "ridge_path-one: seconds",
        "ridge_path-two: seconds",
    ]
    assert figures["rows of one"] > figures["rows of two"] > 100
    assert figures["whole process: seconds"] > sum(
        figures[f"ridge_path-{k}: seconds"] for k in ("one", "two")
    )
    assert 0.1 < figures["whole process: gigabytes of memory at most"] < 4


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "--store is missing"),
        (["--rows=5000"], "--rows asks for 5,000 photographs"),
        (["--rows=150", "--parts=nothing"], "the study ended with status 2: error: "),
    ],
)
def test_bad_input_is_one_sentence(store, capsys, arguments, sentence):
    given = arguments and [f"--store={store.path}"]
    assert end(*given, *arguments) == 2
    assert sentence in capsys.readouterr().err
