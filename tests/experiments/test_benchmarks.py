"""Benchmarks on little data: every figure is there, and nothing stays on the disk."""

import importlib
import json
import pathlib

import numpy as np
import postgres
import pytest
from commands import succeed

import experiments.benchmarks
from experiments.benchmarks import (
    encode,
    evaluation,
    gallery,
    scale,
    scale_devices,
    scale_gradient,
    scale_moments,
    study,
    tower_memory,
)
from jaxalign.data import EmbeddingStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    random = np.random.default_rng(0)
    people = random.permutation(np.repeat(np.arange(60), random.integers(2, 8, 60)))
    rows = {
        name: random.normal(size=(len(people), width)).astype("f4") for name, width in (("a", 5), ("b", 8))
    }
    return EmbeddingStore.create(tmp_path_factory.mktemp("stores") / "given", rows, [f"p{k}" for k in people])


@pytest.fixture
def figures(tmp_path):
    """Runs a benchmark; gives the figures that it writes, without the version of JAX, and what it prints."""

    def figures(benchmark, *flags):
        out = tmp_path / "deep" / "figures.json"
        done = succeed(benchmark, *flags, f"--out={out}")
        written = json.loads(out.read_text())
        assert written.pop("jax")
        return written, done.stdout

    return figures


def test_every_file_is_a_benchmark():
    folder = pathlib.Path(experiments.benchmarks.__file__).parent
    for path in folder.glob("[!_]*.py"):
        module = importlib.import_module(f"experiments.benchmarks.{path.stem}")
        assert "out" in module.VALUES
        assert f"experiments.benchmarks.{path.stem} " in (module.__doc__ or "")


def test_moments_of_more_rows_than_memory(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(scale_moments, "LEAST_SECONDS", 0.01)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found, _ = figures(scale_moments, "--rows=20001", "--width=40", f"--scratch={scratch}")
    assert all(value > 0 for value in found.values())
    assert found["gigabytes"] == 20001 * 40 * 2 / 1e9
    assert found["relative error of the scatter matrix"] < 1e-12
    assert not list(scratch.iterdir())


def test_the_main_command_on_more_rows_than_memory(figures, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sizes = ["--rows=400", "--width=8", "--encoders=2", "--people=40", "--per_person=3", "--evaluated=90"]
    found, _ = figures(scale, *sizes, f"--scratch={scratch}")
    assert found["pairwise: test rows"] == 12 * 3
    assert found["evaluation: comparisons"] == 90**2
    assert all(value > 0 for value in found.values()) and len(found) == 8
    assert not list(scratch.iterdir())


def test_gradient_fits_and_their_peers(figures):
    found, _ = figures(scale_gradient, "--rows=60", "--width=12", "--rank=3", "--steps=2", "--people=5")
    for name in ("ours", "optax, times ours", "optax, times ours, processor"):
        assert found[name] > 0


def test_devices_share_the_work_and_send_as_much_for_twice_the_rows(figures, monkeypatch):
    """As docs/scale.md has it: on ``pairs`` one device alone leaves out half of a symmetric product, several do not."""
    monkeypatch.setattr(scale_devices, "COUNTS", (1, 4))
    sizes = ("--encoders=8", "--width=128", "--plan_encoders=8", "--plan_width=8")
    found, _ = figures(scale_devices, *sizes)
    for axis in ("data", "pairs"):

        def of(count, name, axis=axis):
            return found["devices"][f"{count} on {axis}: {name}"]

        assert of(4, "moments, bytes sent for a chunk") == of(4, "ridge, bytes sent of pairs") == 0
        at_the_end = of(4, "moments, bytes sent at the end")
        assert at_the_end == of(4, "moments, bytes sent at the end, of twice the rows")
        assert (at_the_end > 0) == (axis == "data")  # the sums over devices of one axis alone are sent
        for name in ("ridge", "canonical"):
            assert of(4, f"{name}, operations / of one") == pytest.approx(1 / 4, rel=0.12)
        share = of(4, "moments, operations / of one")
        assert share == pytest.approx(0.25, rel=0.05) if axis == "data" else 0.25 < share < 0.5
    assert found["plan"]["ordered pairs"] == 56
    assert all(value > 0 for value in found["plan"].values())


def test_evaluation_has_rates_and_memory(figures):
    found, printed = figures(
        evaluation,
        "--sizes=200",
        "--width=64",
        "--runs=1",
        "--memory_rows=300",
        "--cohort=20",
        "--corrected_rows=90",
    )
    assert found["evaluation"][0]["rows"] == 200
    assert found["evaluation"][0]["share"] > 0
    assert found["evaluation"][0]["cohort_over_cosine"] > 0 and found["corrected"] > 0
    assert all(found["memory"][score]["gigabytes"] > 0 for score in ("cosine", "cohort"))
    assert "200 × 200" in printed


def test_encoding_has_both_rates(shared, figures):
    onnx = shared / "models" / "mobileface.onnx"
    found, printed = figures(encode, f"--onnx={onnx}", "--novit", "--batches=1", "--rounds=1")
    row = found["pictures_a_second"]["mobileface"]
    assert row["share"] == row["encoder"] / row["bare"] > 0
    assert printed.startswith("mobileface ")


def test_loading_a_tower_from_a_large_file(figures):
    """Sparse: of the four gigabytes, less than the tower's ones are taken."""
    found, printed = figures(tower_memory, "--gigabytes=4", "--layers=1", "--dtypes=bfloat16")
    (row,) = found["tower_memory"].values()
    assert row["share"] == row["taken"] / row["weights"] > 0
    assert row["taken"] < 1 and printed.startswith("bfloat16")


def test_a_drawn_store_has_whole_people_and_as_many_photographs_as_fit(store, tmp_path):
    drawn = study.draw(store, tmp_path / "one", 100, 0)
    assert 93 < drawn.rows <= 100  # nobody left out has so few photographs
    names, counts = np.unique(drawn.identities, return_counts=True)
    whole = dict(zip(*np.unique(store.identities, return_counts=True)))
    assert {name: whole[name.removeprefix("one ")] for name in names} == dict(zip(names, counts))
    there = {row.tobytes() for row in np.asarray(store["b"])}
    assert all(row.tobytes() in there for row in np.asarray(drawn["b"]))


def test_the_study_tells_of_every_part_and_of_the_whole(store, figures):
    found, _ = figures(study, f"--store={store.path}", "--rows=150", "--parts=ridge_path")
    parts = [f"ridge_path-{name}: seconds" for name in ("one", "two")]
    assert [name for name in found if name.startswith("ridge_path")] == parts
    assert found["rows of one"] > found["rows of two"] > 100
    assert found["whole process: seconds"] > sum(found[part] for part in parts)
    assert found["whole process: gigabytes of memory at most"] > 0


def test_moves_of_galleries(figures, tmp_path, monkeypatch):
    here = lambda function, *given: {"seconds": 1.0, "gigabytes": 1.0, **function(*given)}  # noqa: E731
    monkeypatch.setattr(gallery, "in_fresh_process", here)  # the real one is run by the benchmarks above
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sizes = ["--rows=300", "--server_rows=20", "--width=8", f"--scratch={scratch}"]
    found, _ = figures(gallery, *sizes, f"--postgres={postgres.start()}")
    assert all(value > 0 for value in found.values()) and found["gigabytes of the array"] == 300 * 8 * 2 / 1e9
    assert {name.partition(":")[0] for name in found} >= {"store", "parquet", "qdrant", "postgres"}
    assert not list(scratch.iterdir())
