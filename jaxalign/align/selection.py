"""Choosing a penalty and a rank by cross-validation on moments: the rows are never read again.

With S, C the training moments of all folds but one and S', C' those of the fold (about the training means), the
held-out squared error of a map W is tr(C'yy) − 2 tr(Wᵀ C') + tr(Wᵀ S' W). In the eigenbasis V of S and for
A = Vᵀ C, ridge is W = V diag(d) A with d = 1 / (s + l2), so that the error of a *pair* at every penalty is a
quadratic form of d in (Vᵀ S' V) ∘ (A Aᵀ), which is formed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxalign.align.held_out import (
    fold_errors,
    generalised_errors,
    own_rotation,
    own_spectrum,
    own_training,
    pair_column_errors,
    pair_errors,
    pair_generalised_column_errors,
    pair_generalised_errors,
    pair_rank_errors,
    rank_errors,
)
from jaxalign.align.solvers.spectrum import Spectrum
from jaxalign.core import checks
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision
from jaxalign.core.pytree import pytree
from jaxalign.moments.blocks import Beside, Columns
from jaxalign.moments.dealing import Pair, work_on_encoders, work_on_pairs
from jaxalign.moments.moments import FoldMoments, Moments
from jaxalign.moments.spread import SpreadMoments

DEFAULT_GRID = 10.0 ** np.arange(-6, 2.5, 0.5)  # times the mean eigenvalue of the source's scatter matrix


@pytree
class Scores:
    """Held-out error of candidate settings.

    Attributes:
      candidates: the settings (penalties, or ranks), ascending, shape [L].
      error: mean squared error by fold, candidate and unit, shape [F, L, units]. A unit is a target encoder or a
        target column. One "fold" for generalised cross-validation.
      rows: weight of each fold, shape [F].
      spectrum: of the source on all rows, where finding the errors took it: solving needs no other.
    """

    candidates: np.ndarray
    error: np.ndarray
    rows: np.ndarray
    spectrum: Spectrum | None = None

    def mean(self) -> np.ndarray:
        """Mean over held-out rows, shape [L, units]."""
        return np.tensordot(self.rows / self.rows.sum(), self.error, 1)

    def choose(self, *, one_standard_error: bool = False, largest: bool = True) -> np.ndarray:
        """The index of the best candidate for each unit, shape [units].

        Args:
          one_standard_error: take the simplest candidate whose error is within one standard error (over folds) of
            the best one's (Breiman et al., "Classification and Regression Trees", 1984).
          largest: whether the simplest candidate is the largest (penalties) or the smallest (ranks).
        """
        mean = self.mean()
        best = np.argmin(mean, axis=0)
        if not one_standard_error:
            return best
        folds = len(self.rows)
        units = np.arange(mean.shape[1])
        spread = self.error[:, best, units].std(axis=0, ddof=1) / np.sqrt(folds)
        within = mean <= mean[best, units] + spread
        return (len(mean) - 1 - np.argmax(within[::-1], axis=0)) if largest else np.argmax(within, axis=0)


def penalty_grid(moments: FoldMoments, source: str, l2: str | float | Sequence[float]) -> np.ndarray:
    """The penalties to compare, ascending: those given, or the default grid scaled to the source's variance."""
    if not isinstance(l2, str):
        grid = np.atleast_1d(np.asarray(l2, np.float64))
        checks.penalty(grid)
        return np.unique(grid)
    offset, width = moments.total.offset(source), moments.total.width(source)
    scale = float(moments.total.power()[offset : offset + width].mean())  # the trace over the width
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
      targets: for each source the encoders to map to. They, or their columns side by side, are the units.
      per_column: errors for each target column instead of each target encoder (costs a product per penalty).
      generalised: generalised cross-validation n Σ‖y − xW‖² / (n − df)² on all rows, without folds.

    Equivalent: ``sklearn.linear_model.RidgeCV(alphas=grid, cv=folds)`` with mean squared error, for each pair.

    References:
      Golub, Heath, Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", 1979.
    """
    total = moments.total
    if not generalised:
        _require_folds(moments)
    if isinstance(total, SpreadMoments):
        return _dealt_penalty_scores(moments, grids, targets, per_column, generalised)
    folds = (None,) if generalised else moments.folds
    tasks = [(source, fold) for source in grids for fold in folds]
    tasks.sort(
        key=lambda task: -total.width(task[0])
    )  # the longest first: no core then waits for it at the end
    beside = {source: Beside.of(total, names) for source, names in targets.items()}

    def errors(task: tuple[str, Moments | None]) -> tuple[Array, Spectrum | None]:
        source, fold = task
        with double_precision():
            columns = Columns.of(total, [source]), beside[source].columns
            grid = jnp.asarray(grids[source], total.scatter.dtype)
            if fold is None:
                return generalised_errors(total.unnamed(), *columns, grid, per_column=per_column)
            return fold_errors(total.unnamed(), fold.unnamed(), *columns, grid, per_column=per_column), None

    found: dict[str, list[np.ndarray]] = {source: [] for source in grids}
    spectra: dict[str, Spectrum | None] = {}
    for (source, _), (error, spectra[source]) in zip(tasks, concurrently(errors, tasks)):
        error = np.asarray(error, np.float64)
        places, names = beside[source].places, beside[source].names
        units = [error[:, places[name] if per_column else [names.index(name)]] for name in targets[source]]
        found[source].append(np.concatenate(units, axis=1))
    rows = np.array([1.0 if fold is None else float(fold.weight) for fold in folds])
    return {
        source: Scores(grids[source], np.stack(error), rows, spectra[source])
        for source, error in found.items()
    }


def _dealt_penalty_scores(
    moments: FoldMoments,
    grids: Mapping[str, np.ndarray],
    targets: Mapping[str, Sequence[str]],
    per_column: bool,
    generalised: bool,
) -> dict[str, Scores]:
    """The same over a mesh, one fold after the other: each encoder and each pair on a device that holds it."""
    total: Any = moments.total
    pairs = [(source, target) for source in grids for target in targets[source]]
    some = next(iter(grids.values()))  # for encoders that are targets alone
    used = {name: grids.get(name, some) for pair in pairs for name in pair}
    if generalised:
        on_encoders, on_pairs = own_spectrum, (pair_generalised_errors, pair_generalised_column_errors)
    else:
        on_encoders, on_pairs = own_rotation, (pair_errors, pair_column_errors)
    folds: Sequence[Any] = (None,) if generalised else moments.folds
    found: list[dict[Pair, np.ndarray]] = []
    for fold in folds:
        matrices: Any = (total,) if fold is None else (total, fold)
        with double_precision():
            dealt = work_on_encoders(on_encoders, matrices, used)
            found.append(_by_pair(work_on_pairs(on_pairs[per_column], dealt, dict.fromkeys(pairs, ()))))
    rows = np.array([1.0 if fold is None else float(fold.weight) for fold in folds])

    def of_source(source: str) -> np.ndarray:
        widths = [(target, total.width(target) if per_column else 1) for target in targets[source]]
        units = [[errors[source, target][:, :width] for target, width in widths] for errors in found]
        return np.stack([np.concatenate(unit, axis=1) for unit in units])

    return {source: Scores(grids[source], of_source(source), rows) for source in grids}


def _by_pair(parts: Iterable[tuple[list[Pair], np.ndarray]]) -> dict[Pair, np.ndarray]:
    return {pair: one for pairs, errors in parts for pair, one in zip(pairs, np.asarray(errors, np.float64))}


def rank_scores(moments: FoldMoments, penalties: Mapping[Pair, float]) -> dict[Pair, Scores]:
    """Held-out errors of reduced-rank ridge of pairs, each with its penalty, at every rank from 1 to min(p, q)."""
    _require_folds(moments)
    total = moments.total
    rows = np.array([float(fold.weight) for fold in moments.folds])
    with double_precision():
        if isinstance(total, SpreadMoments):
            errors = [_dealt_rank_errors(total, fold, penalties) for fold in moments.folds]
        else:
            errors = [
                {pair: _rank_errors(total, fold, pair, l2) for pair, l2 in penalties.items()}
                for fold in moments.folds
            ]

    def scores(pair: Pair) -> Scores:
        most = min(map(total.width, pair))
        return Scores(np.arange(1, most + 1), np.stack([fold[pair] for fold in errors])[:, :most, None], rows)

    return {pair: scores(pair) for pair in penalties}


def _rank_errors(total: Moments, fold: Moments, pair: Pair, l2: float) -> np.ndarray:
    columns = Columns.of(total, [pair[0]]), Columns.of(total, [pair[1]])
    return np.asarray(rank_errors(total.unnamed(), fold.unnamed(), columns, jnp.asarray(l2)))


def _dealt_rank_errors(total: Any, fold: Any, penalties: Mapping[Pair, float]) -> dict[Pair, np.ndarray]:
    used = dict.fromkeys((name for pair in penalties for name in pair), ())
    dealt = work_on_encoders(own_training, (total, fold), used)
    return _by_pair(work_on_pairs(pair_rank_errors, dealt, penalties))


def _require_folds(moments: FoldMoments) -> None:
    if not moments.folds:
        raise UserError("choosing by cross-validation needs moments of at least two folds, got none")
