"""Verification over a list of pairs: error rates and the 10-fold accuracy of Labeled Faces in the Wild."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.inputs import orderable, same_width, sides
from jaxalign.biometrics.pair_lists import PairList
from jaxalign.biometrics.scores import scores_of_pairs
from jaxalign.biometrics.thresholds import SortedScores, check_rates, error_rates
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES, RATES, Verification
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows


@dataclasses.dataclass(frozen=True)
class PairVerification(Verification):
    """Error rates over a list of pairs.

    Attributes:
      scores: cosine of each pair, shape [pairs].
      accuracy: mean over folds of the accuracy at the threshold that is best on the other folds; NaN without folds.
      accuracy_error: standard error of that mean over folds, σ / √folds with σ the sample standard deviation.
      fold_accuracy: accuracy of each fold, shape [folds].
    """

    scores: np.ndarray
    accuracy: float
    accuracy_error: float
    fold_accuracy: np.ndarray


def checked_pairs(pairs: PairList, probes: int, gallery: int) -> PairList:
    """The list, if its lengths agree, its row numbers are there, and it says what is genuine and in which fold."""
    left, right, genuine = np.asarray(pairs.left), np.asarray(pairs.right), np.asarray(pairs.genuine)
    fold = np.asarray([] if getattr(pairs, "fold", None) is None else pairs.fold)
    if {left.ndim, right.ndim, genuine.ndim, fold.ndim} != {1}:
        raise UserError("pairs: left, right, genuine and fold must be lists [m] of single values")
    lengths = [len(array) for array in (left, right, genuine, *([fold] if fold.size else []))]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise UserError(f"pairs: left, right, genuine and fold must have one length ≥ 1, got {lengths}")
    for numbers, most, name in ((left, probes, "left"), (right, gallery, "right")):
        if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= most:
            raise UserError(f"pairs: {name} must be row numbers from 0 to {most - 1}")
    if genuine.dtype.kind not in "biuf" or not np.isin(genuine, (0, 1)).all():
        raise UserError("pairs: genuine must be True or False, or 1 or 0, for each pair")
    if fold.size and fold.dtype.kind not in "iu":
        raise UserError(f"pairs: fold must be a whole number for each pair, none missing, got {fold.dtype}")
    return PairList(left.astype(np.int64), right.astype(np.int64), genuine.astype(bool), fold)


def verify_pairs(
    probes: ArrayLike | LazyRows,
    gallery: ArrayLike | LazyRows,
    pairs: PairList,
    *,
    fmr: Sequence[float] = RATES,
    least_false_matches: float = LEAST_FALSE_MATCHES,
    zero_rows: str = "refuse",
) -> PairVerification:
    """Cosine of listed pairs, their AUC, EER and TMR at FMR, and the k-fold accuracy where there are folds.

    Args:
      probes, gallery: embeddings, shapes [n, d] and [m, d].
      pairs: ``left`` (probe rows), ``right`` (gallery rows), ``genuine`` (booleans) and ``fold`` (integers; None or
        empty for none), all of one length; any object with these attributes will do.
      fmr: false match rates of the operating points.
      least_false_matches: an operating point with fewer expected false matches is unsupported.
      zero_rows: "refuse" or "keep", as in ``evaluate``.

    Raises:
      UserError: pairs out of range or of unequal lengths, labels other than 0, 1, False and True, folds that are no
        whole numbers; listed rows that cannot be compared.

    Equivalent: ``roc_curve`` and ``roc_auc_score`` of scikit-learn on the pairs' cosines.

    References:
      Huang et al., "Labeled Faces in the Wild", 2007, for the accuracy over ten folds.
    """
    rates = check_rates(fmr, least_false_matches)
    with orderable(probes, gallery) as (left, right):
        same_width(left, right)
        listed = checked_pairs(pairs, len(left), len(right))
        scores = scores_of_pairs(*sides(left, right, zero_rows), listed)
    return rates_of_pairs(scores, listed, rates, least_false_matches)


def rates_of_pairs(
    scores: np.ndarray, pairs: PairList, fmr: Sequence[float], least_false_matches: float
) -> PairVerification:
    """Error rates and accuracy of scored pairs."""
    genuine, impostor = (np.sort(scores[kind]) for kind in (pairs.genuine, ~pairs.genuine))
    rates = error_rates(SortedScores(genuine, impostor), fmr, least_false_matches)
    folds = _fold_accuracy(scores, pairs)
    mean = float(folds.mean()) if len(folds) else float("nan")
    error = float(folds.std(ddof=1) / np.sqrt(len(folds))) if len(folds) else float("nan")
    return PairVerification(rates, len(genuine), len(impostor), scores, mean, error, folds)


def _fold_accuracy(scores: np.ndarray, pairs: PairList) -> np.ndarray:
    """Accuracy of each fold at the threshold that is best on the other folds, shape [folds]; [0] for less than two."""
    folds, accuracy = np.unique(pairs.fold), []
    for fold in folds if len(folds) > 1 else ():
        test = pairs.fold == fold
        accepted = scores[test] >= _best_threshold(scores[~test], pairs.genuine[~test])
        accuracy.append(np.mean(accepted == pairs.genuine[test]))
    return np.array(accuracy)


def _best_threshold(scores: np.ndarray, genuine: np.ndarray) -> float:
    """The threshold of highest accuracy, midway between two scores; the highest of equally good ones."""
    value, place = np.unique(scores.astype(np.float64), return_inverse=True)
    gain = np.bincount(place, np.where(genuine, 1.0, -1.0), minlength=len(value))
    right = np.append(gain[::-1].cumsum()[::-1], 0)  # accepted genuine − accepted impostor from each score on
    best = len(value) - int(np.argmax(right[::-1]))
    if best == len(value):
        return float(np.nextafter(value[-1], np.inf))
    return float(value[best]) if best == 0 else float((value[best - 1] + value[best]) / 2)
