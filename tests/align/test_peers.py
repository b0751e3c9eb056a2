"""Methods that another package has too, against that package where it is installed."""

import numpy as np
import pytest

from jaxalign import FoldMoments
from jaxalign.align.solvers.shared import Shared


def test_the_shared_space_is_multiset_correlation_analysis_where_rows_are_wholly_whitened():
    peer = pytest.importorskip("cca_zoo.linear", reason="cca-zoo is not installed")
    random = np.random.default_rng(0)
    latent = random.normal(size=(500, 6))
    views = {
        f"e{k}": latent @ random.normal(size=(6, 9)) + random.normal(size=(500, 9)) + k for k in range(4)
    }
    rows, dimensions = list(views.values()), 5
    theirs = peer.MCCA(n_components=dimensions).fit(rows).transform(rows)
    space = Shared(rank=dimensions, whitening=1.0, weighting=0.0, shrinkage=0.0).space_of(
        FoldMoments.of(views).total
    )
    ours = [np.asarray(space[name](view), np.float64) for name, view in views.items()]
    scale = np.linalg.norm(ours[0]) / np.linalg.norm(theirs[0])
    for k in range(dimensions):
        sign = np.sign(ours[0][:, k] @ (theirs[0][:, k] - theirs[0][:, k].mean()))
        for mine, other in zip(ours, theirs, strict=True):
            expected = sign * scale * (other[:, k] - other[:, k].mean())
            np.testing.assert_allclose(mine[:, k], expected, atol=2e-5 * np.abs(expected).max())
