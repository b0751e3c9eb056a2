"""Rows that are read when they are used are the rows of the array, whatever pieces they are read in."""

import threading
import types

import numpy as np
import pytest

from experiments.run import data
from jaxalign import AffineMap, FoldMoments
from jaxalign.core import rows as rows_module
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows, chunks, fold_chunks, narrowed, prefetch, rows_that_fit
from jaxalign.data import EmbeddingStore

ROWS, WIDTH = 130, 6


@pytest.fixture
def array(tmp_path):
    values = (np.random.default_rng(0).normal(size=(ROWS, WIDTH)) + 2).astype(np.float16)
    values.tofile(tmp_path / "rows")
    return np.memmap(tmp_path / "rows", np.float16, "r", shape=values.shape)


@pytest.mark.parametrize("piece", [1, 20, 10_000])
def test_rows_are_chosen_prepared_and_mapped_as_by_numpy(array, monkeypatch, piece):
    monkeypatch.setattr(rows_module, "PIECE_ELEMENTS", piece)
    random, unit = np.random.default_rng(1), prepared(array)
    numbers, some = random.permutation(ROWS)[:90], random.integers(0, 90, 40)  # some rows twice
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


@pytest.mark.parametrize("view", [np.s_[10:], np.s_[::2], np.s_[:, 1:]])
def test_views_of_mapped_arrays_are_copied_when_read_and_arrays_in_memory_are_not(array, view):
    assert LazyRows.of(array[view]).is_mapped and LazyRows.of(np.asarray(array)[view]).is_mapped
    found = LazyRows.of(array[view]).read(3, 40)
    np.testing.assert_array_equal(found, array[view][3:40])
    assert not np.shares_memory(found, array)
    here = np.array(array)[view]
    assert not LazyRows.of(here).is_mapped and np.shares_memory(LazyRows.of(here).read(1, 3), here)


def test_prefetching_keeps_order_passes_errors_and_stops_early():
    def items():
        for number in range(10):
            made.append(number)
            yield number
        raise ValueError("at the end")

    made, seen = [], []
    with pytest.raises(ValueError, match="at the end"):
        for number in prefetch(items()):
            seen.append(number)
            assert len(made) <= number + 2  # one ahead
    assert seen == list(range(10))
    made, threads = [], threading.active_count()
    ahead = prefetch(items())
    assert next(ahead) == 0
    ahead.close()
    assert len(made) <= 2 and threading.active_count() == threads


def test_chunks_have_one_shape_and_no_buffer_is_used_twice(array):
    arrays, weights, fold = [LazyRows.of(array), LazyRows.of(array)], np.ones(ROWS), np.arange(ROWS) % 3 - 1
    by_fold = [chunk for _, chunk in fold_chunks(arrays, weights, fold, 50)]
    for parts in (list(chunks(arrays, weights, 50)), by_fold):
        assert len({tuple(part.shape for part in (*rows, weight)) for rows, weight in parts}) == 1
        assert len({rows[0].ctypes.data for rows, _ in parts}) == len(parts)
    assert sum(float(weight.sum()) for _, weight in by_fold) == (fold >= 0).sum()


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        (None, 1000),
        ({"num_allocs": 3}, 1000),
        ({"bytes_limit": 10**9, "bytes_in_use": 0}, 1000),
        ({"bytes_limit": 6000, "bytes_in_use": 1000}, 40),
        ({"bytes_limit": 100}, 1),
    ],
)
def test_chunks_are_as_large_as_the_device_allows(monkeypatch, stats, expected):
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    placed = types.SimpleNamespace(devices=lambda: [device])
    monkeypatch.setattr(rows_module.jnp, "zeros", lambda shape: placed)
    assert rows_that_fit(1000, 100, 1000) == expected


HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)  # all there are


def bits(rows):
    """Bits of float16 or float32; those of NaN, which mean nothing, as 0."""
    return np.where(np.isnan(rows), 0, rows.view(f"u{rows.dtype.itemsize}"))


@pytest.mark.parametrize("least", [1, 2**40])
def test_float32_becomes_float16_with_the_bits_of_numpy(monkeypatch, least):
    monkeypatch.setattr(rows_module, "BY_XLA", least)
    finite = np.sort(HALVES[np.isfinite(HALVES)].astype(np.float32))
    ties = (finite[1:] + finite[:-1]) / 2  # exact: float32 has 13 more bits
    beside = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
    ends = np.array([65519.996, 65520, -65520, 1e-45, np.inf, np.nan, 3e38], np.float32)
    for rows in (HALVES.astype(np.float32), ties, *beside, ends):
        found, beyond = narrowed(rows[:, None], np.float16)
        with np.errstate(over="ignore"):
            expected = rows.astype(np.float16)
        np.testing.assert_array_equal(bits(found[:, 0]), bits(expected))
        assert found.dtype == np.float16 and beyond == (np.isinf(expected) & np.isfinite(rows)).any()
