"""What solvers read and return, and the two phases that every one of them has."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jaxalign.align.affine import AffineMap
from jaxalign.core import checks
from jaxalign.core.devices import padded_width
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply
from jaxalign.core.pytree import Leaf, Shown, pytree, static
from jaxalign.core.rows import LazyRows, unit_rows
from jaxalign.moments.blocks import CrossMoments, OwnMoments
from jaxalign.moments.moments import Moments
from jaxalign.moments.scatter import Sums

Pair = tuple[str, str]
UNORDERED = "this fit has no ordered dimensions; reduced_rank, canonical and shared have"


@pytree
class Fit(Shown):
    """Two maps into the space where the cosine is taken, and how well they fit the training rows.

    For one-sided methods ``target`` only centres; for two-sided methods both sides move.

    Attributes:
      source: maps the source encoder's rows into the comparison space.
      target: maps the target encoder's rows into it.
      residual: mean squared difference of the two mapped rows, for each dimension of the space, shape [s].
      variance: variance of the mapped target rows, for each dimension, shape [s].
      effective_rank: directions of the source that the map uses, shape []; each solver says how it counts.
      condition: condition number of the problem solved, shape []. Inside programs that solve columns with penalties of
        their own, both are of each column, shape [s].
      ok: False where the numbers cannot be trusted or the solution is one of many, shape [].
      predicted: variance of the mapped source rows, whose sum is the total: for each dimension, shape [s], or along the
        ordered dimensions of a one-sided fit. None for baselines, whose predictions are never scaled.
      method: what ``fit_pairs`` fitted it by; None of other fits.
    """

    source: AffineMap
    target: AffineMap
    residual: Float[Leaf, " s"]
    variance: Float[Leaf, " s"]
    effective_rank: Float[Leaf, "*s"]
    condition: Float[Leaf, "*s"]
    ok: Bool[Leaf, ""]
    predicted: Float[Leaf, " s"] | None = None
    method: str | None = static(default=None)

    @property
    def r2(self) -> Float[Array, ""]:
        """Share of the target's variance that the source explains on the training rows; 1 is a perfect fit."""
        total = self.variance.sum(-1)
        return 1 - self.residual.sum(-1) / (total + (total == 0))

    @property
    def two_sided(self) -> bool:
        """Whether the target's rows do more than shift."""
        return bool(self.target.factors)

    def __repr__(self) -> str:
        """The method, widths, the space and the statistics, in one line."""
        widths = f"{self.source.in_dim} and {self.target.in_dim} compared in {self.source.out_dim} dimensions"
        method = "" if self.method is None else f"{self.method}, "
        return f"Fit({method}{widths}, {summary(self)})"

    def to_target(self, restore_variance: bool = True) -> AffineMap:
        """The map from the source to the target's own coordinates (through the shared space if there is one).

        Least squares shrinks predictions towards the mean, and a system that takes cosines with the mean in them then
        compares means. ``restore_variance`` scales the centred prediction to the total variance of the target on the
        training rows, in the space where the pair is compared; False leaves the least-squares prediction. Baselines,
        and predictions without variance, are never scaled.
        """
        source, scale = self.source, self.restoring_scale() if restore_variance else 1.0
        if scale != 1.0:
            first = source.factors or (np.eye(source.in_dim),)
            source = AffineMap((*first[:-1], first[-1] * scale), source.bias * scale, source.center)
        return source.then(self.target.inverse())

    def restoring_scale(self) -> float:
        """√(total variance of the mapped target rows / that of the mapped source rows); 1 where it is undefined."""
        if self.predicted is None:
            return 1.0
        target, source = (float(np.sum(np.asarray(part))) for part in (self.variance, self.predicted))
        return math.sqrt(target / source) if target > 0 and 0 < source < math.inf else 1.0

    def scores(self, x: Any, y: Any) -> np.ndarray:
        """Cosines of source rows with target rows in the space where the pair is compared.

        Args:
          x: rows of the source encoder, shape [n, p], any floating format; or ``LazyRows``.
          y: rows of the target encoder, shape [m, q]; of any photographs, in any order.

        Returns:
          Shape [n, m], −1 to 1, on the host: float64 where either side is, else float32. Rows that are mapped to zero
          have cosine 0.

        Raises:
          UserError: a width is not that of the map, or rows hold NaN or infinite values.
        """
        left, right = _directions(self.source, x, "x"), _directions(self.target, y, "y")
        with double_precision():
            return np.clip(np.asarray(multiply(left, right.T)), -1, 1)

    def at_rank(self, rank: int) -> Fit:
        """The fit that keeps the leading ``rank`` dimensions, for methods that order them.

        The statistics stay those of the full fit, except for two-sided fits, whose dimensions are cut with them.

        Raises:
          UserError: the dimensions are not ordered, or there are fewer than ``rank``.
        """
        if not self.two_sided and len(self.source.factors) != 2:
            raise UserError(UNORDERED)
        if not 1 <= rank <= self.source.rank:
            raise UserError(f"rank: expected 1 to {self.source.rank}, the rank of this fit, got {rank}")
        if self.two_sided:
            sides = {name: _leading_columns(getattr(self, name), rank) for name in ("source", "target")}
            of_columns = {
                name: getattr(self, name)[..., :rank] for name in ("residual", "variance", "predicted")
            }
            return dataclasses.replace(self, **sides, **of_columns)
        left, right = self.source.factors
        if self.predicted is None or len(self.predicted) != left.shape[-1]:
            raise UserError(UNORDERED)
        factors = (left[..., :, :rank], right[..., :rank, :])
        source = dataclasses.replace(self.source, factors=factors)
        return dataclasses.replace(self, source=source, predicted=self.predicted[..., :rank])

    def cut(self, p: int, q: int, space: int) -> Fit:
        """The fit without padding: encoders of widths p and q, compared in ``space`` dimensions. On host arrays."""
        source = _cut(self.source, p, space)
        inner = source.factors[0].shape[1] if source.factors else space
        return Fit(
            source,
            _cut(self.target, q, space),
            self.residual[:space],
            self.variance[:space],
            np.atleast_1d(self.effective_rank)[:space].mean(),
            np.atleast_1d(self.condition)[:space].max(),
            self.ok,
            None if self.predicted is None else self.predicted[:inner],
        )

    def padded(self) -> Fit:
        """The maps of rows padded to ``padded_width``, so that those of similar width share programs; host arrays."""

        def pad(leaf: Leaf) -> np.ndarray:
            return np.pad(leaf, [(0, padded_width(size) - size) for size in leaf.shape])

        source, target = jax.tree.map(pad, (self.source, self.target))
        return dataclasses.replace(self, source=source, target=target, method=None)  # methods share programs


