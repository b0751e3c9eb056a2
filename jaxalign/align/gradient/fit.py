"""Maps between all pairs of encoders, fitted by gradient."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxalign.align.gradient.axes import Axes
from jaxalign.align.gradient.covariances import covariances
from jaxalign.align.gradient.losses import MEANS_BASED
from jaxalign.align.gradient.objectives import PairMember, RowObjective
from jaxalign.align.gradient.options import GradientOptions
from jaxalign.align.gradient.own_moments import OwnMoments
from jaxalign.align.gradient.preparing import Prepared, prepare
from jaxalign.align.gradient.squared import fit_squared
from jaxalign.align.gradient.starts import Start, stacked, starting_factors, without_padding
from jaxalign.align.gradient.statistics import covariance_of, one_sided_fit, two_sided_fit
from jaxalign.align.gradient.training import History, train
from jaxalign.align.solvers import Fit, Pair
from jaxalign.align.solvers.base import Fitted, Training
from jaxalign.core.devices import concurrently
from jaxalign.moments.moments import Moments


@dataclasses.dataclass(frozen=True)
class LowRank(GradientOptions):
    """Maps of low rank, fitted by gradient: both directions of a pair are one two-sided problem.

    One-sided, x ↦ (x A) B + b with A [p, r] and B [r, q], or two-sided, with factors [p, r] and [q, r] into a common
    space. Rows are written in each encoder's principal axes, scaled to mean squared length 1, and Adam moves the
    factors from the closed-form solution. ``rank`` is r: None for ``RANK`` or the narrower width, if that is less;
    "full" for the narrower width. ``ok`` is False where the loss diverged.
    """

    whole = "unordered"

    def fit_all(self, training: Training, pairs: Sequence[Pair]) -> Fitted:
        """Fits all ordered pairs in one program."""
        given = self.settled()
        people = (
            np.arange(len(next(iter(training.rows.values()))))
            if training.identities is None
            else training.identities
        )
        total = jax.tree.map(np.asarray, training.total)
        arrays = dict(training.rows)
        devices = None if training.mesh is None else list(training.mesh.devices.flat)
        with jax.enable_x64(False):
            if given.loss == "squared" and not given.orthogonal:
                own = [OwnMoments.of(total, name) for name in arrays]
                axes = dict(zip(arrays, concurrently(Axes.of, own)))
                fits, history = fit_squared(total, axes, list(pairs), given, devices)
            else:
                fits, history = _fit_rows(arrays, people, total, list(pairs), given, devices)
        of = dataclasses.asdict(given)
        settings = {pair: {**of, "rank": fit.source.rank} for pair, fit in fits.items()}
        return Fitted({pair: (lambda fit=fit: fit) for pair, fit in fits.items()}, settings, history)


def row_objective(settings: GradientOptions, people: int) -> RowObjective:
    """The objective of these settings over batches of at most so many people."""
    return RowObjective(
        settings.loss, min(settings.people, people), bool(settings.two_sided), settings.learn_temperature,
        settings.margin, settings.delta, settings.orthogonality, settings.orthogonal, settings.held_out > 0,
    )  # fmt: skip


def _fit_rows(
    arrays: Mapping[str, np.ndarray],
    people: np.ndarray,
    total: Moments | None,
    chosen: list[Pair],
    settings: GradientOptions,
    devices: list[Any] | None,
) -> tuple[dict[Pair, Fit], dict[Pair, History]]:
    prepared = prepare(
        arrays, total, people, held_out=settings.held_out, seed=settings.seed,
        whitening=settings.whitening, means=settings.loss in MEANS_BASED,
    )  # fmt: skip
    solved = list(dict.fromkeys(map(_unordered, chosen))) if settings.two_sided else chosen
    starts = starting_factors(total, solved, settings, prepared.axes)
    weights, members, groups = {}, {}, {}
    for pair in solved:
        groups.setdefault((prepared.place[pair[0]][0], prepared.place[pair[1]][0]), []).append(pair)
    log_scale = np.float32(-np.log(settings.temperature))
    for widths, alike in groups.items():
        weights[widths] = stacked(
            widths, [starts[pair] for pair in alike], log_scale, bool(settings.two_sided)
        )
        numbers = [np.array([prepared.place[pair[side]][1] for pair in alike]) for side in (0, 1)]
        members[widths] = PairMember(numbers[0], numbers[1], widths)
    objective = row_objective(settings, prepared.rows.train.start.shape[0])
    trained = train(objective, settings, weights, members, prepared.rows, devices)
    found: list[tuple[Pair, Start, Any, History]] = []
    for widths, alike in groups.items():
        learnt = trained[widths].weights
        shared = covariances(prepared.rows, members[widths], learnt) if total is None else None
        for number, pair in enumerate(alike):
            factors = without_padding(learnt, number, starts[pair])
            covariance = None if shared is None else shared[number, : factors[0].shape[1]]
            found.append((pair, factors, covariance, History.of(trained[widths], number)))
    make = functools.partial(_fits_of, prepared, total, bool(settings.two_sided))
    fits: dict[Pair, Fit] = {}
    history: dict[Pair, History] = {}
    for made, (_, _, _, record) in zip(concurrently(make, found), found):
        fits.update(made)
        history.update(dict.fromkeys(made, record))
    return {pair: fits[pair] for pair in chosen}, {pair: history[pair] for pair in chosen}


def _unordered(pair: Pair) -> Pair:
    return min(pair), max(pair)


def _fits_of(
    prepared: Prepared, total: Moments | None, two_sided: bool, given: tuple[Pair, Start, Any, History]
) -> dict[Pair, Fit]:
    """The maps of learnt factors; ``given`` has the covariance of the mapped rows where moments do not tell it."""
    pair, factors, covariance, record = given
    source, target = prepared.axes[pair[0]], prepared.axes[pair[1]]
    left = source.from_coordinates(factors[0])
    if not two_sided:
        assert total is not None
        right = factors[1] @ target.vectors.T * target.scale
        return {pair: one_sided_fit(total, pair, left, right, ok=record.ok)}
    right = target.from_coordinates(factors[1])
    if total is not None:
        covariance = covariance_of(total, pair, left, right)
    own = prepared.own[pair[0]], prepared.own[pair[1]]
    forth, back = two_sided_fit(own, covariance, left, right, ok=record.ok)
    return {pair: forth, (pair[1], pair[0]): back}
