"""Rates of resampled people against a bootstrap that repeats every comparison, on the same resampled people."""

import brute_force
import numpy as np
import pytest

from jaxalign import UserError, biometrics
from jaxalign.biometrics import EvaluationPlan, Resampling, curve_points, graded
from jaxalign.biometrics.counting import Counter

RATES = (0.01, 0.1)
RESAMPLES = 6


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    identities = random.permutation(np.repeat(np.arange(18), random.integers(1, 6, 18)))
    centres = random.standard_normal((18, 16))
    sides = [centres[identities] + 1.3 * random.standard_normal((len(identities), 16)) for _ in "ab"]
    plan = EvaluationPlan.of(identities)
    return identities, sides, plan, Resampling.of(plan, resamples=RESAMPLES, seed=2)


def resampled(identities, sides, weights):
    """Genuine and impostor scores, each as often as its people are drawn; a person is never their own impostor."""
    scores = brute_force.cosines(*sides).astype(np.float32)
    mated = identities[:, None] == identities
    genuine = mated & ~np.eye(len(identities), dtype=bool)
    drawn = weights[identities]
    repeats = np.broadcast_to(drawn[:, None], scores.shape)
    return np.repeat(scores[genuine], repeats[genuine]), np.repeat(
        scores[~mated], np.outer(drawn, drawn)[~mated]
    )


def rates_of(case, plan=None, thresholds=10**6):
    _, sides, usual, resampling = case
    left, right = (side.astype(np.float32) for side in sides)
    counter = Counter(left, right, plan or usual, "refuse", RATES)
    scored = counter.run()
    assert scored.axis is not None
    exact = scored.axis.rates(RATES, 0)
    return graded.graded_rates(counter, scored, exact, resampling.weights, thresholds), exact


def test_every_score_a_threshold_gives_the_numbers_of_repeated_comparisons(case):
    identities, sides, _, resampling = case
    found, exact = rates_of(case)
    one_step = 2.5 / min(len(resampled(identities, sides, w)[0]) for w in resampling.weights)
    assert found.auc()[0] == pytest.approx(exact.auc, abs=1e-6)
    for number, weights in enumerate(resampling.weights, start=1):
        genuine, impostor = resampled(identities, sides, weights)
        assert found.auc()[number] == pytest.approx(brute_force.auc(genuine, impostor), abs=1e-6)
        assert found.eer()[number] == pytest.approx(brute_force.eer(genuine, impostor), abs=one_step)
        for rate in RATES:
            _, accepted, _ = brute_force.operating_point(genuine, impostor, rate)
            assert found.tmr_at(rate)[number] == pytest.approx(accepted / len(genuine), abs=one_step)


def test_a_ladder_of_thresholds_is_close_to_all_of_them(case):
    every, _ = rates_of(case)
    ladder, _ = rates_of(case, thresholds=graded.THRESHOLDS)
    assert len(ladder.threshold) < 100 < len(every.threshold)
    assert np.abs(ladder.auc() - every.auc()).max() < 0.003
    assert np.all(np.abs(ladder.auc() - every.auc()) <= ladder.auc_error() + 1e-6)
    assert np.abs(ladder.eer() - every.eer()).max() < 0.02
    for rate in RATES:
        assert (
            np.abs(ladder.tmr_at(rate) - every.tmr_at(rate)).max() < 0.06
        )  # one in twenty of 80 comparisons


def test_scores_that_are_not_kept_and_counts_in_parts_change_nothing(case, monkeypatch):
    monkeypatch.setattr(graded, "FEW", 1e9)
    kept, _ = rates_of(case, thresholds=graded.THRESHOLDS)
    swept, _ = rates_of(case, EvaluationPlan.of(case[0], kept_scores=0), thresholds=graded.THRESHOLDS)
    np.testing.assert_allclose(
        np.interp(0.1, swept.fmr[1], swept.tmr[1]), np.interp(0.1, kept.fmr[1], kept.tmr[1]), atol=0.02
    )
    monkeypatch.setattr(graded, "COUNTS_AT_ONCE", 7 * 18**2)
    monkeypatch.setattr(graded, "FEW", 0.1)
    parts, _ = rates_of(case, thresholds=graded.THRESHOLDS)
    np.testing.assert_allclose(parts.fmr, kept.fmr, atol=1e-6)
    np.testing.assert_array_equal(parts.tmr, kept.tmr)


def test_measures_have_the_exact_estimates_and_repeated_means(case):
    identities, sides, plan, resampling = case
    options = {"fmr": RATES, "least_false_matches": 0, "people_weights": resampling.weights}
    evaluation = biometrics.evaluate(sides[0], sides[1], plan, **options)
    found = resampling.measures(evaluation)
    for measure in evaluation.measures():
        assert found[measure[:2]].estimate == pytest.approx(measure.value)
    result = evaluation.identification["excluded"]
    for sample, cut, weights in zip(
        found["excluded", "map"].samples, found["excluded", "map50"].samples, resampling.weights
    ):
        times = weights[identities[result.probe]]
        assert sample == pytest.approx(np.repeat(result.average_precision, times).mean())
        assert cut == pytest.approx(np.nanmean(np.repeat(result.average_precision_50, times)))


def test_curves_go_through_the_measures(case):
    _, sides, plan, resampling = case
    options = {"fmr": (0.1,), "least_false_matches": 0, "people_weights": resampling.weights}
    evaluation = biometrics.evaluate(sides[0], sides[1], plan, **options)
    points = list(curve_points(evaluation, resampling))
    ranks = {point.at: point.value for point in points if point[:2] == ("excluded", "cmc")}
    assert ranks[1] == evaluation.identification["excluded"].rank_k[1]
    rates = {point.at: point for point in points if point.measure == "tmr"}
    assert rates[0.1].value == pytest.approx(evaluation.verification.tmr[0.1])  # pyright: ignore
    assert all(a.value <= b.value for a, b in zip(list(rates.values()), list(rates.values())[1:]))
    assert all(point.low <= point.value + 0.1 and point.high >= point.value - 0.1 for point in points)  # pyright: ignore
    without = list(curve_points(biometrics.evaluate(sides[0], sides[1], plan)))
    assert without and all(point.low is None for point in without)


def test_people_of_other_test_sets_are_refused(case):
    _, sides, plan, _ = case
    other = Resampling.of(EvaluationPlan.of(np.roll(case[0], 1)), resamples=2)
    with pytest.raises(UserError, match="another test set"):
        other.measures(biometrics.evaluate(sides[0], sides[1], plan))


@pytest.mark.parametrize("people", [17, 19])
def test_weights_of_other_people_are_refused(case, people):
    _, sides, plan, _ = case
    with pytest.raises(UserError, match=rf"shape \[resamples, 18\], got \[2, {people}\]"):
        biometrics.evaluate(sides[0], sides[1], plan, people_weights=np.ones((2, people), np.int32))
