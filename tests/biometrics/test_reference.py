"""The independent float64 numbers of the real store, published split with seed 42."""

import json

import numpy as np
import pytest

from jaxalign import biometrics

PAIRS = [("dlib_resnet", "mobilefacenet"), ("mobilefacenet", "faceres"), ("mobileface", "dlib_resnet")]


def published_rows(identities: np.ndarray, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows of DESIGN section 5, written out once more here."""
    people = np.array(sorted(set(identities.tolist())))
    np.random.RandomState(seed).shuffle(people)
    training = set(people[: int(0.7 * len(people))].tolist())
    by_person: dict[str, list[int]] = {}
    for row, person in enumerate(identities.tolist()):
        by_person.setdefault(person, []).append(row)
    sides = [
        [r for p, rows in by_person.items() if (p in training) == side for r in rows]
        for side in (True, False)
    ]
    return np.array(sides[0]), np.array(sides[1])


@pytest.fixture(scope="module")
def real(lfw_dev):
    parquet = pytest.importorskip("pyarrow.parquet")
    identities = np.array(parquet.read_table(lfw_dev / "samples.parquet").column("identity").to_pylist())
    train, test = published_rows(identities)

    def rows(encoder: str) -> tuple[np.ndarray, np.ndarray]:
        array = np.load(lfw_dev / f"{encoder}.npy").astype(np.float64)
        array /= np.linalg.norm(array, axis=1, keepdims=True)
        array -= array[train].mean(axis=0)
        return array[train], array[test]

    return rows, biometrics.EvaluationPlan.of(identities[test])


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
