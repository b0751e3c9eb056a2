"""Rows as gradients see them: in each encoder's principal axes, people side by side, and batches drawn from them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.core.pytree import Leaf, pytree


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
