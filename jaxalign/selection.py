"""Choosing a penalty and a rank by cross-validation on moments: the rows are never read again.

With S, C the training moments of all folds but one and S', C' those of the fold (about the training means), the
held-out squared error of a map W is tr(C'yy) − 2 tr(Wᵀ C') + tr(Wᵀ S' W). In the eigenbasis V of S and for
A = Vᵀ C, ridge is W = V diag(d) A with d = 1 / (s + l2), so that the error of a *pair* at every penalty is a
quadratic form of d in (Vᵀ S' V) ∘ (A Aᵀ), which is formed once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign import checks
from jaxalign.blocks import Beside, Columns, cross_moments, own_moments
from jaxalign.errors import UserError
from jaxalign.moments import FoldMoments, Moments
from jaxalign.precision import double_precision, multiply
from jaxalign.pytree import pytree
from jaxalign.solvers.reduced_rank import reduced_rank_factors
from jaxalign.solvers.spectrum import Spectrum
from jaxalign.workers import concurrently

DEFAULT_GRID = 10.0 ** np.arange(-6, 2.5, 0.5)  # times the mean eigenvalue of the source's scatter matrix

# The eigendecomposition stays in the moments' format; the products after it only rank penalties.
PRODUCTS = jnp.float32


@pytree
class Scores:
    """Held-out error of candidate settings.

    Attributes:
      candidates: the settings (penalties, or ranks), ascending, shape [L].
      error: mean squared error by fold, candidate and unit, shape [F, L, units]. A unit is a target encoder or a
        target column. One "fold" for generalised cross-validation.
      rows: weight of each fold, shape [F].
    """

    candidates: np.ndarray
    error: np.ndarray
    rows: np.ndarray

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
    folds = (None,) if generalised else moments.folds
    tasks = [(source, fold) for source in grids for fold in folds]
    tasks.sort(
        key=lambda task: -total.width(task[0])
    )  # the longest first: no core then waits for it at the end
    beside = {source: Beside.of(total, names) for source, names in targets.items()}

    def errors(task: tuple[str, Moments | None]) -> Array:
        source, fold = task
        with double_precision():
            columns = Columns.of(total, [source]), beside[source].columns
            grid = jnp.asarray(grids[source], total.scatter.dtype)
            if fold is None:
                return _generalised_errors(total, *columns, grid, per_column=per_column)
            return _fold_errors(total, fold, *columns, grid, per_column=per_column)

    found: dict[str, list[np.ndarray]] = {source: [] for source in grids}
    for (source, _), error in zip(tasks, concurrently(errors, tasks)):
        error = np.asarray(error, np.float64)
        places, names = beside[source].places, beside[source].names
        units = [error[:, places[name] if per_column else [names.index(name)]] for name in targets[source]]
        found[source].append(np.concatenate(units, axis=1))
    rows = np.array([1.0 if fold is None else float(fold.weight) for fold in folds])
    return {source: Scores(grids[source], np.stack(error), rows) for source, error in found.items()}


def rank_scores(moments: FoldMoments, source: str, target: str, l2: float) -> Scores:
    """Held-out errors of reduced-rank ridge of one pair at every rank from 1 to min(p, q)."""
    _require_folds(moments)
    total = moments.total
    p, q = total.width(source), total.width(target)
    pair = Columns.of(total, [source]), Columns.of(total, [target])
    with double_precision():
        errors = [np.asarray(_rank_errors(total, fold, pair, jnp.asarray(l2))) for fold in moments.folds]
        rows = np.array([float(fold.weight) for fold in moments.folds])
    return Scores(np.arange(1, min(p, q) + 1), np.stack(errors)[:, : min(p, q), None], rows)


def _require_folds(moments: FoldMoments) -> None:
    if not moments.folds:
        raise UserError("choosing by cross-validation needs moments of at least two folds, got none")


@pytree
class _Fold:
    """What one fold holds out, and what the others train on.

    Attributes:
      training: weight of the other folds over their total, the coefficient of the step between means.
      step: mean of the fold minus mean of the others, shape [D].
    """

    total: Moments
    fold: Moments
    training: Array
    step: Float[Array, " D"]

    @classmethod
    def of(cls, total: Moments, fold: Moments) -> _Fold:
        weight = total.weight - fold.weight
        mean = total.mean + (total.mean - fold.mean) * (fold.weight / weight)
        return cls(total, fold, weight * fold.weight / total.weight, fold.mean - mean)

    def block(self, rows: Columns, columns: Columns) -> tuple[Array, Array]:
        """A block of the training scatter, and of the held-out scatter about the training means."""
        between = jnp.outer(rows.take(self.step, 0), columns.take(self.step, 0))
        held_out, whole = (columns.take(rows.take(part.scatter, 0), 1) for part in (self.fold, self.total))
        return whole - held_out - self.training * between, held_out + self.fold.weight * between

    def power(self) -> Float[Array, " D"]:
        """Held-out sum of squares of each column about its training mean."""
        return self.fold.scatter.diagonal() + self.fold.weight * self.step**2


@functools.partial(jax.jit, static_argnames="per_column")
def _fold_errors(
    total: Moments,
    fold: Moments,
    source: Columns,
    targets: Columns,
    grid: Float[Array, " L"],
    *,
    per_column: bool,
) -> Float[Array, "L units"]:
    split = _Fold.of(total, fold)
    own, own_held_out = split.block(source, source)
    spectrum = Spectrum.of_matrix(own)
    scale = 1 / (spectrum.values[:, None] + grid)  # d, shape [p, L]
    blocks = [split.block(source, part) for part in targets.parts()]
    # The barriers keep conversions and slices out of the products, which are then faster on CPU.
    turned, both = jax.lax.optimization_barrier(
        (spectrum.vectors.astype(PRODUCTS).T, [_beside([pair[k] for pair in blocks]) for k in (0, 1)])
    )
    rotated, rotated_held_out = jax.lax.optimization_barrier(
        [multiply(turned, part) for part in both]
    )  # A first
    quadratic = multiply(turned, multiply(own_held_out.astype(PRODUCTS), turned.T))
    product = rotated * rotated_held_out
    power = targets.take(split.power(), 0)
    if per_column:

        def one(d: Array) -> Array:
            weight = d[:, None] * rotated
            return jnp.sum(multiply(quadratic, weight) * weight, axis=0)

        narrow = scale.astype(PRODUCTS)
        squared = jax.lax.map(one, narrow.T)
        return (power - 2 * multiply(narrow.T, product) + squared) / fold.weight
    edges = np.cumsum((0, *targets.sizes))
    errors = []
    for start, stop in zip(edges[:-1], edges[1:]):
        cross = multiply(jnp.sum(product[:, start:stop], axis=1, dtype=scale.dtype), scale)
        errors.append(
            power[start:stop].sum() - 2 * cross + _quadratic_form(quadratic, rotated[:, start:stop], scale)
        )
    return jnp.stack(errors, axis=1) / fold.weight


def _beside(blocks: list[Array]) -> Array:
    return jnp.concatenate([block.astype(PRODUCTS) for block in blocks], axis=1)


def _quadratic_form(
    quadratic: Float[Array, "p p"], rotated: Float[Array, "p q"], scale: Float[Array, "p L"]
) -> Float[Array, " L"]:
    """dᵀ (Q ∘ A Aᵀ) d for each column d of ``scale``, without the block above the diagonal of the symmetric matrix."""
    half, narrow = rotated.shape[0] // 2, scale.astype(PRODUCTS)
    total = jnp.zeros(scale.shape[1], scale.dtype)
    for times, i, j in ((1, slice(0, half), slice(0, half)), (2, slice(half, None), slice(0, half)),
                        (1, slice(half, None), slice(half, None))):  # fmt: skip
        form = quadratic[i, j] * multiply(rotated[i], rotated[j].T)
        total += times * jnp.sum(multiply(form, narrow[j]) * narrow[i], axis=0, dtype=scale.dtype)
    return total


def _sums(array: Float[Array, "*rows columns"], sizes: tuple[int, ...]) -> Float[Array, "*rows K"]:
    """Sums over blocks of columns that are side by side."""
    edges = np.cumsum((0, *sizes))
    return jnp.stack([array[..., start:stop].sum(-1) for start, stop in zip(edges[:-1], edges[1:])], axis=-1)


@functools.partial(jax.jit, static_argnames="per_column")
def _generalised_errors(
    total: Moments, source: Columns, targets: Columns, grid: Float[Array, " L"], *, per_column: bool
) -> Float[Array, "L units"]:
    spectrum, cross = Spectrum.of(own_moments(total, source)), cross_moments(total, source, targets)
    squared, power = multiply(spectrum.vectors.T, cross.xy) ** 2, cross.power_y
    if not per_column:
        squared, power = (_sums(part, targets.sizes) for part in (squared, power))
    scale = 1 / (spectrum.values[None, :] + grid[:, None])
    explaining = 2 * scale - scale**2 * spectrum.values
    errors = jnp.maximum(power - multiply(explaining, squared), 0)
    freedom = jnp.sum(spectrum.values * scale, axis=1) + 1  # the mean costs one
    left = jnp.maximum(total.weight - freedom, 1e-12 * total.weight)
    return errors * (total.weight / left**2)[:, None]


@jax.jit
def _rank_errors(
    total: Moments, fold: Moments, pair: tuple[Columns, Columns], l2: Array
) -> Float[Array, " k"]:
    split, (source, target) = _Fold.of(total, fold), pair
    own, own_held_out = split.block(source, source)
    xy, cross = split.block(source, target)
    power = split.power()
    left, right, strengths = reduced_rank_factors(Spectrum.of_matrix(own), l2, xy)
    # Rows of ``right`` are orthogonal with squared length ``strengths``, so every rank is a cumulative sum.
    explained = jnp.sum(multiply(left.T, cross) * right, axis=1)
    squared = strengths * jnp.sum(multiply(own_held_out, left) * left, axis=0)
    target_power = target.take(power, 0).sum()
    return (target_power - 2 * jnp.cumsum(explained) + jnp.cumsum(squared)) / fold.weight
