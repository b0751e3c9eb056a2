"""Principal components against scikit-learn."""

import numpy as np
import pytest

from jaxalign import UserError
from jaxalign.align.components import principal_components


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
