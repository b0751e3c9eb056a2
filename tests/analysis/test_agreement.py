"""Agreement of maps, maps between principal subspaces, and views in two dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import pearsonr, spearmanr
from sklearn.decomposition import PCA

from jaxalign import AffineMap, Moments, UserError
from jaxalign.align.subspaces import PrincipalSubspaces
from jaxalign.analysis.agreement import (
    _ranks,
    agreement_of_sums,
    compare_scores,
    effective_rank,
    row_differences,
)
from jaxalign.analysis.projection import two_dimensions


@pytest.fixture(scope="module")
def clouds():
    random = np.random.default_rng(1)
    base = random.normal(size=(60, 5)) * [3, 2, 1, 0.5, 0.2]
    x = base @ random.normal(size=(5, 6)) + 2 + 0.1 * random.normal(size=(60, 6))
    y = base @ random.normal(size=(5, 4)) - 1 + 0.1 * random.normal(size=(60, 4))
    return x, y


def test_effective_rank_is_the_participation_ratio_of_mapped_rows(clouds):
    x, y = clouds
    weights = np.random.default_rng(2).normal(size=(6, 3))
    map_ = AffineMap((weights,), np.zeros(3), x.mean(axis=0))
    variance = np.linalg.eigvalsh(np.cov(((x - x.mean(0)) @ weights).T))
    expected = variance.sum() ** 2 / (variance**2).sum()
    total = Moments.of({"y": y, "x": x})
    assert effective_rank(map_, total, "x") == pytest.approx(expected, rel=1e-9)
    filled = AffineMap((np.pad(weights, ((0, 122), (0, 125))),), np.zeros(128), np.zeros(128))
    assert effective_rank(filled, total, "x") == pytest.approx(expected, rel=1e-9)


def test_maps_agree_by_the_relative_frobenius_distance(clouds):
    x, _ = clouds
    random = np.random.default_rng(3)
    one, other = random.normal(size=(2, 6, 3))
    centre = x.mean(axis=0)
    images = [(x - centre) @ weights for weights in (one, other)]
    found = agreement_of_sums(row_differences(images[0], images[1], np.zeros(3)).sum(axis=0))
    second = np.cov(x.T)
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
    scores = np.array([[0.5, -0.0, 0.0, -1.0, 0.5], [0.0, -0.0, 1.0, -0.25, -0.5]], np.float32)
    expected = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1) - 2.5
    np.testing.assert_array_equal(_ranks(jnp.asarray(scores)), expected)


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_a_subspace_map_is_procrustes_of_principal_scores(clouds, rank):
    x, y = clouds
    fit = PrincipalSubspaces.of(Moments.of({"x": x, "y": y})).fit("x", "y", rank)
    scores = [PCA(rank, svd_solver="full").fit_transform(side) for side in (x, y)]
    rotation, _ = orthogonal_procrustes(*scores)
    left, right = np.asarray(fit.source(x)), np.asarray(fit.target(y))
    np.testing.assert_allclose(
        left @ right.T, scores[0] @ rotation @ scores[1].T, atol=1e-6
    )  # signs are free
    residual = ((scores[0] @ rotation - scores[1]) ** 2).mean(axis=0)
    assert np.sort(fit.residual) == pytest.approx(np.sort(residual), rel=1e-6)
    assert bool(fit.ok) and fit.two_sided and fit.source.rank == rank
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(fit))


def test_a_subspace_map_and_its_reverse_are_procrustes_of_either_direction(clouds):
    x, y = clouds
    subspaces = PrincipalSubspaces.of(Moments.of({"x": x, "y": y}))
    scores = [PCA(3, svd_solver="full").fit_transform(side) for side in (x, y)]
    for (one, other), (a, b), rows in (
        (("x", "y"), (scores[0], scores[1]), (x, y)),
        (("y", "x"), (scores[1], scores[0]), (y, x)),
    ):
        fit = subspaces.fit(one, other, 3)
        left, right = np.asarray(fit.source(rows[0])), np.asarray(fit.target(rows[1]))
        rotation, _ = orthogonal_procrustes(a, b)
        np.testing.assert_allclose(left @ right.T, a @ rotation @ b.T, atol=1e-6)


def test_a_subspace_has_no_more_dimensions_than_the_narrower_side(clouds):
    x, y = clouds
    subspaces = PrincipalSubspaces.of(Moments.of({"x": x, "y": y}))
    for rank in (0, 5):
        with pytest.raises(UserError, match="expected 1 to 4"):
            subspaces.fit("x", "y", rank)


def test_two_dimensions_are_those_of_pca(clouds):
    x, y = clouds
    left, right = two_dimensions(x, y)
    padded = np.concatenate([x, np.pad(y, ((0, 0), (0, 2)))])
    expected = PCA(2).fit_transform(padded / np.linalg.norm(padded, axis=1, keepdims=True))
    np.testing.assert_allclose(np.abs(np.concatenate([left, right])), np.abs(expected), atol=1e-9)
    assert left.shape == (60, 2)
    one = two_dimensions(np.ones((1, 1)), -np.ones((1, 1)))
    assert one[0].shape == one[1].shape == (1, 2)
