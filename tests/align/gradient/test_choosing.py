"""Settings of maps fitted by gradient are chosen on training people; the benchmark of accuracy reports what came."""

import json
from typing import Any

import numpy as np
import pytest

from experiments.benchmarks import accuracy as benchmark_accuracy
from experiments.run import cli
from jaxalign import EmbeddingStore, UserError
from jaxalign.analysis import tuning

PEOPLE, EACH = 90, 3
IDENTITIES = np.repeat([f"person {k:03d}" for k in range(PEOPLE)], EACH)
RANDOM = np.random.default_rng(0)
TRAITS = np.repeat(RANDOM.normal(size=(PEOPLE, 6)), EACH, axis=0)
ROWS = {
    name: np.float32(TRAITS @ RANDOM.normal(size=(6, width)) + RANDOM.normal(size=(len(TRAITS), width)))
    for name, width in {"a": 24, "b": 40}.items()
}
ADAM = {"steps": 5, "people": 40}
CHEAP = {"loss": "cosine"}  # compiles in half the time of the contrastive loss
CANDIDATES = ({"start": "random"}, {"learning_rate": 1e-3})  # five steps from a random start lead nowhere


@pytest.mark.parametrize("method", ["low_rank", "joint"])
def test_what_fails_on_people_held_out_is_not_chosen(method):
    fixed = {**ADAM, **CHEAP, "rank": 6}
    options = {"candidates": CANDIDATES, "fixed": fixed, "fmr": 0.01, "folds_compared": 1}
    tuned = tuning.tune(ROWS, IDENTITIES, method, **options)  # pyright: ignore[reportArgumentType]
    assert tuned.settings == {**fixed, "learning_rate": 1e-3}
    assert tuned.tmr[1] > tuned.tmr[0] + 0.1


def test_settings_are_chosen_under_a_score_and_so_are_those_of_the_score():
    def tmr(score, *candidates):
        return tuning.tune(ROWS, IDENTITIES, "orthogonal", candidates=candidates, score=score, fmr=0.01).tmr

    by_cohort = tmr("cohort", {"top": 5}, {"top": 60})
    assert by_cohort[0] == tmr("snorm", {"top": 5, "shift": 0.5, "power": 0.0})[0]
    assert len({*by_cohort, *tmr("cosine", {})}) == 3
    # A cohort of five people is averaged whole; of all 60 of a fold, so many are the nearest.
    small, whole = tmr("cohort", {"top": 5, "cohort_people": 5}, {"top": 5, "cohort_people": 60})
    assert whole == by_cohort[0] != small
    with pytest.raises(UserError, match="from 1 to 60"):
        tmr("cohort", {"cohort_people": 61})


def test_copies_of_an_image_choose_nothing():
    """Noise, each row twice: only copies are found again."""
    rows = {"a": np.repeat(RANDOM.normal(size=(2 * PEOPLE, 8)).astype(np.float32), 2, axis=0)}
    rows["b"] = rows["a"]
    options = {"candidates": ({},), "fmr": 0.01}
    images = np.arange(4 * PEOPLE) // 2
    people = np.arange(4 * PEOPLE) // 4
    tmr = [tuning.tune(rows, people, "identity", images=of, **options).tmr[0] for of in (None, images)]  # pyright: ignore[reportArgumentType]
    assert tmr[0] > 0.3 and tmr[1] < 0.1


def drive(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.run(benchmark_accuracy.main, ["benchmark_accuracy", *arguments], values=benchmark_accuracy.VALUES)
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_benchmark_of_accuracy(tmp_path, capsys, monkeypatch):
    EmbeddingStore.create(tmp_path / "store", ROWS, IDENTITIES)
    few: dict[str, Any] = {"canonical": ({"whitening": 0.5},), "shared": ({"whitening": 0.75},)}
    few["low_rank"] = tuple({**CHEAP, **candidate} for candidate in CANDIDATES)
    monkeypatch.setattr(tuning, "CANDIDATES", few)
    flags = [f"--store={tmp_path / 'store'}", "--fmr=0.01", "--rank=6", "--steps=5", "--resamples=20"]
    flags += ["--gradient=low_rank", "--ranks=2", f"--out={tmp_path / 'figures.json'}", "--draws=2"]
    status, _, err = drive(capsys, *flags, "--fpir=0.001")
    assert status == 2 and "--fpir=0.001 is too low" in err and err.count("\n") == 1
    status, out, err = drive(capsys, *flags, "--fpir=0.3")
    assert (status, err) == (0, "")
    assert "learning_rate 0.001  chosen" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    tmr, fnir = figures["tmr"], {name: numbers["estimate"] for name, numbers in figures["fnir"].items()}
    for name in ("canonical", "low_rank", "low_rank, rank 2"):
        assert 0 < tmr[name]["low"] <= tmr[name]["estimate"] <= tmr[name]["high"]
    estimate = {name: numbers["estimate"] for name, numbers in tmr.items()}
    assert estimate["low_rank, rank 2"] < estimate["low_rank"]
    difference = estimate["low_rank"] - estimate["canonical"]
    assert abs(estimate["low_rank − canonical"] - difference) < 1e-9
    assert set(tmr) - set(fnir) >= {"low_rank − canonical", "best published, cohort, hindsight"}
    assert 0 < fnir["best published, hindsight"] < min(fnir["orthogonal"], fnir["linear"]) < 0.3
    lower = fnir["shared"] - fnir["shared, cohort"], fnir["shared − shared, cohort"]
    assert lower[0] == pytest.approx(lower[1])


@pytest.mark.parametrize(
    ("flag", "sentence"), [("--gradient=high_rank", "there is no method"), ("--ranks=cv", "--ranks")]
)
def test_bad_flags_are_a_sentence(capsys, flag, sentence):
    status, _, err = drive(capsys, "--store=nowhere", flag)
    assert status == 2 and err.startswith("error: ") and sentence in err and err.count("\n") == 1
