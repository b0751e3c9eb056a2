"""Scores that a cohort corrects, against float64 NumPy."""

import brute_force
import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxalign import UserError, biometrics
from jaxalign.biometrics import Cohort, Comparator, EvaluationPlan
from jaxalign.biometrics.pair_lists import PairList

TOP, WIDTH = 5, 12
PEOPLE = np.repeat(np.arange(30), 3)  # of the cohort
TESTED = 100 + np.repeat(np.arange(25), 4)


def comparator(score, cohort=None, **options) -> Comparator:
    found = biometrics.comparator(score, cohort, **options)
    assert found is not None
    return found


def sides(people, seed):
    """Two sides of rows around people, float64; the second is not centred."""
    random = np.random.default_rng(seed)
    centre = random.standard_normal((people.max() + 1, WIDTH))[people]
    return [centre + 0.7 * random.standard_normal((len(people), WIDTH)) + shift for shift in (0.0, 0.3)]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def centroids(rows, people):
    return unit(np.stack([unit(rows)[people == person].mean(axis=0) for person in np.unique(people)]))


def log_ratios(source, target, people):
    """The two-covariance model of these rows, by densities: a function of rows of both sides to all their ratios."""
    means = unit(source).mean(axis=0), unit(target).mean(axis=0)
    rows = np.concatenate([unit(side) - mean for side, mean in zip((source, target), means)])
    of = [rows[np.tile(people, 2) == person] for person in np.unique(people)]
    within = sum(len(few) * np.cov(few.T, bias=True) for few in of) / (len(rows) - len(of))
    within = 0.4 * within + 0.6 * np.trace(within) / WIDTH * np.eye(WIDTH)
    between = np.mean([np.outer(few.mean(axis=0), few.mean(axis=0)) for few in of], axis=0)
    each = multivariate_normal(np.zeros(WIDTH), between + within).logpdf
    one = np.block([[between + within, between], [between, between + within]])

    def ratios(x, y):
        x, y = unit(x) - means[0], unit(y) - means[1]
        pairs = np.concatenate([np.repeat(x, len(y), axis=0), np.tile(y, (len(x), 1))], axis=1)
        joint = multivariate_normal(np.zeros(2 * WIDTH), one).logpdf(pairs)  # pyright: ignore[reportArgumentType]
        joint = np.reshape(joint, (len(x), len(y)))
        return joint - each(x).reshape(-1, 1) - each(y)

    return ratios


def expected_scores(name, probes, gallery, source, target, people):
    """All scores by the definitions, in float64."""
    score = log_ratios(source, target, people) if "plda" in name else lambda x, y: unit(x) @ unit(y).T
    against = score(probes, centroids(target, people)), score(centroids(source, people), gallery).T
    cosines = score(probes, gallery)
    nearest = [np.sort(found, axis=1)[:, -TOP:] for found in against]
    if name == "plda":
        return cosines
    if "cohort" in name:
        x, y = (found.mean(axis=1) for found in nearest)
        return cosines - (x[:, None] + y) / 2
    if name == "dual_softmax":
        x, y = (0.05 * np.log(np.exp(found / 0.05).sum(axis=1)) for found in against)
        return cosines - (x[:, None] + y) / 2
    (mx, sx), (my, sy) = ((found.mean(axis=1), found.std(axis=1)) for found in nearest)
    return (cosines - 0.5 * (mx[:, None] + my)) / (sx[:, None] * sy) ** 0.25


