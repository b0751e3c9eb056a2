"""Principal components and maps between principal subspaces, against scikit-learn and scipy."""

import clouds
import jax
import numpy as np
import pytest
from agreement import inner_products
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from jaxalign import Moments, UserError
from jaxalign.align.subspaces import PrincipalSubspaces, principal_components

ROWS = dict(zip("xy", clouds.two_views()))
SUBSPACES = PrincipalSubspaces.of(Moments.of(ROWS))


@pytest.mark.parametrize("names", ["xy", "yx"])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_a_subspace_map_is_procrustes_of_principal_scores(rank, names):
    fit, (x, y) = SUBSPACES.fit(*names, rank), (ROWS[name] for name in names)  # pyright: ignore[reportCallIssue]
    scores = [PCA(rank, svd_solver="full").fit_transform(side) for side in (x, y)]
    rotation, _ = orthogonal_procrustes(*scores)
    products = inner_products(fit.source, fit.target, x, y)  # signs are free
    np.testing.assert_allclose(products, scores[0] @ rotation @ scores[1].T, atol=1e-6)
    residual = ((scores[0] @ rotation - scores[1]) ** 2).mean(axis=0)
    assert np.sort(fit.residual) == pytest.approx(np.sort(residual), rel=1e-6)
    assert bool(fit.ok) and fit.two_sided and fit.source.rank == rank
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(fit))


@pytest.mark.parametrize("shape", [(60, 12), (9, 12)], ids=["tall", "wide"])
def test_coordinates_agree_with_scikit_learn(shape):
    rows = np.random.default_rng(0).normal(size=shape) * np.geomspace(1, 0.1, shape[1]) + 5
    theirs = PCA(4, svd_solver="full").fit_transform(rows)
    ours = np.asarray(principal_components(rows, 4)(rows))
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-9, atol=1e-9)
    assert principal_components(rows.astype(np.float16), 4).orthogonal


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: SUBSPACES.fit("x", "y", 0), "1 to 4"),
        (lambda: SUBSPACES.fit("x", "y", 5), "1 to 4"),
        (
            lambda: principal_components(np.zeros((3, 4)), 4),
            r"1 to min\(n, d\) components, got shape \(3, 4\) and 4",
        ),
        (lambda: principal_components(np.zeros(3), 1), "expected rows of shape"),
        (lambda: principal_components(np.full((3, 4), np.nan), 2), "NaN or infinite"),
    ],
)
def test_what_has_no_components_is_refused(call, said):
    with pytest.raises(UserError, match=said):
        call()
