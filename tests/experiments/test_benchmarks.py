"""Benchmarks on little data: every figure is there, nothing stays on the disk, bad flags are one sentence."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import experiments.benchmarks
from experiments.benchmarks import scale_moments, study
from experiments.run import cli
from jaxalign.data import EmbeddingStore

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


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
    return EmbeddingStore.create(tmp_path_factory.mktemp("stores") / "given", rows, [f"p{k}" for k in people])


def in_a_process(name, *flags, out):
    """The figures that a benchmark writes, and what it prints."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", *flags, f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def drive(name, *flags):
    """The exit status in this process."""
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        cli.run(module.main, [name, *map(str, flags)], values=module.VALUES)
    return ended.value.code or 0


def test_every_file_is_a_benchmark():
    folder = pathlib.Path(experiments.benchmarks.__file__).parent
    for path in folder.glob("[!_]*.py"):
        module = importlib.import_module(f"experiments.benchmarks.{path.stem}")
        assert {"out"} <= set(module.VALUES) and f"experiments.benchmarks.{path.stem} " in (
            module.__doc__ or ""
        )


def test_moments_of_more_rows_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_moments, "LEAST_SECONDS", 0.01)
    scratch, out = tmp_path / "scratch", tmp_path / "deep" / "figures.json"
    scratch.mkdir()
    assert drive("scale_moments", "--rows=20001", "--width=40", f"--scratch={scratch}", f"--out={out}") == 0
    figures = json.loads(out.read_text())
    del figures["jax"]
    assert all(value > 0 for value in figures.values())
    assert figures["gigabytes"] == 20001 * 40 * 2 / 1e9
    assert figures["relative error of the scatter matrix"] < 1e-12
    assert not list(scratch.iterdir())


def test_the_main_command_on_more_rows_than_memory(tmp_path):
    scratch, out = tmp_path / "scratch", tmp_path / "figures.json"
    scratch.mkdir()
    sizes = ["--rows=400", "--width=8", "--encoders=2", "--people=40", "--per_person=3", "--evaluated=90"]
    assert drive("scale", *sizes, f"--scratch={scratch}", f"--out={out}") == 0
    figures = json.loads(out.read_text())
    del figures["jax"]
    assert figures["pairwise: test rows"] == 12 * 3
    assert figures["evaluation: comparisons"] == 90**2
    assert all(value > 0 for value in figures.values()) and len(figures) == 8
    assert not list(scratch.iterdir())


def test_gradient_fits_and_their_peers(tmp_path):
    sizes = ["--rows=60", "--width=12", "--rank=3", "--steps=2", "--people=5"]
    figures, _ = in_a_process("scale_gradient", *sizes, out=tmp_path / "figures.json")
    for name in ("ours", "optax, times ours", "optax, times ours, processor"):
        assert figures[name] > 0


def test_devices_halve_the_work_and_send_as_much_for_twice_the_rows(tmp_path):
    sizes = ["--encoders=8", "--width=128", "--plan_encoders=8", "--plan_width=8"]
    figures, _ = in_a_process("scale_devices", *sizes, out=tmp_path / "figures.json")
    for axis in ("data", "pairs"):
        of = {
            name.split(": ", 1)[1]: value
            for name, value in figures["devices"].items()
            if name.startswith(f"2 on {axis}")
        }
        assert of["moments, bytes sent for a chunk"] == of["ridge, bytes sent of pairs"] == 0
        at_the_end = of["moments, bytes sent at the end"]
        assert at_the_end == of["moments, bytes sent at the end, of twice the rows"]
        assert (at_the_end > 0) == (axis == "data")  # the sums over devices of one axis alone are sent
        for name in ("ridge", "canonical"):
            assert of[f"{name}, operations / of one"] == pytest.approx(0.5, abs=0.06)
        # One device leaves out half of a symmetric product; devices on ``pairs`` do not.
        most = 0.51 if axis == "data" else 0.86
        assert of["moments, operations / of one"] <= most
    assert figures["plan"]["ordered pairs"] == 56
    assert all(value > 0 for value in figures["plan"].values())


def test_evaluation_has_rates_and_memory(tmp_path):
    sizes = ["--sizes=200", "--width=64", "--runs=1", "--memory_rows=300"]
    written, printed = in_a_process("evaluation", *sizes, out=tmp_path / "new" / "figures.json")
    assert written["evaluation"][0]["rows"] == 200
    assert written["evaluation"][0]["share"] > 0
    assert 0 < written["memory"]["gigabytes"] < 1.5
    assert "200 × 200" in printed


def test_encoding_has_both_rates(shared, tmp_path):
    flags = [f"--onnx={shared / 'models' / 'mobileface.onnx'}", "--novit", "--batches=1", "--rounds=1"]
    written, printed = in_a_process("encode", *flags, out=tmp_path / "figures.json")
    row = written["pictures_a_second"]["mobileface"]
    assert row["share"] == row["encoder"] / row["bare"] > 0
    assert printed.startswith("mobileface ")


def test_a_drawn_store_has_whole_people_and_as_many_photographs_as_fit(store, tmp_path):
    drawn = study.draw(store, tmp_path / "one", 100, 0)
    assert 93 < drawn.rows <= 100  # nobody left out has so few photographs
    names, counts = np.unique(drawn.identities, return_counts=True)
    whole = dict(zip(*np.unique(store.identities, return_counts=True)))
    assert {name: whole[name.removeprefix("one ")] for name in names} == dict(zip(names, counts))
    there = {row.tobytes() for row in np.asarray(store["b"])}
    assert all(row.tobytes() in there for row in np.asarray(drawn["b"]))


def test_the_study_tells_of_every_part_and_of_the_whole(store, tmp_path):
    out = tmp_path / "figures.json"
    assert drive("study", f"--store={store.path}", "--rows=150", "--parts=ridge_path", f"--out={out}") == 0
    figures = json.loads(out.read_text())
    parts = [f"ridge_path-{name}: seconds" for name in ("one", "two")]
    assert [name for name in figures if name.startswith("ridge_path")] == parts
    assert figures["rows of one"] > figures["rows of two"] > 100
    assert figures["whole process: seconds"] > sum(figures[part] for part in parts)
    assert 0.1 < figures["whole process: gigabytes of memory at most"] < 4


@pytest.mark.parametrize(
    ("name", "flags", "named"),
    [
        ("scale_moments", ["--rows=1"], "--rows takes"),
        ("scale_moments", ["--scratch=nowhere"], "nowhere: the store takes"),
        ("scale", ["--rows=1000000000000"], "give --scratch, or fewer --rows"),
        ("pairwise", ["--peers=matlab"], "--peers: there is no peer 'matlab'"),
        ("evaluation", ["--sizes=many"], "--sizes takes"),
        ("study", [], "--store is missing"),
        ("study", ["--store={store}", "--rows=5000"], "--rows asks for 5,000 photographs"),
        ("study", ["--store={store}", "--rows=150", "--parts=nothing"], "there is no part 'nothing'"),
    ],
)
def test_bad_flags_are_one_sentence(store, capsys, name, flags, named):
    assert drive(name, *(flag.format(store=store.path) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
