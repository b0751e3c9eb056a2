"""Fusion of several encoders against analytic values, NumPy and scikit-learn."""

import brute_force
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxalign import UserError
from jaxalign.biometrics import Fusion, evaluate, fused_rows, mean_rows, mixed_rows
from jaxalign.biometrics.fusion import KINDS

PEOPLE = np.repeat(np.arange(25), 4)


def drawn(means, correlation, count, seed=0):
    """Scores of K systems, mates N(means, C) and others N(0, C), and which are genuine: ``count`` of both kinds."""
    systems = len(means)
    shape = np.linalg.cholesky((1 - correlation) * np.eye(systems) + correlation)
    scores = np.random.default_rng(seed).standard_normal((2 * count, systems)) @ shape.T
    genuine = np.arange(2 * count) < count
    return scores + genuine[:, None] * np.asarray(means), genuine


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("correlation, expected", [(0.0, 4.242641), (0.5, 3.464102)])
def test_two_equal_systems_are_as_far_apart_as_theory_says(kind, correlation, expected):
    count = 100_000
    fusion = Fusion.fit(*drawn((3, 3), correlation, count), kind=kind)
    scores, genuine = drawn((3, 3), correlation, count, seed=1)
    same, other = (fusion(scores[side]) for side in (genuine, ~genuine))
    found = (same.mean() - other.mean()) / np.sqrt((same.var() + other.var()) / 2)
    assert found == pytest.approx(expected, abs=3 * np.sqrt((2 + expected**2 / 4) / count))
    if kind == "logistic":
        assert (same.mean() - other.mean()) / expected**2 == pytest.approx(1, abs=0.05)


def test_logistic_fusion_is_that_of_scikit_learn_and_of_theory():
    means, correlation = (1.0, 2.0, 0.0), 0.4
    scores, genuine = drawn(means, correlation, 20_000)
    fusion = Fusion.fit(scores[5_000:], genuine[5_000:])  # 15,000 genuine and 20,000 impostor comparisons
    balanced = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, class_weight="balanced")
    expected = balanced.fit(scores[5_000:], genuine[5_000:]).decision_function(scores)
    np.testing.assert_allclose(fusion(scores), expected, atol=1e-4)
    covariance = (1 - correlation) * np.eye(3) + correlation
    np.testing.assert_allclose(fusion.weights, np.linalg.solve(covariance, means), atol=0.1)
    assert fusion.weights[2] < 0


def test_equal_systems_have_equal_weights_and_a_constant_one_has_none():
    scores, genuine = drawn((1.0,), 0.0, 1000)
    alone = Fusion.fit(scores, genuine)
    together = Fusion.fit(np.column_stack([scores, scores, np.ones(2000)]), genuine)
    np.testing.assert_allclose(together.weights, [alone.weights[0] / 2] * 2 + [0], atol=1e-8)


