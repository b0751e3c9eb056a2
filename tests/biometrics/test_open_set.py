"""Open-set identification, against brute force and analytic values."""

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from brute_force import cosines, signs

from jaxalign import UserError
from jaxalign.biometrics import (
    Cohort,
    ParetoTail,
    candidates,
    comparator,
    draw,
    fpir_growth,
    open_set,
)
from jaxalign.core.rows import LazyRows

ENROLLED = np.repeat(np.arange(0, 60, 2), 2)  # two images of each
SEARCHING = np.repeat(np.arange(60), 4)
RATES = (0.03, 0.1, 1.0)


def rows(people, seed):
    """Rows of ±1, a third of which differ from their person's: cosines are exact in float32, and many are tied."""
    flips = np.random.default_rng(seed).random((len(people), 64)) < 0.33
    return np.where(flips, -1, 1).astype(np.float32) * signs(60, 0)[people]


def expected_rates(scores, enrolled, people, rate, size):
    """Achieved FPIR, FNIR of the best and of ``size`` candidates, and SEL, by their definitions."""
    mated = np.isin(people, enrolled)
    strange = scores[~mated]
    highest = np.unique(strange.max(axis=1))
    passing = [t for t in [*highest, np.inf] if np.mean(strange.max(axis=1) > t) <= rate]
    above = -np.inf if rate == 1 else passing[0]
    missed = {1: 0, size: 0}
    for row, person in zip(scores[mated], people[mated]):
        mate, others = row[enrolled == person].max(), row[enrolled != person]
        for k in missed:
            missed[k] += mate <= above or np.sum(others >= mate) >= k
    shares = [missed[k] / mated.sum() for k in (1, size)]
    return [np.mean((strange > above).any(axis=1)), *shares, np.mean((strange > above).sum(axis=1))]


