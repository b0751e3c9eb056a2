"""Moments with more columns for one encoder, from the moments that are known: only what is new is multiplied."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxalign.errors import UserError
from jaxalign.moments import Moments
from jaxalign.precision import double_precision, multiply


def widened_moments(
    total: Moments, embeddings: Mapping[str, ArrayLike], name: str, columns: ArrayLike
) -> Moments:
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
    rows = {len(np.asarray(embeddings[each])) for each in total.names} | {len(np.asarray(columns))}
    if name not in total.names or rows != {int(total.weight)}:
        raise UserError(
            f"expected {int(total.weight):,} rows and one of {', '.join(total.names)}, got {sorted(rows)} and {name!r}"
        )
    more, place = np.shape(columns)[1], total.names.index(name)
    end = total.offset(name) + total.width(name)
    width = sum(total.widths)
    order = np.concatenate([np.arange(end), width + np.arange(more), np.arange(end, width)])
    with double_precision():
        chunk = tuple(jnp.asarray(embeddings[each]) for each in total.names)
        mean, scatter = _widened(total.mean, total.scatter, chunk, jnp.asarray(columns), order)
        residue = None if total.residue is None else jnp.zeros_like(scatter)
    widths = tuple(width + more * (k == place) for k, width in enumerate(total.widths))
    return dataclasses.replace(total, mean=mean, scatter=scatter, residue=residue, widths=widths)


@jax.jit
def _widened(
    mean: Float[Array, " D"],
    scatter: Float[Array, "D D"],
    chunk: tuple[Array, ...],
    columns: Float[Array, "n m"],
    order: Int[Array, " D_and_m"],
) -> tuple[Float[Array, " D_and_m"], Float[Array, "D_and_m D_and_m"]]:
    """In whatever order the columns are to stand, so that one program serves every encoder."""
    wide = columns.T.astype(mean.dtype)
    center = wide.mean(axis=1)
    new = jax.lax.optimization_barrier(
        wide - center[:, None]
    )  # products of [columns, rows] are the fast ones on CPU
    beside = jax.lax.optimization_barrier(
        jnp.concatenate([rows.astype(jnp.float32) for rows in chunk], axis=1)
    )
    known = jax.lax.optimization_barrier(beside.T.astype(mean.dtype) - mean[:, None])
    cross, own = multiply(new, known.T), multiply(new, new.T)
    whole = jnp.block([[scatter, cross.T], [cross, own]])
    return jnp.concatenate([mean, center])[order], whole[order][:, order]
