"""Principal components and maps between principal subspaces, against scikit-learn and scipy."""

import jax
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from jaxalign import Moments, UserError
from jaxalign.align.subspaces import PrincipalSubspaces, principal_components


@pytest.fixture(scope="module")
def clouds():
    random = np.random.default_rng(1)
    base = random.normal(size=(60, 5)) * [3, 2, 1, 0.5, 0.2]
    x = base @ random.normal(size=(5, 6)) + 2 + 0.1 * random.normal(size=(60, 6))
    y = base @ random.normal(size=(5, 4)) - 1 + 0.1 * random.normal(size=(60, 4))
    return x, y


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_a_subspace_map_is_procrustes_of_principal_scores(clouds, rank, reverse):
    subspaces = PrincipalSubspaces.of(Moments.of(dict(zip("xy", clouds))))
    x, y = reversed(clouds) if reverse else clouds
    names = ("y", "x") if reverse else ("x", "y")
    fit = subspaces.fit(*names, rank)
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


@pytest.mark.parametrize("rank", [0, 5])
def test_a_subspace_has_no_more_dimensions_than_the_narrower_side(clouds, rank):
    with pytest.raises(UserError, match="1 to 4"):
        PrincipalSubspaces.of(Moments.of(dict(zip("xy", clouds)))).fit("x", "y", rank)


@pytest.mark.parametrize("shape", [(60, 12), (9, 12)], ids=["tall", "wide"])
def test_coordinates_agree_with_scikit_learn(shape):
    decomposition = pytest.importorskip("sklearn.decomposition")
    generator = np.random.default_rng(0)
    rows = generator.normal(size=shape) * np.geomspace(1, 0.1, shape[1]) + 5
    theirs = decomposition.PCA(4, svd_solver="full").fit(rows)
    ours = np.asarray(principal_components(rows, 4)(rows))
    expected = theirs.transform(rows)
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), rtol=1e-9, atol=1e-9)
    assert principal_components(rows.astype(np.float16), 4).orthogonal


@pytest.mark.parametrize(
    ("rows", "count", "said"),
    [
        (np.zeros((3, 4)), 4, r"1 to min\(n, d\) components, got shape \(3, 4\) and 4"),
        (np.zeros(3), 1, "expected rows of shape"),
        (np.full((3, 4), np.nan), 2, "NaN or infinite"),
    ],
)
def test_what_has_no_components_is_refused(rows, count, said):
    with pytest.raises(UserError, match=said):
        principal_components(rows, count)
