"""The commands geometry and families from the command line: what they write, and what bad input gets."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
from commands import read, run, succeed
from planted import refused_with
from scipy.cluster import hierarchy

from experiments import families, geometry
from experiments.run.results import read_parquet
from jaxalign.analysis.geometry import SIMILARITIES
from jaxalign.data import EmbeddingStore

ENCODERS = {
    "alpha": (12, 0.05),
    "beta": (12, 0.3),
    "gamma": (16, 0.3),
    "delta": (16, 1.5),
    "epsilon": (12, 3.0),
}
PEOPLE, PER_PERSON = 40, 3
FAST = ("--methods=orthogonal,canonical", "--permutations=5")
LABELS = "--families=good:alpha+beta+gamma,bad:delta+epsilon"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Five encoders that share twelve dimensions, with more and more noise."""
    random = np.random.default_rng(0)
    people = np.repeat(random.normal(size=(PEOPLE, 12)), PER_PERSON, axis=0)
    photographs = people + 0.2 * random.normal(size=people.shape)
    embeddings = {}
    for name, (width, noise) in ENCODERS.items():
        rows = photographs @ np.linalg.qr(random.normal(size=(width, 12)))[0].T + 0.1
        embeddings[name] = (rows + noise * random.normal(size=rows.shape)).astype(np.float32)
    path = tmp_path_factory.mktemp("stores") / "planted"
    identities = np.repeat([f"person_{k:03d}" for k in range(PEOPLE)], PER_PERSON)
    EmbeddingStore.create(path, embeddings, identities, dataset="planted")
    return path


