"""Rows as gradients see them: in each encoder's principal axes, people side by side, ready to draw batches from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.blocks import padded_width
from jaxalign.errors import UserError
from jaxalign.low_rank.own_moments import OwnMoments, centred, check_finite, means_of, second_moments
from jaxalign.moments import Moments
from jaxalign.precision import multiply
from jaxalign.pytree import Leaf, pytree
from jaxalign.workers import concurrently

SHRINKAGE = 0.05  # of the mean variance, added to every axis' before whitening


@dataclasses.dataclass(frozen=True)
class Axes:
    """One encoder's principal axes: ``z = ((x − mean) @ vectors) * stretch / scale`` has mean squared length 1.

    Attributes:
      mean: shape [p].
      vectors: orthonormal columns, largest variance first, shape [p, p].
      variance: of z, shape [p].
      scale: shape [].
      stretch: of each axis, shape [p]; 1 unless the axes are whitened.
    """

    mean: np.ndarray
    vectors: np.ndarray
    variance: np.ndarray
    scale: float
    stretch: np.ndarray

    @classmethod
    def of(cls, own: OwnMoments, whitening: float = 0.0) -> Axes:
        """From the moments of the training rows.

        Args:
          own: moments of the encoder.
          whitening: axes are divided by their variance, shrunk, to half this power.
        """
        values, vectors = np.linalg.eigh(own.second)
        values = np.maximum(values[::-1], 0)
        stretch = (values + (SHRINKAGE * values.mean() or 1.0)) ** (-whitening / 2)
        values = values * stretch**2
        scale = float(np.sqrt(values.sum())) or 1.0
        return cls(own.mean, vectors[:, ::-1], values / scale**2, scale, stretch)

    @property
    def rotation(self) -> Float[np.ndarray, "p p"]:
        """What x − mean is multiplied by."""
        return self.vectors * (self.stretch / self.scale)

    def to_coordinates(self, factor: np.ndarray) -> np.ndarray:
        """What a factor [p, s] for x − mean is for z."""
        return (self.scale / self.stretch)[:, None] * (self.vectors.T @ factor)

    def from_coordinates(self, factor: np.ndarray) -> np.ndarray:
        """What a factor [p, s] for z is for x − mean."""
        return self.vectors @ ((self.stretch / self.scale)[:, None] * np.asarray(factor, np.float64))


@pytree
class People:
    """Where each person's photographs stand in ``Rows.order``, shapes [people]."""

    start: Int[Leaf, " people"]
    count: Int[Leaf, " people"]
    number: Int[Leaf, " people"]  # among all people


@pytree
class Rows:
    """Training rows on the device.

    Attributes:
      coordinates: for each padded width the encoders of that width, shape [k, n, width], float32.
      means: mean coordinates of each person, shape [k, all people, width]; none where the loss does not see them.
      order: rows of one person after another, shape [n].
      train, held_out: people to fit on, and people to choose the weights by (may be none).
    """

    coordinates: Mapping[int, Float[Leaf, "k n width"]]
    means: Mapping[int, Float[Leaf, "k people width"]]
    order: Int[Leaf, " n"]
    train: People
    held_out: People


@pytree
class Batch:
    """Two photographs of each person: for each padded width the encoders' coordinates [k, 2 B, width], and means."""

    rows: Mapping[int, Float[Leaf, "k rows width"]]
    means: Mapping[int, Float[Leaf, "k people width"]]


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


def draw(rows: Rows, key: Array, people: int) -> Batch:
    """Two photographs of each of some people, different ones where a person has them; people without repetition."""
    table = rows.train
    who_key, first_key, second_key = jax.random.split(key, 3)
    # Those with the largest of numbers drawn for all: a tenth of the time of ``jax.random.choice``, which sorts twice.
    who = jax.lax.top_k(jax.random.uniform(who_key, table.start.shape, jnp.float32), people)[1]
    count = table.count[who]
    first = _below(first_key, count)
    further = 1 + _below(second_key, count - 1)
    second = jnp.where(count > 1, (first + further) % count, first)
    return _gather(rows, table, who, first, second)


def _below(key: Array, most: Array) -> Int[Array, " n"]:
    """Whole numbers from 0 up to these, exclusive; 0 where there is none."""
    share = jax.random.uniform(key, most.shape, jnp.float32)
    return jnp.floor(share * most.astype(jnp.float32)).astype(jnp.int32)


def held_out_batch(rows: Rows, most: int) -> Batch:
    """The first two photographs of people who are kept aside, at most so many."""
    table = rows.held_out
    who = jnp.arange(min(most, table.start.shape[0]))
    return _gather(rows, table, who, jnp.zeros_like(who), jnp.minimum(1, table.count[who] - 1))


def _gather(rows: Rows, table: People, who: Array, first: Array, second: Array) -> Batch:
    taken = rows.order[jnp.concatenate([table.start[who] + first, table.start[who] + second])]
    return Batch(
        {width: _taken(part, taken) for width, part in rows.coordinates.items()},
        {width: _taken(part, table.number[who]) for width, part in rows.means.items()},
    )


def _taken(stack: Leaf, places: Array) -> Float[Array, "k m width"]:
    """``stack[:, places]``, for which XLA puts the encoders of each place side by side and then moves them apart."""
    count, rows, width = stack.shape
    flat = (rows * jnp.arange(count)[:, None] + places).reshape(-1)
    return jnp.reshape(stack, (-1, width))[flat].reshape(count, -1, width)
