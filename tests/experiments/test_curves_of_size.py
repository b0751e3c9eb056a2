"""Growing training sides, and their moments."""

import numpy as np
import pytest

from jaxalign import UserError
from jaxalign.core.people import TrainingGrowth, distinct, published_split
from jaxalign.moments.moments import nested_moments


def test_nested_moments_are_those_of_the_first_rows():
    random = np.random.default_rng(0)
    rows = {"a": random.normal(size=(90, 3)) + 5, "b": random.normal(size=(90, 2)).astype(np.float32)}
    concatenated = np.concatenate([rows["a"], rows["b"]], axis=1)
    fold = np.arange(90) % 3
    sizes = [10, 11, 90]
    for size, plain, folded in zip(sizes, nested_moments(rows, sizes), nested_moments(rows, sizes, fold)):
        expected = np.cov(concatenated[:size].T, bias=True) * size
        assert not plain.folds and float(plain.total.count) == size
        np.testing.assert_allclose(plain.total.scatter, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(folded.total.scatter, expected, rtol=1e-9, atol=1e-9)
        part = concatenated[:size][fold[:size] == 1]
        np.testing.assert_allclose(folded.folds[1].mean, part.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(
            folded.folds[1].scatter, np.cov(part.T, bias=True) * len(part), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("sizes", [[], [5, 5], [9, 4], [0, 4], [4, 11]])
def test_sizes_that_do_not_nest_are_refused(sizes):
    with pytest.raises(UserError, match="from 1 to 10"):
        next(nested_moments({"a": np.ones((10, 2))}, sizes))


def test_people_grow_as_the_published_split_does():
    identities = np.repeat([f"p{k:02d}" for k in range(20)], np.arange(1, 21))
    split = published_split(identities, 42)
    growth = TrainingGrowth.by_people(identities, split)
    assert sorted(growth.rows) == sorted(split.train)
    for share, people in ((0.1, 2), (0.35, 7), (0.7, 14)):
        (size,) = growth.sizes([people])
        smaller = published_split(identities, 42, share).train
        assert set(growth.rows[:size]) == set(smaller)
    by_rows = TrainingGrowth.by_rows(split)
    assert sorted(by_rows.rows) == sorted(split.train) and by_rows.sizes([2, 9]) == [2, 9]
    for wrong in (1, 15):
        with pytest.raises(UserError, match="there are 2 to 14"):
            growth.sizes([wrong])


def test_rows_that_stand_on_two_axes_are_fitted_once():
    identities = np.repeat([f"p{k:02d}" for k in range(20)], 3)
    split = published_split(identities, 42)
    people, rows = TrainingGrowth.by_people(identities, split), TrainingGrowth.by_rows(split)
    found = distinct([("people", people, [2, 14]), ("rows", rows, [6, 42])])
    assert [growth for growth, _ in found] == [people, rows]
    assert [places for _, places in found] == [
        {6: [("people", 2)], 42: [("people", 14), ("rows", 42)]},
        {6: [("rows", 6)]},
    ]
    assert distinct([("people", people, [14]), ("rows", rows, [42])])[1][1] == {}
