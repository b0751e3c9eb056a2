"""Resampling people against a bootstrap that repeats every comparison of each person drawn."""

import brute_force
import numpy as np
import pytest

from jaxalign import UserError, biometrics
from jaxalign.biometrics import EvaluationPlan, Resampling, curve_points, maximum, mean_of, resampled_rates

RATES = (0.01, 0.1)


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    identities = random.permutation(np.repeat(np.arange(18), random.integers(1, 6, 18)))
    centres = random.standard_normal((18, 16))
    sides = [centres[identities] + 1.3 * random.standard_normal((len(identities), 16)) for _ in "abc"]
    plan = EvaluationPlan.of(identities)
    return identities, [side.astype(np.float32) for side in sides], Resampling.of(plan, resamples=6, seed=2)


def evaluated(case, plan=None, gallery=1, **options):
    _, sides, resampling = case
    options = {"fmr": RATES, "least_false_matches": 0, "people_weights": resampling.weights, **options}
    return biometrics.evaluate(sides[0], sides[gallery], plan or resampling.plan, **options)


@pytest.fixture
def every_score_a_threshold(monkeypatch):
    monkeypatch.setattr(resampled_rates.resampled_rates, "__defaults__", (10**6,))


def repeated(case, weights):
    """Genuine and impostor scores, each as often as its people are drawn; a person is never their own impostor."""
    identities, sides, _ = case
    scores = brute_force.cosines(*sides[:2]).astype(np.float32)
    mated = identities[:, None] == identities
    genuine, drawn = mated & ~np.eye(len(identities), dtype=bool), weights[identities]
    probes = np.broadcast_to(drawn[:, None], scores.shape)
    pairs = np.outer(drawn, drawn)
    return np.repeat(scores[genuine], probes[genuine]), np.repeat(scores[~mated], pairs[~mated])


def test_with_every_score_a_threshold_rates_are_those_of_repeated_comparisons(case, every_score_a_threshold):
    resampling, evaluation = case[-1], evaluated(case)
    found = resampling.measures(evaluation)
    one_step = 2.5 / min(len(repeated(case, weights)[0]) for weights in resampling.weights)
    for number, weights in enumerate(resampling.weights):
        genuine, impostor = repeated(case, weights)
        assert found["", "auc"].samples[number] == pytest.approx(brute_force.auc(genuine, impostor), abs=1e-6)
        expected = brute_force.eer(genuine, impostor)
        assert found["", "eer"].samples[number] == pytest.approx(expected, abs=one_step)
        for rate in RATES:
            threshold, accepted, _ = brute_force.operating_point(genuine, impostor, rate)
            sample = resampling.tmr(evaluation, rate).samples[number]
            assert sample == pytest.approx(accepted / len(genuine), abs=one_step)
            sampled = resampling.threshold(evaluation, rate)
            assert evaluation.verification and sampled.estimate == evaluation.verification.threshold[rate]
            assert sampled.samples[number] == pytest.approx(threshold, abs=0.01)
            named = resampling.thresholds(evaluation)[f"tmr@fmr={rate:g}"]
            np.testing.assert_array_equal(named.samples, sampled.samples)


def test_a_ladder_of_thresholds_is_close_to_all_of_them(case, request):
    ladder = evaluated(case).resampled
    request.getfixturevalue("every_score_a_threshold")
    every = evaluated(case).resampled
    assert ladder is not None and every is not None
    assert len(ladder.threshold) < 100 < len(every.threshold)
    assert np.abs(ladder.auc() - every.auc()).max() < 0.003
    assert np.all(np.abs(ladder.auc() - every.auc()) <= ladder.auc_error() + 1e-6)
    assert np.abs(ladder.eer() - every.eer()).max() < 0.02
    for rate in RATES:  # one in twenty of 80 comparisons
        assert np.abs(ladder.tmr_at(rate) - every.tmr_at(rate)).max() < 0.06


def test_counted_scores_and_counts_in_parts_change_nothing(case, monkeypatch):
    monkeypatch.setattr(resampled_rates, "FEW", 1e9)
    kept = evaluated(case).resampled
    counted = evaluated(case, EvaluationPlan.of(case[0], kept_scores=0)).resampled
    monkeypatch.setattr(resampled_rates, "COUNTS_AT_ONCE", 7 * 18**2)
    monkeypatch.setattr(resampled_rates, "FEW", 0.1)
    parts = evaluated(case).resampled
    assert kept is not None and counted is not None and parts is not None
    found, expected = (np.interp(0.1, rates.fmr[1], rates.tmr[1]) for rates in (counted, kept))
    assert found == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose(parts.fmr, kept.fmr, atol=1e-6)
    np.testing.assert_array_equal(parts.tmr, kept.tmr)


def test_identification_weighs_probes_by_their_people(case):
    identities, _, resampling = case
    evaluation = evaluated(case)
    found = resampling.measures(evaluation)
    for measure in evaluation.measures():
        assert found[measure[:2]].estimate == pytest.approx(measure.value)
    result, (rank,) = evaluation.identification["excluded"], resampling.cmc(evaluation, [1], "excluded")
    assert rank.estimate == result.rank_k[1]
    for number, weights in enumerate(resampling.weights):
        times = weights[identities[result.probe]]
        assert rank.samples[number] == pytest.approx(np.repeat(result.rank == 1, times).mean())
        for name, values in (("map", result.average_precision), ("map50", result.average_precision_50)):
            sample = found["excluded", name].samples[number]
            assert sample == pytest.approx(np.nanmean(np.repeat(values, times)))


def test_an_evaluation_against_itself_gains_nothing(case):
    people = Resampling.of(case[-1].plan, resamples=50)
    evaluations = [evaluated(case, gallery=side, people_weights=people.weights) for side in (1, 2)]
    first, second = (people.tmr(evaluation, 0.01) for evaluation in evaluations)
    assert (first - first).interval() == (0, 0)
    gain = mean_of([first - maximum([first, second])])
    assert gain.estimate <= 0 and gain.interval()[1] <= 0
    low, high = first.interval(0.9)
    assert low < first.estimate < high


def test_curves_go_through_the_measures(case):
    resampling, evaluation = case[-1], evaluated(case, fmr=(0.1,))
    points = list(curve_points(evaluation, resampling))
    ranks = {point.at: point.value for point in points if point[:2] == ("excluded", "cmc")}
    assert ranks[1] == evaluation.identification["excluded"].rank_k[1]
    rates = {point.at: point for point in points if point.measure == "tmr"}
    assert rates[0.1].value == pytest.approx(evaluation.verification.tmr[0.1])  # pyright: ignore
    assert all(a.value <= b.value for a, b in zip(list(rates.values()), list(rates.values())[1:]))
    assert all(point.low <= point.value + 0.1 and point.high >= point.value - 0.1 for point in points)  # pyright: ignore
    without = list(curve_points(evaluated(case, people_weights=None)))
    assert without and all(point.low is None for point in without)


def test_refuses_what_it_cannot_resample(case):
    identities, _, resampling = case
    other = Resampling.of(EvaluationPlan.of(np.roll(identities, 1)), resamples=2)
    with pytest.raises(UserError, match="another test set"):
        other.measures(evaluated(case))
    with pytest.raises(UserError, match="people_weights"):
        resampling.tmr(evaluated(case, people_weights=None), 0.1)
    with pytest.raises(UserError, match="resamples"):
        Resampling.of(resampling.plan, resamples=0)
    for people in (17, 19):
        with pytest.raises(UserError, match=rf"shape \[resamples, 18\], got \[2, {people}\]"):
            evaluated(case, people_weights=np.ones((2, people), np.int32))
