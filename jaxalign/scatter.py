"""The product of rows with themselves, centred: nearly all the time that moments take."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.precision import multiply

SLICE_ROWS = 2048  # of a chunk that are centred and multiplied at once
# The scatter matrix is cut into tiles of which only those on and above the diagonal are computed.
MOST_BLOCKS, LEAST_BLOCK = 12, 128


def scatter_of(chunk: tuple[jax.Array, ...], means: list[jax.Array], root: jax.Array) -> Float[Array, "D D"]:
    """Σ w (z − mean)ᵀ (z − mean) from the tiles on and above the diagonal, a slice of rows at a time.

    Args:
      chunk: rows of each encoder, shapes [c, d], any floating formats.
      means: of their columns, shapes [d], in the format of the result.
      root: square roots of the rows' weights, shape [c].
    """
    rows, width = root.shape[0], sum(mean.shape[0] for mean in means)
    blocks = min(MOST_BLOCKS, -(-width // LEAST_BLOCK))
    edges = [width * k // blocks for k in range(blocks + 1)]
    upper = [(i, j) for i in range(blocks) for j in range(i, blocks)]

    mean = jnp.concatenate(means)

    def products(rows: tuple[jax.Array, ...], root: jax.Array) -> list[jax.Array]:
        narrow = jnp.result_type(*rows, jnp.float32)
        beside = jax.lax.optimization_barrier(jnp.concatenate([part.astype(narrow) for part in rows], axis=1))
        # [D, rows]: the layout in which a product with the transpose is fast on CPU. Without the barriers the
        # transposition is folded into the product, which then runs on one core, or is done encoder by encoder.
        columns = jax.lax.optimization_barrier((beside.T.astype(mean.dtype) - mean[:, None]) * root)
        tiles = [columns[start:stop] for start, stop in zip(edges[:-1], edges[1:])]
        return [multiply(tiles[i], tiles[j].T) for i, j in upper]

    slices = -(-rows // SLICE_ROWS)
    size = rows // slices
    sums = products(
        tuple(part[: rows - size * (slices - 1)] for part in chunk), root[: rows - size * (slices - 1)]
    )
    if slices > 1:
        rest = jax.tree.map(
            lambda array: array[rows - size * (slices - 1) :].reshape(slices - 1, size, *array.shape[1:]),
            (chunk, root),
        )
        sums, _ = jax.lax.scan(
            lambda sums, part: ([a + b for a, b in zip(sums, products(*part))], None), sums, rest
        )
    scatter = jnp.zeros((width, width), means[0].dtype)
    for (i, j), tile in zip(upper, sums):  # faster than concatenating the tiles
        scatter = jax.lax.dynamic_update_slice(scatter, tile, (edges[i], edges[j]))
        if i != j:
            scatter = jax.lax.dynamic_update_slice(scatter, tile.T, (edges[j], edges[i]))
    return scatter
