"""The CMC and the DET curve of an evaluation as points of a table, with intervals where people were resampled."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxalign.biometrics.bootstrap import Resampling
from jaxalign.biometrics.evaluate import Evaluation
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES

RANKS = (*range(1, 11), 12, 15, 20, 25, 30, 40, 50)
RATES = tuple(float(f"{rate:.3g}") for rate in 10.0 ** np.arange(-5, 0.01, 0.2))


class CurvePoint(NamedTuple):
    """One point of a curve.

    Attributes:
      own_photograph: as of ``MeasuredValue``.
      measure: "cmc" (rank-k identification rate) or "tmr".
      axis, at: "rank" and k, or "fmr" and the false match rate.
      value: the rate.
      low, high: its interval of 95 %; None without resamples.
    """

    own_photograph: str
    measure: str
    axis: str
    at: float
    value: float
    low: float | None
    high: float | None


def curve_points(evaluation: Evaluation, resampling: Resampling | None = None) -> Iterator[CurvePoint]:
    """CMC at ``RANKS``, and the TMR at those of ``RATES`` that the comparisons support (DET: FNMR = 1 − TMR).

    Args:
      evaluation: with identification, verification or both; of ``people_weights`` where there is a resampling.
      resampling: of its test set.
    """
    for own, result in evaluation.identification.items():
        reach = [k for k in RANKS if k <= len(result.cmc)]
        sampled = [None] * len(reach) if resampling is None else resampling.cmc(evaluation, reach, own)
        for k, sample in zip(reach, sampled):
            between = (None, None) if sample is None else sample.interval()
            yield CurvePoint(own, "cmc", "rank", float(k), float(result.cmc[k - 1]), *between)
    verified = evaluation.verification
    if verified is None:
        return
    fmr, tmr, _ = verified.roc()
    for rate in RATES:
        if rate * verified.impostor < LEAST_FALSE_MATCHES or not len(fmr):
            continue
        below = fmr <= rate * (1 + 1e-9)
        value = float(tmr[below].max()) if below.any() else 0.0
        between = (None, None)
        if resampling is not None and evaluation.resampled is not None:
            between = resampling.tmr(evaluation, rate, value).interval()
        yield CurvePoint("", "tmr", "fmr", rate, value, *between)
