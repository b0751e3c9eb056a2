"""Moments of memory-mapped rows in chunks: against float64 numpy, in bounded memory, and where memory runs out."""

import mmap
import re
import subprocess
import sys
import threading

import jax
import ml_dtypes
import numpy as np
import pytest

import jaxalign
from jaxalign import FoldMoments, Moments
from jaxalign.core import chunk_size, pages, streaming
from jaxalign.core.errors import UserError
from jaxalign.core.lazy_rows import LazyRows
from jaxalign.moments import accumulation

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


def oracle(arrays, rows: slice | np.ndarray = slice(None), weights=None):
    """Weight, mean and centred scatter by float64 numpy."""
    wide = np.concatenate([np.asarray(array).astype(np.float64)[rows] for array in arrays.values()], axis=1)
    weights = np.ones(len(wide)) if weights is None else weights
    mean = np.average(wide, axis=0, weights=weights)
    return weights.sum(), mean, ((wide - mean) * weights[:, None]).T @ (wide - mean)


def assert_agree(moments, expected):
    weight, mean, scatter = expected
    np.testing.assert_allclose(np.asarray(moments.weight), weight, rtol=1e-13)
    np.testing.assert_allclose(np.asarray(moments.mean), mean, rtol=1e-12)
    np.testing.assert_allclose(
        np.asarray(moments.scatter), scatter, rtol=0, atol=1e-12 * np.abs(scatter).max()
    )


@pytest.mark.parametrize("chunk_rows", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_agree_with_numpy(tmp_path, dtype, chunk_rows):
    arrays = cloud(DTYPES[dtype])
    weights = np.random.default_rng(1).uniform(0, 2, ROWS)
    for given in (arrays, mapped(arrays, tmp_path)):
        assert_agree(Moments.of(given, chunk_rows=chunk_rows), oracle(arrays))
        assert_agree(Moments.of(given, weights, chunk_rows=chunk_rows), oracle(arrays, weights=weights))


@pytest.mark.parametrize("chunk_rows", SIZES)
def test_chosen_rows_and_folds_agree_with_numpy(tmp_path, chunk_rows):
    rng = np.random.default_rng(2)
    arrays, rows = cloud(np.float16), rng.permutation(ROWS)[:150]
    fold, weights = (
        np.concatenate([np.arange(4), rng.choice(4, 146, p=[0.7, 0.2, 0.05, 0.05])]),
        rng.uniform(0, 2, 150),
    )
    given = mapped(arrays, tmp_path)
    options = {"weights": weights, "rows": rows, "chunk_rows": chunk_rows}
    moments = FoldMoments.of(given, fold=fold, **options)
    assert_agree(moments.total, oracle(arrays, rows, weights))
    for number, part in enumerate(moments.folds):
        assert_agree(part, oracle(arrays, rows[fold == number], weights[fold == number]))
    assert len(moments.folds) == 4
    assert_agree(Moments.of(given, **options), oracle(arrays, rows, weights))


def test_fit_on_mapped_rows_leaves_rows_of_no_weight_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(accumulation, "CHUNK_ELEMENTS", 100)  # many chunks
    arrays = cloud(np.float32)
    weights = np.ones(ROWS)
    weights[::5] = 0
    arrays["a"][::5] = np.nan
    x, y = (np.asarray(array, np.float64)[weights > 0] for array in arrays.values())
    given = mapped(arrays, tmp_path)
    map_ = jaxalign.fit_affine(given["a"], given["b"], "linear", weights=weights)
    beta = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0]
    np.testing.assert_allclose(map_(x), (x - x.mean(0)) @ beta + y.mean(0), rtol=1e-9)
    chosen = jaxalign.fit_affine(given["a"], given["b"], "ridge", l2=[0.1, 1.0], weights=weights, folds=3)
    assert np.isfinite(np.asarray(chosen(x))).all()


def test_first_chunks_without_weight_do_not_cost_digits():
    arrays = {"a": cloud(np.float64)["a"] + 1e6}
    weights = np.zeros(ROWS)
    weights[150:] = 1
    _, _, scatter = oracle(arrays, weights=weights)
    found = np.asarray(Moments.of(arrays, weights, chunk_rows=50).scatter)
    np.testing.assert_allclose(found, scatter, rtol=0, atol=1e-9 * np.abs(scatter).max())


