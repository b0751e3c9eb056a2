"""Squared error from moments: the same steps for any number of rows, with exact gradients."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalign.align.gradient.axes import Axes
from jaxalign.align.gradient.objectives import MomentMember, MomentObjective
from jaxalign.align.gradient.options import GradientOptions
from jaxalign.align.gradient.starts import Start, random_product, rank_of, stacked, without_padding
from jaxalign.align.gradient.statistics import one_sided_fit
from jaxalign.align.gradient.training import History, train
from jaxalign.align.solvers import Fit, Pair
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.moments.blocks import padded_width
from jaxalign.moments.moments import Moments


def fit_squared(
    total: Moments,
    axes: Mapping[str, Axes],
    chosen: list[Pair],
    settings: GradientOptions,
    devices: list[Any] | None,
) -> tuple[dict[Pair, Fit], dict[Pair, History]]:
    """Fits x ↦ (x A) B + b for every pair by squared error.

    With the source whitened in its principal axes and the target in units of its root variance, the error relative to
    the target's variance is 1 − ‖W‖² + ‖W − A B‖² for the whitened cross moment W.

    Args:
      total: moments, on the host.
      axes: of the encoders.
      chosen: ordered pairs.
      settings: checked.
      devices: as for ``train``.
    """
    if settings.held_out:
        raise UserError("held_out: squared error is minimised on moments of all rows; leave held_out at 0")
    groups: dict[tuple[int, int], list[Pair]] = {}
    for pair in chosen:
        groups.setdefault(
            (padded_width(total.width(pair[0])), padded_width(total.width(pair[1]))), []
        ).append(pair)
    whiten = lambda pair: _whitened(total, pair, axes[pair[0]])  # noqa: E731
    targets = dict(zip(chosen, concurrently(whiten, chosen)))
    starts, weights, members = {}, {}, {}
    random, sizes = np.random.default_rng(settings.seed), dict(zip(total.names, total.widths))
    for widths, alike in groups.items():
        stack = np.zeros((len(alike), *widths), np.float32)
        for pair, into in zip(alike, stack):
            target, rank = targets[pair], rank_of(sizes, pair, settings.rank)
            into[: target.shape[0], : target.shape[1]] = target
            starts[pair] = (
                random_product(random, sizes, pair, rank)
                if settings.start == "random"
                else _truncated(target, rank)
            )
        weights[widths] = stacked(widths, [starts[pair] for pair in alike], np.float32(0), two_sided=False)
        explained = np.square(stack.astype(np.float64)).sum(axis=(1, 2))
        members[widths] = MomentMember(stack, np.asarray(1 - explained).astype(np.float32))
    trained = train(
        MomentObjective(settings.orthogonality), settings, weights, members, np.zeros(()), devices
    )
    learnt = []
    for widths, alike in groups.items():
        weights = trained[widths].weights
        learnt += [
            (pair, without_padding(weights, number, starts[pair]), History.of(trained[widths], number))
            for number, pair in enumerate(alike)
        ]
    made = concurrently(functools.partial(_fit_of, total, axes), learnt)
    fits = {pair: fit for (pair, _, _), fit in zip(learnt, made)}
    return fits, {pair: record for pair, _, record in learnt}


def _fit_of(total: Moments, axes: Mapping[str, Axes], learnt: tuple[Pair, Start, History]) -> Fit:
    pair, (left, right), record = learnt
    source = axes[pair[0]]
    left = source.vectors @ (_roots(source)[:, None] * left) / source.scale
    return one_sided_fit(total, pair, left, right * _size(total, pair), ok=record.ok)


def _roots(axes: Axes) -> np.ndarray:
    """1 / √variance of the axes that count; minimum-norm for the others."""
    least = axes.variance[0] * np.finfo(np.float64).eps * len(axes.variance) * 4
    return np.where(axes.variance > least, 1 / np.sqrt(np.maximum(axes.variance, least or 1.0)), 0)


def _size(total: Moments, pair: Pair) -> float:
    """Root of the target's variance: the unit of W."""
    start, width = total.offset(pair[1]), total.width(pair[1])
    power = np.asarray(total.scatter).diagonal()[start : start + width].sum() / float(total.weight)
    return float(np.sqrt(power)) or 1.0


def _whitened(total: Moments, pair: Pair, axes: Axes) -> np.ndarray:
    spans = [slice(total.offset(name), total.offset(name) + total.width(name)) for name in pair]
    cross = np.asarray(total.scatter[spans[0], spans[1]], np.float64) / float(total.weight)
    return _roots(axes)[:, None] * (axes.vectors.T @ cross) / (axes.scale * _size(total, pair))


def _truncated(target: np.ndarray, rank: int) -> Start:
    left, values, right = np.linalg.svd(target, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]