@pytest.fixture(scope="module")
def measured(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "geometry"
    succeed(geometry, f"--store={store}", f"--out={out}", *FAST)
    return out


def test_geometry_writes_what_the_contract_says(measured):
    rows = read_parquet(measured / "results.parquet")
    assert {row.method for row in rows} == {"geometry"}
    pairs = {(row.source, row.target) for row in rows if row.source != row.target}
    assert pairs == set(itertools.combinations(ENCODERS, 2))
    names = {row.measure for row in rows if row.source != row.target}
    endings = ("", ":null_mean", ":null_95%", ":calibrated")
    assert names == {name + ending for name in SIMILARITIES for ending in endings}
    alone = {row.measure for row in rows if row.source == row.target}
    assert alone > {
        *("intrinsic_dimension_twonn", "intrinsic_dimension_mle", "participation_ratio", "anisotropy"),
        *("hubness_skewness", "between_within_ratio", "first_component_share"),
    }
    assert all(row.reason or math.isfinite(row.value) for row in rows)
    config = json.loads((measured / "config.json").read_text())
    assert config["driver"] == "geometry" and config["sampled_rows"] == [28 * PER_PERSON]
    assert config["options"]["permutations"] == 5


def test_prediction_is_spearman_over_the_pairs_written(measured):
    rows = {(row.source, row.target, row.measure): row for row in read_parquet(measured / "results.parquet")}
    rates = {
        (row.source, row.target, row.method): row.value
        for row in read_parquet(measured / "alignability.parquet")
    }
    found = read(measured / "prediction.csv")
    assert len(found) == len(SIMILARITIES) * 2 * 2
    pairs = list(itertools.combinations(ENCODERS, 2))
    for line in found:
        measure = line["similarity"] + (":calibrated" if line["calibrated"] == "yes" else "")
        method = line["alignment_method"]
        reached = [(rates[a, b, method] + rates[b, a, method]) / 2 for a, b in pairs]
        similar = [rows[*pair, measure].value for pair in pairs]
        theirs = next(iter(scipy.stats.spearmanr(similar, reached)))
        assert float(line["spearman"]) == pytest.approx(theirs)
        assert float(line["low"]) <= theirs <= float(line["high"])  # pyright: ignore
        assert (int(line["pairs"]), line["measure"]) == (10, "rank1")


def test_noisier_encoders_are_predicted_to_align_worse(measured):
    text = (measured / "table.txt").read_text()
    assert "What predicts rank-1 by canonical" in text
    found = {
        (line["similarity"], line["calibrated"]): float(line["spearman"])
        for line in read(measured / "prediction.csv")
        if line["alignment_method"] == "canonical"
    }
    assert found["linear_cka_unbiased", "yes"] > 0.7
    assert found["procrustes_distance", "no"] < -0.7 and found["procrustes_distance", "yes"] > 0.7


def test_alignability_can_be_read_and_gives_the_same(measured, store, tmp_path):
    out = tmp_path / "again"
    flags = [f"--store={store}", f"--out={out}", f"--results={measured}", *FAST]
    succeed(geometry, *flags)
    assert (out / "prediction.csv").read_bytes() == (measured / "prediction.csv").read_bytes()


def test_families_from_results(measured, store, tmp_path):
    out = tmp_path / "families"
    flags = [f"--store={store}", f"--out={out}", f"--results={measured}", LABELS]
    succeed(families, *flags)
    trees = json.loads((out / "families.json").read_text())
    assert list(trees)[:2] == ["rank1", "rank1:canonical"]
    assert {f"{name}:calibrated" for name in SIMILARITIES} < set(trees)
    rates = {
        (row.source, row.target): row.value
        for row in read_parquet(measured / "alignability.parquet")
        if row.method == "orthogonal"
    }
    tree = trees["rank1"]
    condensed = [100 - 50 * (rates[a, b] + rates[b, a]) for a, b in itertools.combinations(ENCODERS, 2)]
    theirs = hierarchy.linkage(condensed, "average")
    np.testing.assert_allclose(np.array(tree["linkage"])[:, 2], theirs[:, 2])
    assert sorted(tree["order"]) == sorted(ENCODERS)
    others = [rates["alpha", name] for name in ENCODERS if name != "alpha"]
    assert tree["source"]["alpha"] == pytest.approx(np.mean(others))
    assert tree["labels"]["delta"] == "bad"
    assert tree["permutation"]["exact"] and tree["permutation"]["permutations"] == 10
    assert 0.1 <= tree["permutation"]["p"] <= 1
    assert "least p" in (out / "table.txt").read_text()


def test_families_measure_by_themselves(store, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("encoder,family\nalpha,one\nbeta,one\ngamma,two\n")
    out = tmp_path / "families"
    flags = [f"--store={store}", f"--out={out}", "--models=alpha,beta,gamma", f"--families={labels}", *FAST]
    succeed(families, *flags)
    trees = json.loads((out / "families.json").read_text())
    assert trees["rank1"]["labels"] == {"alpha": "one", "beta": "one", "gamma": "two"}


def test_an_encoder_without_a_value_is_left_out_and_named(tmp_path):
    encoders, kept = list("abcd"), [0, 1, 3]
    distances = np.array([[0, 1, np.nan, 2], [1, 0, np.nan, 3], [np.nan] * 4, [2, 3, np.nan, 0]])
    tree = families.tree(encoders, 1 - distances, distances, list("xxyy"))
    assert (tree["encoders"], tree["left_out"]) == (["a", "b", "d"], ["c"])
    np.testing.assert_array_equal(tree["distances"], distances[np.ix_(kept, kept)])
    assert "too few" in families.tree(encoders[:3], distances[:3, :3], distances[:3, :3], None)["reason"]


def test_results_of_something_else_are_refused(measured, store, tmp_path):
    other, old = tmp_path / "other", tmp_path / "old"
    rows = EmbeddingStore.open(store)
    three = {name: np.asarray(rows[name]) for name in ("alpha", "beta", "gamma")}
    EmbeddingStore.create(other, three, rows.identities, dataset="other")
    old.mkdir()
    (old / "config.json").write_text('{"format": "jaxalign-results", "version": 0}')
    for of, results, more, named in (
        (other, measured, [], "expected results of the data set 'other'"),
        (store, measured, ["--train_fraction=0.5"], "--train_fraction=0.7, this run has 0.5"),
        (store, old, [], "of version 0 of the format"),
    ):
        # Those that are not weak by themselves, which is told before.
        flags = (f"--store={of}", "--models=alpha,beta,gamma", f"--results={results}", *more)
        flags = (*flags, f"--out={tmp_path / 'out'}")
        assert named in refused_with(run(geometry, *flags))
