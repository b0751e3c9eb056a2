"""Moments with more columns for one encoder, from the moments that are known: only what is new is multiplied."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply
from jaxalign.core.pytree import Leaf
from jaxalign.moments.moments import Moments
from jaxalign.moments.scatter import centred

CHUNK_ELEMENTS = 2**26  # numbers of a chunk of rows


def widened_moments(total: Moments, embeddings: Mapping[str, Leaf], name: str, columns: Leaf) -> Moments:
    """Moments of the same rows where one encoder has more columns.

    Args:
      total: of these rows, none of them weighed.
      embeddings: of every encoder of ``total``, shape [n, d].
      name: of the encoder.
      columns: to stand after its own, shape [n, m].

    Raises:
      UserError: the rows are not those of the moments, or there is no such encoder.

    Equivalent: ``Moments.of`` with ``numpy.concatenate([embeddings[name], columns], axis=1)``.
    """
    arrays = [embeddings[each] for each in total.names]
    rows = {np.shape(array)[0] for array in (*arrays, columns)}
    if name not in total.names or rows != {int(total.weight)}:
        raise UserError(
            f"expected {int(total.weight):,} rows and one of {', '.join(total.names)}, got {sorted(rows)} and {name!r}"
        )
    (count,), more, width = rows, np.shape(columns)[1], sum(total.widths)
    end = total.offset(name) + total.width(name)
    order = np.concatenate([np.arange(end), width + np.arange(more), np.arange(end, width)])
    size = min(count, max(1, CHUNK_ELEMENTS // (width + more)))
    with double_precision():
        center = jnp.mean(jnp.asarray(columns), axis=0, dtype=total.mean.dtype)
        cross, own = jnp.zeros((more, width), center.dtype), jnp.zeros((more, more), center.dtype)
        for start in range(0, count, size):
            numbers = np.arange(start, start + size)
            there = (numbers < count).astype(center.dtype)  # the last chunk is filled up, for one program
            numbers = np.minimum(numbers, count - 1)
            chunk = tuple(jnp.asarray(array[numbers]) for array in arrays)
            cross, own = _added(cross, own, total.mean, center, chunk, jnp.asarray(columns[numbers]), there)
        mean, scatter = _in_order(total.mean, center, total.scatter, cross, own, order)
        residue = None if total.residue is None else jnp.zeros_like(scatter)
    widths = tuple(width + more * (each == name) for each, width in zip(total.names, total.widths))
    return dataclasses.replace(total, mean=mean, scatter=scatter, residue=residue, widths=widths)


@jax.jit
def _added(
    cross: Float[Array, "m D"],
    own: Float[Array, "m m"],
    mean: Float[Array, " D"],
    center: Float[Array, " m"],
    chunk: tuple[Array, ...],
    columns: Float[Array, "c m"],
    there: Float[Array, " c"],
) -> tuple[Float[Array, "m D"], Float[Array, "m m"]]:
    """The products of the new columns with those that are known and with themselves, of one more chunk of rows."""
    known, new = centred(chunk, mean, there), centred((columns,), center, there)
    return cross + multiply(new, known.T), own + multiply(new, new.T)


@jax.jit
def _in_order(
    mean: Float[Array, " D"],
    center: Float[Array, " m"],
    scatter: Float[Array, "D D"],
    cross: Float[Array, "m D"],
    own: Float[Array, "m m"],
    order: Int[Array, " D_and_m"],
) -> tuple[Float[Array, " D_and_m"], Float[Array, "D_and_m D_and_m"]]:
    """In whatever order the columns are to stand, so that one program serves every encoder."""
    whole = jnp.block([[scatter, cross.T], [cross, own]])
    return jnp.concatenate([mean, center])[order], whole[order][:, order]