def summary(fit: Fit) -> str:
    """The statistics of a fit in words, where they are numbers."""
    try:
        numbers = f"R² {float(fit.r2):.3f}, effective rank {float(fit.effective_rank):.1f}"
        return f"{numbers}, condition {float(fit.condition):.1e}" + ("" if fit.ok else ", NOT to be trusted")
    except (TypeError, ValueError, AttributeError, jax.errors.JAXTypeError):
        return "statistics not known yet"  # of a stack, or while a program is traced


def _cut(map_: AffineMap, width: int, space: int) -> AffineMap:
    factors = map_.factors or ((np.eye(width, space, dtype=map_.dtype),) if width != space else ())
    widths = [width, *(min(factor.shape[1], width, space) for factor in factors[:-1]), space]
    factors = tuple(factor[:rows, :columns] for factor, rows, columns in zip(factors, widths, widths[1:]))
    center = None if map_.center is None else map_.center[:width]
    return dataclasses.replace(map_, factors=factors, bias=map_.bias[:space], center=center)


def _directions(map_: AffineMap, rows: Any, name: str) -> np.ndarray:
    """Mapped rows scaled to length 1, in pieces of float64, so that numbers near a format's limits do no harm."""
    lazy = LazyRows.of(checks.embedding_rows(rows, name))
    if lazy.width != map_.in_dim:
        raise UserError(f"{name}: the map takes rows of width {map_.in_dim}, got {lazy.shape}")
    found = np.empty((len(lazy), map_.out_dim), np.float64 if lazy.dtype.itemsize > 4 else np.float32)
    for start, piece in lazy.pieces(4096):
        piece = piece.astype(np.float64)
        if not np.isfinite(piece).all():
            raise UserError(
                f"{name}: rows {start:,} to {start + len(piece) - 1:,} hold NaN or infinite values"
            )
        found[start : start + len(piece)] = unit_rows(np.asarray(map_(piece)))
    return found


def _leading_columns(map_: AffineMap, rank: int) -> AffineMap:
    *first, last = map_.factors
    return AffineMap((*first, last[..., :rank]), map_.bias[..., :rank], map_.center)


