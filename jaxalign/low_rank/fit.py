"""Maps between all pairs of encoders, fitted by gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxalign import checks
from jaxalign.errors import UserError
from jaxalign.low_rank.objectives import PairMember, RowObjective
from jaxalign.low_rank.rows import Axes, Prepared, prepare
from jaxalign.low_rank.settings import LowRankSettings
from jaxalign.low_rank.squared import fit_squared
from jaxalign.low_rank.starts import Start, stacked, starting_factors
from jaxalign.low_rank.statistics import one_sided_fit, two_sided_fit
from jaxalign.low_rank.training import History, Trained, train
from jaxalign.moments import Moments
from jaxalign.pairwise import Pair, PairwiseMaps, chosen_pairs
from jaxalign.solvers import Fit


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
    moments: Moments | None = None,
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
      moments: of these rows, where they are at hand already.
      devices: to spread the pairs over; one where not given.
      **settings: fields of ``LowRankSettings``.

    Returns:
      Maps addressable as ``maps[source, target]``, and ``maps.history``. ``ok`` is False where the loss diverged.

    Raises:
      UserError: arrays, names or settings are not usable; fewer than two people.

    Equivalent: for squared error ``fit_pairs(embeddings, "reduced_rank", l2=0, rank=r)``, which needs no steps.
    """
    given = settings_of(settings)
    on_moments = given.loss == "squared" and not given.orthogonal
    chosen, arrays, people, total = checked(
        embeddings, groups, moments, pairs, sources, targets, exact=on_moments
    )
    devices = None if devices is None else list(devices)
    with jax.enable_x64(False):
        if on_moments:
            fits, history = fit_squared(
                total, {name: Axes.of(total, name) for name in arrays}, chosen, given, devices
            )
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
    moments: Moments | None,
    pairs: Sequence[Pair] | None,
    sources: Sequence[str] | None,
    targets: Sequence[str] | None,
    *,
    exact: bool,
) -> tuple[list[Pair], dict[str, np.ndarray], np.ndarray, Moments]:
    """The ordered pairs; the rows of the encoders in them; the identity of each row; and their moments, on the host.

    Moments that are not given are summed in float64 where they shall be exact. Where gradients come from rows, moments
    give axes, a start and the report only; for float32 rows they are then summed in float32, in half the time.
    """
    arrays = checks.embeddings(embeddings)
    chosen = chosen_pairs(tuple(arrays), sources, targets, pairs)
    used = dict.fromkeys(name for pair in chosen for name in pair)
    arrays = {name: np.asarray(arrays[name]) for name in used}
    rows = next(iter(arrays.values())).shape[0]
    people = np.arange(rows) if groups is None else checks.groups(groups, rows)
    if moments is None:
        short = not exact and all(array.dtype.itemsize <= 4 for array in arrays.values())
        moments = Moments.of(arrays, dtype=np.dtype(np.float32) if short else None)
    total = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), moments)
    if total.residue is not None:
        total = dataclasses.replace(total, scatter=total.scatter + total.residue, residue=None)
    missing = [name for name in used if name not in total.names]
    if missing:
        raise UserError(f"moments: {', '.join(missing)} is not among its encoders {', '.join(total.names)}")
    return chosen, arrays, people, total


def row_objective(settings: LowRankSettings, people: int) -> RowObjective:
    """The objective of these settings over batches of at most so many people."""
    return RowObjective(
        settings.loss, min(settings.people, people), bool(settings.two_sided), settings.learn_temperature,
        settings.margin, settings.delta, settings.orthogonality, settings.orthogonal, settings.held_out > 0,
    )  # fmt: skip


def _fit_rows(
    arrays: Mapping[str, np.ndarray],
    people: np.ndarray,
    total: Moments,
    chosen: list[Pair],
    settings: LowRankSettings,
    devices: list[Any] | None,
) -> tuple[dict[Pair, Fit], dict[Pair, History]]:
    prepared = prepare(
        arrays, total, people, held_out=settings.held_out, seed=settings.seed, whitening=settings.whitening
    )
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
    return _collected(trained, groups, starts, chosen, total, prepared, bool(settings.two_sided))


def _unordered(pair: Pair) -> Pair:
    return min(pair), max(pair)


def _collected(
    trained: Mapping[Any, Trained],
    groups: Mapping[Any, list[Pair]],
    starts: Mapping[Pair, Start],
    chosen: list[Pair],
    total: Moments,
    prepared: Prepared,
    two_sided: bool,
) -> tuple[dict[Pair, Fit], dict[Pair, History]]:
    fits: dict[Pair, Fit] = {}
    history: dict[Pair, History] = {}
    for group, alike in groups.items():
        for number, pair in enumerate(alike):
            learnt = trained[group].weights
            left, right = (
                np.asarray(part[number], np.float64)[: start.shape[0], : start.shape[1]]
                for part, start in zip((learnt.left, learnt.right), starts[pair])
            )
            source, target = prepared.axes[pair[0]], prepared.axes[pair[1]]
            left, record = source.from_coordinates(left), History.of(trained[group], number)
            back = pair[1], pair[0]
            if two_sided:
                right = target.from_coordinates(right)
                fits[pair], fits[back] = two_sided_fit(total, pair, left, right, ok=record.ok)
                history[pair] = history[back] = record
            else:
                right = right @ target.vectors.T * target.scale
                fits[pair] = one_sided_fit(total, pair, left, right, ok=record.ok)
                history[pair] = record
    return {pair: fits[pair] for pair in chosen}, {pair: history[pair] for pair in chosen}
