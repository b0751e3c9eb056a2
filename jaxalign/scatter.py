"""The product of rows with themselves, centred: nearly all the time that moments take."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.precision import multiply

SLICE_ROWS = 2048  # of a chunk that are centred and multiplied at once
# The scatter matrix is cut into tiles of which only those on and above the diagonal are computed.
MOST_BLOCKS, LEAST_BLOCK = 12, 128


def scatter_of(
    chunk: tuple[jax.Array, ...], center: Float[Array, " D"], root: Float[Array, " c"], *, sums: bool = False
) -> tuple[Float[Array, "D D"], Float[Array, " D"] | None]:
    """Σ w (z − center)ᵀ (z − center) from the tiles on and above the diagonal, a slice of rows at a time.

    Args:
      chunk: rows of each encoder, shapes [c, d], any floating formats.
      center: of the columns, in the format of the result.
      root: square roots of the rows' weights.
      sums: whether Σ w (z − center) is wanted as well, shape [D]; it costs no pass over the rows.

    Returns:
      The matrix, and the sums or None.
    """
    rows, width = root.shape[0], center.shape[0]
    blocks = min(MOST_BLOCKS, -(-width // LEAST_BLOCK))
    edges = [width * k // blocks for k in range(blocks + 1)]
    upper = [(i, j) for i in range(blocks) for j in range(i, blocks)]

    def products(rows: tuple[jax.Array, ...], root: jax.Array) -> list[jax.Array]:
        narrow = jnp.result_type(*rows, jnp.float32)
        beside = jax.lax.optimization_barrier(jnp.concatenate([part.astype(narrow) for part in rows], axis=1))
        # [D, rows]: the layout in which a product with the transpose is fast on CPU. Without the barriers the
        # transposition is folded into the product, which then runs on one core, or is done encoder by encoder.
        columns = jax.lax.optimization_barrier((beside.T.astype(center.dtype) - center[:, None]) * root)
        tiles = [columns[start:stop] for start, stop in zip(edges[:-1], edges[1:])]
        # The weights as one more row of the first block of rows: its products then end in the sums of every column.
        left = [jnp.concatenate([tiles[0], root[None]]) if sums else tiles[0], *tiles[1:]]
        return [multiply(left[i], tiles[j].T) for i, j in upper]

    slices = -(-rows // SLICE_ROWS)
    size = rows // slices
    found = products(
        tuple(part[: rows - size * (slices - 1)] for part in chunk), root[: rows - size * (slices - 1)]
    )
    if slices > 1:
        rest = jax.tree.map(
            lambda array: array[rows - size * (slices - 1) :].reshape(slices - 1, size, *array.shape[1:]),
            (chunk, root),
        )
        found, _ = jax.lax.scan(
            lambda found, part: ([a + b for a, b in zip(found, products(*part))], None), found, rest
        )
    scatter = jnp.zeros((width, width), center.dtype)
    total = jnp.concatenate([tile[-1] for tile in found[:blocks]]) if sums else None
    for (i, j), tile in zip(upper, found):  # faster than concatenating the tiles
        tile = tile[: edges[i + 1] - edges[i]]
        scatter = jax.lax.dynamic_update_slice(scatter, tile, (edges[i], edges[j]))
        if i != j:
            scatter = jax.lax.dynamic_update_slice(scatter, tile.T, (edges[j], edges[i]))
    return scatter, total
