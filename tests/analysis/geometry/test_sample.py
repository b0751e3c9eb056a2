"""A prepared sample: invariances, calibration, and what it refuses."""

import numpy as np
import pytest
from geometry_clouds import PEOPLE, ROWS, identities, make, rotation
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign import UserError
from jaxalign.analysis.geometry import SIMILARITIES, GeometrySample, GeometrySettings, rsa_spearman
from jaxalign.analysis.geometry.sample import Calibrated
from jaxalign.core.devices import concurrently

SETTINGS = GeometrySettings(permutations=5, neighbours=3, dimension_neighbours=4, identity_dimensions=4)
BASIS_BOUND = {"pwcca"}  # weighs the columns as they are
few = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def compare(x, y, people=None, settings=SETTINGS):
    people = identities() if people is None else people
    return GeometrySample({"x": x, "y": y}, people, settings).compare(("x", "y"))


def values(x, y, people=None):
    return {name: found.value for name, found in compare(x, y, people).items()}


@pytest.fixture(scope="module")
def plain():
    return values(*make("tall"))


@few
@given(seed=seeds, scale=st.floats(1e-3, 1e3))
def test_rotation_and_scale_change_no_similarity(plain, seed, scale):
    x, y = make("tall")
    found = values(scale * x @ rotation(x.shape[1], seed), y @ rotation(y.shape[1], seed + 1) / scale)
    for name in set(SIMILARITIES) - BASIS_BOUND:
        assert found[name] == pytest.approx(plain[name], rel=1e-6), name


@few
@given(seed=seeds)
def test_the_order_of_rows_changes_no_similarity(plain, seed):
    x, y = make("tall")
    order = np.random.default_rng(seed).permutation(ROWS)
    assert values(x[order], y[order], identities()[order]) == pytest.approx(plain, rel=1e-6)


@few
@given(seed=seeds)
def test_numbers_of_one_encoder_do_not_change_with_rotation_or_order(seed):
    x, _ = make("tall")
    order = np.random.default_rng(seed).permutation(ROWS)
    before = GeometrySample({"x": x}, identities(), SETTINGS).describe("x")
    moved = GeometrySample({"x": (x @ rotation(x.shape[1], seed))[order]}, identities()[order], SETTINGS)
    assert moved.describe("x") == pytest.approx(before, rel=1e-6)


def test_a_space_agrees_with_itself_turned_and_scaled():
    x, _ = make("tall")
    found = compare(x, 3 * x @ rotation(x.shape[1], 0))
    for name in SIMILARITIES:
        expected = 0 if name == "procrustes_distance" else 1
        assert found[name].value == pytest.approx(expected, abs=1e-6), name
        assert found[name].calibrated == pytest.approx(1, abs=1e-6), name


MANY, MANY_PEOPLE = 400, np.repeat(np.arange(100), 4)
WIDE = GeometrySettings(permutations=19, neighbours=5, dimension_neighbours=5, identity_dimensions=10)


def test_independent_spaces_are_calibrated_to_nothing():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(MANY, 12)) * np.arange(1, 13), random.normal(size=(MANY, 40))
    raw = compare(x, y, MANY_PEOPLE, WIDE)
    for name in SIMILARITIES:
        assert abs(raw[name].calibrated) < 0.05, name
    # Width alone gives these raw scores; the unbiased estimator and RSA need no calibration.
    assert all(raw[name].value > 0.25 for name in ("mean_cca", "svcca", "pwcca"))
    assert all(abs(raw[name].null_mean) < 0.01 for name in ("linear_cka_unbiased", "rsa_spearman"))


def test_calibration_takes_off_what_width_alone_gives():
    random = np.random.default_rng(2)
    shared = random.normal(size=(MANY, 4))
    found = {}
    for width in (12, 40):
        x, y = (shared @ random.normal(size=(4, width)) / 2 + random.normal(size=(MANY, width)) for _ in "xy")
        found[width] = compare(x, y, MANY_PEOPLE, WIDE)["mean_cca"]
    assert found[40].null_mean > found[12].null_mean + 0.1
    excess = {width: each.value - each.null_mean for width, each in found.items()}
    assert excess[40] < excess[12] and found[40].calibrated < found[12].calibrated


def test_fewer_rows_than_dimensions_say_so():
    found = compare(make("wide")[1], make("wide", seed=1)[1])
    assert found["mean_cca"].value == pytest.approx(1)
    assert np.isnan(found["mean_cca"].calibrated)
    assert "too few rows" in found["mean_cca"].reason
    assert found["rsa_spearman"].reason == ""


def test_calibration_by_hand():
    found = Calibrated(0.6, np.array([0.1, 0.2, 0.3]), 1.0, 9)
    assert (found.null_mean, found.calibrated) == (pytest.approx(0.2), pytest.approx(0.5))
    assert found.null_quantile() == pytest.approx(0.29)
    distance = Calibrated(0.5, np.array([0.8, 1.0, 1.2]), 0.0, 9)
    assert distance.calibrated == pytest.approx(0.5)
    assert distance.null_quantile() == pytest.approx(0.82)


def test_encoders_worked_on_concurrently_give_the_same():
    x, y = make("tall")
    sample = GeometrySample({"x": x, "y": y}, identities(), SETTINGS, each=concurrently)
    found = dict(zip(sample.pairs, concurrently(sample.compare, sample.pairs)))["x", "y"]
    assert found["pwcca"].value == compare(x, y)["pwcca"].value
    assert found["rsa_spearman"].items == ROWS * (ROWS - 1) // 2
    assert found["principal_angles"].items == PEOPLE


def test_rsa_takes_the_first_rows_only():
    x, y = make("tall")
    options = GeometrySettings(5, neighbours=3, dimension_neighbours=4, distance_rows=20)
    found = compare(x, y, settings=options)["rsa_spearman"]
    assert found.value == pytest.approx(rsa_spearman(x[:20], y[:20]))
    assert found.items == 190


X, Y = make("tall")


@pytest.mark.parametrize(
    ("rows", "people", "options", "words"),
    [
        ([X, Y], identities(), {"neighbours": 48}, "48 nearest neighbours need more .* there are 48"),
        ([X, Y], identities(), {"neighbours": 3, "dimension_neighbours": 60}, "60 nearest neighbours"),
        ([X, Y], identities(), {"neighbours": 0}, "neighbours: expected at least 1"),
        ([X, Y], identities(), {"permutations": 0}, "permutations: expected at least 1"),
        ([X, Y], identities(), {"variance": 1.5}, "share above 0"),
        ([X, Y], identities(), {"identity_dimensions": 0}, "identity_dimensions: expected at least 1"),
        ([X, Y[:-1]], identities(), {}, "same rows"),
        ([X, Y], identities()[:-1], {}, "one identity"),
        ([X, Y], np.full(ROWS, "a"), {}, "2 people"),
    ],
)
def test_settings_and_rows_that_cannot_be_are_a_sentence(rows, people, options, words):
    with pytest.raises(UserError, match=words):
        GeometrySample(dict(zip("xy", rows)), people, GeometrySettings(**options))
