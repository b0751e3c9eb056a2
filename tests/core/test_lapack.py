"""LAPACK called by its address."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxalign.core.lapack import largest_eigenpairs


@pytest.mark.parametrize(("size", "count"), [(1, 1), (40, 1), (40, 7), (40, 40), (300, 20)])
def test_the_largest_eigenpairs_are_numpys(size, count):
    matrix = np.random.default_rng(size).normal(size=(size, size))
    matrix += matrix.T
    given = matrix.copy()
    values, vectors = largest_eigenpairs(matrix, count)
    expected, axes = np.linalg.eigh(matrix)
    assert_allclose(values, expected[-count:], atol=1e-12 * size)
    assert_allclose(np.abs(np.sum(vectors * axes[:, -count:], axis=0)), 1, atol=1e-9)
    assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-12)
    assert_array_equal(matrix, given)


def test_equal_eigenvalues_have_orthonormal_vectors():
    values, vectors = largest_eigenpairs(np.diag([1.0, 3.0, 3.0, 3.0, -2.0]), 3)
    assert_allclose(values, 3, atol=1e-14)
    assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-14)
    assert_allclose(vectors[[0, 4]], 0, atol=1e-14)
