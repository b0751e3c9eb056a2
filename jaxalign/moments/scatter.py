"""The product of rows with themselves, centred: nearly all the time that moments take."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.core.precision import multiply

SLICE_ROWS = 2048  # of a chunk that are centred and multiplied at once
# The scatter matrix is cut into tiles of which only those on and above the diagonal are computed. Many of them save
# operations and cost compilation, which few rows do not repay.
MOST_BLOCKS, LEAST_BLOCK = 12, 128
FEW_ROWS, FEW_BLOCKS = 8192, 6


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
    edges = _edges(center.shape[0], root.shape[0])

    def products(rows: tuple[jax.Array, ...], root: jax.Array) -> list[jax.Array]:
        return _upper(centred(rows, center, root), root if sums else None, edges)

    return _assembled(_over_slices(products, chunk, root), edges, sums)


def scatter_row(
    rows: Float[Array, "c m"],
    center: Float[Array, " m"],
    root: Float[Array, " c"],
    *,
    own: int,
    half: Array | None,
) -> tuple[tuple[Float[Array, "own own"], ...], Float[Array, " m"]]:
    """The first ``own`` rows of the same matrix; below the diagonal of their square tile nothing is computed.

    Args:
      rows, center, root: as for ``scatter_of``.
      own: rows of the matrix, which divide its columns.
      half: where given, 0 or 1, the last ``own`` columns are summed over the first or the second half of every slice
        of rows, whose number is then a multiple of 2 (``sliceable``).

    Returns:
      The rows in square tiles, and Σ w (z − center), shape [m].
    """
    width, edges = center.shape[0], _edges(own, root.shape[0])

    def products(rows: tuple[jax.Array, ...], root: jax.Array) -> list[jax.Array]:
        columns = centred(rows, center, root)
        mine, others = columns[:own], columns[own:]
        found = [*_upper(mine, root, edges), multiply(others, root)]
        full = width // own - (1 if half is None else 2)
        found += [multiply(mine, others[k * own : (k + 1) * own].T) for k in range(full)]
        if half is not None:
            size = root.shape[0] // 2
            some = [jax.lax.dynamic_slice_in_dim(a, half * size, size, 1) for a in (mine, others[-own:])]
            found.append(multiply(some[0], some[1].T))
        return found

    found = _over_slices(products, (rows,), root)
    tiles = len(_upper_tiles(edges))
    square, sums = _assembled(found[:tiles], edges, sums=True)
    assert sums is not None
    return (square, *found[tiles + 1 :]), jnp.concatenate([sums, found[tiles]])


def sliceable(rows: int) -> int:
    """The next number of rows that is dealt into slices of an even number of rows each."""
    slices = -(-rows // SLICE_ROWS)
    return -(-rows // (2 * slices)) * 2 * slices


def _edges(width: int, rows: int) -> list[int]:
    """Where the tiles begin and end, for chunks of so many rows."""
    blocks = min(MOST_BLOCKS if rows > FEW_ROWS else FEW_BLOCKS, -(-width // LEAST_BLOCK))
    return [width * k // blocks for k in range(blocks + 1)]


def _upper_tiles(edges: list[int]) -> list[tuple[int, int]]:
    blocks = len(edges) - 1
    return [(i, j) for i in range(blocks) for j in range(i, blocks)]


def centred(rows: tuple[jax.Array, ...], center: Array, root: Array) -> Array:
    """Columns of the rows less their centre, times the roots of the weights, shape [D, c]."""
    narrow = jnp.result_type(*rows, jnp.float32)
    beside = jax.lax.optimization_barrier(jnp.concatenate([part.astype(narrow) for part in rows], axis=1))
    # [D, rows]: the layout in which a product with the transpose is fast on CPU. Without the barriers the
    # transposition is folded into the product, which then runs on one core, or is done encoder by encoder.
    return jax.lax.optimization_barrier((beside.T.astype(center.dtype) - center[:, None]) * root)


def _upper(columns: Array, root: Array | None, edges: list[int]) -> list[Array]:
    """Tiles on and above the diagonal; with ``root``, the first row of tiles ends in the sums of every column."""
    tiles = [columns[start:stop] for start, stop in zip(edges[:-1], edges[1:])]
    left = [tiles[0] if root is None else jnp.concatenate([tiles[0], root[None]]), *tiles[1:]]
    return [multiply(left[i], tiles[j].T) for i, j in _upper_tiles(edges)]


def _over_slices(
    products: Callable[[tuple[jax.Array, ...], jax.Array], list[jax.Array]],
    chunk: tuple[jax.Array, ...],
    root: jax.Array,
) -> list[jax.Array]:
    """Sums products of slices of rows; the first slice takes the rows that are left over."""
    rows = root.shape[0]
    slices = -(-rows // SLICE_ROWS)
    size = rows // slices
    first = rows - size * (slices - 1)
    found = products(tuple(part[:first] for part in chunk), root[:first])
    if slices > 1:
        rest = jax.tree.map(
            lambda array: array[first:].reshape(slices - 1, size, *array.shape[1:]), (chunk, root)
        )
        found, _ = jax.lax.scan(
            lambda found, part: ([a + b for a, b in zip(found, products(*part))], None), found, rest
        )
    return found


def _assembled(found: list[Array], edges: list[int], sums: bool) -> tuple[Array, Array | None]:
    """The symmetric matrix of the tiles; and the sums that end its first row."""
    width = edges[-1]
    total = jnp.concatenate([tile[-1] for tile in found[: len(edges) - 1]]) if sums else None
    scatter = jnp.zeros((width, width), found[0].dtype)
    for (i, j), tile in zip(_upper_tiles(edges), found):  # faster than concatenating the tiles
        tile = tile[: edges[i + 1] - edges[i]]
        scatter = jax.lax.dynamic_update_slice(scatter, tile, (edges[i], edges[j]))
        if i != j:
            scatter = jax.lax.dynamic_update_slice(scatter, tile.T, (edges[j], edges[i]))
    return scatter, total
