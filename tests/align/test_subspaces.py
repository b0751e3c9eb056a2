"""Maps between principal subspaces, against scikit-learn and scipy."""

import jax
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from jaxalign import Moments, UserError
from jaxalign.align.subspaces import PrincipalSubspaces


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
