"""Moments of memory-mapped rows in chunks: against float64 numpy, in bounded memory, and where memory runs out."""

import re

import jax
import memory
import ml_dtypes
import numpy as np
import oracles
import pytest

import jaxalign
from jaxalign import FoldMoments, Moments
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.moments import accumulate, scatter

ROWS, WIDTHS = 211, {"a": 7, "b": 5}
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
SIZES = [None, 1, 2, 70, ROWS - 1, ROWS, ROWS + 1]


def cloud(dtype, rows=ROWS):
    """Rows with means as large as their spread, and correlated columns."""
    rng = np.random.default_rng(3)
    common = rng.normal(size=(rows, 4))
    return {
        name: (common @ rng.normal(size=(4, width)) + rng.normal(size=(rows, width)) + 5).astype(dtype)
        for name, width in WIDTHS.items()
    }


def mapped(arrays, folder):
    found = {}
    for name, array in arrays.items():
        array.tofile(folder / name)
        found[name] = np.memmap(folder / name, array.dtype, "r", shape=array.shape)
    return found


def assert_agree(moments, arrays, rows: slice | np.ndarray = slice(None), weights=None):
    """With float64 numpy."""
    chosen = {name: array[rows] for name, array in arrays.items()}
    weights = np.ones(len(chosen["a"])) if weights is None else weights
    mean, scatter = oracles.second_moments(chosen, weights)
    np.testing.assert_allclose(np.asarray(moments.weight), weights.sum(), rtol=1e-13)
    np.testing.assert_allclose(np.asarray(moments.mean), mean, rtol=1e-12)
    atol = 1e-12 * np.abs(scatter).max()
    np.testing.assert_allclose(np.asarray(moments.scatter), scatter, rtol=0, atol=atol)


@pytest.mark.parametrize("chunk_rows", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_agree_with_numpy(tmp_path, dtype, chunk_rows):
    arrays = cloud(DTYPES[dtype])
    weights = np.random.default_rng(1).uniform(0, 2, ROWS)
    for given in (arrays, mapped(arrays, tmp_path)):
        assert_agree(Moments.of(given, chunk_rows=chunk_rows), arrays)
        assert_agree(Moments.of(given, weights, chunk_rows=chunk_rows), arrays, weights=weights)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("chunk_rows", SIZES)
def test_chosen_rows_and_folds_agree_with_numpy(tmp_path, monkeypatch, chunk_rows, lazy):
    monkeypatch.setattr(accumulate, "CHUNK_BYTES", 700)
    rng = np.random.default_rng(2)
    arrays, rows = cloud(np.float16), rng.permutation(ROWS)[:150]
    fold = np.concatenate([np.arange(4), rng.choice(4, 146, p=[0.7, 0.2, 0.05, 0.05])])
    weights = rng.uniform(0, 2, 150)
    given = mapped(arrays, tmp_path)
    if lazy:
        given = {name: LazyRows.of(array).then(np.negative) for name, array in given.items()}
        arrays = {name: -array for name, array in arrays.items()}
    options = {"weights": weights, "rows": rows, "chunk_rows": chunk_rows}
    moments = FoldMoments.of(given, fold=fold, **options)
    assert_agree(moments.total, arrays, rows, weights)
    for number, part in enumerate(moments.folds):
        assert_agree(part, arrays, rows[fold == number], weights[fold == number])
    assert len(moments.folds) == 4
    assert_agree(Moments.of(given, **options), arrays, rows, weights)


def test_fit_on_mapped_rows_leaves_rows_of_no_weight_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(accumulate, "CHUNK_ELEMENTS", 100)  # many chunks
    arrays = cloud(np.float32)
    weights = np.ones(ROWS)
    weights[::5] = 0
    arrays["a"][::5] = np.nan
    x, y = (np.asarray(array, np.float64)[weights > 0] for array in arrays.values())
    given = mapped(arrays, tmp_path)
    map_ = jaxalign.fit_affine(given["a"], given["b"], "linear", weights=weights, restore_variance=False)
    beta = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0]
    np.testing.assert_allclose(map_(x), (x - x.mean(0)) @ beta + y.mean(0), rtol=1e-9)
    chosen = jaxalign.fit_affine(given["a"], given["b"], "ridge", l2=[0.1, 1.0], weights=weights, folds=3)
    assert np.isfinite(np.asarray(chosen(x))).all()


