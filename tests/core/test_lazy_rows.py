"""Rows that are read when they are used are the rows of the array, whatever pieces they are read in."""

import numpy as np
import pytest

from experiments.run import data
from jaxalign import AffineMap, FoldMoments, Moments
from jaxalign.core import lazy_rows
from jaxalign.core.errors import UserError
from jaxalign.core.lazy_rows import LazyRows
from jaxalign.data import EmbeddingStore
from jaxalign.moments import accumulation

ROWS, WIDTH = 130, 6


@pytest.fixture
def array(tmp_path):
    values = (np.random.default_rng(0).normal(size=(ROWS, WIDTH)) + 2).astype(np.float16)
    values.tofile(tmp_path / "rows")
    return np.memmap(tmp_path / "rows", np.float16, "r", shape=values.shape)


@pytest.mark.parametrize("piece", [1, 7, ROWS])
def test_rows_are_chosen_prepared_and_mapped_as_by_numpy(array, monkeypatch, piece):
    monkeypatch.setattr(lazy_rows, "MAPPED_PIECE", piece)
    random = np.random.default_rng(1)
    numbers, some = random.permutation(ROWS)[:90], random.integers(0, 90, 40)  # some rows twice
    wide = np.asarray(array, np.float64)
    unit = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    lazy = LazyRows.of(array, numbers).unit()
    assert (lazy.shape, lazy.dtype, lazy.is_mapped) == ((90, WIDTH), np.float32, True)
    np.testing.assert_array_equal(lazy.take(some), unit[numbers][some])
    np.testing.assert_array_equal(lazy.select(some).read(3, 30), unit[numbers][some][3:30])
    np.testing.assert_array_equal(np.asarray(lazy), unit[numbers])
    np.testing.assert_array_equal(np.concatenate([part for _, part in lazy.pieces(11)]), unit[numbers])
    map_ = AffineMap((random.normal(size=(WIDTH, 9)),), np.arange(9.0), np.ones(WIDTH))
    mapped = map_(lazy)
    assert (mapped.shape, mapped.dtype) == ((90, 9), np.float32)
    expected = (unit.astype(np.float64) - 1) @ map_.factors[0] + map_.bias
    np.testing.assert_allclose(mapped.take(some), expected[numbers][some], rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match="takes rows of width 6, got an array of shape \\(90, 9\\)"):
        map_(mapped)


def test_rows_of_zeros_and_single_rows():
    lazy = LazyRows.of(np.array([[0.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_array_equal(lazy.unit().take(np.array([1, 0])), np.float32([[0.6, 0.8], [0, 0]]))  # pyright: ignore
    assert lazy.take(np.zeros(0, np.int64)).shape == (0, 2)
    assert np.shares_memory(lazy.read(0, 2), lazy.array)


def prepared(array):
    wide = np.asarray(array, np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def test_moments_of_few_lazy_rows_are_those_of_a_copy_to_the_bit(array):
    rows, fold = np.random.default_rng(2).permutation(ROWS)[:100], np.arange(100) % 3
    copy = {"a": prepared(array)[rows], "b": prepared(array)[::-1][rows]}
    lazy = {"a": LazyRows.of(array).unit(), "b": LazyRows.of(array, np.arange(ROWS)[::-1]).unit()}
    expected, found = FoldMoments.of(copy, fold=fold), FoldMoments.of(lazy, rows=rows, fold=fold)
    for ours, theirs in zip((found.total, *found.folds), (expected.total, *expected.folds)):
        np.testing.assert_array_equal(np.asarray(ours.scatter), np.asarray(theirs.scatter))
        np.testing.assert_array_equal(np.asarray(ours.mean), np.asarray(theirs.mean))


@pytest.mark.parametrize("folds", [None, 3])
def test_moments_of_many_lazy_rows_agree_with_numpy(array, monkeypatch, folds):
    monkeypatch.setattr(accumulation, "CHUNK_ELEMENTS", 100)
    monkeypatch.setattr(accumulation, "CHUNK_BYTES", 700)
    rows = np.random.default_rng(3).permutation(ROWS)[:100]
    fold = None if folds is None else np.arange(100) % folds
    found = FoldMoments.of({"a": LazyRows.of(array).unit()}, rows=rows, fold=fold)
    parts = [(found.total, rows), *((part, rows[fold == k]) for k, part in enumerate(found.folds))]
    for part, numbers in parts:
        chosen = prepared(array)[numbers].astype(np.float64)
        centred = chosen - chosen.mean(0)
        np.testing.assert_allclose(np.asarray(part.scatter), centred.T @ centred, atol=1e-12)
    assert len(found.folds) == (folds or 0)


def test_lazy_rows_that_are_not_finite_are_counted():
    values = np.ones((60, 3), np.float32)
    values[[4, 50], 1] = np.nan
    with pytest.raises(UserError, match="'a' in 1 rows"):
        Moments.of({"a": LazyRows.of(values, np.arange(40)).unit()})


@pytest.mark.parametrize("checked_rows", [1, 7, 8, 9, 64])
def test_unusable_rows_are_found_whatever_is_read_at_once(tmp_path, monkeypatch, checked_rows):
    monkeypatch.setattr(data, "CHECKED_ROWS", checked_rows)
    good, bad = np.ones((24, 3), np.float16), np.ones((24, 3), np.float16)
    bad[[0, 7, 8, 23], 1] = [np.nan, np.inf, -np.inf, np.nan]
    bad[[9, 16]] = 0
    store = EmbeddingStore.create(tmp_path / "s", {"good": good, "bad": bad}, identities=np.arange(24))
    found = data.unusable_rows(store, store.encoders)
    assert list(found) == ["bad"]
    assert [rows.tolist() for rows in found["bad"]] == [[0, 7, 8, 23], [9, 16]]