def test_templates_are_weighted_by_low_hubness():
    (source, target), gallery = sides(PEOPLE, 1), sides(TESTED, 2)[1]
    cohort = Cohort.of(source, target, PEOPLE)
    for side, others in (("probes", target), ("gallery", source)):
        nearest = np.sort(unit(gallery) @ centroids(others, PEOPLE).T, axis=1)[:, -TOP:].mean(axis=1)
        np.testing.assert_allclose(cohort.nearness(gallery, side, TOP), nearest, atol=1e-12)
    weights = 1 - cohort.nearness(gallery, "gallery")
    templates, people = biometrics.pooled(gallery, TESTED, weights=weights)
    expected = [
        np.average(unit(gallery)[one == TESTED], axis=0, weights=weights[one == TESTED]) for one in people
    ]
    np.testing.assert_allclose(templates, expected, atol=1e-12)
    equal = biometrics.pooled(gallery, TESTED, weights=np.full(100, 7))[0]
    np.testing.assert_allclose(equal, biometrics.pooled(gallery, TESTED)[0], atol=1e-12)
    one = biometrics.pooled(gallery, TESTED, weights=1.0 * (np.arange(100) % 4 == 2))[0]
    np.testing.assert_allclose(one, unit(gallery)[2::4], atol=1e-12)
    for bad in (weights[1:], -weights, np.full(100, np.nan), np.full(100, "1"), np.ones((100, 1))):
        with pytest.raises(UserError, match="weights: expected a finite number of 0 or more for each of 100"):
            biometrics.pooled(gallery, TESTED, weights=bad)
    with pytest.raises(UserError, match="all rows of '124' have the weight 0"):
        biometrics.pooled(gallery, TESTED, weights=1.0 * (TESTED < 124))
    with pytest.raises(UserError, match="1 to 30"):
        cohort.nearness(gallery, "gallery", 31)


@pytest.mark.parametrize("kept_scores", [None, 0], ids=["sorted", "counted"])
@pytest.mark.parametrize("name", biometrics.SCORES[1:])
def test_scores_are_inner_products_and_rates_are_those_of_brute_force(name, kept_scores):
    (source, target), (probes, gallery) = sides(PEOPLE, 1), sides(TESTED, 2)
    score = comparator(name, Cohort.of(source, target, PEOPLE), top=TOP)
    scores = expected_scores(name, probes, gallery, source, target, PEOPLE)
    found = score.vectors(probes, "probes") @ score.vectors(gallery, "gallery").T
    assert found.shape == scores.shape and score.vectors(gallery, "gallery").shape == (100, WIDTH + 2)
    np.testing.assert_allclose(found, scores, atol=1e-6)
    plan = EvaluationPlan.of(TESTED, kept_scores=kept_scores)
    with jax.enable_x64(True):
        result = biometrics.evaluate(probes, gallery, plan, score=score, least_false_matches=0)
    assert result.verification
    mated, own = TESTED[:, None] == TESTED, np.arange(len(TESTED))
    genuine, impostor = brute_force.split(scores, mated, own)
    assert result.verification.auc == pytest.approx(brute_force.auc(genuine, impostor), abs=1e-4)
    for point in result.verification.rates.points:
        threshold = np.sort(impostor)[-int(np.floor(point.fmr * len(impostor))) - 1]
        assert point.tmr == np.mean(genuine > threshold)
        assert point.threshold == pytest.approx(threshold, abs=1e-6)
    ranks = brute_force.ranked(scores, mated, own, False).rank
    assert result.identification["excluded"].rank_k[1] == np.mean(ranks == 1)


def test_pooled_templates_and_listed_pairs_are_scored_the_same_way():
    (source, target), (probes, gallery) = sides(PEOPLE, 1), sides(TESTED, 2)
    score = comparator("cohort", Cohort.of(source, target, PEOPLE), top=TOP)
    templates = np.stack([unit(gallery)[person == TESTED].mean(axis=0) for person in np.unique(TESTED)])
    scores = expected_scores("cohort", probes, templates, source, target, PEOPLE)
    for row, person in enumerate(np.searchsorted(np.unique(TESTED), TESTED)):  # without the probe's own image
        others = (TESTED[row] == TESTED) & (np.arange(len(TESTED)) != row)
        template = unit(gallery)[others].mean(axis=0, keepdims=True)
        alone = expected_scores("cohort", probes[row : row + 1], template, source, target, PEOPLE)
        scores[row, person] = alone.item()
    mated = TESTED[:, None] == np.unique(TESTED)
    best = scores[mated]
    rank = 1 + np.sum(~mated & (scores >= best[:, None]), axis=1)
    result = biometrics.evaluate(probes, gallery, TESTED, score=score, templates="pooled")
    assert result["rank1"] == np.mean(rank == 1)
    pairs = PairList(np.array([0, 5, 9]), np.array([1, 6, 40]), np.array([True, True, False]))
    listed = biometrics.evaluate(
        probes, gallery, TESTED, score=score, pairs=pairs, measures=("verification",)
    )
    all_scores = expected_scores("cohort", probes, gallery, source, target, PEOPLE)
    assert listed.pairs
    np.testing.assert_allclose(listed.pairs.scores, all_scores[[0, 5, 9], [1, 6, 40]], atol=1e-6)


