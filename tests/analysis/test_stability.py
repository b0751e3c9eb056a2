"""Effective ranks and agreement of maps, against numpy and scipy."""

import clouds
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from jaxalign import AffineMap, Moments
from jaxalign.analysis.stability import agreement_of_sums, compare_scores, effective_rank, row_differences

X, Y = clouds.two_views()


def test_effective_rank_is_the_participation_ratio_of_mapped_rows():
    weights = np.random.default_rng(2).normal(size=(6, 3))
    map_ = AffineMap((weights,), np.zeros(3), X.mean(axis=0))
    variance = np.linalg.eigvalsh(np.cov(((X - X.mean(0)) @ weights).T))
    expected = variance.sum() ** 2 / (variance**2).sum()
    total = Moments.of({"y": Y, "x": X})
    assert effective_rank(map_, total, "x") == pytest.approx(expected, rel=1e-9)
    filled = AffineMap((np.pad(weights, ((0, 122), (0, 125))),), np.zeros(128), np.zeros(128))
    assert effective_rank(filled, total, "x") == pytest.approx(expected, rel=1e-9)


def test_maps_agree_by_the_relative_frobenius_distance():
    one, other = np.random.default_rng(3).normal(size=(2, 6, 3))
    images = [(X - X.mean(axis=0)) @ weights for weights in (one, other)]
    found = agreement_of_sums(row_differences(images[0], images[1], np.zeros(3)).sum(axis=0))
    second = np.cov(X.T)
    square = lambda w: np.trace(w.T @ second @ w)  # noqa: E731
    assert found == pytest.approx(1 - np.sqrt(square(one - other) / ((square(one) + square(other)) / 2)))
    assert agreement_of_sums(row_differences(images[0], images[0], np.zeros(3)).sum(axis=0)) == 1
    assert np.isnan(agreement_of_sums(np.zeros(2)))


def test_scores_and_rankings_correlate_as_scipy_says():
    random = np.random.default_rng(4)
    sides = [random.normal(size=(2, 7, 5)).astype(np.float32) for _ in "ab"]
    unit = [side / np.linalg.norm(side, axis=2, keepdims=True) for side in sides]
    scores = [side[0] @ side[1].T for side in unit]
    pearson, spearman = compare_scores(*(tuple(side) for side in sides))
    for k in range(7):
        assert pearson[k] == pytest.approx(pearsonr(scores[0][k], scores[1][k])[0], abs=1e-5)
        assert spearman[k] == pytest.approx(spearmanr(scores[0][k], scores[1][k])[0], abs=1e-5)


def test_equal_scores_are_ranked_in_their_order():
    """Cosines −0.0 and 0.0 are equal, as are those of two equal gallery rows."""
    gallery = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [-1, 0, 0]], np.float32)
    probe, other = np.array([[1, 0, 0]], np.float32), np.array([[3, 2, 1]], np.float32)
    ranks = [np.argsort(np.argsort((side @ gallery.T)[0], kind="stable")) for side in (probe, other)]
    _, found = compare_scores((probe, gallery), (other, gallery))
    assert found[0] == pytest.approx(pearsonr(*ranks)[0], abs=1e-6)
