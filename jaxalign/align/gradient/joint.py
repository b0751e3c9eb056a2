"""One space for all encoders, trained jointly by gradient from the closed-form shared space."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxalign.align.gradient.axes import Axes
from jaxalign.align.gradient.fit import row_objective
from jaxalign.align.gradient.joint_objective import JointMember, JointObjective, JointWeights
from jaxalign.align.gradient.losses import MEANS_BASED
from jaxalign.align.gradient.options import GradientOptions
from jaxalign.align.gradient.preparing import Prepared, prepare
from jaxalign.align.gradient.statistics import covariance_of, two_sided_fit
from jaxalign.align.gradient.training import History, train
from jaxalign.align.solvers import Fit, Pair, fit_shared_space
from jaxalign.align.solvers.base import Fitted, Training
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.moments.moments import Moments

RANK = 128


@dataclasses.dataclass(frozen=True)
class Joint(GradientOptions):
    """K maps into one space, minimising the mean loss over all unordered pairs of encoders.

    Starts from ``fit_shared_space``; otherwise as two-sided ``LowRank``, with one factor for each encoder that all its
    pairs share. All encoders that the pairs name are fitted together. ``rank`` is the number of dimensions: None for
    ``RANK``, or the sum of the widths where that is less.

    Attributes:
      start_options: ``whitening``, ``weighting`` and ``shrinkage`` of ``fit_shared_space``.
    """

    two_sided: bool | None = True
    start_options: Mapping[str, Any] | None = None

    def validate(self) -> None:
        """Raises ``UserError`` for an option out of its range, or options that do not go together."""
        self.settled()
        checks.rank(self.rank)  # pyright: ignore[reportArgumentType]
        if self.orthogonal:
            raise UserError(
                "a joint space has one factor for each encoder, of any widths: orthogonal=True is for pairs"
            )

    def fit_all(self, training: Training, pairs: Sequence[Pair]) -> Fitted:
        """Fits one space; the pairs read it."""
        given, chosen, arrays = self.settled(), list(pairs), training.rows
        people = training.people()
        total = jax.tree.map(np.asarray, training.total)
        rank = min(int(given.rank or RANK), sum(array.shape[1] for array in arrays.values()))
        with jax.enable_x64(False):
            prepared = prepare(
                arrays, total, people, held_out=given.held_out, seed=given.seed,
                whitening=given.whitening, means=given.loss in MEANS_BASED,
            )  # fmt: skip
            starts = _starts(total, list(arrays), prepared, given, rank, dict(self.start_options or {}))
            devices = None if training.mesh is None else list(training.mesh.devices.flat)
            weights, history = _trained(prepared, starts, given, devices)
        factors = {
            name: prepared.axes[name].from_coordinates(
                np.asarray(weights.factors[width][number])[: arrays[name].shape[1]]
            )
            for name, (width, number) in prepared.place.items()
        }
        fits = {pair: _fit_of(pair, factors, total, prepared, history.ok) for pair in chosen}
        of = {**dataclasses.asdict(given), "rank": rank}
        return Fitted(
            {pair: (lambda fit=fit: fit) for pair, fit in fits.items()},
            dict.fromkeys(chosen, of),
            dict.fromkeys(chosen, history),
        )


def _fit_of(
    pair: Pair, factors: Mapping[str, np.ndarray], total: Moments, prepared: Prepared, ok: bool
) -> Fit:
    left, right = (factors[name] for name in pair)
    own = prepared.own[pair[0]], prepared.own[pair[1]]
    return two_sided_fit(own, covariance_of(total, pair, left, right), left, right, ok=ok)[0]


def _starts(
    total: Moments,
    names: list[str],
    prepared: Prepared,
    settings: GradientOptions,
    rank: int,
    options: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Factors [p, rank] in principal coordinates, mapped rows of mean squared length 1."""
    if settings.start == "random":
        random = np.random.default_rng(settings.seed)
        factors = {name: random.normal(size=(total.width(name), rank)) for name in names}
    else:
        unknown = sorted(set(options) - {"whitening", "weighting", "shrinkage"})
        if unknown:
            raise UserError(
                f"start_options: expected whitening, weighting or shrinkage, got {', '.join(unknown)}"
            )
        space = fit_shared_space(_only(total, names), rank=rank, **options).on_host()
        factors = {
            name: prepared.axes[name].to_coordinates(np.asarray(space[name].factors[0])) for name in names
        }
    return {name: factor / _length(prepared.axes[name], factor) for name, factor in factors.items()}


def _length(axes: Axes, factor: np.ndarray) -> float:
    return float(np.sqrt(np.sum(axes.variance[:, None] * factor**2))) or 1.0


def _only(total: Moments, names: list[str]) -> Moments:
    """The moments of some encoders."""
    columns = np.concatenate([np.arange(total.width(name)) + total.offset(name) for name in names])
    return dataclasses.replace(
        total,
        mean=total.mean[columns],
        scatter=total.scatter[np.ix_(columns, columns)],
        residue=None if total.residue is None else total.residue[np.ix_(columns, columns)],
        names=tuple(names),
        widths=tuple(map(total.width, names)),
    )


def _trained(
    prepared: Prepared, starts: Mapping[str, np.ndarray], settings: GradientOptions, devices: list[Any] | None
) -> tuple[JointWeights, History]:
    stacks: dict[int, list[np.ndarray]] = {}
    for name, (width, _) in prepared.place.items():
        factor = starts[name].astype(np.float32)
        stacks.setdefault(width, []).append(np.pad(factor, ((0, width - len(factor)), (0, 0))))
    # One problem: every leaf gets a leading axis of length 1.
    factors = {width: np.stack(stack)[None] for width, stack in stacks.items()}
    weights = {"joint": JointWeights(factors, np.array([-np.log(settings.temperature)], np.float32))}
    pair = row_objective(settings, prepared.rows.train.start.shape[0])
    objective = JointObjective(pair, tuple(prepared.place.values()))
    member = jax.tree.map(lambda leaf: leaf[None], JointMember.of(len(prepared.place)))
    trained = train(objective, settings, weights, {"joint": member}, prepared.rows, devices)["joint"]
    return jax.tree.map(lambda leaf: leaf[0], trained.weights), History.of(trained, 0)
