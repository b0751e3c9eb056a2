"""Moments of growing sets of rows, each row read once: the smaller sets are part of the larger ones."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.core.errors import UserError
from jaxalign.moments.moments import FoldMoments, Moments

LEAST_CHUNK = 64


def nested_moments(
    embeddings: Mapping[str, ArrayLike], sizes: Sequence[int], fold: np.ndarray | None = None
) -> Iterator[FoldMoments]:
    """Moments of the first ``size`` rows for every size.

    Each ring, the rows between two sizes, is summed once and merged into what is inside it; two sums are in memory.

    Args:
      embeddings: per encoder an array [n, d].
      sizes: ascending numbers of rows, at most n.
      fold: of each row, integers 0 ... F − 1, shape [n]; None for no folds.

    Raises:
      UserError: a size is larger than the data, or they do not rise.

    Equivalent: ``FoldMoments.of`` of the first rows, for each size anew.
    """
    arrays = {name: np.asarray(array) for name, array in embeddings.items()}
    rows = min(len(array) for array in arrays.values())
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1 or sizes[-1] > rows:
        raise UserError(
            f"sizes: expected rising numbers from 1 to {rows:,}, the rows there are; got {list(sizes)}."
        )
    folds = [None] if fold is None else list(range(int(fold.max()) + 1))
    widths = [array.shape[1] for array in arrays.values()]
    so_far = [Moments.empty(tuple(arrays), widths) for _ in folds]
    for start, stop in zip((0, *sizes[:-1]), sizes):
        ring = np.arange(start, stop)
        for number, which in enumerate(folds):
            members = ring if fold is None else ring[fold[ring] == which]
            if len(members):
                so_far[number] = so_far[number].merge(_ring(arrays, members))
        total = so_far[0]
        for part in so_far[1:]:
            total = total.merge(part)
        yield FoldMoments(total, () if fold is None else tuple(so_far))


def _ring(arrays: Mapping[str, np.ndarray], members: np.ndarray) -> Moments:
    """Moments of some rows, filled up with rows of no weight, so that rings of like size share a program."""
    size = max(LEAST_CHUNK, 1 << (len(members) - 1).bit_length())
    filled = np.resize(members, size)
    weights = np.zeros(size)
    weights[: len(members)] = 1
    return Moments.of({name: array[filled] for name, array in arrays.items()}, weights)
