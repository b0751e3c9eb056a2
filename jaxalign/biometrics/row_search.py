"""Where values stand in sorted rows of scores."""

import numpy as np
from jaxtyping import Float, Int

MANY = 64  # values of one row from which on the row is searched alone


def places_in_rows(
    ascending: Float[np.ndarray, "n m"], row: Int[np.ndarray, " k"], values: Float[np.ndarray, " k"]
) -> Int[np.ndarray, " k"]:
    """For each value the entries of its row that are below it.

    Args:
      ascending: every row sorted.
      row: of each value, ascending.
      values: to look for.

    Equivalent: ``numpy.searchsorted(ascending[r], v)`` for each row r and value v.
    """
    edges = np.searchsorted(row, np.arange(len(ascending) + 1))
    many = np.flatnonzero(np.diff(edges) >= MANY)
    few = np.ones(len(values), bool)
    places = np.empty(len(values), np.int64)
    for number in many:
        start, stop = edges[number], edges[number + 1]
        few[start:stop] = False
        here = values[start:stop]
        order = here.argsort()  # NumPy finds ascending values three times as fast
        places[start + order] = ascending[number].searchsorted(here[order])
    places[few] = _each_by_bisection(ascending, row[few], values[few])
    return places


def _each_by_bisection(ascending: np.ndarray, row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """All values at once, a step of bisection at a time: for few values a row much faster than row by row."""
    flat, width = ascending.ravel(), ascending.shape[1]
    start = row * width
    below = np.zeros(len(values), np.int64)
    step = 1 << width.bit_length() - 1
    while step:
        ahead = below + step
        reached = flat[start + np.minimum(ahead, width) - 1] < values
        below = np.where(reached & (ahead <= width), ahead, below)
        step >>= 1
    return below
