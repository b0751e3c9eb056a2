"""What a fit says about itself, and methods that are special cases of one another."""

from typing import Any

import clouds
import jax
import numpy as np
import oracles
import pytest
from agreement import assert_same_comparisons, inner_products, relative_error
from sklearn.metrics import r2_score
from solver_cases import CASES, Case

import jaxalign
from jaxalign import AffineMap, FoldMoments, fit_shared_space
from jaxalign.align.solvers import Ridge, spectrum
from jaxalign.core.precision import double_precision

by_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.parametrize("cloud", ["tall", "huge_mean", "widening"])
@by_case
def test_r2_is_that_of_the_training_rows(case: Case, cloud: str) -> None:
    rows = clouds.make(cloud, seed=0)
    fit = jaxalign.fit_pair(rows.x, rows.y, **case.arguments())
    assert cloud != "tall" or bool(fit.ok)
    assert fit.source.out_dim == fit.target.out_dim
    if case.method == "identity":
        assert np.isfinite(fit.r2)
        return
    source, target = case.oracle(rows.x, rows.y, None)
    # scikit-learn's variance-weighted score leaves out columns of zeros, which padding adds; they count here.
    expected = 1 - np.sum((source(rows.x) - target(rows.y)) ** 2) / np.sum(target(rows.y) ** 2)
    np.testing.assert_allclose(fit.r2, expected, rtol=1e-6, atol=1e-7)
    if case.two_sided:
        theirs = r2_score(target(rows.y), source(rows.x), multioutput="variance_weighted")
        np.testing.assert_allclose(fit.r2, theirs, rtol=1e-6)


def test_ridge_degrees_of_freedom() -> None:
    """By the hat matrix; and where pairs, or columns, have penalties of their own."""
    cloud = clouds.make("tall", seed=3)
    x = cloud.x - cloud.x.mean(0)
    hat = x @ np.linalg.solve(x.T @ x + 4.0 * np.eye(x.shape[1]), x.T)
    fit = jaxalign.fit_pair(cloud.x, cloud.y, "ridge", l2=4.0)
    np.testing.assert_allclose(fit.effective_rank, np.trace(hat), rtol=1e-9)
    random = np.random.default_rng(4)
    source = random.normal(size=(120, 12)) * np.linspace(0.3, 3, 12)
    rows = {"source": source, "near": source[:, :8] + 0.01, "noise": random.normal(size=(120, 10))}
    maps = jaxalign.fit_pairs(rows, "ridge", l2=(1e-3, 1e3), sources=["source"])
    chosen = {target: maps.settings["source", target]["l2"] for target in ("near", "noise")}
    assert chosen == {"near": 1e-3, "noise": 1e3}
    values = np.linalg.eigvalsh(np.cov(source.T, bias=True) * len(source))
    for target, l2 in chosen.items():
        fit = maps["source", target]
        np.testing.assert_allclose(fit.effective_rank, np.sum(values / (values + l2)), rtol=1e-9)
        np.testing.assert_allclose(fit.condition, (values[-1] + l2) / (values[0] + l2), rtol=1e-9)
    columns = np.geomspace(1e-2, 1e2, 10)
    fit = jaxalign.fit_pair(source, rows["noise"], Ridge(columns))
    expected = np.sum(values[:, None] / (values[:, None] + columns), axis=0)
    np.testing.assert_allclose(fit.effective_rank, expected.mean(), rtol=1e-9)
    np.testing.assert_allclose(fit.condition, (values[-1] + 1e-2) / (values[0] + 1e-2), rtol=1e-9)


def test_rank_of_a_low_rank_map_is_seen() -> None:
    rows = clouds.make("tall", seed=4)
    map_ = jaxalign.fit_affine(rows.x, rows.y, "reduced_rank", l2=1.0, rank=3)
    assert (map_.in_dim, map_.out_dim, map_.rank, np.linalg.matrix_rank(map_.matrix())) == (12, 8, 3, 3)


def test_canonical_without_shrinkage_is_canonical_correlation() -> None:
    """Against a textbook CCA by QR, which shares nothing with the whitened form."""
    rows = clouds.make("tall", seed=5)
    fit = jaxalign.fit_pair(rows.x, rows.y, "canonical", whitening=1.0, weighting=0.0, shrinkage=0.0)
    x, y = rows.x - rows.x.mean(0), rows.y - rows.y.mean(0)
    (basis_x, to_x), (basis_y, to_y) = np.linalg.qr(x), np.linalg.qr(y)
    left, correlations, right = np.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
    count = np.sqrt(len(x))
    side_x = (rows.x_new - rows.x.mean(0)) @ np.linalg.solve(to_x, left) * count
    side_y = (rows.y_new - rows.y.mean(0)) @ np.linalg.solve(to_y, right.T) * count
    found = inner_products(fit.source, fit.target, rows.x_new, rows.y_new)
    assert relative_error(found, side_x @ side_y.T) < 1e-8
    own = np.asarray(fit.source(rows.x)), np.asarray(fit.target(rows.y))
    measured = [np.corrcoef(a, b)[0, 1] for a, b in zip(own[0].T, own[1].T)]
    np.testing.assert_allclose(measured, correlations, atol=1e-9)


