"""Features of rows against scikit-learn, and a network that starts from an affine map."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import PolynomialFeatures

from jaxalign import AffineMap, UserError
from jaxalign.analysis.capacity import features_of, fit_network


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return (random.normal(size=(80, 6)) * [3, 2, 1, 1, 0.5, 0.5] + 4).astype(np.float32)


def parts(kind, rows, number):
    features = features_of(kind, rows, number, seed=1)
    values = np.asarray(features(rows), np.float64)
    np.testing.assert_array_equal(values[:, :6], rows)
    np.testing.assert_array_equal(values[:, 6:], features.curved(rows))
    curved = values[:, 6:]
    assert curved.var(axis=0).sum() == pytest.approx(rows.var(axis=0).sum(), rel=1e-3)
    return curved / float(features.scale)


def test_polynomial_features_are_products_of_principal_components(rows):
    curved = parts("polynomial", rows, 12)  # 4 components have 10 products
    scores = PCA(4, svd_solver="full").fit_transform(rows.astype(np.float64))
    second = PolynomialFeatures(2, include_bias=False).fit(scores)
    expected = np.asarray(second.transform(scores))[:, 4:]
    np.testing.assert_allclose(np.abs(curved), np.abs(expected), atol=2e-3)


def test_random_fourier_features_tend_to_the_gaussian_kernel(rows):
    curved = parts("random_fourier", rows, 20_000)
    kernel = curved @ curved.T * 2 / 20_000
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    wide = np.median(distances[np.triu_indices(80, 1)])
    np.testing.assert_allclose(kernel, rbf_kernel(rows, gamma=1 / (2 * wide**2)), atol=0.08)


def test_rows_that_do_not_vary_have_features_without_effect():
    values = np.asarray(features_of("polynomial", np.ones((5, 3), np.float32), 3)(np.ones((2, 3))))
    assert np.isfinite(values).all() and not values[:, 3:].any()


OUT = np.arange(600) % 10 == 0  # rows held out


def curved_task(seed):
    x = np.random.default_rng(seed).normal(size=(600, 3)).astype(np.float32)
    return x, np.stack([np.abs(x[:, 0]), x[:, 1]], axis=1)


def test_a_network_learns_what_no_affine_map_can():
    x, y = curved_task(0)
    affine = LinearRegression().fit(x[~OUT], y[~OUT])
    start = AffineMap((affine.coef_.T,), affine.intercept_)  # pyright: ignore
    trained = fit_network(x, y, OUT, start, hidden=32, steps=400)
    expected = np.sum((affine.predict(x[OUT]) - y[OUT]) ** 2, axis=1).mean()
    assert trained.before == pytest.approx(expected, rel=1e-4)
    assert trained.best < 0.3 * trained.before
    x_new, y_new = curved_task(1)
    error = np.sum((np.asarray(trained.network(x_new)) - y_new) ** 2, axis=1).mean()
    assert error < 0.5 * np.sum((affine.predict(x_new) - y_new) ** 2, axis=1).mean()


def test_a_network_that_gets_worse_stays_the_affine_map():
    x, noise = np.random.default_rng(0).normal(size=(2, 600, 3)).astype(np.float32)
    start = AffineMap((np.zeros((3, 2)),), np.zeros(2))
    y = np.where(OUT[:, None], 0, noise[:, :2])  # what it learns is wrong for those held out
    trained = fit_network(x, y, OUT, start, hidden=32, steps=400)
    assert trained.best == trained.before == 0 and trained.steps < 400
    assert not np.asarray(trained.network(x)).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda rows, start: fit_network(rows, rows, np.zeros(80, bool), start), "held out"),
        (lambda rows, start: fit_network(rows, rows, np.arange(80) < 8, start, hidden=0), "hidden and steps"),
        (lambda rows, _: features_of("cubic", rows, 4), "there are no features"),
        (lambda rows, _: features_of("polynomial", rows, 0), "at least one feature"),
    ],
)
def test_what_cannot_be_trained(rows, call, words):
    with pytest.raises(UserError, match=words):
        call(rows, AffineMap((np.eye(6),), np.zeros(6)))
