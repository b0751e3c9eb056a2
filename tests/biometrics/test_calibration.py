"""Calibration against analytic values, scikit-learn and SciPy."""

import functools

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from jaxalign import UserError
from jaxalign.biometrics import (
    Calibration,
    Cohort,
    act_dcf,
    calibration_loss,
    cllr,
    comparator,
    cross_calibrated,
    decision_costs,
    decisions,
    min_cllr,
    min_dcf,
)
from jaxalign.core.people import identity_folds


def normal(d, count=1_000_000):
    """Scores of mates N(d, 1) and of others N(0, 1) at equally likely quantiles."""
    quantiles = norm.ppf((np.arange(count) + 0.5) / count)
    return quantiles + d, quantiles


@functools.cache
def drawn(ties=False, d=1.5):
    """Scores and whether they are genuine, 300 and 2,000."""
    random = np.random.default_rng(3)
    scores = np.concatenate([random.normal(d, 1, 300), random.normal(0, 1, 2000)])
    return np.round(scores, 1) if ties else scores, np.arange(2300) < 300


@pytest.mark.parametrize("d, expected", [(1, 0.839253), (2, 0.514056), (4, 0.087178)])
def test_cost_of_the_true_ratio_of_two_normal_distributions(d, expected):
    genuine, impostor = (d * side - d * d / 2 for side in normal(d))
    assert cllr(genuine, impostor) == pytest.approx(expected, abs=1e-6)
    assert min_cllr(genuine, impostor) == pytest.approx(expected, abs=1e-4)
    assert calibration_loss(2 * genuine, 2 * impostor) > 0.01
    random = np.random.default_rng(1)
    mates, others = (random.normal(sign * d * d / 2, d, 40_000) for sign in (1, -1))
    costs = np.logaddexp(0, -mates) / np.log(2), np.logaddexp(0, others) / np.log(2)
    error = np.sqrt(sum(side.var(ddof=1) / len(side) for side in costs)) / 2
    assert abs(cllr(mates, others) - expected) < 3 * error
    scores = np.concatenate(normal(d, 10_000))
    rule = Calibration.fit(scores, np.arange(20_000) < 10_000, prior=0.1)
    np.testing.assert_allclose(rule.values, [-d * d / 2, d], rtol=2e-3)


@pytest.mark.parametrize("d, expected", [(2, 0.951057), (4, 0.278481)])
def test_detection_cost_of_two_normal_distributions(d, expected):
    threshold = d / 2 + np.log(99) / d
    exact = norm.cdf(threshold - d) + 99 * norm.sf(threshold)
    assert exact == pytest.approx(expected, abs=5e-7)
    # Rates counted at quantiles k / n are those of the distributions; quantiles (k + ½) / n would miss 99 / 2n here.
    shares = np.arange(1_000_001) / 1_000_000
    genuine, impostor = norm.ppf(shares[:-1]) + d, norm.ppf(shares[1:])
    assert min_dcf(genuine, impostor, prior=0.01) == pytest.approx(exact, abs=1e-6)
    found = act_dcf(d * genuine - d * d / 2, d * impostor - d * d / 2, prior=0.01)
    misses, matches = (genuine < threshold).mean(), (impostor >= threshold).mean()
    assert found == pytest.approx(misses + 99 * matches, abs=1e-12)
    assert found == pytest.approx(exact, abs=99e-6)  # one impostor comparison at a fixed threshold


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("prior", [0.01, 0.5, 0.9])
def test_least_detection_cost_is_that_of_every_distinct_score_tried(ties, prior):
    scores, same = drawn(ties)
    tried = np.append(np.unique(scores), np.inf)
    costs = [
        prior * 5 * (scores[same] < one).mean() + (1 - prior) * 2 * (scores[~same] >= one).mean()
        for one in tried
    ]
    found = min_dcf(scores[same], scores[~same], prior=prior, cost_miss=5, cost_false=2)
    assert found == pytest.approx(min(costs) / min(5 * prior, 2 - 2 * prior), abs=1e-12)


def test_costs_count_ties_and_accepting_nothing():
    genuine, impostor = np.array([0.0, 1.0, 2.0, 2.0]), np.array([0.0, 0.0, 1.0, 3.0])
    weights = 0.3 * 5, 0.7 * 2
    at = [(genuine < t).mean() * weights[0] + (impostor >= t).mean() * weights[1] for t in (0, 1, 2, 3, 4)]
    found = min_dcf(genuine, impostor, prior=0.3, cost_miss=5, cost_false=2)
    assert found == pytest.approx(min(at) / min(weights))
    assert min_dcf([0.0], [1.0]) == 1 and act_dcf([-np.inf], [-np.inf]) == 1
    assert cllr([np.inf], [-np.inf]) == 0 and cllr([-np.inf], [0.0]) == np.inf