@pytest.mark.parametrize("tile", [None, 64 // 2], ids=["one tile", "streamed"])
def test_rates_are_those_of_brute_force_with_ties(tile, monkeypatch):
    gallery, probes = rows(ENROLLED, 1), rows(SEARCHING, 2)
    if tile:  # several tiles, of which the last is padded, from rows that are read when they are needed
        monkeypatch.setattr(candidates, "TILE_ROWS", tile)
        monkeypatch.setattr(candidates, "padded", lambda size, multiple=tile: -(-size // multiple) * multiple)
        gallery = LazyRows.of(gallery)
    result = open_set(probes, gallery, SEARCHING, ENROLLED, fpir=RATES, candidates=3, least_false_positives=3)
    scores = cosines(probes, np.asarray(gallery))
    for rate in RATES:
        point = result[rate]
        expected = expected_rates(scores, ENROLLED, SEARCHING, rate, 3)
        assert [point.achieved, point.fnir, point.fnir_candidates, point.sel] == pytest.approx(
            expected, abs=1e-12
        )
        assert point.supported and point.false_positives == point.achieved * len(result.non_mated)
    assert len(result.mated) + len(result.non_mated) == len(SEARCHING)


def test_a_gallery_shorter_than_the_list_of_candidates_has_them_all():
    gallery, probes = rows(ENROLLED[:4], 1), rows(SEARCHING, 2)
    result = open_set(probes, gallery, SEARCHING, ENROLLED[:4], fpir=(1.0,), candidates=20)
    assert result[1.0].sel == 4 and result.fnir(candidates=20) == 0 == result[1.0].fnir_candidates
    assert result.fnir() == np.mean(result.others[:, 0] >= result.mate)


def test_a_rate_with_too_few_expected_false_positives_has_no_numbers():
    result = open_set(rows(SEARCHING, 2), rows(ENROLLED, 1), SEARCHING, ENROLLED, fpir=(0.04, 0.05))
    few, enough = result.points  # 4.8 and 6 of 120
    assert not few.supported and enough.supported
    assert np.isnan([few.fnir, few.fnir_candidates, few.sel, few.achieved, few.threshold]).all()
    named = {row.measure: row for row in result.measures()}
    assert list(named)[3:] == ["fnir@fpir=0.05", "fnir20@fpir=0.05", "sel@fpir=0.05"]
    row = named["fnir20@fpir=0.05"]
    assert (row.value, row.achieved, row.comparisons) == (enough.fnir_candidates, enough.achieved, 120)


def test_draws():
    names = np.array(["b", "a", "b", "e", "c", "c", "d", "d", "a", "a", "e", "f"])
    first = draw(names)  # a, b, c, d, e have two images or more; a, c, e are enrolled
    assert first.gallery.tolist() == [1, 3, 4] and first.probes.tolist() == [0, 2, 5, 6, 7, 8, 9, 10, 11]
    images = np.arange(len(names))
    images[[8, 10, 0]] = 1, 3, 1  # copies of the enrolled images of a and of e, and one of another person
    assert draw(names, images=images).probes.tolist() == [0, 2, 5, 6, 7, 9, 11]
    others = [draw(names, number, seed=3) for number in range(1, 30)]
    for gallery, probes in others:
        assert len(np.unique(names[gallery])) == 3 and "f" not in names[gallery]
        assert sorted([*gallery, *probes]) == list(range(len(names)))
    assert len({tuple(found.gallery) for found in others}) > 10
    again = draw(names, 1, seed=3)
    assert np.array_equal(again.gallery, others[0].gallery)


def test_intervals_of_resampled_people():
    result = open_set(rows(SEARCHING, 2), rows(ENROLLED, 1), SEARCHING, ENROLLED, fpir=(0.1,))
    weights = np.random.default_rng(0).integers(0, 3, (5, result.plan.people))
    weights[0] = 1
    found = result.resampled(weights)["fnir@fpir=0.1"]
    assert found.samples[0] == found.estimate == result[0.1].fnir
    for drawn, sample in zip(weights, found.samples):  # as if each image stood there so many times
        mated, strange = (drawn[result.plan.probe_codes[side]] for side in (result.mated, result.non_mated))
        top = np.sort(np.repeat(result.strangers[:, 0], strange))[::-1]
        threshold = top[int(0.1 * len(top))]
        missed = (result.mate <= threshold) | (result.others[:, 0] >= result.mate)
        assert sample == pytest.approx(np.repeat(missed, mated).mean(), abs=1e-12)


def refused(**changes):
    given = {"probes": rows(SEARCHING, 2), "gallery": rows(ENROLLED, 1), "probe_identities": SEARCHING}
    return open_set(**{**given, "gallery_identities": ENROLLED, **changes})


def test_refusals():
    many = np.zeros(60, int)
    for named, wrong in (
        ("two people", lambda: refused(gallery_identities=many)),
        ("none of 240 .* not enrolled", lambda: refused(probe_identities=SEARCHING // 2 * 2)),
        ("none of 240 .* enrolled", lambda: refused(probe_identities=SEARCHING + 100)),
        ("gallery_identities", lambda: refused(gallery_identities=None)),
        ("fpir", lambda: refused(fpir=(0.0,))),
        ("least_false_positives", lambda: refused(least_false_positives=-1)),
        ("candidates", lambda: refused(candidates=0)),
        ("probes.* 240", lambda: refused(probes=rows(SEARCHING, 2)[1:])),
        ("width", lambda: refused(gallery=rows(ENROLLED, 1)[:, 1:])),
        ("4 of 5 people|at least 3", lambda: draw(np.array([0, 0, 1, 1, 2]))),
        ("false_matches", lambda: fpir_growth([1.5], [10], 10)),
        ("sizes", lambda: fpir_growth([0.5], [0], 10)),
        ("tail", lambda: ParetoTail.of(np.arange(10.0), 100, -1.0)),
    ):
        with pytest.raises(UserError, match=named):
            wrong()
    cohort = Cohort.of(rows(SEARCHING, 5), rows(SEARCHING, 6), SEARCHING)
    with pytest.raises(UserError, match="60 of its 60"):
        refused(score=comparator("cohort", cohort))


def test_simulated_scores_reach_the_analytic_rates():
    """Mates N(d, 1), others N(0, 1), of 1,000 enrolled people: rows whose inner products are such scores."""
    random, size, count = np.random.default_rng(1), 1000, 4096
    highest = scipy.stats.norm.ppf(random.random((2, count)) ** (1 / size))  # of so many strangers
    limit = scipy.stats.norm.ppf(0.99 ** (1 / size))
    assert limit == pytest.approx(4.263771, abs=1e-6)

    def found_at(score, separation):
        return scipy.stats.norm.pdf(score - separation) * scipy.stats.norm.cdf(score) ** (size - 1)

    analytic = {3: (None, 0.411597), 4: (0.604778, 0.763962), 5: (0.231526, 0.950706), 6: (0.041532, None)}
    for separation, (expected, first) in analytic.items():
        mates = random.standard_normal(count) + separation
        # Two people are enrolled: a mate with its score, and the nearest of all strangers with its own.
        scale = 64.0
        probes = np.concatenate([[mates, highest[0]], [np.full(count, -20.0), highest[1]]], axis=1).T / scale
        rest = np.sqrt(1 - np.sum(probes**2, axis=1, keepdims=True))
        people = np.repeat([0, 2], count)
        with jax.enable_x64(True):
            result = open_set(np.hstack([probes, rest]), np.eye(3)[:2], people, [0, 1], fpir=(0.01,))
        if first:
            exact = scipy.integrate.quad(found_at, -5, 20, args=(separation,))[0]
            assert exact == pytest.approx(first, abs=1e-6)
            assert abs(1 - result.fnir() - first) < 3 * np.sqrt(first * (1 - first) / count)
        if not expected:
            continue
        exact = 1 - scipy.integrate.quad(found_at, limit, 20, args=(separation,))[0]
        assert exact == pytest.approx(expected, abs=1e-6)
        # The threshold is as uncertain as the FPIR that it was found for.
        slope = scipy.stats.norm.pdf(limit - separation) / (size * scipy.stats.norm.pdf(limit))
        error = np.sqrt(expected * (1 - expected) + slope**2 * 0.01 * 0.99) / np.sqrt(count)
        assert abs(result[0.01].fnir - expected) < 3 * error


def test_growth_with_the_gallery():
    rates = np.where(np.arange(1000) < 10, 1e-2, 1e-6)
    found = fpir_growth(rates, [1, 1000], counted_in=500)
    assert found.by_probe[1] == pytest.approx(0.0109891, abs=5e-8)
    assert found.independent[1] == pytest.approx(0.0960625, abs=5e-8)
    assert found.by_probe[0] == pytest.approx(rates.mean()) == found.independent[0]
    assert found.extrapolated.tolist() == [False, True]
    assert fpir_growth([1.0, 0.0], [5], 5).by_probe.tolist() == [0.5]


@pytest.mark.parametrize("shape", [0.0, -0.25, 0.2])
def test_the_pareto_tail_is_found_and_extrapolated(shape):
    random = np.random.default_rng(2)
    scores = np.asarray(scipy.stats.genpareto.rvs(shape, size=200_000, random_state=random))
    start = np.quantile(scores, 0.9)
    tail = ParetoTail.of(scores, len(scores), start, 1000)
    _, _, scale = scipy.stats.genpareto.fit(scores[scores > start] - start, floc=0)
    error = np.sqrt(4 / 3 / tail.excesses)  # of the shape by L-moments, where it is 0
    assert abs(tail.shape - shape) < 3 * error and tail.scale == pytest.approx(scale, rel=0.03)
    exact = scipy.stats.genpareto.ppf(0.99 ** (1 / 1000), shape)
    assert shape or exact == pytest.approx(11.507910, abs=1e-6)
    assert tail.threshold(1000, 0.01) == pytest.approx(exact, rel=0.08)
    assert tail.fpir(1000, tail.threshold(1000, 0.01)) == pytest.approx(0.01)
    assert np.isnan(tail.threshold(1, 0.5))
    exponential = ParetoTail(0.0, 1.0, 0.0, 1.0, 1000, 1000)
    assert exponential.threshold(1000, 0.01) == pytest.approx(11.507910, abs=1e-6)
    assert exponential.fpir(1000, 11.507910) == pytest.approx(0.01, rel=1e-6)


def test_the_tail_of_a_search_is_that_of_all_its_scores():
    result = open_set(rows(SEARCHING, 2), rows(ENROLLED, 1), SEARCHING, ENROLLED)
    tail = ParetoTail.of_search(result)
    assert tail.gallery == 60 and tail.comparisons == 60 * 120
    scores = cosines(rows(SEARCHING, 2)[result.non_mated], rows(ENROLLED, 1))
    assert tail.excesses == np.sum(scores > tail.start) and tail.share <= 0.1
