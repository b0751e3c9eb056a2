"""The methods ``low_rank`` and ``joint``: maps of pairs, and one space for all encoders, fitted by gradient."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxalign.align.gradient.batches import prepare
from jaxalign.align.gradient.gradient_options import GradientOptions
from jaxalign.align.gradient.objectives import (
    JointObjective,
    JointWeights,
    PairMember,
    PairObjective,
    PairWeights,
    Terms,
)
from jaxalign.align.gradient.starts import Factors, joint_starts, one_sided_fit, pair_starts, two_sided_fits
from jaxalign.align.gradient.training import History, train
from jaxalign.align.solvers import Fit, Pair
from jaxalign.align.solvers.base import Fitted, Training, require_rank_fits
from jaxalign.core import checks
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision
from jaxalign.moments.moments import Moments


@dataclasses.dataclass(frozen=True)
class LowRank(GradientOptions):
    """Maps of low rank by gradient; both directions of a pair are one problem where the maps are two-sided.

    One-sided, x ↦ (x A) B + b with A [p, r] and B [r, q], or two-sided, with factors [p, r] and [q, r] into a common
    space. Rows are written in each encoder's principal axes, scaled to mean squared length 1, and Adam moves the
    factors from the closed-form solution. ``Fit.ok`` is False where the loss diverged.

    Attributes:
      rank: r; None for ``RANK``, or the narrower width where that is less; "full" for the narrower width.
    """

    RANK = 128
    whole = "unordered"

    def fit_all(self, training: Training, pairs: Sequence[Pair]) -> Fitted:
        """Fits all pairs, those of one padded shape in one program."""
        options = self.settled()
        total = jax.tree.map(np.asarray, training.total)
        solved = dict.fromkeys((min(pair), max(pair)) if options.two_sided else pair for pair in pairs)
        ranks = {pair: self._rank(total, pair) for pair in solved}
        prepared = prepare(training, total, options)
        with double_precision(False):
            starts = pair_starts(total, ranks, options, prepared.axes)
        groups: dict[tuple[int, int], dict[Pair, tuple[int, int]]] = {}
        for pair in solved:
            (p, source), (q, target) = (prepared.stack_index[name] for name in pair)
            groups.setdefault((p, q), {})[pair] = source, target
        learnt: list[tuple[Pair, Factors, History]] = []
        for widths, alike in groups.items():
            objective = PairObjective.of(options, prepared.rows, widths)
            weights = _stacked(widths, [starts[pair] for pair in alike], options)
            member = PairMember(*np.array(list(alike.values())).T)
            trained = train(objective, options, weights, member, prepared.rows, training.mesh)
            for index, pair in enumerate(alike):
                left, right = (
                    np.asarray(part[index], np.float64)[: start.shape[0], : start.shape[1]]
                    for part, start in zip((trained.weights.left, trained.weights.right), starts[pair])
                )
                learnt.append((pair, (left, right), History.of(trained, index, options)))

        def fits_of(one: tuple[Pair, Factors, History]) -> dict[Pair, Fit]:
            pair, (left, right), record = one
            source, target = (prepared.axes[name] for name in pair)
            left = source.from_coordinates(left)
            if not options.two_sided:
                right = right @ target.vectors.T * target.scale
                return {pair: one_sided_fit(total, pair, left, right, ok=record.ok)}
            both = two_sided_fits(total, pair, left, target.from_coordinates(right), ok=record.ok)
            return dict(zip((pair, pair[::-1]), both))  # pyright: ignore[reportReturnType]

        fits: dict[Pair, Fit] = {}
        history: dict[Pair, History] = {}
        for made, (_, _, record) in zip(concurrently(fits_of, learnt), learnt):
            fits.update(made)
            history.update(dict.fromkeys(made, record))
        settings = {pair: {**dataclasses.asdict(options), "rank": fits[pair].source.rank} for pair in pairs}
        return Fitted(_given(fits, pairs), settings, {pair: history[pair] for pair in pairs})

    def _rank(self, total: Moments, pair: Pair) -> int:
        most = min(map(total.width, pair))
        if self.rank is None or self.rank == "full":
            return most if self.rank == "full" else min(self.RANK, most)
        require_rank_fits(int(self.rank), total, pair)
        return int(self.rank)


@dataclasses.dataclass(frozen=True)
class Joint(GradientOptions):
    """K maps into one space by gradient, minimising the mean loss over all unordered pairs of encoders.

    Starts from ``fit_shared_space``; otherwise as two-sided ``LowRank``, with one factor for each encoder that all its
    pairs share. All encoders that the pairs name are fitted together.

    Attributes:
      rank: dimensions of the space; None for ``RANK``, or the sum of the widths where that is less.
      start_options: ``whitening``, ``weighting`` and ``shrinkage`` of ``fit_shared_space``.
    """

    RANK = 128

    two_sided: bool | None = True
    start_options: Mapping[str, Any] | None = None

    def validate(self) -> None:
        """Raises ``UserError`` for an option out of its range, or options that do not go together."""
        self.settled()
        checks.rank(self.rank)  # pyright: ignore[reportArgumentType]
        unknown = ", ".join(sorted(set(self.start_options or {}) - {"whitening", "weighting", "shrinkage"}))
        if unknown:
            raise UserError(f"start_options: expected whitening, weighting or shrinkage, got {unknown}")
        if self.orthogonal or not self.two_sided:
            raise UserError(
                "a joint space has a factor for each encoder: two_sided=False and orthogonal=True are for pairs"
            )

    def fit_all(self, training: Training, pairs: Sequence[Pair]) -> Fitted:
        """Fits one space to all encoders that the pairs name."""
        options, rows = self.settled(), training.rows
        total = jax.tree.map(np.asarray, training.total)
        rank = min(int(self.rank or self.RANK), sum(map(total.width, rows)))
        prepared = prepare(training, total, options)
        with double_precision(False):
            starts = joint_starts(total, rank, options, prepared.axes, self.start_options or {})
        stacks: dict[int, list[np.ndarray]] = {}
        for name, (width, _) in prepared.stack_index.items():
            stacks.setdefault(width, []).append(_padded(starts[name], (width, rank)))
        # One problem: every leaf gets a leading axis of length 1.
        factors = {width: np.stack(stack)[None] for width, stack in stacks.items()}
        weights = JointWeights(factors, np.array([-np.log(self.temperature)], np.float32))
        terms = jax.tree.map(lambda leaf: leaf[None], Terms.of(len(rows)))
        objective = JointObjective.of(options, prepared.rows, tuple(prepared.stack_index.values()))
        trained = train(objective, options, weights, terms, prepared.rows, training.mesh)
        record = History.of(trained, 0, options)
        learnt = {}
        for name, (width, index) in prepared.stack_index.items():
            factor = trained.weights.factors[width][0, index, : total.width(name)]
            learnt[name] = prepared.axes[name].from_coordinates(factor)
        fits = {
            (a, b): two_sided_fits(total, (a, b), learnt[a], learnt[b], ok=record.ok)[0] for a, b in pairs
        }
        settings = {**dataclasses.asdict(options), "rank": rank}
        return Fitted(_given(fits, pairs), dict.fromkeys(pairs, settings), dict.fromkeys(pairs, record))


def _given(fits: Mapping[Pair, Fit], pairs: Sequence[Pair]) -> dict[Pair, Callable[[], Fit]]:
    return {pair: functools.partial(fits.__getitem__, pair) for pair in pairs}


def _stacked(widths: tuple[int, int], starts: Sequence[Factors], options: GradientOptions) -> PairWeights:
    """Starts of one padded shape; columns beyond a pair's rank are zero and stay so."""
    rank = max(left.shape[1] for left, _ in starts)
    lefts = [_padded(left, (widths[0], rank)) for left, _ in starts]
    shape = (widths[1], rank) if options.two_sided else (rank, widths[1])
    rights = [_padded(right, shape) for _, right in starts]
    log_scale = np.full(len(starts), -np.log(options.temperature), np.float32)
    return PairWeights(np.stack(lefts), np.stack(rights), log_scale)


def _padded(factor: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    more = [(0, most - size) for most, size in zip(shape, factor.shape)]
    return np.pad(factor.astype(np.float32), more)
