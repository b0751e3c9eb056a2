"""Verification, identification, operating points and their uncertainty, for any two arrays with identities."""

from jaxalign.biometrics.bootstrap import Resampling, Sampled, combine, maximum, mean_of
from jaxalign.biometrics.calibration import (
    Calibration,
    act_dcf,
    calibration_loss,
    cllr,
    cross_calibrated,
    min_cllr,
    min_dcf,
)
from jaxalign.biometrics.cmc_det import CurvePoint, curve_points
from jaxalign.biometrics.comparators import SCORES, Cohort, Comparator, comparator
from jaxalign.biometrics.decisions import decision_costs
from jaxalign.biometrics.evaluate import Evaluation, MeasuredValue, evaluate, identify, verify
from jaxalign.biometrics.fusion import Fusion, fused_rows, mean_rows, mixed_rows
from jaxalign.biometrics.gallery_size import Growth, ParetoTail, fpir_growth
from jaxalign.biometrics.identification import Identification
from jaxalign.biometrics.open_set import Draw, OpenSet, OpenSetPoint, draw, open_set
from jaxalign.biometrics.pairs import PairVerification, verify_pairs
from jaxalign.biometrics.plan import EvaluationPlan
from jaxalign.biometrics.templates import first_rows, pooled
from jaxalign.biometrics.thresholds import ErrorRates, OperatingPoint
from jaxalign.biometrics.verification import Verification

__all__ = [
    "SCORES",
    "Calibration",
    "Cohort",
    "Comparator",
    "CurvePoint",
    "Draw",
    "ErrorRates",
    "Evaluation",
    "EvaluationPlan",
    "Fusion",
    "Growth",
    "Identification",
    "MeasuredValue",
    "OpenSet",
    "OpenSetPoint",
    "OperatingPoint",
    "PairVerification",
    "ParetoTail",
    "Resampling",
    "Sampled",
    "Verification",
    "act_dcf",
    "calibration_loss",
    "cllr",
    "combine",
    "comparator",
    "cross_calibrated",
    "curve_points",
    "decision_costs",
    "draw",
    "evaluate",
    "first_rows",
    "fpir_growth",
    "fused_rows",
    "identify",
    "maximum",
    "mean_of",
    "mean_rows",
    "min_cllr",
    "min_dcf",
    "mixed_rows",
    "open_set",
    "pooled",
    "verify",
    "verify_pairs",
]
