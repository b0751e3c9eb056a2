"""The product of rows with themselves against numpy, in few and in many tiles."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.core.precision import double_precision
from jaxalign.moments import scatter


@pytest.mark.parametrize(("few_rows", "blocks"), [(5000, 6), (100, 12)])
def test_the_scatter_matrix_is_whole_however_it_is_cut(monkeypatch, few_rows, blocks):
    monkeypatch.setattr(scatter, "LEAST_BLOCK", 8)
    monkeypatch.setattr(scatter, "FEW_ROWS", few_rows)
    random, widths = np.random.default_rng(0), (70, 33)
    rows = [random.standard_normal((4100, width)).astype(np.float32) + 3 for width in widths]
    weights, center = random.uniform(0, 2, 4100), random.standard_normal(sum(widths))
    assert len(scatter._edges(sum(widths), 4100)) == blocks + 1
    with double_precision():
        placed = tuple(map(jnp.asarray, rows)), jnp.asarray(center), jnp.sqrt(jnp.asarray(weights))
        found = scatter.scatter_of(*placed)
    centred = np.concatenate(rows, axis=1).astype(np.float64) - center
    np.testing.assert_allclose(found, (centred * weights[:, None]).T @ centred, rtol=1e-11, atol=1e-9)
