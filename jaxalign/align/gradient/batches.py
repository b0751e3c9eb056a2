"""Training rows as gradients see them: in each encoder's principal axes, and batches of people drawn from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.align.gradient.gradient_options import GradientOptions
from jaxalign.align.gradient.losses import MEANS_BASED
from jaxalign.align.solvers.base import Training
from jaxalign.core.devices import concurrently, padded_width
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply
from jaxalign.core.pytree import Leaf, pytree
from jaxalign.moments.moments import Moments

SHRINKAGE = 0.05  # of the mean variance, added to every axis' before whitening


@dataclasses.dataclass(frozen=True)
class Axes:
    """One encoder's principal axes: ``z = ((x − mean) @ vectors) * stretch / scale`` has mean squared length 1."""

    mean: np.ndarray  # shape [p]
    vectors: np.ndarray  # orthonormal columns, largest variance first, shape [p, p]
    variance: np.ndarray  # of z, shape [p]
    scale: float
    stretch: np.ndarray  # of each axis, shape [p]; 1 unless the axes are whitened

    @classmethod
    def of(cls, total: Moments, name: str, whitening: float = 0.0) -> Axes:
        """From the moments of the training rows; axes are divided by their shrunk variance to half this power."""
        span = total.span(name)
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
class PeopleTable:
    """The people to draw from: where their photographs are in ``Rows.order``, and their numbers, shapes [people]."""

    start: Int[Leaf, " people"]
    count: Int[Leaf, " people"]
    number: Int[Leaf, " people"]  # among all people


@pytree
class Rows:
    """Training rows on the device, float32, encoders of one padded width stacked."""

    coordinates: Mapping[int, Float[Leaf, "k n width"]]
    means: Mapping[int, Float[Leaf, "k people width"]]  # of all people; empty if the loss uses none
    order: Int[Leaf, " n"]  # rows of one person after another
    train: PeopleTable  # to fit on
    held_out: PeopleTable  # to choose the weights by; may be none


@pytree
class TrainingBatch:
    """Two photographs of each of B people: their rows, shape [2 B], and the people's numbers, shape [B]."""

    rows: Int[Array, " rows"]
    people: Int[Array, " people"]


def draw(rows: Rows, key: Array, people: int) -> TrainingBatch:
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


def held_out_batch(rows: Rows, most: int) -> TrainingBatch:
    """The first two photographs of people who are held out, at most so many."""
    table = rows.held_out
    who = jnp.arange(min(most, table.start.shape[0]))
    return _batch(rows, table, who, jnp.zeros_like(who), jnp.minimum(1, table.count[who] - 1))


def _below(key: Array, most: Array) -> Int[Array, " n"]:
    """Whole numbers from 0 up to these, exclusive; 0 where there is none."""
    share = jax.random.uniform(key, most.shape, jnp.float32)
    return jnp.floor(share * most.astype(jnp.float32)).astype(jnp.int32)


def _batch(rows: Rows, table: PeopleTable, who: Array, first: Array, second: Array) -> TrainingBatch:
    positions = jnp.concatenate([table.start[who] + first, table.start[who] + second])
    return TrainingBatch(rows.order[positions], table.number[who])


@dataclasses.dataclass(frozen=True)
class PreparedRows:
    """Rows with the axes that they are written in, and each encoder's padded width and its index in that stack."""

    rows: Rows
    axes: Mapping[str, Axes]
    stack_index: Mapping[str, tuple[int, int]]


def prepare(training: Training, total: Moments, options: GradientOptions) -> PreparedRows:
    """Rotates the training rows into principal axes and sorts them by person; ``total`` are their moments on the host.

    Raises:
      UserError: fewer than two people are left to fit on, or to hold out where some shall be.
    """
    arrays = training.rows
    names, labels, counts = np.unique(training.identities, return_inverse=True, return_counts=True)
    aside = np.random.default_rng(options.seed).permutation(len(names)) < round(options.held_out * len(names))
    for what, chosen in (("to fit on", ~aside), ("to hold out", aside)):
        if chosen.sum() < 2 and (options.held_out > 0 or what == "to fit on"):
            raise UserError(
                f"fitting by gradient needs at least two people {what}, "
                f"got {chosen.sum()} of {len(names)} in {len(labels)} rows"
            )
    starts, order = np.cumsum(counts) - counts, np.argsort(labels, kind="stable").astype(np.int32)
    table = np.stack([starts, counts, np.arange(len(names))]).astype(np.int32)
    axes_of = functools.partial(Axes.of, total, whitening=options.whitening)
    axes = dict(zip(arrays, concurrently(axes_of, list(arrays))))
    alike: dict[int, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        alike.setdefault(padded_width(array.shape[1]), {})[name] = array
    coordinates, of_people = {}, {}
    with double_precision(False):
        for width, members in alike.items():
            coordinates[width] = _rotated(members, axes, width)
            if options.loss in MEANS_BASED:
                parts = [np.add.reduceat(part[order], starts) for part in np.asarray(coordinates[width])]
                of_people[width] = np.stack(parts) / counts[None, :, None].astype(np.float32)
        rows = Rows(
            coordinates, of_people, order, PeopleTable(*table[:, ~aside]), PeopleTable(*table[:, aside])
        )
        rows = jax.device_put(rows)
    stack_index = {name: (width, index) for width, names in alike.items() for index, name in enumerate(names)}
    return PreparedRows(rows, axes, stack_index)


def _rotated(
    arrays: Mapping[str, np.ndarray], axes: Mapping[str, Axes], width: int
) -> Float[Array, "k n width"]:
    """Coordinates of encoders of one padded width; means are subtracted in float64."""
    rows = np.zeros((len(arrays), len(next(iter(arrays.values()))), width), np.float32)
    rotations = np.zeros((len(arrays), width, width), np.float32)
    for (name, array), into, rotation in zip(arrays.items(), rows, rotations):
        size = array.shape[1]
        np.subtract(array, axes[name].mean, out=into[:, :size], dtype=np.float64, casting="same_kind")
        rotation[:size, :size] = axes[name].rotation
    return _each_product(rows, rotations)


@functools.partial(jax.jit, donate_argnums=0)
def _each_product(stack: Array, rotations: Array) -> Array:
    return jax.lax.map(lambda given: multiply(*given), (stack, rotations))
