"""Choosing a penalty and a rank by cross-validation on moments: the rows are never read again.

With S, C the training moments of all folds but one and S', C' those of the fold (about the training means), the
held-out squared error of a map W is tr(C'yy) − 2 tr(Wᵀ C') + tr(Wᵀ S' W). In the eigenbasis V of S and for
A = Vᵀ C, ridge is W = V diag(d) A with d = 1 / (s + l2), so that the error of a *pair* at every penalty is a
quadratic form of d in (Vᵀ S' V) ∘ (A Aᵀ), which is formed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.align.held_out import (
    own_rotation,
    own_spectrum,
    own_training,
    pair_column_errors,
    pair_errors,
    pair_generalised_column_errors,
    pair_generalised_errors,
    pair_rank_errors,
)
from jaxalign.align.programs import EncoderStates, Pair, on_encoders, on_pairs
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.pytree import pytree
from jaxalign.moments.moments import FoldMoments

DEFAULT_GRID = 10.0 ** np.arange(-6, 2.5, 0.5)  # times the mean eigenvalue of the source's scatter matrix


@pytree
class Scores:
    """Held-out error of candidate settings, of units: target encoders, or target columns."""

    candidates: np.ndarray  # the settings (penalties, or ranks), ascending, shape [L]
    error: np.ndarray  # mean squared error, shape [F, L, units]; one "fold" for generalised cross-validation
    rows: np.ndarray  # weight of each fold, shape [F]
    spectra: EncoderStates | None = None  # of the sources on all rows, if the errors took them

    def choose(self, *, one_standard_error: bool = False, largest: bool = True) -> np.ndarray:
        """The index of the best candidate for each unit, shape [units].

        Or of the simplest (the largest, or the smallest) whose error is within one standard error over folds of the
        best one's (Breiman et al., "Classification and Regression Trees", 1984).
        """
        mean = np.tensordot(self.rows / self.rows.sum(), self.error, 1)  # over held-out rows, [L, units]
        best = np.argmin(mean, axis=0)
        if not one_standard_error:
            return best
        units = np.arange(mean.shape[1])
        spread = self.error[:, best, units].std(axis=0, ddof=1) / np.sqrt(len(self.rows))
        within = mean <= mean[best, units] + spread
        return (len(mean) - 1 - np.argmax(within[::-1], axis=0)) if largest else np.argmax(within, axis=0)


def penalty_grid(moments: FoldMoments, source: str, l2: str | float | Sequence[float]) -> np.ndarray:
    """The penalties to compare, ascending: those given, or the default grid scaled to the source's variance."""
    if not isinstance(l2, str):
        grid = np.atleast_1d(np.asarray(l2, np.float64))
        checks.penalty(grid)
        return np.unique(grid)
    scale = float(moments.total.power()[moments.total.span(source)].mean())  # the trace over the width
    return DEFAULT_GRID * (scale if scale > 0 else 1.0)


def penalty_scores(
    moments: FoldMoments,
    grids: Mapping[str, np.ndarray],
    targets: Mapping[str, Sequence[str]],
    *,
    per_column: bool = False,
    generalised: bool = False,
) -> dict[str, Scores]:
    """Held-out errors of ridge from each source to its targets, for every penalty.

    Args:
      moments: with folds, unless ``generalised``.
      grids: for each source its penalties (scikit-learn's ``alpha``), shape [L].
      targets: for each source the encoders to map to. They, or (``per_column``) their columns, are the units.
      generalised: generalised cross-validation n Σ‖y − xW‖² / (n − df)² on all rows, without folds.

    Equivalent: ``sklearn.linear_model.RidgeCV(alphas=grid, cv=folds)`` with mean squared error, for each pair.

    References:
      Golub, Heath, Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", 1979.
    """
    total = moments.total
    pairs = [(source, target) for source in grids for target in targets[source]]
    if generalised:
        of_pair = pair_generalised_column_errors if per_column else pair_generalised_errors
        of_pairs = {pair: grids[pair[0]] for pair in pairs}
        errors, spectra = _errors(own_spectrum, of_pair, (total,), dict.fromkeys(grids, ()), of_pairs)
        found, rows = [errors], np.ones(1)
    else:
        of_pair, spectra = pair_column_errors if per_column else pair_errors, None
        found, rows = _fold_errors(own_rotation, of_pair, moments, grids, dict.fromkeys(pairs, ()))

    def of_source(source: str) -> np.ndarray:
        widths = [(target, total.width(target) if per_column else 1) for target in targets[source]]
        units = [[errors[source, target][:, :width] for target, width in widths] for errors in found]
        return np.stack([np.concatenate(unit, axis=1) for unit in units])

    return {source: Scores(grids[source], of_source(source), rows, spectra) for source in grids}


def rank_scores(moments: FoldMoments, penalties: Mapping[Pair, float]) -> dict[Pair, Scores]:
    """Held-out errors of reduced-rank ridge of pairs, each with its penalty, at every rank from 1 to min(p, q)."""
    sources = dict.fromkeys((source for source, _ in penalties), ())
    found, rows = _fold_errors(own_training, pair_rank_errors, moments, sources, penalties)

    def of_pair(pair: Pair) -> Scores:
        most = min(map(moments.total.width, pair))
        errors = np.stack([fold[pair] for fold in found])[:, :most, None]
        return Scores(np.arange(1, most + 1), errors, rows)

    return {pair: of_pair(pair) for pair in penalties}


def _fold_errors(
    own: Callable[..., Any],
    of_pair: Callable[..., Any],
    moments: FoldMoments,
    sources: Mapping[str, Any],
    pairs: Mapping[Pair, Any],
) -> tuple[list[dict[Pair, np.ndarray]], np.ndarray]:
    """The errors of each fold, and its weight."""
    if not moments.folds:
        raise UserError("choosing by cross-validation needs moments of at least two folds, got none")
    found = [_errors(own, of_pair, (moments.total, fold), sources, pairs)[0] for fold in moments.folds]
    return found, np.array([float(fold.weight) for fold in moments.folds])


def _errors(
    own: Callable[..., Any],
    of_pair: Callable[..., Any],
    moments: tuple[Any, ...],
    sources: Mapping[str, Any],
    pairs: Mapping[Pair, Any],
) -> tuple[dict[Pair, np.ndarray], EncoderStates]:
    """What ``of_pair`` gives for each pair, in float64, and what ``own`` gives for each source."""
    states = on_encoders(own, moments, sources)
    errors = {
        pair: np.asarray(results[index], np.float64)
        for members, results in on_pairs(of_pair, moments, states, pairs)
        for index, pair in members.items()
    }
    return errors, states
