"""Where curves flatten, and views in two dimensions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from jaxalign.analysis.curves import logarithmic, size_for_share, smallest_within, two_dimensions


def test_where_known_curves_flatten():
    sizes = [10, 100, 1000]
    curves = [[0.0, 0.5, 1.0], [0.99, 0.5, 1.0], [0.0, 0.0, 0.0]]
    found = size_for_share(sizes, curves, 0.75)
    assert found[:2] == pytest.approx([10**2.5, 10])  # halfway on the logarithmic scale; the first size
    assert np.isnan(found[2])
    assert smallest_within(sizes, [[0.5, 0.985, 0.99], [0.5, 0.97, 0.99]], 0.01).tolist() == [100, 1000]


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.floats(0.5, 1))
def test_the_size_for_a_share_lies_on_the_curve(values, share):
    sizes = np.arange(1, len(values) + 1) * 10
    found = size_for_share(sizes, values, share)
    assert sizes[0] <= found <= sizes[-1] * (1 + 1e-9)
    reached = np.interp(np.log(found), np.log(sizes), values)
    assert reached >= share * values[-1] - 1e-9
    before = [v for s, v in zip(sizes, values) if s < found * (1 - 1e-9)]
    assert all(v <= share * values[-1] + 1e-9 for v in before)


@settings(deadline=None)
@given(st.integers(2, 50), st.integers(2, 5000), st.integers(2, 12))
def test_logarithmic_sizes_rise_to_the_last(first, last, count):
    found = logarithmic(first, last, count)
    assert found[-1] == last and found[0] == min(first, last) and len(found) <= count
    assert found == sorted(set(found))


def test_two_dimensions_are_those_of_pca():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(60, 6)) * [3, 2, 1, 0.5, 0.2, 0.1] + 2, random.normal(size=(60, 4)) - 1
    left, right = two_dimensions(x, y)
    padded = np.concatenate([x, np.pad(y, ((0, 0), (0, 2)))])
    expected = PCA(2).fit_transform(padded / np.linalg.norm(padded, axis=1, keepdims=True))
    np.testing.assert_allclose(np.abs(np.concatenate([left, right])), np.abs(expected), atol=1e-9)
    assert left.shape == (60, 2)
    one = two_dimensions(np.ones((1, 1)), -np.ones((1, 1)))
    assert one[0].shape == one[1].shape == (1, 2)
