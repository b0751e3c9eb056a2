"""Linkability against what the densities give by analysis, and against labels that are permuted."""

import numpy as np
import pytest
from scipy.stats import norm

from jaxalign.core.errors import UserError
from jaxalign.security.linkability import People, linkability

MANY, REPEATS, BINS = 100_000, 8, 100
# Mates N(d, 1) and non-mates N(0, 1): d, ω, D_sys, maximal linkability; the first by quadrature of the densities.
GAUSSIAN = [
    (1, 1.0, 0.293490, 0.467723),
    (2, 1.0, 0.616545, 0.750769),
    (4, 1.0, 0.942951, 0.966799),
    (1, 0.1, 0.006731, 0.467723),
    (2, 0.1, 0.233993, 0.750769),
]


def estimates(draw, truth, omega=1.0, bins=BINS):
    """Value, value less null and corrected of repeated samples, less the truth: shape [repeats, 2, 3]."""
    found = []
    for seed in range(REPEATS):
        of = linkability(*draw(), omega=omega, permutations=20, seed=seed, bins=bins)
        found.append([(each.value, each.less_null, each.corrected) for each in (of.d_sys, of.maximal)])
    return np.array(found) - np.reshape(truth, (2, 1))


def within_three_errors(errors):
    """Whether the mean of repeated estimates is within 3 of its own standard errors of the truth, shape [2]."""
    return np.abs(errors.mean(axis=0)) <= 3 * errors.std(axis=0, ddof=1) / np.sqrt(REPEATS) + 1e-12


@pytest.mark.parametrize(("d", "omega", "d_sys", "maximal"), GAUSSIAN)
def test_agrees_with_the_densities(d, omega, d_sys, maximal):
    s = np.linspace(-12, 16, 400_001)
    p, q = norm.pdf(s - d), norm.pdf(s)
    local = np.maximum(omega * p - q, 0) / (omega * p + q)
    assert np.trapezoid(local * p, s) == pytest.approx(d_sys, abs=1e-6)
    assert np.log2(2 * norm.cdf(d / 2)) == pytest.approx(maximal, abs=1e-6)
    random = np.random.default_rng(1)
    found = estimates(lambda: (random.normal(d, 1, MANY), random.normal(0, 1, MANY)), (d_sys, maximal), omega)
    value, less_null, corrected = np.moveaxis(found, 2, 0)
    assert np.abs(value).max() < 0.01 and np.abs(corrected).max() < 0.01
    assert within_three_errors(corrected).all()
    # The null is too much to take away where scores link; D_sys at small prior odds has hardly any.
    assert not within_three_errors(less_null)[1] and less_null[:, 1].mean() < -0.015
    assert omega < 1 or not within_three_errors(less_null)[0]


@pytest.mark.parametrize(
    ("start", "d_sys", "maximal", "bins"), [(0.5, 0.5, np.log2(1.5), 150), (2, 1.0, 1.0, BINS)]
)
def test_agrees_with_uniform_and_disjoint_densities(start, d_sys, maximal, bins):
    random = np.random.default_rng(6)
    found = estimates(
        lambda: (random.uniform(start, start + 1, MANY), random.uniform(0, 1, MANY)),
        (d_sys, maximal),
        1,
        bins,
    )
    value, less_null, corrected = np.moveaxis(found, 2, 0)
    assert np.abs(value).max() < 0.012 and np.abs(corrected).max() < 0.01
    assert within_three_errors(corrected).all() and not within_three_errors(less_null).any()


@pytest.mark.parametrize(("bins", "high"), [(BINS, (0.095, 0.198)), (30, (0.047, 0.110))])
def test_unlinkable_scores_are_linkable_by_chance_alone(bins, high):
    random, found = np.random.default_rng(bins), []
    for seed in range(40):
        of = linkability(*random.normal(size=(2, 1000)), permutations=40, seed=seed, bins=bins)
        found.append(
            [(each.value, each.null, each.null_spread, each.corrected) for each in (of.d_sys, of.maximal)]
        )
    value, null, spread, corrected = np.moveaxis(np.array(found), 2, 0)
    assert value.mean(axis=0) == pytest.approx(high, abs=0.006)
    error = 3 * spread.mean(axis=0) / np.sqrt(len(found))
    assert (np.abs((value - null).mean(axis=0)) < error).all() and (
        np.abs(corrected.mean(axis=0)) < 2 * error
    ).all()


def test_the_null_is_that_of_permuted_labels():
    random = np.random.default_rng(3)
    mated, non_mated = random.normal(1, 1, 200), random.normal(0, 1, 900)
    both, expected = np.concatenate([mated, non_mated]), []
    edges = np.linspace(both.min(), both.max(), 31)
    for _ in range(400):
        order = random.permutation(both)
        p, q = (np.histogram(side, edges)[0] / len(side) for side in (order[:200], order[200:]))
        expected.append(
            [p @ (np.maximum(p - q, 0) / np.maximum(p + q, 1e-9)), np.log2(np.maximum(p, q).sum())]
        )
    found = linkability(mated, non_mated, bins=30, permutations=400)
    for each, of in zip((found.d_sys, found.maximal), np.array(expected).T, strict=True):
        assert each.null == pytest.approx(of.mean(), abs=4 * of.std() / 20)
        assert each.null_spread == pytest.approx(of.std(), rel=0.2)


def test_uniform_and_disjoint_scores():
    grid = (np.arange(100_000) + 0.5) / 100_000
    half = linkability(
        grid + 0.5, grid, bins=300
    )  # a third of the bins each: mates alone, both, non-mates alone
    assert (half.d_sys.value, half.maximal.value) == pytest.approx((0.5, np.log2(1.5)), abs=1e-3)
    assert half.local[[0, 150, 299]] == pytest.approx((0, 0, 1), abs=0.05)
    apart = linkability(grid + 2, grid)
    assert (apart.d_sys.value, apart.maximal.value) == (1, 1)
    assert (apart.d_sys.corrected, apart.maximal.corrected) == pytest.approx((1, 1), abs=1e-3)


def test_spread_over_people_is_that_of_repeated_samples():
    random, found = np.random.default_rng(4), []
    for _ in range(20):
        shift = np.repeat(random.normal(2, 0.7, 50), 10)  # scores of one person belong together
        mated, non_mated = shift + random.normal(size=500), random.normal(size=5000)
        drawn = np.stack([np.bincount(random.integers(0, 50, 50), minlength=50) for _ in range(100)])
        of = np.repeat(np.arange(50), 10), np.repeat(np.arange(50), 100)
        found.append(linkability(mated, non_mated, bins=20, permutations=2, people=People(*of, drawn)).d_sys)
    assert np.mean([each.spread for each in found]) == pytest.approx(
        np.std([e.value for e in found]), rel=0.4
    )
    low, high = found[0].interval()
    assert low < found[0].value < high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mated": []}, "mated scores, got none"),
        ({"non_mated": []}, "non-mated scores, got none"),
        ({"mated": [np.nan, 1.0]}, "not finite"),
        ({"omega": 0.0}, "omega"),
        ({"omega": -1}, "omega"),
        ({"bins": 1}, "bins"),
        ({"mated": [1.0], "non_mated": [1.0]}, "all scores"),
    ],
)
def test_bad_input(change, said):
    with pytest.raises(UserError, match=said):
        linkability(**{"mated": [0.1, 0.9], "non_mated": [0.0, 0.5], **change})
