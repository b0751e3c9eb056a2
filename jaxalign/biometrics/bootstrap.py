"""Uncertainty by resampling people, not comparisons: comparisons that share a person are not independent.

A resample draws as many people as there are, with replacement; a person drawn twice counts twice. Two
evaluations of one test set are compared on the same resamples, so that what they share cancels:

>>> people = Resampling.of(plan, resamples=1000)
>>> gain = mean_of([people.tmr(a[p], 1e-4) - maximum([people.tmr(b[p], 1e-4) for b in others]) for p in pairs])
>>> gain.estimate, gain.interval(0.95)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from jaxalign.biometrics.evaluate import Evaluation
from jaxalign.biometrics.plan import EvaluationPlan
from jaxalign.biometrics.resampled_rates import ResampledRates
from jaxalign.biometrics.verification import Verification
from jaxalign.core import checks
from jaxalign.core.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
    """A number and its values under resampling; arithmetic combines both, resample by resample.

    Attributes:
      estimate: the value on the test set as it is.
      samples: its value on each resample, shape [resamples].
    """

    estimate: float
    samples: np.ndarray

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The percentile interval; NaN where any resample is undefined; a ``UserError`` for levels outside (0, 1)."""
        if not 0 < level < 1:
            raise UserError(f"level: expected a share between 0 and 1, such as 0.95, got {level!r}")
        low, high = np.quantile(self.samples, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __sub__(self, other: "Sampled | float") -> "Sampled":
        return combine(lambda values: values[0] - values[1], [self, other])

    def __add__(self, other: "Sampled | float") -> "Sampled":
        return combine(lambda values: values[0] + values[1], [self, other])


def combine(function: Callable[[np.ndarray], np.ndarray], values: Sequence[Sampled | float]) -> Sampled:
    """Applies a function of an array [values, ...] to the estimates and to each resample."""
    sampled = [value for value in values if isinstance(value, Sampled)]
    shapes = {value.samples.shape for value in sampled}
    if len(shapes) != 1:
        raise UserError(f"resampled values must come from the same resamples, got {sorted(shapes)}")
    estimates = np.array([value.estimate if isinstance(value, Sampled) else value for value in values])
    shape = shapes.pop()
    samples = [value.samples if isinstance(value, Sampled) else np.full(shape, value) for value in values]
    return Sampled(float(function(estimates)), function(np.stack(samples)))


def mean_of(values: Sequence[Sampled]) -> Sampled:
    """The mean, for example over pairs of encoders."""
    return combine(functools.partial(np.mean, axis=0), values)


def maximum(values: Sequence[Sampled]) -> Sampled:
    """The largest, for example over methods: chosen with hindsight in each resample too."""
    return combine(functools.partial(np.max, axis=0), values)


@dataclasses.dataclass(frozen=True, eq=False)
class Resampling:
    """Multiplicities of people, the same for every evaluation of one test set.

    Attributes:
      plan: the test set.
      weights: how often each person is drawn, shape [resamples, people], integers.
    """

    plan: EvaluationPlan
    weights: np.ndarray

    @classmethod
    def of(cls, plan: EvaluationPlan, *, resamples: int = 1000, seed: int = 0) -> Self:
        """Draws the resamples, each of as many people as probes and gallery have together."""
        checks.seed(seed)
        if not checks.is_whole(resamples, 1):
            raise UserError(f"resamples: expected a whole number of at least 1, got {resamples!r}")
        people = plan.people
        draws = np.random.default_rng(seed).integers(0, people, (resamples, people))
        offsets = np.arange(resamples)[:, None] * people
        counts = np.bincount((draws + offsets).ravel(), minlength=resamples * people)
        return cls(plan, counts.reshape(resamples, people).astype(np.int32))

    def _probe_means(self, probe: np.ndarray, values: np.ndarray) -> list[Sampled]:
        """Means of each column of values of probes, shape [probes, columns]; NaN is no value.

        With sums and counts by person a resample is one weighted sum.
        """
        there = ~np.isnan(values)
        both = np.concatenate([np.where(there, values, 0), there], axis=1)
        total, samples = self.sums(self.plan.probe_codes[probe], both)
        columns = values.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            estimate, samples = total[:columns] / total[columns:], samples[:, :columns] / samples[:, columns:]
        return [Sampled(float(mean), column) for mean, column in zip(estimate, samples.T)]

    def sums(self, people: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of values [n, columns] of one person each, for the test set as it is and for each resample.

        ``people`` are codes as in ``plan.probe_codes``, shape [n]. Shapes [columns] and [resamples, columns].
        """
        by_person = np.zeros((self.weights.shape[1], values.shape[1]))
        np.add.at(by_person, people, values)
        return by_person.sum(axis=0), self._wide_weights @ by_person

    @functools.cached_property
    def _wide_weights(self) -> np.ndarray:
        return self.weights.astype(np.float64)

    def measures(self, evaluation: Evaluation) -> dict[tuple[str, str], Sampled]:
        """Every number of ``evaluation.measures()`` that is not NaN, by ``own_photograph`` and name.

        Identification weighs probes by their people, exactly; the gallery stays. Verification is found at a ladder of
        thresholds (``evaluate(..., people_weights=resampling.weights)``): AUC and TMR are interpolated between
        thresholds and shifted so that the test set as it is has the exact number.
        """
        self._same(evaluation)
        found = {}
        for own, result in evaluation.identification.items():
            values = {f"rank{k}": result.rank <= k for k in result.rank_k}
            values |= {"map": result.average_precision, "map50": result.average_precision_50}
            means = self._probe_means(result.probe, np.stack(list(values.values()), axis=1))
            found |= {(own, name): mean for name, mean in zip(values, means)}
        resampled, exact = evaluation.resampled, evaluation.verification
        if resampled is not None and exact is not None:
            found["", "auc"] = _shifted(exact.auc, resampled.auc())
            found["", "eer"] = _shifted(exact.eer, resampled.eer())
            for rate in exact.tmr:
                found["", f"tmr@fmr={rate:g}"] = self.tmr(evaluation, rate)
        return {key: value for key, value in found.items() if np.isfinite(value.estimate)}

    def cmc(self, evaluation: Evaluation, ranks: Sequence[int], own_photograph: str) -> list[Sampled]:
        """Rank-k for each k of ``ranks``: a curve with its resamples."""
        self._same(evaluation)
        result = evaluation.identification[own_photograph]
        return self._probe_means(result.probe, result.rank[:, None] <= np.asarray(ranks))

    def tmr(self, evaluation: Evaluation, fmr: float, estimate: float | None = None) -> Sampled:
        """TMR at an FMR, whose threshold is found anew in each resample; see ``measures``.

        A genuine comparison of person p weighs m_p, an impostor comparison of p with q weighs m_p m_q, where m
        counts how often a person is drawn.

        Args:
          evaluation: with verification, made with ``people_weights`` (or it is a ``UserError``).
          fmr: one of its rates, or any other if ``estimate``, the TMR of the test set as it is, is given.
        """
        verified, resampled = self._rates(evaluation)
        value = verified.tmr[fmr] if estimate is None else estimate
        return _shifted(value, resampled.tmr_at(fmr))

    def threshold(self, evaluation: Evaluation, fmr: float) -> Sampled:
        """The threshold at one of the evaluation's rates, below 1, found anew in each resample as for ``tmr``."""
        verified, resampled = self._rates(evaluation)
        values = resampled.threshold_at(fmr)
        return Sampled(verified.threshold[fmr], values[1:] + (verified.threshold[fmr] - values[0]))

    def thresholds(self, evaluation: Evaluation) -> dict[str, Sampled]:
        """``threshold`` at every supported rate, by the name that its TMR has in ``measures``."""
        known = {} if evaluation.verification is None else evaluation.verification.threshold
        rates = [rate for rate, at in known.items() if np.isfinite(at)]
        return {f"tmr@fmr={rate:g}": self.threshold(evaluation, rate) for rate in rates}

    def _rates(self, evaluation: Evaluation) -> tuple[Verification, ResampledRates]:
        self._same(evaluation)
        if evaluation.resampled is None or evaluation.verification is None:
            raise UserError("the evaluation lacks resamples: give it people_weights=resampling.weights")
        return evaluation.verification, evaluation.resampled

    def _same(self, evaluation: Evaluation) -> None:
        mine, other = self.plan, evaluation.plan
        same = mine is other or (
            np.array_equal(mine.probe_codes, other.probe_codes)
            and np.array_equal(mine.gallery_codes, other.gallery_codes)
        )
        if not same:
            raise UserError("the evaluation is of another test set than the one that was resampled")


def _shifted(estimate: float, values: np.ndarray) -> Sampled:
    """Resamples of an interpolated rate, moved by what interpolation costs the test set as it is, within [0, 1]."""
    return Sampled(estimate, np.clip(values[1:] + (estimate - values[0]), 0, 1))
