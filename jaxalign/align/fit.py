"""Fitting: one map between two arrays, or maps between all pairs of encoders."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxalign.align.affine import AffineMap
from jaxalign.align.all_pairs import PairwiseMaps, chosen_pairs, plain
from jaxalign.align.settings import FitSettings, Penalty, Rank
from jaxalign.align.solve import solve
from jaxalign.align.solvers import Fit, Method, Pair
from jaxalign.align.solvers.base import AllPairsMethod, Training
from jaxalign.core import checks
from jaxalign.core.devices import check_mesh
from jaxalign.core.errors import UserError
from jaxalign.core.people import identity_folds
from jaxalign.core.rows import LazyRows
from jaxalign.moments.moments import FoldMoments, Moments
from jaxalign.moments.sharded import ShardedMoments

SAFER = "more rows, a larger l2 or shrinkage, or method 'linear' are safer"


def fit_affine(
    x: ArrayLike,
    y: ArrayLike,
    method: str | Method = "ridge",
    *,
    l2: Penalty = "cv",
    rank: Rank = None,
    folds: int = 5,
    identities: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
    restore_variance: bool = True,
    **options: Any,
) -> AffineMap:
    """Fits one affine map from the space of ``x`` to ``y``'s own coordinates, for a system that cannot change.

    Where both sides can be mapped, ``fit_pair(...).scores`` compares better: it takes the mean off both. Two-sided
    methods are carried back through the pseudo-inverse of the target's side. Arrays have no names, so ``save`` is told
    what ``experiments.apply`` is to check: ``map.save(file, source="a", target="b", side="to_target",
    normalize="l2")``.

    Args:
      x: source embeddings, shape [n, p].
      y: target embeddings of the same photographs, row for row, shape [n, q].
      method: a name in ``SOLVERS``, or the configuration of a method.
      l2, rank, folds, identities, weights, seed: as for ``fit_pairs``.
      restore_variance: scale the centred prediction to the target's variance (``Fit.to_target``), which cosines with
        raw rows of ``y`` gain from; False is least squares.
      **options: further ones of ``fit_pairs``, and the method's own.

    Returns:
      The map, means included, in float64 (float32 on a device without it); it gives float32 for float32 rows.

    Raises:
      UserError: see ``fit_pair``; or rounding left a map that is not finite. ``RuntimeWarning`` where the numbers
        cannot be trusted to five digits, or the solution is one of many.

    Equivalent: ``sklearn.linear_model.Ridge(alpha=l2).fit(x, y).predict`` for ``method="ridge"`` and
    ``restore_variance=False``.
    """
    of_rows = {"folds": folds, "identities": identities, "weights": weights}
    fit = fit_pair(x, y, method, l2=l2, rank=rank, seed=seed, **of_rows, **options)
    map_ = jax.tree.map(
        np.asarray, fit.to_target(restore_variance)
    )  # numpy keeps float64 where JAX would not
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(map_)):
        raise UserError(f"the map is not finite: rounding decides what these rows and settings give; {SAFER}")
    if not bool(fit.ok):
        found = f"condition {float(fit.condition):.0e}"
        warnings.warn(
            f"the map cannot be trusted, or is one of many ({found}); {SAFER}", RuntimeWarning, stacklevel=2
        )
    return map_


def fit_pair(
    x: ArrayLike,
    y: ArrayLike,
    method: str | Method = "ridge",
    *,
    l2: Penalty = "cv",
    rank: Rank = None,
    folds: int = 5,
    identities: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
    **options: Any,
) -> Fit:
    """Fits both sides of one pair, into the space where the cosine is taken: ``fit.scores(x_rows, y_rows)``.

    Args:
      x: source embeddings, shape [n, p].
      y: target embeddings of the same photographs, row for row, shape [n, q].
      method: a name in ``SOLVERS``, or the configuration of a method.
      l2, rank, folds, identities, weights, seed: as for ``fit_pairs``.
      **options: further ones of ``fit_pairs``, and the method's own.

    Raises:
      UserError: the arrays do not match, hold NaN, or have fewer people than folds; an unknown method or option.
    """
    settings = {"l2": l2, "rank": rank, "folds": folds, "seed": seed}
    of_rows = {"identities": identities, "weights": weights}
    pair = [("x", "y")]
    return fit_pairs({"x": x, "y": y}, method, pairs=pair, **settings, **of_rows, **options)["x", "y"]


def fit_pairs(
    embeddings: Mapping[str, ArrayLike | LazyRows] | FoldMoments,
    method: str | Method = "ridge",
    *,
    l2: Penalty = "cv",
    rank: Rank = None,
    folds: int = 5,
    identities: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    moments: FoldMoments | Moments | None = None,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> PairwiseMaps:
    """Fits maps between all ordered pairs of encoders, or the pairs named, addressable as ``maps[source, target]``.

    Args:
      embeddings: per encoder an array [n, d] or ``LazyRows``, the same photographs row for row; or their moments, taken
        once for several calls (``FoldMoments.of``; ``folds``, ``identities`` and ``weights`` then have no effect).
        Methods fitted by gradient ("low_rank", "joint") need the rows, and keep those of the pairs in memory.
      method: a name in ``SOLVERS``, or the configuration of a method.
      l2: penalty of ``ridge`` and ``reduced_rank`` (scikit-learn's ``alpha``): a number, a grid, "cv" for the default
        grid (10⁻⁶ to 10² times the mean eigenvalue of the source's scatter matrix), "gcv" for generalised
        cross-validation over that grid.
      rank: of the methods that have one; None for the method's own: full for ``reduced_rank`` and ``canonical``. For
        ``reduced_rank`` also a list or "cv", for ``low_rank`` also "full".
      folds: number of cross-validation folds.
      identities: identity of each row, shape [n]: folds, and batches of a fit by gradient, are over people. Without it
        every row is a person of its own.
      weights: of rows, shape [n], ≥ 0; not for methods fitted by gradient.
      moments: of these rows, where they are at hand already.
      sources, targets: restrict the ordered pairs to these encoders.
      pairs: the ordered pairs themselves; instead of ``sources`` and ``targets``.
      seed: of the assignment of people to folds; of the batches of a fit by gradient.
      progress: called with the numbers of pairs solved and in all.
      mesh: devices (``device_mesh``) over which rows, encoders and pairs are sharded; that of the moments if they are
        sharded, else the first device if absent. "shared" decomposes one matrix of all encoders, on one device.
      **options: ``penalty_per`` ("pair", "source", "column"), ``one_standard_error``, and the method's own options.

    Raises:
      UserError: arrays, names, options or the mesh are not usable.
    """
    mesh = check_mesh(mesh)
    settings = FitSettings.of(method, l2=l2, rank=rank, seed=seed, **options)
    solver, label = settings.solver, method if isinstance(method, str) else type(method).__name__
    given = embeddings if isinstance(embeddings, FoldMoments) else checks.embeddings(embeddings)
    names = given.names if isinstance(given, FoldMoments) else tuple(given)
    chosen = chosen_pairs(names, sources, targets, pairs)
    if solver.needs_rows:
        given = _rows_of(given, chosen, label, weights)
    used_folds = folds if settings.needs_folds else None
    total = _moments_of(given, moments, used_folds, identities, weights, seed, mesh)
    if isinstance(solver, AllPairsMethod):
        rows: Mapping[str, np.ndarray] = given if solver.needs_rows else {}  # pyright: ignore[reportAssignmentType]
        count = len(next(iter(rows.values()), ()))
        people = checks.identities(identities, count) if identities is not None and rows else np.arange(count)
        found = solver.fit_all(Training(total.gathered().total, rows, people, mesh), chosen)
        if progress is not None:
            progress(len(chosen), len(chosen))
        return PairwiseMaps(label, *found)
    if mesh is not None and mesh.size > 1:
        total = total.sharded(mesh)
    choice = settings.choose(total, chosen)
    solved = solve(total.total, choice.solvers, progress, choice.spectra)
    fits = {pair: (lambda pair=pair, get=get: choice.cut(pair, get())) for pair, get in solved.items()}
    return PairwiseMaps(label, fits, {pair: plain(choice.settings(pair)) for pair in chosen})


def fit_low_rank(embeddings: Mapping[str, ArrayLike | LazyRows], **options: Any) -> PairwiseMaps:
    """``fit_pairs`` with ``method="low_rank"``: maps of low rank by gradient; see ``LowRank`` for its options."""
    return fit_pairs(embeddings, "low_rank", **options)


def fit_joint_space(embeddings: Mapping[str, ArrayLike | LazyRows], **options: Any) -> PairwiseMaps:
    """``fit_pairs`` with ``method="joint"``: one space for all encoders by gradient; see ``Joint`` for its options."""
    return fit_pairs(embeddings, "joint", **options)


def _rows_of(
    given: Mapping[str, Any] | FoldMoments, pairs: Sequence[Pair], method: str, weights: ArrayLike | None
) -> dict[str, np.ndarray]:
    """The rows of the encoders in the pairs, in memory."""
    if isinstance(given, FoldMoments):
        raise UserError(f"method {method!r} is fitted on rows: give them, and the moments as moments=")
    if weights is not None:
        raise UserError(f"method {method!r} takes no weights of rows")
    return {name: np.asarray(given[name]) for name in dict.fromkeys(name for pair in pairs for name in pair)}


def _moments_of(
    given: Mapping[str, np.ndarray | LazyRows] | FoldMoments,
    moments: object,
    folds: int | None,
    identities: ArrayLike | None,
    weights: ArrayLike | None,
    seed: int,
    mesh: Mesh | None,
) -> FoldMoments:
    """The moments that the caller gives, or those of the rows: by fold if settings are chosen by cross-validation."""
    if isinstance(given, FoldMoments):
        return given
    if moments is not None:
        return _checked_moments(moments, given)
    checks.seed(seed)
    rows = next(iter(given.values())).shape[0]
    identities = None if identities is None else checks.identities(identities, rows)
    used = fold = None
    if weights is not None:
        weights = checks.weights(weights, rows)
        used = np.flatnonzero(weights)  # rows without weight are as good as absent: they fill no fold
        identities = None if identities is None else identities[used]
        weights, rows = weights[used], len(used)
    if folds is not None:
        if not isinstance(folds, (int, np.integer)) or folds < 2:
            raise UserError(f"folds: expected an integer of at least 2, got {folds!r}")
        if identities is not None:
            fold = identity_folds(identities, folds, seed)
        elif rows < folds:
            raise UserError(
                f"cross-validation needs at least as many rows as folds: {rows} rows, {folds} folds"
            )
        else:
            fold = (np.random.default_rng(seed).permutation(rows) % folds).astype(np.int32)
    return FoldMoments.of(given, fold=fold, weights=weights, rows=used, mesh=mesh)


def _checked_moments(moments: object, rows: Mapping[str, Any]) -> FoldMoments:
    """Moments that the caller gives together with the rows."""
    if not isinstance(moments, FoldMoments):
        if not isinstance(moments, Moments | ShardedMoments):
            raise UserError(f"moments: expected those of the training rows, got {type(moments).__name__}")
        moments = FoldMoments(moments, ())  # pyright: ignore[reportArgumentType]
    missing = [name for name in rows if name not in moments.names]
    if missing:
        raise UserError(f"moments: {', '.join(missing)} is not among its encoders {', '.join(moments.names)}")
    return moments
