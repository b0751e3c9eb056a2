"""The independent float64 numbers of the real store, published split with seed 42."""

import json

import numpy as np
import pytest

from jaxalign import biometrics
from jaxalign.core.people import published_split
from jaxalign.data import EmbeddingStore

PAIRS = [("dlib_resnet", "mobilefacenet"), ("mobilefacenet", "faceres"), ("mobileface", "dlib_resnet")]


@pytest.fixture(scope="module")
def real(lfw_dev):
    store = EmbeddingStore.open(lfw_dev, verify=False)
    split = published_split(
        store.identities, 42
    )  # as an independent recipe gives it: tests/core/test_people.py

    def rows(encoder: str) -> tuple[np.ndarray, np.ndarray]:
        array = np.asarray(store[encoder], np.float64)
        array /= np.linalg.norm(array, axis=1, keepdims=True)
        array -= array[split.train].mean(axis=0)
        return array[split.train], array[split.test]

    return rows, biometrics.EvaluationPlan.of(store.identities[split.test])


@pytest.fixture(scope="module")
def reference(shared):
    rows = json.loads((shared / "data" / "reference.json").read_text())["rows"]
    return {(row["source"], row["target"], row["method"]): row for row in rows if row["seed"] == 42}


@pytest.mark.parametrize("method", ["identity", "orthogonal"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_agrees_with_the_reference(real, reference, pair, method):
    rows, plan = real
    (x, probes), (y, gallery) = (rows(encoder) for encoder in pair)
    if method == "orthogonal":
        u, _, vt = np.linalg.svd(x.T @ y, full_matrices=False)
        probes = probes @ (u @ vt)
    else:
        width = max(probes.shape[1], gallery.shape[1])
        probes, gallery = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (probes, gallery))
    result = biometrics.evaluate(probes, gallery, plan)
    found = {(row.own_photograph, row.measure): row for row in result.measures()}
    expected = reference[(*pair, method)]
    assert result.verification is not None
    assert result.verification.comparisons == (
        expected["verification"].pop("genuine", result.verification.genuine),
        expected["verification"].pop("impostor", result.verification.impostor),
    )
    flip = 2 / len(plan.order)  # float32 against float64 may exchange neighbours
    for own, name in (("included", "own_included"), ("excluded", "own_excluded")):
        for measure, value in expected[name].items():
            if measure == "probes":
                assert result.identification[own].probes == value
            else:
                assert found[own, measure].value == pytest.approx(value, abs=flip)
    for measure, value in expected["verification"].items():
        if measure.startswith("achieved"):
            assert found["", measure.replace("achieved", "tmr")].achieved == pytest.approx(value, abs=1e-12)
        else:
            tolerance = 1e-6 if measure in ("auc", "eer") else 3 / result.verification.genuine
            assert found["", measure].value == pytest.approx(value, abs=tolerance)