@pytest.mark.parametrize("chunk_rows", [None, 50])
def test_what_is_not_finite_is_counted_in_the_rows_used(tmp_path, chunk_rows):
    arrays = cloud(np.float16)
    arrays["b"][[3, 100, 101]] = np.nan
    given = mapped(arrays, tmp_path)
    with pytest.raises(UserError, match="'b' in 3 rows"):
        Moments.of(given, chunk_rows=chunk_rows)
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
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), MemoryError()]
)
def test_memory_that_runs_out_gives_smaller_chunks_then_a_sentence(monkeypatch, error):
    arrays, sizes, real = cloud(np.float32), [], accumulation._summed

    def limited(chunks, *how):
        def checked():
            for number, chunk in chunks:
                sizes.append(len(chunk[1]))
                if len(chunk[1]) > limit:
                    raise error
                yield number, chunk

        return real(checked(), *how)

    monkeypatch.setattr(accumulation, "_summed", limited)
    limit = 60
    assert_agree(Moments.of(arrays, chunk_rows=200), oracle(arrays))
    assert sizes[:3] == [106, 71, 43]  # ROWS in 2, 3 and 5 equal chunks of at most 200, 100 and 50
    limit = 0
    with pytest.raises(UserError) as raised:
        FoldMoments.of(arrays, fold=np.arange(ROWS) % 2, chunk_rows=160)
    assert str(raised.value) == (
        "moments of width 12 do not fit into the memory of the device: chunks of 160, 80, 40, 20 rows were tried. Give "
        "a chunk_rows below 20 or a device with more memory."
    )


def test_other_failures_pass_through(monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(accumulation, "_summed", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        Moments.of(cloud(np.float32))


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


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
    class Placed:
        def devices(self):
            return {Device(stats)}

    monkeypatch.setattr(chunk_size.jnp, "zeros", lambda shape: Placed())
    assert chunk_size.rows_that_fit(1000, 100, 1000) == expected


def test_views_of_maps_are_read_and_their_pages_given_back(tmp_path):
    array = np.arange(4000, dtype=np.float16).reshape(1000, 4)
    whole = mapped({"a": array}, tmp_path)["a"]
    for view, expected in [
        (whole[10:], array[10:]),
        (np.asarray(whole)[::2], array[::2]),
        (whole[:, 1:], array[:, 1:]),
    ]:
        assert pages.is_mapped(view)
        np.testing.assert_array_equal(LazyRows.of(view).read(3, 40), expected[3:40])
        np.testing.assert_array_equal(view, expected)  # still there
    assert not pages.is_mapped(array) and np.shares_memory(LazyRows.of(array).read(1, 3), array)


def test_changes_of_a_private_map_survive(tmp_path):
    np.zeros((1000, 8), np.float32).tofile(tmp_path / "a")
    array = np.memmap(tmp_path / "a", np.float32, "c", shape=(1000, 8))
    array[:] = np.random.default_rng(0).normal(size=array.shape)
    before = array.copy()
    assert_agree(Moments.of({"a": array}, chunk_rows=100), oracle({"a": before}))
    np.testing.assert_array_equal(array, before)


def test_reading_ahead_keeps_order_passes_errors_and_stops_early():
    def items():
        for number in range(10):
            made.append(number)
            yield number
        raise ValueError("at the end")

    made = []
    seen = []
    with pytest.raises(ValueError, match="at the end"):
        for number in streaming.ahead(items()):
            seen.append(number)
            assert len(made) <= number + 2  # one ahead
    assert seen == list(range(10))
    made, threads = [], threading.active_count()
    ahead = streaming.ahead(items())
    assert next(ahead) == 0
    ahead.close()
    assert len(made) <= 2 and threading.active_count() == threads


def test_chunks_have_one_shape_and_no_buffer_is_used_twice(tmp_path):
    arrays = [LazyRows.of(array) for array in mapped(cloud(np.float16), tmp_path).values()]
    weights, fold = np.ones(ROWS), np.arange(ROWS) % 3 - 1
    for parts in (
        list(streaming.chunks(arrays, weights, 50)),
        [chunk for _, chunk in streaming.fold_chunks(arrays, weights, fold, 50)],
    ):
        assert len({tuple(part.shape for part in (*rows, weight)) for rows, weight in parts}) == 1
        assert len({rows[0].ctypes.data for rows, _ in parts}) == len(parts)
    assert sum(float(weight.sum()) for _, weight in parts) == (fold >= 0).sum()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system cannot give pages back")
def test_memory_does_not_grow_with_rows(tmp_path):
    """Peak resident memory of a fresh process: 400 MB more rows cost a few MB."""
    code = """
import sys
import numpy as np
from experiments.memory import peak_gigabytes
from jaxalign import FoldMoments, Moments, accumulation
rows = int(sys.argv[2])
array = np.memmap(sys.argv[1], np.float16, "r", shape=(rows, 256))
Moments.of({"a": array}, chunk_rows=20_000)
FoldMoments.of({"a": array}, fold=np.arange(rows) % 2, chunk_rows=20_000)
print(1000 * peak_gigabytes())
"""
    rows = 900_000
    with open(tmp_path / "rows", "wb") as file:
        file.truncate(rows * 512)
    peak = [
        float(
            subprocess.run(
                [sys.executable, "-c", code, tmp_path / "rows", str(count)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for count in (100_000, rows)
    ]
    assert peak[1] - peak[0] < 130, peak
