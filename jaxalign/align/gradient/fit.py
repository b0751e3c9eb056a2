"""Maps between all pairs of encoders, fitted by gradient."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxalign.align.gradient.axes import Axes
from jaxalign.align.gradient.covariances import covariances
from jaxalign.align.gradient.losses import MEANS_BASED
from jaxalign.align.gradient.objectives import PairMember, RowObjective
from jaxalign.align.gradient.own_moments import OwnMoments
from jaxalign.align.gradient.preparing import Prepared, prepare
from jaxalign.align.gradient.settings import LowRankSettings
from jaxalign.align.gradient.squared import fit_squared
from jaxalign.align.gradient.starts import Start, stacked, starting_factors, without_padding
from jaxalign.align.gradient.statistics import covariance_of, one_sided_fit, two_sided_fit
from jaxalign.align.gradient.training import History, train
from jaxalign.align.pairwise import Pair, PairwiseMaps, chosen_pairs
from jaxalign.align.solvers import Fit
from jaxalign.core import checks
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.moments.moments import Moments
from jaxalign.moments.spread import SpreadMoments


@dataclasses.dataclass(frozen=True)
class LowRankMaps(PairwiseMaps):
    """Fits of ordered pairs, with ``history``: for each pair how its loss fell."""

    history: Mapping[Pair, History] = dataclasses.field(default_factory=dict)


def fit_low_rank(
    embeddings: Mapping[str, ArrayLike],
    *,
    groups: ArrayLike | None = None,
    pairs: Sequence[Pair] | None = None,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    moments: Moments | SpreadMoments | None = None,
    devices: Sequence[Any] | None = None,
    **settings: Any,
) -> LowRankMaps:
    """Fits maps of low rank between all ordered pairs by gradient, all in one program.

    One-sided, x ↦ (x A) B + b with A [p, r] and B [r, q], or two-sided, with factors [p, r] and [q, r] into a common
    space. Rows are written in each encoder's principal axes, scaled to mean squared length 1, and Adam moves the
    factors from the closed-form solution. Squared error is minimised on moments: gradients are exact and a step costs
    the same for any number of rows. Other losses see batches of people, two photographs of each. Both directions of a
    pair are one two-sided problem.

    Args:
      embeddings: per encoder an array [n, d], the same photographs row for row.
      groups: identity of each row, shape [n]; without it every row is a person of its own.
      pairs, sources, targets: as for ``fit_pairs``.
      moments: of these rows, where they are at hand already; those over a mesh are gathered on the host.
      devices: to spread the pairs over; one where not given.
      **settings: fields of ``LowRankSettings``.

    Returns:
      Maps addressable as ``maps[source, target]``, and ``maps.history``. ``ok`` is False where the loss diverged.

    Raises:
      UserError: arrays, names or settings are not usable; fewer than two people.

    Equivalent: for squared error ``fit_pairs(embeddings, "reduced_rank", l2=0, rank=r)``, which needs no steps.
    """
    chosen, arrays, people = checked(embeddings, groups, pairs, sources, targets)
    given = settings_of(settings)
    by_moments = given.loss == "squared" and not given.orthogonal
    devices = None if devices is None else list(devices)
    total = None
    if moments is not None or by_moments or not given.two_sided or given.start != "random":
        total = whole_moments(moments, arrays)
    with jax.enable_x64(False):
        if by_moments:
            assert total is not None
            own = [OwnMoments.of(total, name) for name in arrays]
            axes = dict(zip(arrays, concurrently(Axes.of, own)))
            fits, history = fit_squared(total, axes, chosen, given, devices)
        else:
            fits, history = _fit_rows(arrays, people, total, chosen, given, devices)
    of = {name: value for name, value in dataclasses.asdict(given).items() if name != "rank"}
    ranks = {pair: {**of, "rank": fit.source.rank} for pair, fit in fits.items()}
    return LowRankMaps(
        "low_rank", {pair: (lambda fit=fit: fit) for pair, fit in fits.items()}, ranks, history
    )


def settings_of(given: Mapping[str, Any]) -> LowRankSettings:
    """Checked settings from keyword arguments; raises ``UserError`` for one that does not exist."""
    known = [field.name for field in dataclasses.fields(LowRankSettings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(f"fitting by gradient takes {', '.join(known)}; got {', '.join(unknown)}")
    return LowRankSettings(**given).settled()


def checked(
    embeddings: Mapping[str, ArrayLike],
    groups: ArrayLike | None,
    pairs: Sequence[Pair] | None,
    sources: Sequence[str] | None,
    targets: Sequence[str] | None,
) -> tuple[list[Pair], dict[str, np.ndarray], np.ndarray]:
    """The ordered pairs; the rows of the encoders in them; and the identity of each row."""
    arrays = checks.embeddings(embeddings)
    chosen = chosen_pairs(tuple(arrays), sources, targets, pairs)
    used = dict.fromkeys(name for pair in chosen for name in pair)
    arrays = {name: np.asarray(arrays[name]) for name in used}
    rows = next(iter(arrays.values())).shape[0]
    return chosen, arrays, np.arange(rows) if groups is None else checks.groups(groups, rows)


def whole_moments(moments: Moments | SpreadMoments | None, arrays: Mapping[str, np.ndarray]) -> Moments:
    """Moments of the rows, on the host: those given, gathered where they are spread over devices; else taken here."""
    if moments is None:
        moments = Moments.of(arrays)
    if isinstance(moments, SpreadMoments):
        moments = Moments.of_spread(moments)
    if not isinstance(moments, Moments):
        raise UserError(
            f"moments: expected Moments of the training rows, got {type(moments).__name__}; "
            "FoldMoments have them as .total"
        )
    missing = [name for name in arrays if name not in moments.names]
    if missing:
        raise UserError(f"moments: {', '.join(missing)} is not among its encoders {', '.join(moments.names)}")
    return jax.tree.map(np.asarray, moments)


def row_objective(settings: LowRankSettings, people: int) -> RowObjective:
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
    settings: LowRankSettings,
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
