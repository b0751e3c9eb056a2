"""Similarities from second moments against float64 numpy, scipy and scikit-learn on the rows themselves."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
from geometry_clouds import CLOUDS, centred, identities, make
from sklearn.cross_decomposition import CCA

from jaxalign import Moments
from jaxalign.analysis.geometry import SIMILARITIES, GeometrySample, GeometrySettings, moment_similarities
from jaxalign.analysis.geometry.sample import permutations
from jaxalign.core.precision import double_precision

SETTINGS = GeometrySettings(permutations=5, neighbours=3, dimension_neighbours=4, identity_dimensions=4)


def orthonormal(rows, variance=None):
    """Left singular vectors of the directions with variance, or those that hold a share of it."""
    u, s, _ = np.linalg.svd(centred(rows), full_matrices=False)
    rank = int(np.sum(s > 1e-5 * s[0]))
    if variance is not None:
        rank = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), variance)) + 1
    return u[:, :rank]


def correlations(x, y, variance=None):
    return np.linalg.svd(orthonormal(x, variance).T @ orthonormal(y, variance), compute_uv=False)


def projection_weighted(x, y):
    """From the definition: canonical variates of the side with fewer directions, projected on its columns."""
    u, v = orthonormal(x), orthonormal(y)
    if u.shape[1] > v.shape[1]:
        x, u, v = y, v, u
    left, rho, _ = np.linalg.svd(u.T @ v)
    variates = u @ left
    weight = np.abs(variates.T @ centred(x)).sum(axis=1)
    return np.sum(weight[: len(rho)] * rho) / weight.sum()


def gram_cka(x, y):
    k, l = (centred(side) @ centred(side).T for side in (x, y))  # noqa: E741
    return np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l))


def unbiased_hsic(k, l):  # noqa: E741
    """Song et al. 2012, equation 5, letter by letter."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def unbiased_cka(x, y):
    k, l = (np.asarray(side, np.float64) @ np.asarray(side, np.float64).T for side in (x, y))  # noqa: E741
    return unbiased_hsic(k, l) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))


def shape_angle(x, y):
    a, b = (centred(side) / np.linalg.norm(centred(side)) for side in (x, y))
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (a, b))
    return np.arccos(min(scipy.linalg.orthogonal_procrustes(a, b)[1], 1))


ORACLES = {
    "linear_cka": gram_cka,
    "mean_cca": lambda x, y: correlations(x, y).mean(),
    "svcca": lambda x, y: correlations(x, y, 0.99).mean(),
    "pwcca": projection_weighted,
    "procrustes_distance": shape_angle,
}


def of_moments(x, y):
    return moment_similarities(Moments.of({"x": x, "y": y}))["x", "y"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_moments_alone_give_what_the_rows_give(cloud):
    x, y = make(cloud)
    found = of_moments(x, y)
    assert set(found) == set(ORACLES)
    for name, oracle in ORACLES.items():
        assert found[name] == pytest.approx(oracle(x, y), rel=1e-6), name


@pytest.mark.parametrize("cloud", ["tall", "rank_deficient", "huge_mean"])
def test_the_unbiased_estimator_is_that_of_the_gram_matrices(cloud):
    x, y = make(cloud)
    sample = GeometrySample({"x": x, "y": y}, identities(), SETTINGS)
    # A constant added to all rows changes nothing, but costs the oracle digits.
    expected = unbiased_cka(centred(x), centred(y)) if cloud == "huge_mean" else unbiased_cka(x, y)
    assert sample.compare(("x", "y"))["linear_cka_unbiased"].value == pytest.approx(expected, rel=1e-9)


def test_canonical_correlations_are_those_of_scikit_learn():
    x, y = make("tall")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left, right = CCA(n_components=9, max_iter=5000, tol=1e-12).fit(x, y).transform(x, y)
    theirs = np.mean([np.corrcoef(left[:, k], right[:, k])[0, 1] for k in range(9)])
    assert of_moments(x, y)["mean_cca"] == pytest.approx(theirs, abs=1e-5)


def test_the_shape_distance_is_that_of_scipy():
    x, y = make("tall")[0], make("tall", seed=1)[0]
    distance = of_moments(x, y)["procrustes_distance"]
    assert np.sin(distance) ** 2 == pytest.approx(scipy.spatial.procrustes(x, y)[2], rel=1e-9)


def test_all_pairs_and_both_orders():
    moments = Moments.of(dict(zip("xyz", (*make("tall"), make("tall", seed=3)[1]))))
    found = moment_similarities(moments)
    assert list(found) == [("x", "y"), ("x", "z"), ("y", "z")]
    assert moment_similarities(moments, [("y", "x")])["y", "x"] == pytest.approx(found["x", "y"], rel=1e-9)


def test_nulls_are_the_measures_of_permuted_rows():
    x, y = make("tall")
    sample = GeometrySample({"y": y, "x": x}, identities(), SETTINGS)
    found = sample.compare(("y", "x"))
    orders = permutations(len(x), 5, SETTINGS.seed)
    for name, oracle in {**ORACLES, "linear_cka_unbiased": unbiased_cka}.items():
        expected = [oracle(x, y[order]) for order in orders]
        assert found[name].null == pytest.approx(expected, rel=2e-4, abs=2e-6), name


def test_the_null_mean_of_cka_is_the_expectation_over_all_permutations():
    """E ‖XᵀPY‖² = tr(K) tr(L) / (n − 1) for centred rows."""
    x, y = make("tall")
    settings = GeometrySettings(100, neighbours=3, dimension_neighbours=4, identity_dimensions=4)
    found = GeometrySample({"x": x, "y": y}, identities(), settings).compare(("x", "y"))["linear_cka"]
    k, l = (centred(side) @ centred(side).T for side in (x, y))  # noqa: E741
    expected = np.trace(k) * np.trace(l) / (len(x) - 1) / np.linalg.norm(k) / np.linalg.norm(l)
    assert abs(found.null_mean - expected) < 5 * found.null.std() / np.sqrt(100)


def test_an_encoder_without_variance_has_no_similarity():
    x, y = make("tall")
    y = np.tile(y[:1], (len(y), 1))
    assert all(np.isnan(value) for value in of_moments(x, y).values())
    sample = GeometrySample({"x": x, "y": y}, identities(), SETTINGS)
    alone = sample.describe("y")
    assert alone.pop("anisotropy") == pytest.approx(1)
    assert np.isnan(list(alone.values())).all()
    compared = sample.compare(("x", "y"))
    for name in set(SIMILARITIES) - {"mutual_knn"}:
        assert np.isnan(compared[name].value), name
        assert compared[name].reason


def test_the_callers_number_format_stays():
    before = jnp.ones(1).dtype  # an oracle that other tests import may have enabled float64
    moment_similarities(Moments.of(dict(zip("xy", make("tall")))))
    assert jnp.ones(1).dtype == before
    with double_precision():
        assert jnp.ones(1).dtype == jnp.float64
