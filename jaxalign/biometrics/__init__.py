"""Verification, identification, operating points and their uncertainty, for any two arrays with identities."""

from jaxalign.biometrics.bootstrap import Resampling, Sampled, combine, maximum, mean_of
from jaxalign.biometrics.evaluate import Evaluation, Measure, evaluate, identify, verify
from jaxalign.biometrics.identification import Identification
from jaxalign.biometrics.layout import EvaluationPlan
from jaxalign.biometrics.operating_points import ErrorRates, OperatingPoint
from jaxalign.biometrics.pairs import PairVerification, verify_pairs
from jaxalign.biometrics.tail import ImpostorTail
from jaxalign.biometrics.templates import first_rows, pooled
from jaxalign.biometrics.verification import Verification

__all__ = [
    "ErrorRates",
    "Evaluation",
    "EvaluationPlan",
    "Identification",
    "ImpostorTail",
    "Measure",
    "OperatingPoint",
    "PairVerification",
    "Resampling",
    "Sampled",
    "Verification",
    "combine",
    "evaluate",
    "first_rows",
    "identify",
    "maximum",
    "mean_of",
    "pooled",
    "verify",
    "verify_pairs",
]
