"""What evaluations take: rows at the limits of their type, labels, pairs and settings; the rest is refused."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxalign import UserError, biometrics
from jaxalign.biometrics.pair_lists import PairList, published_pairs
from jaxalign.core.errors import UserNote
from jaxalign.core.names import normal_name
from jaxalign.core.people import identity_folds
from jaxalign.core.rows import unit_rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", [{}, {"kept_scores": 0}], ids=["sorted", "counted"])
@pytest.mark.parametrize("scale", [1.0, 3e37, 1e-38, 1e-40, 1e200, 1e-300])
def test_rows_near_the_limits_of_their_type_have_the_right_cosines(scale, way, dtype):
    """Against float64 numpy; XLA may take subnormal numbers for 0, and squares of large ones overflow."""
    if dtype == "float32" and not 1e-40 <= scale <= 3e37:
        pytest.skip("beyond the type")
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(30), 4)
    rows = random.normal(size=(30, 64))[person] + 2 * random.normal(size=(120, 64))
    rows = (rows * np.where(np.arange(120) % 2, scale, 1.0)[:, None]).astype(dtype)
    unit = np.ldexp(rows.astype(np.float64), -np.frexp(np.abs(rows).max(axis=1))[1][:, None])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    first, second = np.triu_indices(120, 1)
    expected = roc_auc_score(person[first] == person[second], (unit @ unit.T)[first, second])
    plan = biometrics.EvaluationPlan.of(person, **way)
    assert biometrics.evaluate(rows, rows, plan).verification.auc == pytest.approx(expected, abs=1e-4)  # pyright: ignore[reportOptionalMemberAccess]
    listed = PairList(first, second, person[first] == person[second])
    found = biometrics.verify_pairs(rows, rows, listed)
    assert np.allclose(found.scores, (unit @ unit.T)[first, second], atol=2e-6)
    assert np.allclose(unit_rows(rows), unit, atol=1e-12)


def rows_with_mean(mean: float, means: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float32 rows of 40 people of whom all, or every so many, share a mean; people; cosines by float64 numpy."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 3)
    rows = random.normal(size=(40, 64))[person] + 1.5 * random.normal(size=(120, 64))
    rows = (rows + mean * random.normal(size=(means, 64))[person % means]).astype(np.float32)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows, person, unit @ unit.T


@pytest.mark.parametrize("way", [{}, {"kept_scores": 0}], ids=["sorted", "counted"])
@pytest.mark.parametrize("mean, means", [(1.0, 1), (1000.0, 1), (1000.0, 2), (1000.0, 8)])
def test_nearly_parallel_rows_are_ordered_as_in_float64(mean, means, way):
    """Cosines within 1e-6 of each other, which float32 rounds by 1e-7: rank-1, AUC and FNIR against float64 numpy.

    With several means the cosines of rows that do not share one are ordinary, as is the median of all.
    """
    rows, person, cosines = rows_with_mean(mean, means)
    result = biometrics.evaluate(rows, rows, biometrics.EvaluationPlan.of(person, **way))
    assert result.genuine_scores.dtype == (np.float64 if mean > 1 else np.float32)
    mated, other = person[:, None] == person, ~np.eye(120, dtype=bool)
    best = [np.where(kind & other, cosines, -2).max(axis=1) for kind in (mated, ~mated)]
    assert result["rank1"] == np.mean(best[0] > best[1])
    assert result["auc"] == pytest.approx(roc_auc_score(mated[other], cosines[other]), abs=2e-5)
    first, second = np.triu_indices(120, 1)
    listed = biometrics.verify_pairs(rows, rows, PairList(first, second, mated[first, second]))
    assert listed.auc == pytest.approx(roc_auc_score(mated[first, second], cosines[first, second]), abs=1e-6)
    enrolled = np.arange(60) % 3 == 0
    gallery, probes = np.flatnonzero(enrolled), np.r_[np.flatnonzero(~enrolled), 60:120]
    searched = biometrics.open_set(rows[probes], rows[gallery], person[probes], person[gallery], fpir=[0.1])
    scores, same = cosines[np.ix_(probes, gallery)], person[probes][:, None] == person[gallery]
    threshold = np.sort(scores[~same.any(axis=1)].max(axis=1))[-7]  # six above it are allowed
    top = np.where(same, scores, -2).max(axis=1)[same.any(axis=1)]
    wrong = np.where(same, -2, scores).max(axis=1)[same.any(axis=1)]
    assert searched[0.1].fnir == np.mean((top <= threshold) | (wrong >= top))


def test_the_cohort_of_nearly_parallel_rows_is_as_in_float64():
    """Cosines within 1e-8 of each other: the score `cohort` against float64 numpy."""
    rows, person, cosines = rows_with_mean(10_000.0)
    others, tested = person < 20, person >= 20
    unit = unit_rows(rows)
    centroids = unit_rows(np.stack([unit[person == one].mean(axis=0) for one in range(20)]))
    near = np.sort(unit[tested] @ centroids.T, axis=1)[:, -5:].mean(axis=1)
    scores = cosines[np.ix_(tested, tested)] - (near[:, None] + near) / 2
    cohort = biometrics.Cohort.of(rows[others], rows[others], person[others])
    score = biometrics.comparator("cohort", cohort, top=5)
    result = biometrics.evaluate(rows[tested], rows[tested], person[tested], score=score)
    mated, other = person[tested][:, None] == person[tested], ~np.eye(60, dtype=bool)
    best = [np.where(kind & other, scores, -2).max(axis=1) for kind in (mated, ~mated)]
    assert result["rank1"] == np.mean(best[0] > best[1])
    assert result["auc"] == pytest.approx(roc_auc_score(mated[other], scores[other]), abs=1e-6)


def test_parallel_rows_are_told_of_where_there_is_no_float64(monkeypatch):
    monkeypatch.setattr("jaxalign.biometrics.inputs.moment_dtype", lambda: np.dtype(np.float32))
    rows, person, _ = rows_with_mean(1000.0)
    with pytest.warns(UserNote, match="nearly parallel"):
        biometrics.evaluate(rows, rows, person)


LABELS = [
    ([None] * 6, "row 0 has None"),
    (["a", None] * 3, "row 1 has None"),
    (["a", float("nan")] * 3, "row 1 has nan"),
    ([1, "1"] * 3, "row 1 has '1'"),
    ([True, 1] * 3, "row 1 has 1"),
    (np.array([1.0, np.nan] * 3), "row 1 has the label nan"),
    (["a", " \u200b"] * 3, "row 1 has an empty name"),
    (np.array(["2020-01-01"] * 6, "M8[D]"), "datetime64"),
    ([(1, 2)] * 6, r"row 0 has \(1, 2\)"),
    ("abcdef", "one label for each row"),
    ([b"\xff"] * 6, "UTF-8"),
]


@pytest.mark.parametrize("take", ["evaluate", "plan", "pooled", "first_rows", "folds", "published_pairs"])
@pytest.mark.parametrize("labels, told", LABELS, ids=[told for _, told in LABELS])
def test_labels_that_are_missing_or_mixed_are_refused(labels, told, take):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    functions = {
        "evaluate": lambda: biometrics.evaluate(rows, rows, labels),
        "plan": lambda: biometrics.EvaluationPlan.of(labels),
        "pooled": lambda: biometrics.pooled(rows, labels),
        "first_rows": lambda: biometrics.first_rows(labels),
        "folds": lambda: identity_folds(labels, 2),
        "published_pairs": lambda: published_pairs(labels, 0),
    }
    with pytest.raises(UserError, match=told):
        functions[take]()


def test_labels_of_two_kinds_never_agree():
    rows = np.random.default_rng(0).normal(size=(4, 4))
    with pytest.raises(UserError, match="one kind on both sides"):
        biometrics.evaluate(rows, rows, [1, 1, 2, 2], ["1", "1", "2", "2"])


LOOK_ALIKE = ["Zoë ", "Zoe\u0308", "\u200bZoë", "Ann Lee", "Ann\u00a0Lee", "Ann Lee\t"]


def test_names_that_look_alike_are_one_with_a_note():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    with pytest.warns(UserNote, match="6 identities .* are 2"):
        plan = biometrics.EvaluationPlan.of(LOOK_ALIKE)
    assert plan.probe_codes.tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.warns(UserNote, match="6 identities are 2"):
        assert biometrics.pooled(rows, LOOK_ALIKE)[1].tolist() == ["Zoë", "Ann Lee"]
    assert normal_name("a  b") == "a  b"  # blanks within a name are part of it


@pytest.mark.parametrize(
    "change, told",
    [
        ({"genuine": np.array([1, -1])}, "genuine"),
        ({"genuine": np.array([1, 2])}, "genuine"),
        ({"genuine": np.array(["True", "False"])}, "genuine"),
        ({"genuine": np.array([1, np.nan])}, "genuine"),
        ({"fold": np.array([0.0, np.nan])}, "fold"),
        ({"fold": np.array([[0, 1]])}, "fold"),
    ],
)
def test_pairs_with_other_labels_or_folds_are_refused(change, told):
    rows = np.random.default_rng(0).normal(size=(4, 4))
    given = {"left": np.array([0, 1]), "right": np.array([2, 3]), "genuine": np.array([True, False])} | change
    with pytest.raises(UserError, match=told):
        biometrics.verify_pairs(rows, rows, PairList(**given))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"fmr": 0.1}, "fmr"),
        ({"fmr": ["0.1"]}, "fmr"),
        ({"least_false_matches": np.nan}, "least_false_matches"),
        ({"ranks": [np.inf]}, "ranks"),
        ({"ranks": 5}, "ranks"),
        ({"people_weights": np.full((3, 2), np.nan)}, "people_weights"),
        ({"people_weights": -np.ones((3, 2))}, "people_weights"),
    ],
)
def test_settings_that_are_no_numbers_are_refused(options, told):
    rows = np.random.default_rng(0).normal(size=(4, 4))
    with pytest.raises(UserError, match=told):
        biometrics.evaluate(rows, rows, [0, 0, 1, 1], **options)
