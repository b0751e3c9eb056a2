"""Resampling people against loops that repeat the rows of each drawn person."""

import numpy as np
import pytest

from jaxalign import UserError, biometrics
from jaxalign.biometrics import EvaluationPlan, Resampling, maximum, mean_of


@pytest.fixture(scope="module")
def people():
    random = np.random.default_rng(0)
    identities = random.permutation(np.repeat(np.arange(40), random.integers(1, 7, 40)))
    centres = random.standard_normal((40, 16))
    sides = [centres[identities] + 1.2 * random.standard_normal((len(identities), 16)) for _ in "abc"]
    plan = EvaluationPlan.of(identities)
    evaluations = [
        biometrics.evaluate(sides[0], side, plan, fmr=(0.01, 0.1), tail=0.5, least_false_matches=0)
        for side in sides[1:]
    ]
    return identities, sides, plan, evaluations


def repeated(scores, identities, own, weights, fmr):
    """TMR when every comparison is repeated as often as its people are drawn; people are never their own twin."""
    mated = identities[:, None] == identities[None]
    genuine = mated & ~own
    impostor = np.repeat(scores[~mated], np.outer(weights[identities], weights[identities])[~mated])
    matches = np.repeat(scores[genuine], np.broadcast_to(weights[identities][:, None], scores.shape)[genuine])
    for threshold in np.append(np.unique(scores), np.inf):
        if np.mean(impostor >= threshold) <= fmr:
            return np.mean(matches >= threshold)
    raise AssertionError


@pytest.mark.parametrize("fmr", [0.01, 0.1])
def test_tmr_agrees_with_repetition(people, fmr):
    identities, sides, plan, evaluations = people
    unit = [(side / np.linalg.norm(side, axis=1, keepdims=True)) for side in sides]
    resampling = Resampling.of(plan, resamples=11, seed=3)
    found = resampling.tmr(evaluations[0], fmr)
    own = np.eye(len(identities), dtype=bool)
    scores = unit[0] @ unit[1].T
    expected = [repeated(scores, identities, own, weights, fmr) for weights in resampling.weights]
    np.testing.assert_allclose(found.samples, expected, atol=1e-6)
    assert found.estimate == evaluations[0].verification.tmr[fmr]


def test_rank_agrees_with_repetition(people):
    identities, _, plan, evaluations = people
    resampling = Resampling.of(plan, resamples=9)
    found = resampling.rank(evaluations[0], 1)
    result = evaluations[0].identification["excluded"]
    for sample, weights in zip(found.samples, resampling.weights):
        hits = np.repeat(result.rank == 1, weights[identities[result.probe]])
        assert sample == pytest.approx(hits.mean())
    assert found.estimate == result.rank_k[1]


def test_an_evaluation_against_itself_gains_nothing(people):
    _, _, plan, (first, second) = people
    resampling = Resampling.of(plan, resamples=50)
    same = resampling.tmr(first, 0.01) - resampling.tmr(first, 0.01)
    assert same.interval() == (0, 0)
    gain = mean_of(
        [resampling.tmr(first, 0.01) - maximum([resampling.tmr(e, 0.01) for e in (first, second)])]
    )
    assert gain.estimate <= 0
    assert gain.interval()[1] <= 0
    low, high = resampling.tmr(first, 0.01).interval(0.9)
    assert low < resampling.tmr(first, 0.01).estimate < high


def test_refuses_what_it_cannot_resample(people):
    identities, sides, plan, evaluations = people
    other = EvaluationPlan.of(np.roll(identities, 1))
    with pytest.raises(UserError, match="another test set"):
        Resampling.of(other, resamples=2).tmr(evaluations[0], 0.1)
    without = biometrics.evaluate(sides[0], sides[1], plan)
    with pytest.raises(UserError, match="tail"):
        Resampling.of(plan, resamples=2).tmr(without, 0.1)
    short = biometrics.evaluate(sides[0], sides[1], plan, tail=0.1)
    with pytest.raises(UserError, match="too short"):
        Resampling.of(plan, resamples=20).tmr(short, 0.1)
    with pytest.raises(UserError, match="resamples"):
        Resampling.of(plan, resamples=0)
