"""Ensembles of encoders against NumPy."""

import numpy as np
import pytest
from commands import read, run, succeed, value
from planted import planted, refused_with

from experiments import ensemble
from jaxalign import Moments, fit_shared_space
from jaxalign.core.people import published_split
from jaxalign.data import EmbeddingStore

RATES = "--fmr=0.02,0.1"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A store and what the command writes for it."""
    place = tmp_path_factory.mktemp("ensemble")
    rows, people = planted(people=40, noise=0.6)
    EmbeddingStore.create(place / "store", rows, people, dataset="three")
    succeed(
        ensemble, f"--store={place / 'store'}", f"--out={place / 'o'}", "--intervals=0", RATES, "--largest=2"
    )
    split = published_split(people, 42)
    unit = {name: normalize(side.astype(np.float64)) for name, side in rows.items()}
    train, test = ({name: side[part] for name, side in unit.items()} for part in (split.train, split.test))
    space = fit_shared_space(Moments.of(train)).on_host()
    mapped = {name: normalize(np.asarray(space[name](side))) for name, side in test.items()}
    raw = {name: normalize(test[name] - train[name].mean(axis=0)) for name in test}
    return place / "o", people[split.test], mapped, raw


def normalize(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rates(scores, people):
    """Rank-1 without the same image, and the true match rate at a false match rate of 2 %."""
    mated, same = people[:, None] == people, np.eye(len(people), dtype=bool)
    threshold = np.sort(scores[~mated])[-int(0.02 * np.sum(~mated)) - 1]
    nearest = np.where(same, -np.inf, scores).argmax(axis=1)
    return np.mean(people[nearest] == people), np.mean(scores[mated & ~same] > threshold)


def test_systems_are_those_of_numpy(found):
    out, people, mapped, raw = found
    _, person = np.unique(people, return_inverse=True)
    random = np.random.default_rng(42)
    enrolled = random.integers(2, size=len(people))[person]
    shown = random.integers(2, size=len(people))
    both, of = [mapped["alpha"], mapped["gamma"]], np.arange(len(people))
    template = normalize(both[0] + both[1])
    expected = {
        ("mean", "alpha", "alpha"): both[0] @ both[0].T,
        ("concatenation", "alpha", "alpha"): raw["alpha"] @ raw["alpha"].T,
        ("shared", "alpha", "gamma"): both[0] @ both[1].T,
        ("mean", "alpha+gamma", "alpha+gamma"): both[0] @ both[0].T + both[1] @ both[1].T,
        ("concatenation", "alpha+gamma", "alpha+gamma"): sum(raw[k] @ raw[k].T for k in ("alpha", "gamma")),
        ("mean_template", "alpha+gamma", "alpha+gamma"): template @ template.T,
        ("heterogeneous", "alpha+gamma", "alpha+gamma"): np.stack(both)[shown, of]
        @ np.stack(both)[enrolled, of].T,
    }
    rows = read(out)
    for (method, source, target), scores in expected.items():
        here = {"method": method, "source": source, "target": target, "axis": ""}
        rank1, tmr = rates(scores, people)
        assert value(rows, **here, measure="rank1") == pytest.approx(rank1, abs=1e-9), here
        assert value(rows, **here, measure="tmr@fmr=0.02") == pytest.approx(tmr, abs=1e-9), here


def test_every_set_every_fusion_and_a_greedy_choice(found):
    rows = [row for row in read(found[0]) if row["measure"] == "tmr@fmr=0.02"]
    systems = {(row["source"], row["method"]) for row in rows if row["source"] == row["target"]}
    singles, pairs = ("alpha", "beta", "gamma"), ("alpha+beta", "alpha+gamma", "beta+gamma")
    expected = {(one, how) for one in singles for how in ensemble.ALONE}
    expected |= {(each, how) for each in (*pairs, "alpha+beta+gamma") for how in ensemble.METHODS}
    assert systems == expected
    greedy = [row for row in rows if row["axis"] == "budget"]
    assert [(row["at"], row["source"].count("+")) for row in greedy] == [("1.0", 0), ("2.0", 1), ("3.0", 2)]
    assert greedy[0]["source"] in greedy[1]["source"] and greedy[2]["source"] == "alpha+beta+gamma"
    for row in greedy:
        alike = value(rows, source=row["source"], method="mean", axis="")
        assert float(row["value"]) == alike
    predictions = {row["measure"]: row for row in read(found[0] / "prediction.csv")}
    assert set(predictions) == {"rank1 (excluded)", "tmr@fmr=0.02", "tmr@fmr=0.1"}
    assert all(row["pairs"] == "3" for row in predictions.values())


def test_bad_input_is_one_sentence(tmp_path):
    rows, people = planted(people=12)
    trained = people[published_split(people, 42).train]
    once = np.isin(people, trained) & (np.arange(len(people)) % 4 > 0)  # leaves one photograph of who trains
    for name, kept in (("store", slice(None)), ("once", ~once)):
        chosen = {key: side[kept] for key, side in rows.items()}
        EmbeddingStore.create(tmp_path / name, chosen, people[kept], dataset=name)
    for store, flag, named in (
        ("store", "--methods=max", "max"),
        ("store", "--largest=0", "largest"),
        ("store", "--models=alpha", "two encoders"),
        ("once", RATES, "0 genuine"),
    ):
        done = run(ensemble, f"--store={tmp_path / store}", f"--out={tmp_path / 'o'}", "--intervals=0", flag)
        assert named in refused_with(done)
    assert not (tmp_path / "o").exists()
