"""Thresholds against sorted scores, and curves to native scores against scikit-learn."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from jaxalign import UserError, evaluate
from jaxalign.biometrics import EvaluationPlan, Resampling
from jaxalign.gallery import native_curve, thresholds_of


def test_curves_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    mapped = random.normal(size=3_000).round(2)  # with ties
    native = np.tanh(mapped) + 0.3 * random.normal(size=3_000)
    knots, values = native_curve(mapped, native)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(mapped, native)
    asked = np.concatenate([mapped, random.uniform(-5, 5, 1_000)])
    np.testing.assert_allclose(np.interp(asked, knots, values), oracle.predict(asked), atol=1e-9)
    assert (np.diff(knots) > 0).all() and (np.diff(values) >= 0).all()
    for wrong in (
        (mapped, native[1:]),
        ([], []),
        (mapped, native * np.nan),
        (mapped[:, None], native[:, None]),
    ):
        with pytest.raises(UserError, match="scores"):
            native_curve(*wrong)


def test_thresholds_of_supported_rates() -> None:
    random = np.random.default_rng(1)
    people = np.repeat(np.arange(60), 2)
    rows = np.repeat(random.normal(size=(60, 8)), 2, axis=0) + 0.5 * random.normal(size=(120, 8))
    plan = EvaluationPlan.of(people)
    resampling = Resampling.of(plan, resamples=50)
    measured = evaluate(rows, rows, plan, fmr=(1e-1, 1e-2, 1e-3, 1e-4), people_weights=resampling.weights)
    found = thresholds_of(measured, resampling)
    assert [at.fmr for at in found] == [1e-2, 1e-3]  # 14,160 impostor comparisons
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    impostor = (unit @ unit.T)[people[:, None] != people]
    for at in found:
        assert np.mean(impostor >= at.threshold + 1e-5) <= at.fmr <= np.mean(impostor >= at.threshold - 1e-2)
        assert at.low < at.threshold < at.high and at.high - at.low < 0.3
    with pytest.raises(UserError, match="FMR 0.05"):
        thresholds_of(measured, resampling, rates=(0.05,))
