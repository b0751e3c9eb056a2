"""Evaluation of rows that are on disk, in tiles of the gallery and on several devices: the same numbers throughout."""

import re

import brute_force
import jax
import memory
import numpy as np
import pytest

from jaxalign import AffineMap, biometrics
from jaxalign.biometrics import EvaluationPlan, kernels, plan
from jaxalign.biometrics.pair_lists import PairList
from jaxalign.biometrics.scores import Scorer
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows

STRIP = 16
SAME = {"fmr": (1e-3, 1e-2, 0.1), "least_false_matches": 0}


@pytest.fixture
def small(monkeypatch):
    """One strip of 16 probes a segment."""
    monkeypatch.setattr(plan, "STRIP_ROWS", STRIP)
    monkeypatch.setattr(plan, "SEGMENT_ROWS", STRIP)


def assert_equal(found, expected):
    assert list(found.measures()) == list(expected.measures())
    assert found.verification.rates.points == expected.verification.rates.points
    assert np.array_equal(found.genuine_scores, expected.genuine_scores)
    for name, ranked in expected.identification.items():
        assert np.array_equal(found.identification[name].rank, ranked.rank)


@pytest.mark.parametrize("segments", [7, 8, 9])
def test_devices_that_do_not_divide_the_segments(small, segments):
    devices, rows = jax.devices(), STRIP * segments
    labels = np.arange(rows) // 4
    left, right = brute_force.signs(rows, 0), brute_force.signs(rows, 1)
    laid_out = EvaluationPlan.of(labels, kept_scores=0)
    tiling = laid_out.tiling(len(devices), rows)
    held = sum(int((tiling.strips(number) > 0).sum()) for number in range(tiling.rounds))
    assert (tiling.segment, held, tiling.rounds) == (STRIP, segments, 1 if segments <= len(devices) else 2)
    found = biometrics.evaluate(left, right, laid_out, devices=devices, **SAME)
    assert_equal(found, biometrics.evaluate(left, right, labels, **SAME))


def test_devices_exchange_nothing(small, monkeypatch):
    """No all-gather of rows: there is no exchange between devices at all."""
    programs, real = [], kernels.sweep

    def caught(*arguments, **options):
        programs.append(real.lower(*arguments, **options).compile().as_text())
        return real(*arguments, **options)

    monkeypatch.setattr(kernels, "sweep", caught)
    rows = brute_force.signs(8 * STRIP, 0)
    laid_out = EvaluationPlan.of(np.arange(len(rows)) // 4, kept_scores=0)
    biometrics.evaluate(rows, rows, laid_out, devices=jax.devices(), **SAME)
    assert len(programs) >= 2 and f"f32[{STRIP},128]" in programs[0]  # a device's own probes
    exchange = re.compile("all-gather|all-reduce|all-to-all|collective|reduce-scatter")
    assert not any(exchange.search(program) for program in programs)


def test_mapped_rows_on_disk_are_those_in_memory(small, tmp_path):
    """A permutation of columns is a map whose products are exact."""
    labels = np.arange(144) // 4
    numbers = np.random.default_rng(5).permutation(200)[:144]
    sides = [brute_force.signs(200, seed) for seed in (0, 1)]
    order = np.random.default_rng(2).permutation(64)
    map_ = AffineMap((np.eye(64)[:, order],), np.zeros(64))
    on_disk = []
    for name, side in zip("ab", sides):
        side.astype(np.float16).tofile(tmp_path / name)
        on_disk.append(np.memmap(tmp_path / name, np.float16, "r", shape=side.shape))
    lazy = map_(LazyRows.of(on_disk[0], numbers).unit()), LazyRows.of(on_disk[1], numbers).unit()
    expected = biometrics.evaluate(sides[0][numbers][:, order], sides[1][numbers], labels, **SAME)
    for options in ({}, {"gallery_rows": 64}, {"gallery_rows": 64, "devices": jax.devices()[:2]}):
        laid_out = EvaluationPlan.of(labels, kept_scores=0)
        assert_equal(biometrics.evaluate(*lazy, laid_out, **options, **SAME), expected)
    assert_equal(biometrics.evaluate(*lazy, labels, **SAME), expected)
    for templates in ("first", "pooled"):
        options = {"templates": templates, "least_false_matches": 0}
        found = biometrics.evaluate(*lazy, labels, **options)
        there = biometrics.evaluate(sides[0][numbers][:, order], sides[1][numbers], labels, **options)
        assert list(found.measures()) == list(there.measures())


def test_listed_pairs_of_rows_on_disk(small, monkeypatch):
    monkeypatch.setattr("jaxalign.biometrics.scores.PAIRS_READ", 50)
    rows, random = brute_force.signs(100, 0), np.random.default_rng(0)
    left, right = random.integers(0, 100, (2, 170))
    listed = PairList(left, right, np.arange(170) % 2 == 0)
    found = biometrics.verify_pairs(LazyRows.of(rows), LazyRows.of(rows), listed)
    np.testing.assert_array_equal(found.scores, np.sum(rows[left] * rows[right], axis=1) / 64)


def test_memory_that_runs_out_gives_a_sentence(small, monkeypatch):
    rows, labels = brute_force.signs(128, 0), np.arange(128) // 4

    def full(scorer):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(Scorer, "run", full)
    with pytest.raises(UserError, match="of width 64 .* 100 rows at once.* smaller gallery_rows"):
        biometrics.evaluate(rows, rows, labels, gallery_rows=100)
    with pytest.raises(UserError, match="gallery_rows: expected a whole number of at least 1"):
        biometrics.evaluate(rows, rows, labels, gallery_rows=0)


def test_memory_does_not_grow_with_the_gallery(tmp_path):
    """40 MB more rows on disk, 80 MB as float32, need little more memory."""
    code = """
import sys
import numpy as np
from jaxalign import AffineMap, biometrics
from jaxalign.core.rows import LazyRows
rows = int(sys.argv[2])
array = np.memmap(sys.argv[1], np.float16, "r", shape=(rows, 128))
gallery = AffineMap((np.eye(128),), np.zeros(128))(LazyRows.of(array).unit())
biometrics.verify(array[:64], gallery, np.arange(64), np.arange(rows), gallery_rows=10_000)
"""
    np.random.default_rng(0).normal(size=(220_000, 128)).astype(np.float16).tofile(tmp_path / "rows")
    small, large = (memory.peak_megabytes(code, tmp_path / "rows", count) for count in (60_000, 220_000))
    assert large - small < 60, (small, large)
