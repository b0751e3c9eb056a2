"""Two arrays in, one map out."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxalign.align.affine import AffineMap
from jaxalign.align.schedule import solve
from jaxalign.align.settings import Settings
from jaxalign.align.solvers import Fit, Solver
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.lazy_rows import LazyRows
from jaxalign.core.splits import identity_folds
from jaxalign.moments.moments import FoldMoments


def fit_affine(x: ArrayLike, y: ArrayLike, method: str | Solver = "ridge", **options: Any) -> AffineMap:
    """Fits one affine map from the space of ``x`` to ``y``'s own coordinates.

    Two-sided methods are carried back through the pseudo-inverse of the target's side.

    Args:
      x: source embeddings, shape [n, p].
      y: target embeddings of the same photographs, row for row, shape [n, q].
      method: a name in ``SOLVERS``, or a solver.
      **options: as for ``fit_pair``.

    Returns:
      The map, means included, in float64 (float32 on a device without it); it gives float32 for float32 rows.

    Raises:
      UserError: see ``fit_pair``.

    Equivalent: ``sklearn.linear_model.Ridge(alpha=l2).fit(x, y).predict`` for ``method="ridge"``.
    """
    map_ = fit_pair(x, y, method, **options).to_target()
    return jax.tree.map(np.asarray, map_)  # numpy leaves keep float64 where the caller has not enabled it


def fit_pair(
    x: ArrayLike,
    y: ArrayLike,
    method: str | Solver = "ridge",
    *,
    l2: Any = "cv",
    rank: Any = None,
    folds: int = 5,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
    **options: Any,
) -> Fit:
    """Fits both sides of one pair, into the space where the cosine is taken.

    Args:
      x: source embeddings, shape [n, p].
      y: target embeddings of the same photographs, row for row, shape [n, q].
      method: a name in ``SOLVERS``, or a solver.
      l2: penalty of ``ridge`` and ``reduced_rank`` (scikit-learn's ``alpha``): a number, a grid, "cv" for the default
        grid (10⁻⁶ to 10² times the mean eigenvalue of the source's scatter matrix), "gcv" for generalised
        cross-validation over that grid.
      rank: of ``reduced_rank`` and ``canonical``: None for full; for ``reduced_rank`` also a list or "cv".
      folds: number of cross-validation folds.
      groups: identity of each row, shape [n]: folds are over people. Without it every row is a person of its own.
      weights: of rows, shape [n], ≥ 0.
      seed: of the assignment of people to folds.
      **options: ``penalty_per`` ("pair", "source", "column"), ``one_standard_error``, and the solver's fields.

    Raises:
      UserError: the arrays do not match, hold NaN, or have fewer people than folds; an unknown method or option.
    """
    settings = Settings.of(method, l2=l2, rank=rank, **options)
    moments = accumulate({"x": x, "y": y}, settings, folds=folds, groups=groups, weights=weights, seed=seed)
    pair = ("x", "y")
    choice = settings.choose(moments, [pair])
    return choice.cut(pair, solve(moments.total, choice.solvers)[pair].fit())


def accumulate(
    embeddings: Mapping[str, ArrayLike | LazyRows],
    settings: Settings | None,
    *,
    folds: int,
    groups: ArrayLike | None,
    weights: ArrayLike | None,
    seed: int,
    mesh: Mesh | None = None,
) -> FoldMoments:
    """Moments of the rows, by fold if the settings are chosen by cross-validation (or are not known yet)."""
    checks.seed(seed)
    arrays = checks.embeddings(embeddings)
    rows = next(iter(arrays.values())).shape[0]
    groups = None if groups is None else checks.groups(groups, rows)
    used = None
    if weights is not None:
        weights = checks.weights(weights, rows)
        there = weights > 0  # rows without weight are as good as absent: they fill no fold
        if not there.all():
            used = np.flatnonzero(there)
            groups = None if groups is None else groups[there]
            weights, rows = weights[there], len(used)
    if settings is not None and not settings.needs_folds:
        return FoldMoments.of(arrays, weights=weights, rows=used, mesh=mesh)
    fold = _fold_of_rows(groups, rows, folds, seed)
    return FoldMoments.of(arrays, fold=fold, weights=weights, rows=used, mesh=mesh)


def _fold_of_rows(groups: np.ndarray | None, rows: int, folds: int, seed: int) -> np.ndarray:
    if not isinstance(folds, (int, np.integer)) or folds < 2:
        raise UserError(f"folds: expected an integer of at least 2, got {folds!r}")
    if groups is not None:
        return identity_folds(groups, folds, seed)
    if rows < folds:
        raise UserError(f"cross-validation needs at least as many rows as folds: {rows} rows, {folds} folds")
    return (np.random.default_rng(seed).permutation(rows) % folds).astype(np.int32)
