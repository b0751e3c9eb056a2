"""Fusion of several encoders: of their scores for the same comparisons, and of their rows.

Scores that are added with weights are inner products of rows put one behind the other, so that ``evaluate`` takes a
fused system as it takes any other:

>>> fusion = Fusion.fit(training_scores, genuine, kind="logistic")
>>> evaluate(fused_rows(probes, fusion.weights), fused_rows(gallery), identities)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.calibration import comparisons, logistic_rule
from jaxalign.biometrics.inputs import checked
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows, unit_rows

KINDS = ("mean", "znorm", "minmax", "tanh", "logistic")
TANH_SLOPE = 0.01
Rows = ArrayLike | LazyRows


@dataclasses.dataclass(frozen=True, eq=False)
class Fusion:
    """A rule from the scores of K systems for one comparison to one score; its numbers are of training comparisons.

    Attributes:
      kind: one of ``KINDS``.
      slopes, offsets: a system's score s becomes slope · s + offset; shapes [K].
    """

    kind: str
    slopes: np.ndarray
    offsets: np.ndarray

    @classmethod
    def fit(cls, scores: ArrayLike, genuine: ArrayLike, kind: str = "logistic") -> Self:
        """Learns how to fuse from comparisons of people who are not tested.

        The fused score is the mean over systems of
          "mean": s;
          "znorm": (s − μ) / σ, with mean and standard deviation of the system's impostor scores;
          "minmax": (s − min) / (max − min), of all of its scores, without a limit to what lies beyond them;
          "tanh": ½ (1 + tanh(0.01 (s − μ) / σ)), of its genuine scores.
        "logistic" is the log-likelihood ratio b + Σ w s by logistic regression, genuine and impostor comparisons
        weighing the same in total.

        Args:
          scores: of every comparison by each of K systems, shape [n, K].
          genuine: whether each comparison is of one person, shape [n].
          kind: one of ``KINDS``.

        Raises:
          UserError: scores that are not finite or of one kind only, a system whose scores do not vary, or, for
            "logistic", scores that part genuine from impostor comparisons without an error.

        Equivalent: scikit-learn's ``LogisticRegression(C=inf, class_weight="balanced")``. Reference: Jain, Nandakumar,
        Ross, "Score normalization in multimodal biometric systems", Pattern Recognition 2005.
        """
        if kind not in KINDS:
            raise UserError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        values, mated = comparisons(scores, genuine, axes=2)
        systems = values.shape[1]
        if kind == "logistic":
            offset, *slopes = logistic_rule(values, mated)
            return cls(kind, np.array(slopes), np.full(systems, offset / systems))
        centre, spread = np.zeros(systems), np.ones(systems)
        if kind == "minmax":
            centre, spread = values.min(axis=0), np.ptp(values, axis=0)
        elif kind in ("znorm", "tanh"):
            some = values[mated if kind == "tanh" else ~mated]
            centre, spread = some.mean(axis=0), some.std(axis=0)
        same = np.flatnonzero(~(spread > 0))
        if len(same):
            raise UserError(
                f"scores: those of system {same[0]} do not vary, so that {kind!r} cannot scale them"
            )
        share = TANH_SLOPE if kind == "tanh" else 1 / systems
        return cls(kind, share / spread, -share * centre / spread)

    def __call__(self, scores: ArrayLike) -> np.ndarray:
        """The fused score of each comparison, from scores [n, K]; float64, shape [n]."""
        given = checks.array_of(scores, "scores")
        if given.ndim != 2 or given.shape[1] != len(self.slopes):
            raise UserError(f"scores: expected shape [n, {len(self.slopes)}], got {list(given.shape)}")
        scaled = given.astype(np.float64) * self.slopes + self.offsets
        return (np.tanh(scaled).mean(axis=1) + 1) / 2 if self.kind == "tanh" else scaled.sum(axis=1)

    @property
    def weights(self) -> np.ndarray:
        """What ``fused_rows`` takes, shape [K]; a ``UserError`` for "tanh", which no weights add up to."""
        if self.kind == "tanh":
            raise UserError("weights: fusion by 'tanh' is not a weighted sum of scores; call it with scores")
        return self.slopes


def fused_rows(rows: Sequence[Rows], weights: Sequence[float] | np.ndarray | None = None) -> LazyRows:
    """Unit rows of K encoders one behind the other, each times its weight.

    The cosine of probes with weights w and gallery rows without is Σ wₖ sₖ / (√K √Σ wₖ²), sₖ the cosine by encoder k:
    rates and ranks are those of the weighted sum, without weights those of the mean.

    Args:
      rows: of each encoder, for the same photographs; shapes [n, dₖ].
      weights: of the encoders, shape [K], negative ones too; 1 where not given.

    Returns:
      Rows that are put together when they are read, shape [n, Σ dₖ]: float64 where some are, else float32.

    Raises:
      UserError: rows of unequal number, other weights than one for each encoder, or all of them 0; when they are read,
        rows of zeros, which would change the weights of the others.
    """
    sides = _same_length(rows)
    each = np.ones(len(sides)) if weights is None else checks.array_of(weights, "weights").astype(np.float64)
    if each.shape != (len(sides),) or not np.isfinite(each).all() or not each.any():
        raise UserError(
            f"weights: expected {len(sides)} finite numbers that are not all 0, got {each.tolist()}"
        )

    def read(numbers: np.ndarray) -> np.ndarray:
        found = [_unit(side, numbers, place) for place, side in enumerate(sides)]
        return np.concatenate([weight * unit for weight, unit in zip(each, found)], axis=1)

    return _lazy(sides, read, sum(side.width for side in sides))


def mean_rows(rows: Sequence[Rows]) -> LazyRows:
    """The mean of the unit rows of K encoders that were mapped into one space: one template as short as a single row.

    Args:
      rows: of each encoder, for the same photographs; shapes [n, d].

    Returns:
      Rows that are averaged when they are read, shape [n, d].

    Raises:
      UserError: rows of unequal number or width; rows of zeros, when they are read.
    """
    sides = _same_width(rows)
    return _lazy(
        sides,
        lambda numbers: np.mean([_unit(side, numbers, k) for k, side in enumerate(sides)], axis=0),
        sides[0].width,
    )


def mixed_rows(rows: Sequence[Rows], encoder: ArrayLike) -> LazyRows:
    """Of each photograph the row of one of K encoders, such as the one that its person is enrolled under.

    Args:
      rows: of each encoder, for the same photographs, mapped into one space; shapes [n, d].
      encoder: which one is taken, from 0 to K − 1, shape [n].

    Returns:
      Rows that are chosen when they are read, shape [n, d].

    Raises:
      UserError: rows of unequal number or width, or an encoder that is not there.
    """
    sides, chosen = _same_width(rows), checks.array_of(encoder, "encoder")
    good = chosen.shape == (len(sides[0]),) and chosen.dtype.kind in "iu"
    if not good or chosen.min() < 0 or chosen.max() >= len(sides):
        raise UserError(
            f"encoder: expected a number from 0 to {len(sides) - 1} for each of {len(sides[0]):,} rows"
        )

    def read(numbers: np.ndarray) -> np.ndarray:
        found = np.empty((len(numbers), sides[0].width))
        for place, side in enumerate(sides):
            here = chosen[numbers] == place
            found[here] = side.take(numbers[here])
        return found

    return _lazy(sides, read, sides[0].width)


def _same_length(rows: Sequence[Rows]) -> list[LazyRows]:
    sides = [checked(side, f"rows of encoder {place}") for place, side in enumerate(rows)]
    if len({len(side) for side in sides}) != 1:
        raise UserError(
            f"rows: expected the same photographs of one encoder or more, got {[len(side) for side in sides]} rows"
        )
    return sides


def _same_width(rows: Sequence[Rows]) -> list[LazyRows]:
    sides = _same_length(rows)
    if len({side.width for side in sides}) > 1:
        raise UserError(f"rows: expected one space, got the widths {[side.width for side in sides]}")
    return sides


def _unit(side: LazyRows, numbers: np.ndarray, place: int) -> np.ndarray:
    unit = unit_rows(side.take(numbers))
    zero = numbers[~unit.any(axis=1)]
    if len(zero):
        raise UserError(f"rows of encoder {place}: row {zero[0]:,} is zero and has no direction to fuse")
    return unit


def _lazy(sides: Sequence[LazyRows], read: Callable[[np.ndarray], np.ndarray], width: int) -> LazyRows:
    """Rows that ``read`` makes from their numbers."""
    dtype = np.result_type(np.float32, *(side.dtype for side in sides))
    numbers = LazyRows.of(np.arange(len(sides[0]))[:, None])
    return numbers.then(lambda some: read(some[:, 0]).astype(dtype), width=width, dtype=dtype)