def test_methods_that_are_limits_of_others() -> None:
    rows = clouds.make("tall", seed=6)

    def products(method: str, **options: Any) -> np.ndarray:
        fit = jaxalign.fit_pair(rows.x, rows.y, method, **options)
        return inner_products(fit.source, fit.target, rows.x_new, rows.y_new)

    linear = products("linear")
    assert relative_error(products("reduced_rank", l2=0.0), linear) < 1e-9
    assert relative_error(products("reduced_rank", l2=3.0), products("ridge", l2=3.0)) < 1e-9
    assert relative_error(products("ridge", l2=1e-9), linear) < 1e-7
    procrustes = products("canonical", whitening=0.0, weighting=0.0)
    assert relative_error(procrustes, products("orthogonal")) < 1e-9


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rank", [3, 8, 32])
@pytest.mark.parametrize("whitening", [0.0, 0.75])
def test_shared_space(rank: int, whitening: float, weighted: bool) -> None:
    embeddings = clouds.several(seed=7)
    weights = np.random.default_rng(0).uniform(0, 2, clouds.ROWS) if weighted else None
    options = {"rank": rank, "whitening": whitening}
    space = fit_shared_space(FoldMoments.of(embeddings, weights=weights), **options)
    maps = jaxalign.fit_pairs(embeddings, "shared", weights=weights, **options)
    larger = jaxalign.fit_pairs(embeddings, "shared", weights=weights, rank=32, whitening=whitening)
    expected = oracles.shared_space(embeddings, weights, **options)
    for (a, b), fit in maps.items():
        cut = larger[a, b].at_rank(rank) if rank < 32 else larger[a, b]
        for sides in ((fit.source, fit.target), (space[a], space[b]), (cut.source, cut.target)):
            assert sides[1].out_dim == rank
            assert_same_comparisons(sides, (expected[a], expected[b]), embeddings[a], embeddings[b], 1e-8)


@by_case
def test_inverse_and_composition(case: Case) -> None:
    """The way back is numpy's pseudo-inverse of the way there; a then b is b of a."""
    rows = clouds.make("tall", seed=10)
    there = jaxalign.fit_pair(rows.x, rows.y, **case.arguments()).source
    back = there.inverse()
    assert isinstance(back, AffineMap) and (back.in_dim, back.out_dim) == (there.out_dim, there.in_dim)
    assert relative_error(back.matrix(), np.linalg.pinv(np.asarray(there.matrix()), rcond=1e-10)) < 1e-6
    around = np.asarray(there(back(np.asarray(there(rows.x_new)))))
    assert relative_error(around, np.asarray(there(rows.x_new))) < 1e-8
    composed = there.then(back)(rows.x_new)
    assert relative_error(composed, np.asarray(back(np.asarray(there(rows.x_new))))) < 1e-9


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_few_rows_are_mapped_on_the_host(dtype: type) -> None:
    random = np.random.default_rng(4)
    rows = random.standard_normal((3, 6)).astype(dtype)
    one, other = random.standard_normal((6, 2)), random.standard_normal((2, 5))
    bias, center = random.standard_normal(5), random.standard_normal(6)
    expected = (rows.astype(np.float64) - center) @ one @ other + bias
    map_ = AffineMap((one, other), bias, center)
    found = map_.apply_on_host(rows)
    assert found.dtype == map_(rows).dtype == (np.float64 if dtype is np.float64 else np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(AffineMap((), bias).apply_on_host(expected), expected + bias, rtol=1e-15)


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_decomposition_that_gives_up_is_taken_over(gives_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    matrix = random.standard_normal((12, 3)) @ random.standard_normal((3, 9))
    usual = spectrum.jnp.linalg.svd
    fails = lambda *given, **more: [part * np.nan for part in usual(*given, **more)]  # noqa: E731
    if gives_up:
        monkeypatch.setattr(spectrum.jnp.linalg, "svd", fails)
    with double_precision():
        u, values, vt = map(np.asarray, jax.jit(spectrum.singular_decomposition)(matrix))
    np.testing.assert_allclose(values, np.linalg.svd(matrix, compute_uv=False), atol=1e-12)
    np.testing.assert_allclose((u * values) @ vt, matrix, atol=1e-12)
    np.testing.assert_allclose(u.T @ u, np.eye(9), atol=1e-12)
