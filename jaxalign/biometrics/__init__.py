"""Verification, identification, operating points and their uncertainty, for any two arrays with identities."""

from jaxalign.biometrics.bootstrap import Resampling, Sampled, combine, maximum, mean_of
from jaxalign.biometrics.comparators import SCORES, Cohort, Comparator, comparator
from jaxalign.biometrics.curves import CurvePoint, curve_points
from jaxalign.biometrics.evaluate import Evaluation, MeasuredValue, evaluate, identify, verify
from jaxalign.biometrics.identification import Identification
from jaxalign.biometrics.pairs import PairVerification, verify_pairs
from jaxalign.biometrics.plan import EvaluationPlan
from jaxalign.biometrics.templates import first_rows, pooled
from jaxalign.biometrics.thresholds import ErrorRates, OperatingPoint
from jaxalign.biometrics.verification import Verification

__all__ = [
    "SCORES",
    "Cohort",
    "Comparator",
    "CurvePoint",
    "ErrorRates",
    "Evaluation",
    "EvaluationPlan",
    "Identification",
    "MeasuredValue",
    "OperatingPoint",
    "PairVerification",
    "Resampling",
    "Sampled",
    "Verification",
    "combine",
    "comparator",
    "curve_points",
    "evaluate",
    "first_rows",
    "identify",
    "maximum",
    "mean_of",
    "pooled",
    "verify",
    "verify_pairs",
]
