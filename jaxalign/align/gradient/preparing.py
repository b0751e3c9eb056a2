"""Rows made ready for gradients: rotated into principal axes, their people found."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxalign.align.gradient.axes import Axes
from jaxalign.align.gradient.own_moments import (
    OwnMoments,
    centred,
    check_finite,
    means_of,
    second_moments,
)
from jaxalign.align.gradient.rows import People, Rows
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.precision import multiply
from jaxalign.moments.blocks import padded_width
from jaxalign.moments.moments import Moments


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Rows with the axes that they are written in.

    Attributes:
      rows: on the device.
      axes: of every encoder.
      own: moments of every encoder.
      place: each encoder's padded width, and its number among those of that width.
    """

    rows: Rows
    axes: Mapping[str, Axes]
    own: Mapping[str, OwnMoments]
    place: Mapping[str, tuple[int, int]]


def prepare(
    arrays: Mapping[str, np.ndarray],
    total: Moments | None,
    people: np.ndarray,
    *,
    held_out: float,
    seed: int,
    whitening: float = 0.0,
    means: bool = True,
) -> Prepared:
    """Rotates rows into principal axes and sorts them by person.

    Args:
      arrays: of every encoder, shape [n, d].
      total: their moments, on the host; None where they are not at hand: those of each encoder alone are taken then.
      people: identity of each row, shape [n].
      held_out: share of the people to keep aside.
      seed: of who they are.
      whitening: of the axes.
      means: whether the means of people are wanted.

    Raises:
      UserError: fewer than two people are left to fit on, or to hold out where some shall be; rows that are not finite.
    """
    order, starts, counts, tables = _by_person(people, held_out, seed)
    alike: dict[int, list[str]] = {}
    for name, array in arrays.items():
        alike.setdefault(padded_width(array.shape[1]), []).append(name)
    center = means_of(arrays) if total is None else {n: OwnMoments.of(total, n).mean for n in arrays}
    stacks = {
        width: jax.device_put(centred([arrays[n] for n in names], [center[n] for n in names], width))
        for width, names in alike.items()
    }
    if total is None:
        own = _own_moments(stacks, alike, center)
        check_finite(own, arrays)
    else:
        own = {name: OwnMoments.of(total, name) for name in arrays}
    axes = dict(zip(own, concurrently(lambda of: Axes.of(of, whitening), list(own.values()))))
    coordinates = {width: _rotated(stacks.pop(width), [axes[n] for n in alike[width]]) for width in alike}
    of_people = {}
    for width, stack in coordinates.items() if means else ():
        sums = np.stack([np.add.reduceat(part[order], starts, axis=0) for part in np.asarray(stack)])
        of_people[width] = sums / counts[None, :, None].astype(np.float32)
    rows = jax.device_put(Rows(coordinates, of_people, order, *tables))
    place = {name: (width, number) for width, names in alike.items() for number, name in enumerate(names)}
    return Prepared(rows, axes, own, place)


def _by_person(
    people: np.ndarray, held_out: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[People]]:
    """The order of rows, where each person begins in it, photographs of each; and people to fit on and to hold out."""
    names, labels, counts = np.unique(people, return_inverse=True, return_counts=True)
    aside = np.random.default_rng(seed).permutation(len(names)) < round(held_out * len(names))
    for what, number in (("to fit on", int((~aside).sum())), ("to hold out", int(aside.sum()))):
        if number < 2 and (held_out > 0 or what == "to fit on"):
            raise UserError(
                f"fitting by gradient needs at least two people {what}, "
                f"got {number} of {len(names)} in {len(labels)} rows"
            )
    starts = np.cumsum(counts) - counts
    order = np.argsort(labels, kind="stable").astype(np.int32)
    tables = [
        People(
            starts[chosen].astype(np.int32),
            counts[chosen].astype(np.int32),
            np.flatnonzero(chosen).astype(np.int32),
        )
        for chosen in (~aside, aside)
    ]
    return order, starts, counts, tables


def _own_moments(
    stacks: Mapping[int, Array], alike: Mapping[int, list[str]], center: Mapping[str, np.ndarray]
) -> dict[str, OwnMoments]:
    own = {}
    for width, names in alike.items():
        for name, second in zip(names, np.asarray(second_moments(stacks[width]), np.float64)):
            size = len(center[name])
            own[name] = OwnMoments(center[name], second[:size, :size])
    return {name: own[name] for name in center}


def _rotated(stack: Float[Array, "k n width"], axes: list[Axes]) -> Float[Array, "k n width"]:
    """Coordinates of centred rows."""
    rotations = np.zeros((len(axes), stack.shape[2], stack.shape[2]), np.float32)
    for place, own in zip(rotations, axes):
        place[: len(own.mean), : len(own.mean)] = own.rotation
    return _each_times(stack, rotations)


@functools.partial(jax.jit, donate_argnums=0)
def _each_times(stack: Array, rotations: Array) -> Array:
    return jax.lax.map(lambda given: multiply(*given), (stack, rotations))