def test_other_rules_are_their_definitions():
    scores, genuine = drawn((1.0, 2.0), 0.3, 500)
    new = drawn((1.0, 2.0), 0.3, 50, seed=1)[0] * 3
    same, other = scores[genuine], scores[~genuine]
    expected = {
        "mean": new.mean(axis=1),
        "znorm": ((new - other.mean(axis=0)) / other.std(axis=0)).mean(axis=1),
        "minmax": ((new - scores.min(axis=0)) / np.ptp(scores, axis=0)).mean(axis=1),
        "tanh": (0.5 * (1 + np.tanh(0.01 * (new - same.mean(axis=0)) / same.std(axis=0)))).mean(axis=1),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(Fusion.fit(scores, genuine, kind=kind)(new), values, atol=1e-12)


def views(seed):
    """Rows of two encoders, of the same photographs and in one space."""
    random = np.random.default_rng(seed)
    centre = np.random.default_rng(9).standard_normal((25, 12))[PEOPLE]
    return [(centre + noise * random.standard_normal((100, 12))).astype(np.float32) for noise in (0.6, 0.9)]


def fused_scores(kind, probes, gallery):
    """Scores of all comparisons by the definitions, float64, and the rows that give them."""
    each = [brute_force.cosines(*sides) for sides in zip(probes, gallery)]
    unit = [[row / np.linalg.norm(row, axis=1, keepdims=True) for row in side] for side in (probes, gallery)]
    encoder = np.arange(100) // 3 % 2
    if kind == "mean_rows":
        return brute_force.cosines(*(np.mean(side, axis=0) for side in unit)), map(
            mean_rows, (probes, gallery)
        )
    if kind == "mixed_rows":
        mixed = np.where(encoder[:, None] == 0, *gallery)
        return brute_force.cosines(probes[1], mixed), (probes[1], mixed_rows(gallery, encoder))
    weights = np.array([0.7, -0.2] if kind == "weighted" else [1.0, 1.0])
    rows = fused_rows(probes, weights), fused_rows(gallery)
    return np.einsum("k,kij->ij", weights, each), rows


@pytest.mark.parametrize("kind", ["plain", "weighted", "mean_rows", "mixed_rows"])
def test_rates_of_fused_rows_are_those_of_fused_scores(kind):
    probes, gallery = views(1), views(2)
    scores, rows = fused_scores(kind, probes, gallery)
    left, right = rows
    result = evaluate(left, right, PEOPLE, least_false_matches=0)
    assert result.verification
    mated, own = PEOPLE[:, None] == PEOPLE, np.arange(100)
    genuine, impostor = brute_force.split(scores, mated, own)
    assert result["auc"] == pytest.approx(brute_force.auc(genuine, impostor), abs=1e-4)
    for point in result.verification.rates.points:
        threshold = np.sort(impostor)[-int(np.floor(point.fmr * len(impostor))) - 1]
        assert point.tmr == np.mean(genuine > threshold)
    assert result["rank1"] == np.mean(brute_force.ranked(scores, mated, own, False).rank == 1)


def test_the_cosine_of_fused_rows_is_the_fused_score_but_for_its_scale():
    (scores, genuine), (probes, gallery) = drawn((1.0, 2.0), 0.3, 500), (views(1), views(2))
    fusion = Fusion.fit(scores, genuine)
    pairs = np.column_stack([np.diagonal(brute_force.cosines(*sides)) for sides in zip(probes, gallery)])
    rows = np.asarray(fused_rows(probes, fusion.weights)), np.asarray(fused_rows(gallery))
    cosines = np.diagonal(brute_force.cosines(*rows))
    scale = np.sqrt(2) * np.linalg.norm(fusion.weights)
    np.testing.assert_allclose(fusion(pairs), scale * cosines + fusion.offsets.sum(), atol=1e-6)


@pytest.mark.parametrize(
    "named, wrong",
    [
        ("kind", lambda s, g: Fusion.fit(s, g, kind="max")),
        ("scores", lambda s, g: Fusion.fit(s[:, 0], g)),
        ("genuine", lambda s, g: Fusion.fit(s, g[1:])),
        ("0 genuine", lambda s, g: Fusion.fit(s[~g], g[~g])),
        ("number 7 ", lambda s, g: Fusion.fit(np.where(np.arange(len(s))[:, None] == 7, np.nan, s), g)),
        ("system 1", lambda s, g: Fusion.fit(s * [1, 0], g, kind="znorm")),
        ("one threshold", lambda s, g: Fusion.fit(s + 9 * g[:, None], g)),
        (r"\[n, 2\]", lambda s, g: Fusion.fit(s, g)(s[:, :1])),
        ("tanh", lambda s, g: Fusion.fit(s, g, kind="tanh").weights),
        ("weights", lambda s, g: fused_rows([s, s], [1.0])),
        ("weights", lambda s, g: fused_rows([s, s], [0.0, 0.0])),
        ("rows", lambda s, g: fused_rows([s, s[1:]])),
        ("rows", lambda s, g: fused_rows([])),
        (
            "encoder 1: row 3 ",
            lambda s, g: np.asarray(fused_rows([s, s * (np.arange(len(s)) != 3)[:, None]])),
        ),
        ("one space", lambda s, g: mean_rows([s, s[:, :1]])),
        ("encoder", lambda s, g: mixed_rows([s, s], np.full(len(s), 2))),
    ],
)
def test_refusals(named, wrong):
    with pytest.raises(UserError, match=named):
        wrong(*drawn((1.0, 1.0), 0.0, 100))