@pytest.mark.parametrize(("rows", "few_rows"), [(4100, 5000), (4101, 100)])
def test_the_scatter_matrix_is_whole_in_six_and_in_twelve_tiles_a_side(monkeypatch, rows, few_rows):
    monkeypatch.setattr(scatter, "LEAST_BLOCK", 1)
    monkeypatch.setattr(scatter, "FEW_ROWS", few_rows)
    arrays, weights = cloud(np.float32, rows), np.random.default_rng(0).uniform(0, 2, rows)
    assert_agree(Moments.of(arrays, weights), arrays, weights=weights)


def test_first_chunks_without_weight_do_not_cost_digits():
    arrays = {"a": cloud(np.float64)["a"] + 1e6}
    weights = np.zeros(ROWS)
    weights[150:] = 1
    _, expected = oracles.second_moments(arrays, weights)
    found = np.asarray(Moments.of(arrays, weights, chunk_rows=50).scatter)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("chunk_rows", [None, 50])
def test_what_is_not_finite_is_counted_in_the_rows_used(tmp_path, chunk_rows):
    arrays = cloud(np.float16)
    arrays["b"][[3, 100, 101]] = np.nan
    given = mapped(arrays, tmp_path)
    with pytest.raises(UserError, match="'b' in 3 rows"):
        Moments.of(given, chunk_rows=chunk_rows)
    with pytest.raises(UserError, match="'b' in 1 rows"):
        Moments.of({"b": LazyRows.of(given["b"], np.arange(40)).unit()}, chunk_rows=chunk_rows)
    with pytest.raises(UserError, match="'b' in 2 rows"):
        FoldMoments.of(given, fold=np.arange(120) % 3, rows=np.arange(50, 170), chunk_rows=chunk_rows)
    Moments.of(given, rows=np.arange(110, ROWS), chunk_rows=chunk_rows)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"chunk_rows": 0}, "chunk_rows: expected a whole number of at least 1, or None, got 0"),
        ({"chunk_rows": 2.5}, "got 2.5"),
        ({"chunk_rows": True}, "got True"),
        ({"rows": [0, 0]}, "none twice"),
        ({"rows": [ROWS]}, "rows: expected numbers from 0 to 210"),
        ({"rows": [-1]}, "rows: expected numbers from 0 to 210"),
        ({"rows": np.ones(ROWS, bool)}, "rows: expected at least one whole number"),
        ({"rows": [0, 1], "weights": np.ones(ROWS)}, "weights: expected shape [2]"),
    ],
)
def test_bad_options_are_a_sentence(options, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        Moments.of(cloud(np.float32), **options)


@pytest.mark.parametrize(
    ("error", "raised", "sentence"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), UserError, "smaller chunk_rows"),
        (MemoryError(), UserError, "width 12 do not fit into memory with 100 rows"),
        (jax.errors.JaxRuntimeError("INTERNAL: else"), jax.errors.JaxRuntimeError, "else"),
    ],
)
def test_memory_that_runs_out_gives_a_sentence_and_other_failures_pass_through(
    monkeypatch, error, raised, sentence
):
    def fail(*_):
        raise error

    monkeypatch.setattr(accumulate, "_summed", fail)
    with pytest.raises(raised, match=sentence):
        Moments.of(cloud(np.float32), chunk_rows=100)


def test_changes_of_a_private_map_survive(tmp_path):
    np.zeros((1000, 8), np.float32).tofile(tmp_path / "a")
    array = np.memmap(tmp_path / "a", np.float32, "c", shape=(1000, 8))
    array[:] = np.random.default_rng(0).normal(size=array.shape)
    before = array.copy()
    assert_agree(Moments.of({"a": array}, chunk_rows=100), {"a": before})
    np.testing.assert_array_equal(array, before)


def test_memory_does_not_grow_with_rows(tmp_path):
    """60 MB more rows on disk need a few MB more memory."""
    code = """
import sys
import numpy as np
from jaxalign import FoldMoments, Moments
rows = int(sys.argv[2])
array = np.memmap(sys.argv[1], np.float16, "r", shape=(rows, 256))
Moments.of({"a": array}, chunk_rows=5_000)
FoldMoments.of({"a": array}, fold=np.arange(rows) % 2, chunk_rows=5_000)
"""
    with open(tmp_path / "rows", "wb") as file:
        file.truncate(180_000 * 512)
    small, large = (memory.peak_megabytes(code, tmp_path / "rows", count) for count in (60_000, 180_000))
    assert large - small < 40, (small, large)
