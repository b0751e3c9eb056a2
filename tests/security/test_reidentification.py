"""Searches against galleries that are drawn and counted, and models against what they were made from."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import expon, hypergeom, linregress

from jaxalign.core.errors import UserError
from jaxalign.security.reidentification import extrapolated, reidentify, search_sets

ENROLLED, PROBES = 30, 60


@pytest.fixture(scope="module")
def searched():
    """Scores of searches for 60 photographs of enrolled people and 500 of strangers, and each mate's column."""
    random = np.random.default_rng(8)
    own = random.integers(0, ENROLLED, PROBES)
    mated, non_mated = random.normal(size=(PROBES, ENROLLED)), random.normal(size=(500, ENROLLED))
    mated[np.arange(PROBES), own] += 2.5
    return mated, non_mated, own


def test_rates_are_those_of_galleries_drawn_at_random(searched):
    mated, non_mated, own = searched
    found, random = reidentify(*searched, sizes=[5, 12, 30], fpir=[0.05]), np.random.default_rng(9)
    mate = mated[np.arange(PROBES), own]
    k = np.array([np.sum(np.delete(row, at) >= row[at]) for row, at in zip(mated, own)])
    for number, size in enumerate(found.sizes):
        exact = hypergeom.pmf(0, ENROLLED - 1, k, size - 1)
        assert found.rank1[number].estimate == pytest.approx(exact.mean(), abs=1e-12)
        # The threshold is the smallest that keeps to the rate; its FPIR is that of galleries drawn one by one.
        draws = [random.choice(ENROLLED, size, replace=False) for _ in range(300)]
        best = np.stack([non_mated[:, draw].max(axis=1) for draw in draws])
        threshold = np.quantile(best, 0.95)
        hit = (exact * (mate >= threshold)).mean()
        assert found.hits[0.05][number].estimate == pytest.approx(hit, abs=0.03)
    assert found.rank1[-1].estimate == pytest.approx(np.mean(mated.argmax(axis=1) == own), abs=1e-12)


def test_resamples_weigh_searches_by_people(searched):
    people = np.arange(PROBES) // 6, 10 + np.arange(500) // 50
    weights = np.random.default_rng(10).integers(0, 3, (4, 20))
    found = reidentify(*searched, sizes=[10, 30], fpir=[0.05, 1e-3], people=people, weights=weights)
    mated, _, own = searched
    right = mated.argmax(axis=1) == own
    expected = [np.average(right, weights=draw[people[0]]) for draw in weights]
    assert found.rank1[-1].samples == pytest.approx(expected)
    assert found.hits[0.05][0].samples.shape == (4,)
    assert np.isnan(found.hits[1e-3][0].estimate)  # half a false positive is expected


def test_models_are_near_a_gallery_that_was_never_enrolled():
    random, size = np.random.default_rng(11), 4000
    own, mate = np.zeros(1000, int), random.normal(10.0, 2.0, 1000)
    mated, non_mated = random.exponential(size=(2, 1000, 200))  # of strangers: a Pareto tail of shape 0
    mated[:, 0] = mate
    found = reidentify(mated, non_mated, own, sizes=[10, 20, 50, 100, 200], fpir=[0.05])
    line, pareto = extrapolated(found, size)
    assert (line.fitted_on, pareto.fitted_on) == ((10, 20, 50, 100, 200), (200,))
    straight: Any = linregress(np.log(found.sizes), [rate.estimate for rate in found.rank1])
    assert line.rank1 == pytest.approx(min(1, straight.intercept + straight.slope * np.log(size)), abs=1e-9)
    first = expon.cdf(mate) ** (size - 1)
    threshold = expon.ppf(0.95 ** (1 / size))
    assert pareto.rank1 == pytest.approx(first.mean(), abs=0.04)
    assert pareto.hits[0.05] == pytest.approx((first * (mate >= threshold)).mean(), abs=0.06)


def test_sets_enrol_half_of_the_people_and_no_copy_searches():
    person, image = np.repeat(np.arange(20), 3), np.arange(60)
    image[1::3] = image[::3]  # the second photograph is a copy of the first
    sets = search_sets(person, image, seed=1)
    assert len(sets.gallery) == 10 and (sets.gallery % 3 == 0).all()
    assert np.isin(person[sets.mated], person[sets.gallery]).all() and (sets.mated % 3 == 2).all()
    assert not np.isin(person[sets.non_mated], person[sets.gallery]).any() and len(sets.non_mated) == 30


def test_bad_input(searched):
    for sizes in ([], [1, 5], [5, 31], [9, 5]):
        with pytest.raises(UserError, match="2 to 30"):
            reidentify(*searched, sizes=sizes)
    with pytest.raises(UserError, match="at least 3"):
        extrapolated(reidentify(*searched, sizes=[5, 30]))
    with pytest.raises(UserError, match="enrolled"):
        search_sets(np.arange(6))