@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_logistic_rule_is_that_of_scikit_learn(prior):
    scores, genuine = drawn()
    weights = np.where(genuine, prior / 300, (1 - prior) / 2000) * 1e4
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    peer.fit(scores[:, None], genuine, sample_weight=weights)
    found = Calibration.fit(scores, genuine, prior=prior)
    expected = peer.decision_function(scores[:, None]) - logit(prior)
    np.testing.assert_allclose(found(scores), expected, rtol=1e-5, atol=1e-5)
    moved = Calibration.fit(1e-3 * scores - 7, genuine, prior=prior)
    np.testing.assert_allclose(moved(1e-3 * scores - 7), found(scores), atol=1e-8)


@pytest.mark.parametrize("ties", [False, True])
def test_isotonic_rule_is_that_of_scikit_learn(ties):
    scores, genuine = drawn(ties)
    ends = np.repeat([scores.min(), scores.max()], 2)
    values, kinds = np.append(scores, ends), np.append(genuine, [1, 0, 1, 0])
    expected = logit(IsotonicRegression().fit(values, kinds).predict(scores)) - np.log(302 / 2002)
    rule = Calibration.fit(scores, genuine, kind="isotonic")
    np.testing.assert_allclose(rule(scores), expected, atol=1e-9)
    assert np.isfinite(rule([-100.0, 100.0])).all()
    share = IsotonicRegression().fit(scores, genuine).predict(scores)
    with np.errstate(divide="ignore"):
        ratios = logit(share) - np.log(300 / 2000)
    assert min_cllr(scores[genuine], scores[~genuine]) == pytest.approx(
        cllr(ratios[genuine], ratios[~genuine]), abs=1e-12
    )
    assert calibration_loss(ratios[genuine], ratios[~genuine]) == pytest.approx(0, abs=1e-12)


def test_comparisons_are_calibrated_by_other_people():
    random = np.random.default_rng(0)
    people = np.array([f"p{number}" for number in range(40)])
    left, right = (side.ravel() for side in np.meshgrid(people, people))
    left, right = np.tile(left, 2), np.tile(right, 2)
    scores = random.normal(size=len(left)) + 2 * (left == right)
    found = cross_calibrated(scores, left, right, folds=4, prior=0.2)
    fold = dict(zip(np.sort(people), identity_folds(np.sort(people), 4)))
    for row in (0, 1, 41, 1700):
        own = {fold[left[row]], fold[right[row]]}
        others = [fold[x] not in own and fold[y] not in own for x, y in zip(left, right)]
        rule = Calibration.fit(scores[others], (left == right)[others], prior=0.2)
        assert found[row] == pytest.approx(rule(scores[row]).item(), abs=1e-12)


@pytest.mark.parametrize(
    "named, wrong",
    [
        ("prior", lambda s, g: Calibration.fit(s, g, prior=1.0)),
        ("prior", lambda s, g: min_dcf(s[g], s[~g], prior=0.0)),
        ("prior", lambda s, g: act_dcf(s[g], s[~g], prior=np.nan)),
        ("cost_false", lambda s, g: min_dcf(s[g], s[~g], cost_false=0)),
        ("kind", lambda s, g: Calibration.fit(s, g, kind="platt")),
        ("0 genuine", lambda s, g: Calibration.fit(s[~g], g[~g])),
        ("0 impostor", lambda s, g: Calibration.fit(s[g], g[g], kind="isotonic")),
        ("genuine", lambda s, g: Calibration.fit(s, g[1:])),
        ("genuine", lambda s, g: Calibration.fit(s, g + 1)),
        ("number 7 ", lambda s, g: Calibration.fit(np.where(np.arange(len(s)) == 7, np.inf, s), g)),
        ("impostor: number 0 ", lambda s, g: cllr(s[g], [np.nan])),
        ("genuine", lambda s, g: cllr([], s)),
        ("isotonic", lambda s, g: Calibration.fit(1.0 * g, g)),
        ("isotonic", lambda s, g: Calibration.fit(0.0 * s, g)),
        ("folds", lambda s, g: cross_calibrated(s, g, g, folds=2)),
        ("fewer people", lambda s, g: cross_calibrated(s, g, g)),
        ("identities", lambda s, g: cross_calibrated(s, g, g[1:])),
    ],
)
def test_refusals(named, wrong):
    with pytest.raises(UserError, match=named):
        wrong(*drawn())


