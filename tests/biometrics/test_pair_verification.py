"""Verification over a list of pairs, and the accuracy over folds."""

import dataclasses

import brute_force
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from jaxalign import UserError, biometrics
from jaxalign.biometrics.pair_lists import PairList


def listed() -> tuple[np.ndarray, np.ndarray, PairList]:
    random = np.random.default_rng(0)
    probes, gallery = random.standard_normal((200, 64)), random.standard_normal((150, 64))
    left, right = random.integers(0, 200, 600), random.integers(0, 150, 600)
    scores = brute_force.cosines(probes, gallery)[left, right]
    genuine = scores + 0.15 * random.standard_normal(600) > 0.05
    return probes, gallery, PairList(left, right, genuine, np.arange(600) // 60)


def accuracy_by_hand(scores: np.ndarray, pairs: PairList) -> np.ndarray:
    """Every threshold tried on the other folds."""
    found = []
    for fold in range(pairs.fold.max() + 1):
        rest = pairs.fold != fold
        tried = np.append(np.unique(scores[rest]), np.inf)
        right = [np.mean((scores[rest] >= t) == pairs.genuine[rest]) for t in tried]
        best = len(tried) - 1 - int(np.argmax(right[::-1]))
        threshold = tried[best] if best in (0, len(tried) - 1) else (tried[best] + tried[best - 1]) / 2
        found.append(np.mean((scores[~rest] >= threshold) == pairs.genuine[~rest]))
    return np.array(found)


def test_agrees_with_scikit_learn():
    probes, gallery, pairs = listed()
    result = biometrics.verify_pairs(probes, gallery, pairs, fmr=(0.1, 0.5))
    scores = brute_force.cosines(probes, gallery)[pairs.left, pairs.right]
    np.testing.assert_allclose(result.scores, scores, atol=1e-6)
    assert result.auc == pytest.approx(roc_auc_score(pairs.genuine, scores), abs=1e-6)
    fmr, tmr, _ = roc_curve(pairs.genuine, scores, drop_intermediate=False)
    for rate in (0.1, 0.5):
        assert result.tmr[rate] == pytest.approx(tmr[fmr <= rate].max(), abs=1e-12)
    eer = brute_force.eer(scores[pairs.genuine], scores[~pairs.genuine])
    assert result.eer == pytest.approx(eer, abs=1e-12)
    folds = accuracy_by_hand(result.scores.astype(np.float64), pairs)
    assert result.fold_accuracy.tolist() == folds.tolist()
    assert result.accuracy == pytest.approx(folds.mean())
    assert result.accuracy_error == pytest.approx(folds.std(ddof=1) / np.sqrt(10))


@pytest.mark.parametrize("kept_scores", [0, 1 << 25])
def test_rides_along_with_an_evaluation(kept_scores):
    probes, gallery, pairs = listed()
    plan = biometrics.EvaluationPlan.of(np.arange(200) // 4, np.arange(150) // 4, kept_scores=kept_scores)
    result = biometrics.evaluate(probes, gallery, plan, measures=("identification",), pairs=pairs)
    alone = biometrics.verify_pairs(probes, gallery, pairs)
    assert result.pairs is not None
    np.testing.assert_allclose(result.pairs.scores, alone.scores, atol=1e-6)
    assert result.pairs.auc == pytest.approx(alone.auc, abs=1e-4)
    names = [row.measure for row in result.measures()]
    assert names[-2:] == ["accuracy", "accuracy_error"]
    assert names.count("auc") == 1


def test_one_fold_is_no_folds_and_one_kind_is_no_rate():
    probes, gallery, pairs = listed()
    result = biometrics.verify_pairs(probes, gallery, dataclasses.replace(pairs, fold=pairs.fold * 0))
    assert np.isnan(result.accuracy)
    one_kind = dataclasses.replace(pairs, genuine=pairs.genuine | True, fold=None)
    result = biometrics.verify_pairs(probes, gallery, one_kind)
    assert np.isnan([result.auc, result.eer, *result.tmr.values()]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"left": np.zeros(3, int)},
        {"left": np.full(600, 200)},
        {"right": np.full(600, -1)},
        {"right": np.zeros(600)},
        {"fold": np.zeros(5, int)},
    ],
    ids=str,
)
def test_refuses_lists_that_do_not_fit(change):
    probes, gallery, pairs = listed()
    with pytest.raises(UserError, match="pairs"):
        biometrics.verify_pairs(probes, gallery, dataclasses.replace(pairs, **change))