def test_half_the_mean_without_spread_is_the_cohort_score():
    (source, target), (probes, _) = sides(PEOPLE, 1), sides(TESTED, 2)
    cohort = Cohort.of(source, target, PEOPLE)
    one, other = comparator("cohort", cohort), comparator("snorm", cohort, shift=0.5, power=0.0)
    np.testing.assert_allclose(one.vectors(probes, "probes"), other.vectors(probes, "probes"), atol=1e-12)


def test_log_likelihood_ratios_need_no_more_rows_than_dimensions_and_ignore_columns_of_zeros():
    (source, target), (probes, gallery) = sides(PEOPLE[:6], 1), sides(TESTED, 2)

    def wider(*rows):
        return [np.pad(side, ((0, 0), (0, 5))) for side in rows]

    score = comparator("plda", Cohort.of(source, target, PEOPLE[:6]), top=1)
    source, target = wider(source, target)
    padded = comparator("plda", Cohort.of(source, target, PEOPLE[:6]), top=1)
    found = score.of_pairs(probes, gallery)
    assert (
        np.isfinite(found).all() and found[TESTED > 0].mean() > score.of_pairs(probes, gallery[::-1]).mean()
    )
    np.testing.assert_allclose(padded.of_pairs(*wider(probes, gallery)), found, atol=1e-9)


def test_refusals():
    (source, target), (probes, gallery) = sides(PEOPLE, 1), sides(TESTED, 2)
    cohort = Cohort.of(source, target, PEOPLE)
    alike = source[PEOPLE] + 1e-6 * target  # of one person
    for named, wrong in (
        ("top", lambda: comparator("cohort", cohort, top=31)),
        ("top", lambda: comparator("cohort", cohort, top=0)),
        ("score", lambda: comparator("zscore", cohort)),
        ("cohort", lambda: comparator("cohort")),
        ("temperature", lambda: comparator("cohort", cohort, temperature=1.0)),
        ("width", lambda: Cohort.of(source, target[:, 1:], PEOPLE)),
        ("identity", lambda: Cohort.of(source, target, PEOPLE[1:])),
        ("side", lambda: comparator("cohort", cohort).vectors(probes, "source")),
        (
            "rows of its people",
            lambda: comparator("plda", Cohort(cohort.source, cohort.target, cohort.digests)),
        ),
        ("1 people", lambda: comparator("plda", Cohort.of(source[:3], target[:3], PEOPLE[:3]), top=1)),
        (
            "differ",
            lambda: comparator("plda", Cohort.of(np.ones((4, 3)), np.ones((4, 3)), PEOPLE[:4]), top=1),
        ),
        ("differ", lambda: comparator("plda", Cohort.of(alike, alike, PEOPLE))),
        ("nan", lambda: comparator("plda", Cohort.of(np.nan * source, target, PEOPLE))),
    ):
        with pytest.raises(UserError, match=named):
            wrong()
    score = comparator("cohort", cohort)
    for tested in (TESTED - 100, EvaluationPlan.of(TESTED - 100)):
        with pytest.raises(UserError, match="25 of its 30"):
            biometrics.evaluate(probes, gallery, tested, score=score)
    with pytest.raises(UserError, match="width"):
        biometrics.evaluate(probes[:, 1:], gallery[:, 1:], TESTED, score=score)
    for value, trouble in ((0, "zero"), (np.nan, "not finite")):
        probes[3] = value
        for name in ("cohort", "plda"):
            with pytest.raises(UserError, match=f"probes.* {trouble}"):
                biometrics.evaluate(probes, gallery, TESTED, score=comparator(name, cohort))