@pytest.mark.parametrize("score", ["cosine", "cohort"])
def test_decision_costs_of_rows_are_those_of_their_scores(score):
    random = np.random.default_rng(5)
    people, others = np.repeat(np.arange(12), 4), np.repeat(np.arange(100, 130), 2)
    centres = {person: random.normal(size=6) for person in [*range(12), *range(100, 130)]}

    def photographs(of):
        return np.stack([centres[person] for person in of]) + random.normal(size=(len(of), 6))

    probes, gallery = photographs(people), photographs(people)
    cohort = Cohort.of(photographs(others), photographs(others), others)
    images = np.arange(48)
    images[1] = 0  # a copy
    options = {"prior": 0.2, "cost_miss": 3.0, "cost_false": 0.5, "seed": 2}
    rows = decision_costs(probes, gallery, people, images=images, score=comparator(score, cohort), **options)
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (probes, gallery))
    scores = x @ y.T
    if score == "cohort":
        near = [
            np.sort(a @ b.T, axis=1)[:, -20:].mean(axis=1)
            for a, b in ((x, cohort.target), (y, cohort.source))
        ]
        scores = scores - (near[0][:, None] + near[1]) / 2
    apart = images[:, None] != images
    genuine = (people[:, None] == people) & apart
    same, other = scores[genuine], scores[apart & ~genuine]
    probe, row = np.nonzero(apart)
    # Scikit-learn's rule for each comparison, from comparisons of people in neither of its folds.
    fold = identity_folds(people, 5, 2)
    ratios, truth = np.empty(len(probe)), people[probe] == people[row]
    for one in {*zip(fold[probe], fold[row])}:
        here = (fold[probe] == one[0]) & (fold[row] == one[1])
        fitted = ~np.isin(fold[probe], one) & ~np.isin(fold[row], one)
        rule = LogisticRegression(C=np.inf, class_weight="balanced", tol=1e-10)
        rule.fit(scores[apart][fitted, None], truth[fitted])
        ratios[here] = rule.decision_function(scores[apart][here, None])
    cost = (np.log2(1 + np.exp(-ratios[truth])).mean() + np.log2(1 + np.exp(ratios[~truth])).mean()) / 2
    thresholds = np.append(scores[apart], np.inf)
    misses = [(same < one).mean() for one in thresholds]
    matches = [(other >= one).mean() for one in thresholds]
    dcf = np.min(0.2 * 3 * np.array(misses) + 0.8 * 0.5 * np.array(matches)) / min(0.6, 0.4)
    found = {row.measure: row for row in rows}
    assert list(found) == ["cllr", "min_cllr", "calibration_loss", "min_dcf@prior=0.2"]
    assert found["cllr"].value == pytest.approx(cost, rel=1e-5)
    assert found["min_cllr"].value == pytest.approx(min_cllr(same, other), abs=1e-12)
    assert found["calibration_loss"].value == pytest.approx(found["cllr"].value - found["min_cllr"].value)
    assert found["min_dcf@prior=0.2"].value == pytest.approx(dcf, abs=1e-12)
    assert {row.comparisons for row in rows} == {48 * 48 - 48 - 2}


@pytest.mark.parametrize("score", ["cosine", "cohort"])
def test_scores_that_float32_cannot_tell_apart_have_their_exact_detection_cost(score):
    random = np.random.default_rng(8)
    people, others = np.repeat(np.arange(30), 4), np.repeat(np.arange(100, 130), 2)
    centres = random.normal(size=(130, 16))

    def photographs(of):  # of a large mean, so that cosines differ in the seventh digit
        return (2000 + centres[of] + 0.7 * random.normal(size=(len(of), 16))).astype(np.float32)

    probes, gallery = photographs(people), photographs(people)
    cohort = Cohort.of(photographs(others), photographs(others), others)
    by = comparator(score, cohort, **({"top": 30} if score == "cohort" else {}))
    found = {row.measure: row.value for row in decision_costs(probes, gallery, people, score=by)}
    x, y = (
        side.astype(float) / np.linalg.norm(side.astype(float), axis=1)[:, None] for side in (probes, gallery)
    )
    scores = x @ y.T
    if score == "cohort":
        near = [
            (side @ rows.astype(float).T).mean(axis=1)
            for side, rows in ((x, cohort.target), (y, cohort.source))
        ]
        scores -= (near[0][:, None] + near[1]) / 2
    mated, apart = people[:, None] == people, ~np.eye(120, dtype=bool)
    same, other = scores[mated & apart], scores[~mated]
    costs = [
        0.01 * (same < one).mean() + 0.99 * (other >= one).mean() for one in [*np.unique(scores), np.inf]
    ]
    assert found["min_dcf@prior=0.01"] == pytest.approx(min(costs) / 0.01, abs=1e-6)


def test_decision_costs_of_many_rows_and_of_people_that_one_threshold_parts(monkeypatch):
    random = np.random.default_rng(6)
    people = np.repeat(np.arange(40), 3)
    rows = np.eye(40)[people] + 0.02 * random.normal(size=(120, 40))
    assert np.isnan(decision_costs(rows, rows, people)[0].value)
    monkeypatch.setattr(decisions, "MOST_ROWS", 60)
    monkeypatch.setattr(decisions, "MOST_IMPOSTORS", 500)
    noisy = rows + 0.3 * random.normal(size=rows.shape)
    found = decision_costs(noisy, noisy, people)
    assert [row.comparisons for row in found] == [
        620,
        620,
        620,
        60 * 59,
    ]  # of 20 people with 3 rows, 120 genuine
    with pytest.raises(UserError, match="one person"):
        decision_costs(noisy, noisy, np.repeat(["a", "b"], [61, 59]))
