"""Do the rows of encoders belong together? Compares the similarities among rows with those of rows in random order."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

MOST_ROWS = 1000  # that are compared: photographs, and people by one photograph each
# With fewer rows, two encoders that have little in common cannot be told from rows in another order: any two encoders,
# or two that recognise people by themselves. docs/benchmarks.md has the measurement.
LEAST_ROWS, LEAST_WORKING = 200, 75
CHANCE = (
    4.0  # standard deviations above rows in random order, below which two encoders have nothing in common
)


def unlike_pairs(
    read: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    identities: np.ndarray,
    working: Collection[str] = (),
) -> list[tuple[str, str]]:
    """Pairs of encoders whose rows do not seem to belong to the same photographs.

    Two encoders that look at the same photographs agree, if only a little, on which of them are similar. A pair is
    named where they agree no more than for rows in random order, by ``agreement``: among photographs, or among people
    (one photograph each), which finds files that list the same people in another order.

    Args:
      read: takes indices of rows and returns these rows of every encoder, by name, each [rows, width].
      identities: who is on each row, shape [n].
      working: names of encoders that recognise people by themselves, of which fewer rows are enough.

    Returns:
      Pairs of names; none where there are fewer than ``LEAST_ROWS`` photographs (``LEAST_WORKING`` of two encoders
      that work), and none for the order of people where there are fewer people.
    """
    photographs = np.arange(len(identities))
    people = np.sort(np.unique(identities, return_index=True)[1])
    found: dict[tuple[str, str], None] = {}
    for rows in (photographs, people):
        if len(rows) < LEAST_WORKING:
            continue
        some = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(int)]
        kernels = {name: _kernel(array) for name, array in read(some).items()}
        compared = kernels if len(rows) >= LEAST_ROWS else [name for name in kernels if name in working]
        for one, other in itertools.combinations(compared, 2):
            if agreement(kernels[one], kernels[other]) < CHANCE:
                found[one, other] = None
    return list(found)


def order_warnings(pairs: Sequence[tuple[str, str]], encoders: Sequence[str]) -> Iterator[str]:
    """The sentences of ``unlike_pairs``; an encoder that is like none of the others is named once."""
    every = [frozenset(pair) for pair in pairs]
    alone = [
        name
        for name in encoders
        if len(encoders) > 2 and all(frozenset((name, other)) in every for other in encoders if other != name)
    ]
    ends = "do not seem to belong together: they agree no more than rows in random order would. Are the rows of one "
    ends += "of them in another order, or of other photographs?"
    for name in alone:
        yield f"rows of {name} and rows of the other encoders {ends}"
    for one, other in pairs:
        if one not in alone and other not in alone:
            yield f"rows of {one} and {other} {ends}"


def agreement(one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"]) -> float:
    """By how many standard deviations the similarities of the same rows agree more than those of rows in random order.

    The RV coefficient of two centred kernels, less its mean and over its standard deviation under all permutations of
    the rows of one of them, in closed form. NaN where there is no spread, as for kernels without structure.

    References:
      Kazi-Aoual, Hitier, Sabatier, Lebreton, "Refined approximations to permutation tests for multivariate inference",
      Computational Statistics & Data Analysis 1995.
    """
    n = len(one)
    norms = [float((kernel * kernel).sum()) for kernel in (one, other)]
    betas, taus = [], []
    for kernel, norm in zip((one, other), norms):
        if norm == 0:
            return float("nan")
        beta = float(np.trace(kernel)) ** 2 / norm
        left = n - 1 - beta
        if left <= 0:
            return float("nan")
        squares = n * (n + 1) * float((np.diag(kernel) ** 2).sum()) / norm
        betas.append(beta)
        taus.append((n - 1) / ((n - 3) * left) * (squares - (n - 1) * (beta + 2)))
    coefficient = float((one * other).sum()) / (norms[0] * norms[1]) ** 0.5
    mean = (betas[0] * betas[1]) ** 0.5 / (n - 1)
    spread = 2 * (n - 1 - betas[0]) * (n - 1 - betas[1]) / ((n + 1) * (n - 1) ** 2 * (n - 2))
    variance = spread * (1 + (n - 3) / (2 * n * (n - 1)) * taus[0] * taus[1])
    return (coefficient - mean) / variance**0.5 if variance > 0 else float("nan")


def _kernel(rows: np.ndarray) -> np.ndarray:
    """Inner products of rows of length 1, centred, in float64; rows that have no length count as zeros."""
    array = np.nan_to_num(np.asarray(rows, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(array).max(axis=1, keepdims=True, initial=0)
    array = np.divide(array, largest, out=np.zeros_like(array), where=largest > 0)
    norm = np.linalg.norm(array, axis=1, keepdims=True)
    array = np.divide(array, norm, out=np.zeros_like(array), where=norm > 0)
    array -= array.mean(axis=0)
    return array @ array.T
