"""Rows in another order, and encoders that fail by themselves, are told by every command that opens a store."""

import json

import numpy as np
import pytest
from commands import run, succeed
from planted import planted

from experiments import ensemble, import_embeddings, migrate, study, sweep
from experiments.run.doubts import doubts, own_rates
from jaxalign.biometrics import evaluate
from jaxalign.data import EmbeddingStore

LIGHT = ("--intervals=0", "--rank_k=1", "--methods=orthogonal")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Stores of 100 people: gamma has its people in another order, blind has no people. Beta is left out."""
    place = tmp_path_factory.mktemp("doubts")
    rows, people = planted(people=100, noise=0.2)
    rows["gamma"] = rows["gamma"].reshape(100, 4, -1)[::-1].reshape(400, -1)
    rows["blind"] = np.random.default_rng(0).normal(size=rows.pop("beta").shape).astype("f4")
    for name in ("one", "two"):
        identities = [f"{name} {person}" for person in people]
        EmbeddingStore.create(place / name, rows, identities, dataset=name)
    return place


def order(told):
    return [text for text in told if "do not seem to belong together" in text]


def weak(told):
    return [text.split()[0] for text in told if "is weak by itself" in text]


def warnings_of(out):
    return json.loads((out / "config.json").read_text())["warnings"]


def test_rates_are_those_of_evaluate():
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 4)
    rows = random.normal(size=(30, 16))[people] + 1.5 * random.normal(size=(120, 16))
    rows[1], rows[9] = rows[0], rows[0]  # copies within a person and across people
    copies = np.arange(120)
    copies[[1, 9]] = 0
    for images in (None, copies):
        expected = evaluate(rows, rows, people, images=images)
        assert own_rates(rows, people, images)[0] == expected["rank1"]
        assert own_rates(rows, people, images)[1] == pytest.approx(expected["auc"], abs=1e-6)
    assert own_rates(np.full((4, 2), np.nan), [1, 1, 2, 2], None) == (0.0, 0.0)
    assert own_rates(rows[:3], [1, 2, 3], None) == (0.0, 0.0)  # nobody has two


def test_a_study_without_pairwise_tells_once_and_writes_it_down(place, tmp_path, monkeypatch):
    monkeypatch.setattr(study.report, "write", lambda *given, **more: None)
    stores = f"--stores={place / 'one'},{place / 'two'}"
    done = succeed(study, stores, f"--out={tmp_path / 's'}", "--parts=transfer", *LIGHT[:2])
    told = warnings_of(tmp_path / "s" / "transfer")
    assert len(order(told)) == 6 and weak(told) == ["blind", "blind"]  # of each store
    for text in told:
        assert done.stderr.count(f"warning: {text}\n") == told.count(text)


def test_a_sweep_and_its_merge(place, tmp_path):
    flags = (f"--stores={place / 'one'}", f"--out={tmp_path / 'out'}", "--seeds=1", *LIGHT[1:])
    done = succeed(sweep, *flags, "--measures=identification")
    told = warnings_of(tmp_path / "out")
    assert len(order(told)) == 3 and weak(told) == ["blind"]
    assert all(f"warning: {text}\n" in done.stderr for text in told)
    succeed(sweep, *flags, "--measures=identification", "--merge_only")
    assert warnings_of(tmp_path / "out") == told


def test_other_commands(place, tmp_path):
    flags = (f"--store={place / 'one'}", "--models=alpha,gamma", f"--out={tmp_path / 'e'}", *LIGHT[:2])
    succeed(ensemble, *flags, "--methods=mean")
    (text,) = warnings_of(tmp_path / "e")
    assert order([text]) and f"warning: {text}\n" in (tmp_path / "e" / "table.txt").read_text()
    sides = (f"--calibration={place / 'one'}", f"--gallery={place / 'two'}", "--old=alpha", "--new=gamma")
    moved = ("--intervals=100", "--at_fmr=0.05", "--max_tmr_loss=1", "--methods=ridge")
    assert run(migrate, *sides, *moved, f"--out={tmp_path / 'm'}").returncode == 3  # nothing is worth moving
    assert order(warnings_of(tmp_path / "m"))


def test_a_few_rows_that_are_not_finite_make_no_encoder_weak(place, tmp_path):
    rows, people = planted(people=20, per_person=4)
    np.save(tmp_path / "a.npy", np.where(np.arange(80)[:, None] == 3, np.nan, rows["alpha"]))
    np.save(tmp_path / "b.npy", np.random.default_rng(0).normal(size=(80, 16)))
    (tmp_path / "p.csv").write_text("identity\n" + "".join(f"{person}\n" for person in people))
    files = [f"--embeddings={tmp_path / name}.npy" for name in "ab"]
    done = succeed(import_embeddings, *files, f"--identities={tmp_path / 'p.csv'}", f"--out={tmp_path / 's'}")
    assert "1 rows with NaN" in done.stdout and weak(done.stdout.replace("warning: ", "").splitlines()) == [
        "b"
    ]


def test_too_few_photographs_make_no_encoder_weak():
    people, random = np.repeat(["a", "b", "c"], 3), np.random.default_rng(0)
    noise = {name: random.normal(size=(9, 4)) for name in "xy"}
    assert not list(doubts(lambda at: {name: rows[at] for name, rows in noise.items()}, people, None))