class Method:
    """The configuration of one method: a frozen dataclass whose fields are the method's options."""

    columnwise: ClassVar[bool] = False  # ``solve`` needs nothing of the target but the cross moments
    symmetric: ClassVar[bool] = False  # both directions of a pair come from one decomposition
    ranked: ClassVar[bool] = (
        False  # dimensions are ordered: ``Fit.at_rank`` gives every rank from one solution
    )
    needs_rows: ClassVar[bool] = False  # fitted by gradient, on rows and identities as well as moments
    # Which pairs share work and are best fitted in one call: "source": all of one source; "unordered": both directions.
    whole: ClassVar[str] = "pair"

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The method's options with their defaults."""
        return {field.name: field.default for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]

    def validate(self) -> None:
        """Raises ``UserError`` if a setting is out of its range."""


class Solver(Method):
    """A closed-form method with two phases; a frozen pytree whose numbers may be traced or batched."""

    def space(self, p: int, q: int) -> int:
        """Width of the space where encoders of widths p and q are compared: the target's own coordinates."""
        return q

    def factor(self, own: OwnMoments) -> Any:
        """Work on one encoder alone, done once however many pairs it is in: none."""
        return own

    def solve(self, source: Any, target: Any, cross: CrossMoments) -> Fit:
        """Work on one ordered pair, from both sides' states and the cross moments."""
        raise NotImplementedError


class ColumnwiseSolver(Solver):
    """A solver that treats every target column alone."""

    columnwise = True
    whole = "source"

    def padded(self, width: int) -> Solver:
        """The solver for a target of this width, whose columns are padded to ``padded_width``."""
        return self


class SymmetricSolver(Solver):
    """A solver that gives both directions of a pair from one decomposition."""

    symmetric = True
    whole = "unordered"

    def solve(self, source: Any, target: Any, cross: CrossMoments) -> Fit:
        """Solves one direction; see the class."""
        return self.solve_both(source, target, cross)[0]

    def solve_both(self, source: Any, target: Any, cross: CrossMoments) -> tuple[Fit, Fit]:
        """The fit from source to target, and the one from target to source."""
        raise NotImplementedError


class Training(NamedTuple):
    """What an ``AllPairsMethod`` is fitted on."""

    total: Moments  # of the training rows, on the host or the first device
    rows: Mapping[str, np.ndarray]  # per encoder shape [n, d], where the method needs rows; else empty
    identities: np.ndarray  # of the rows, shape [n]
    mesh: Mesh | None  # devices to use; None for the first one


class Fitted(NamedTuple):
    """What an ``AllPairsMethod`` gives: for each pair its fit, its settings and, if fitted by gradient, its history."""

    fits: Mapping[Pair, Callable[[], Fit]]
    settings: Mapping[Pair, Mapping[str, Any]]
    history: Mapping[Pair, Any]


class AllPairsMethod(Method):
    """A method that fits all pairs in one call, because they share a space or are trained in one program."""

    def fit_all(self, training: Training, pairs: Sequence[Pair]) -> Fitted:
        """Fits the ordered pairs named."""
        raise NotImplementedError


def require_rank_fits(rank: int, total: Sums, pair: Pair) -> None:
    """Raises ``UserError`` if a rank is larger than the narrower width of a pair."""
    most = min(map(total.width, pair))
    if rank > most:
        raise UserError(f"rank: at most {most} for {pair[0]} → {pair[1]} (the narrower width), got {rank}")


def one_sided(
    weights: tuple[Array, ...],
    cross: CrossMoments,
    product: Array,
    mapped: Array,
    *,
    predicted: Array | None = None,
    effective_rank: Array,
    condition: Array,
    ok: Array,
    orthogonal: bool = False,
) -> Fit:
    """A fit by (x − μx) W, W the product of ``weights``, and centred targets.

    ``product`` is Σ w (x W) y and ``mapped`` Σ w (x W)², of centred rows, shape [q]; ``predicted``, if its parts are
    along other dimensions than the target's columns, has the same sum as ``mapped``.
    """
    residual = cross.power_y - 2 * product + mapped
    # A difference of nearly equal numbers is no variance, nor is what underflows: the penalty has then left nothing of
    # the prediction, and nobody can scale it to a target that varies.
    limits = jnp.finfo(mapped.dtype)
    left = mapped.sum() > jnp.maximum(limits.eps**0.5 * jnp.abs(product).sum(), limits.tiny / limits.eps)
    varies = jnp.any(cross.power_y > cross.weight * (4 * limits.eps * cross.mean_y) ** 2)
    parts = mapped if predicted is None else predicted
    return Fit(
        AffineMap(weights, jnp.zeros_like(cross.mean_y), cross.mean_x, orthogonal),
        AffineMap((), -cross.mean_y, orthogonal=True),
        jnp.maximum(residual, 0) / cross.weight,
        cross.power_y / cross.weight,
        effective_rank,
        condition,
        ok & jnp.isfinite(residual).all() & (left | ~varies),
        jnp.where(left, parts, 0) / cross.weight,
    )
