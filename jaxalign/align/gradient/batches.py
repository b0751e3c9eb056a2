"""Training rows as gradients see them: in each encoder's principal axes, and batches of people drawn from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.core.devices import concurrently, padded_width
from jaxalign.core.errors import UserError
from jaxalign.core.precision import multiply
from jaxalign.core.pytree import Leaf, pytree
from jaxalign.moments.moments import Moments

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
    def of(cls, total: Moments, name: str, whitening: float = 0.0) -> Axes:
        """From the moments of the training rows; axes are divided by their shrunk variance to half this power."""
        span = slice(total.offset(name), total.offset(name) + total.width(name))
        second = np.asarray(total.scatter[span, span], np.float64) / float(total.weight)
        values, vectors = np.linalg.eigh(second)
        values = np.maximum(values[::-1], 0)
        stretch = (values + (SHRINKAGE * values.mean() or 1.0)) ** (-whitening / 2)
        values = values * stretch**2
        scale = float(np.sqrt(values.sum())) or 1.0
        return cls(
            np.asarray(total.mean[span], np.float64), vectors[:, ::-1], values / scale**2, scale, stretch
        )

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
    """The people to draw from: where their photographs are in ``Rows.order``, and their numbers, shapes [people]."""

    start: Int[Leaf, " people"]
    count: Int[Leaf, " people"]
    number: Int[Leaf, " people"]  # among all people


@pytree
class Rows:
    """Training rows on the device.

    Attributes:
      coordinates: for each padded width the encoders of that width, shape [k, n, width], float32.
      means: mean coordinates of each person, shape [k, all people, width]; empty where the loss does not use them.
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
    """Two photographs of each of B people: their rows, shape [2 B], and the people's numbers, shape [B]."""

    rows: Int[Array, " rows"]
    people: Int[Array, " people"]


def draw(rows: Rows, key: Array, people: int) -> Batch:
    """Two photographs of each of some people, different ones where a person has them; people without repetition."""
    table = rows.train
    who_key, first_key, second_key = jax.random.split(key, 3)
    # The largest of random numbers: a tenth of the time of ``jax.random.choice``, which sorts twice.
    who = jax.lax.top_k(jax.random.uniform(who_key, table.start.shape, jnp.float32), people)[1]
    count = table.count[who]
    first = _below(first_key, count)
    further = 1 + _below(second_key, count - 1)
    second = jnp.where(count > 1, (first + further) % count, first)
    return _batch(rows, table, who, first, second)


def held_out_batch(rows: Rows, most: int) -> Batch:
    """The first two photographs of people who are held out, at most so many."""
    table = rows.held_out
    who = jnp.arange(min(most, table.start.shape[0]))
    return _batch(rows, table, who, jnp.zeros_like(who), jnp.minimum(1, table.count[who] - 1))


def _below(key: Array, most: Array) -> Int[Array, " n"]:
    """Whole numbers from 0 up to these, exclusive; 0 where there is none."""
    share = jax.random.uniform(key, most.shape, jnp.float32)
    return jnp.floor(share * most.astype(jnp.float32)).astype(jnp.int32)


def _batch(rows: Rows, table: People, who: Array, first: Array, second: Array) -> Batch:
    positions = jnp.concatenate([table.start[who] + first, table.start[who] + second])
    return Batch(rows.order[positions], table.number[who])


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Rows with the axes that they are written in, and each encoder's padded width and its index in that stack."""

    rows: Rows
    axes: Mapping[str, Axes]
    stack_index: Mapping[str, tuple[int, int]]


def prepare(
    arrays: Mapping[str, np.ndarray],
    total: Moments,
    people: np.ndarray,
    *,
    held_out: float,
    seed: int,
    whitening: float,
    means: bool,
) -> Prepared:
    """Rotates rows into principal axes and sorts them by person.

    Args:
      arrays: of every encoder, shape [n, d].
      total: their moments, on the host.
      people: identity of each row, shape [n].
      held_out: share of the people to keep aside; ``seed`` chooses who they are.
      whitening: of the axes.
      means: whether the means of people are needed.

    Raises:
      UserError: fewer than two people are left to fit on, or to hold out where some shall be.
    """
    order, starts, counts, tables = _by_person(people, held_out, seed)
    axes = dict(zip(arrays, concurrently(lambda name: Axes.of(total, name, whitening), list(arrays))))
    alike: dict[int, list[str]] = {}
    for name, array in arrays.items():
        alike.setdefault(padded_width(array.shape[1]), []).append(name)
    stack_index = {name: (width, index) for width, names in alike.items() for index, name in enumerate(names)}
    coordinates, of_people = {}, {}
    for width, names in alike.items():
        coordinates[width] = _rotated([arrays[name] for name in names], [axes[name] for name in names], width)
        if means:
            sums = np.stack([np.add.reduceat(part[order], starts) for part in np.asarray(coordinates[width])])
            of_people[width] = sums / counts[None, :, None].astype(np.float32)
    return Prepared(jax.device_put(Rows(coordinates, of_people, order, *tables)), axes, stack_index)


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
        People(*(part.astype(np.int32) for part in (starts[chosen], counts[chosen], np.flatnonzero(chosen))))
        for chosen in (~aside, aside)
    ]
    return order, starts, counts, tables


def _rotated(arrays: Sequence[np.ndarray], axes: Sequence[Axes], width: int) -> Float[Array, "k n width"]:
    """Coordinates of encoders of one padded width; means are subtracted in float64."""
    rows = np.zeros((len(arrays), len(arrays[0]), width), np.float32)
    rotations = np.zeros((len(arrays), width, width), np.float32)
    for array, own, into, rotation in zip(arrays, axes, rows, rotations):
        size = len(own.mean)
        np.subtract(array, own.mean, out=into[:, :size], dtype=np.float64, casting="same_kind")
        rotation[:size, :size] = own.rotation
    return _each_product(rows, rotations)


@functools.partial(jax.jit, donate_argnums=0)
def _each_product(stack: Array, rotations: Array) -> Array:
    return jax.lax.map(lambda given: multiply(*given), (stack, rotations))
