"""Moments with more columns for one encoder, against NumPy in float64."""

import numpy as np
import pytest

from jaxalign import FoldMoments, Moments, UserError, fit_pairs
from jaxalign.moments.widened import widened_moments

WIDTHS = {"a": 3, "b": 5, "c": 2}


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return {name: (random.normal(size=(40, width)) + 7).astype(np.float32) for name, width in WIDTHS.items()}


@pytest.mark.parametrize("name", WIDTHS)
def test_columns_stand_after_those_of_their_encoder(rows, name):
    more = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32) - 3
    found = widened_moments(Moments.of(rows), rows, name, more)
    beside = [np.concatenate([part, more], axis=1) if each == name else part for each, part in rows.items()]
    expected = np.concatenate(beside, axis=1).astype(np.float64)
    assert found.widths == tuple(part.shape[1] for part in beside) and found.names == tuple(WIDTHS)
    np.testing.assert_allclose(found.mean, expected.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.scatter, np.cov(expected.T, bias=True) * 40, rtol=1e-9, atol=1e-9)


def test_rows_in_float64_and_in_chunks(monkeypatch):
    monkeypatch.setattr("jaxalign.moments.widened.CHUNK_ELEMENTS", 12 * 11)  # 11 rows, of 40
    random = np.random.default_rng(2)
    rows = {"a": random.normal(size=(40, 3)) + 1e6, "b": random.normal(size=(40, 5))}
    more = random.normal(size=(40, 4))
    found = widened_moments(Moments.of(rows), rows, "a", more)
    expected = np.concatenate([rows["a"], more, rows["b"]], axis=1)
    np.testing.assert_allclose(found.scatter, np.cov(expected.T, bias=True) * 40, rtol=1e-8, atol=1e-7)


def test_a_map_of_more_columns_is_least_squares_on_them(rows):
    more = rows["a"][:, :2] ** 2
    moments = FoldMoments(widened_moments(Moments.of(rows), rows, "a", more), ())
    fit = fit_pairs(moments, "linear", pairs=[("a", "b")])["a", "b"]
    x = np.concatenate([rows["a"], more], axis=1).astype(np.float64)
    y = rows["b"].astype(np.float64)
    weights = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0]
    np.testing.assert_allclose(
        fit.source(x) - fit.target(y), (x - x.mean(0)) @ weights + y.mean(0) - y, atol=1e-7
    )


def test_rows_of_others_are_refused(rows):
    total = Moments.of(rows)
    with pytest.raises(UserError, match="expected 40 rows"):
        widened_moments(total, rows, "a", np.ones((39, 2)))
    with pytest.raises(UserError, match="one of a, b, c"):
        widened_moments(total, rows, "d", np.ones((40, 2)))
