"""Clustering of encoders: a dendrogram, mean scores of sources and targets, and permutation tests of given families."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from jaxalign.core.errors import UserError

LEAST_ENCODERS = 3
MOST_ENUMERATED = 10_000  # relabellings


@dataclasses.dataclass(frozen=True, eq=False)
class Dendrogram:
    """Average linkage of encoders."""

    encoders: tuple[str, ...]
    distances: np.ndarray  # symmetric, zero diagonal, shape [K, K]
    linkage: np.ndarray  # as of ``scipy.cluster.hierarchy.linkage``, shape [K − 1, 4]
    order: tuple[str, ...]  # encoders in the order of the leaves, similar ones next to each other
    cophenetic: float  # correlation of the distances with the heights of joining; NaN if either is constant


def dendrogram(encoders: Sequence[str], distances: ArrayLike) -> Dendrogram:
    """Average-linkage clustering; leaves are ordered so that neighbours are as near as the tree allows.

    Args:
      encoders: K names, three or more.
      distances: symmetric with a zero diagonal, shape [K, K].

    Raises:
      UserError: there are too few encoders, or the distances are not such a matrix of finite numbers.

    Equivalent: ``scipy.cluster.hierarchy.linkage(squareform(distances), "average", optimal_ordering=True)``.

    References:
      Sokal, Michener 1958 (average linkage). Sokal, Rohlf, "The comparison of dendrograms by objective methods", 1962.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    matrix, count = np.asarray(distances, np.float64), len(encoders)
    if count < LEAST_ENCODERS:
        raise UserError(
            f"a dendrogram takes at least {LEAST_ENCODERS} encoders, got {count}: {', '.join(encoders)}"
        )
    if matrix.shape != (count, count):
        raise UserError(f"distances: expected shape [{count}, {count}], got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise UserError("distances must be finite numbers")
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-9) or np.abs(np.diag(matrix)).max() > 1e-9:
        raise UserError("distances must be symmetric with a zero diagonal")
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0)
    condensed = squareform(matrix, checks=False)
    linkage = hierarchy.linkage(condensed, "average", optimal_ordering=True)
    joined = hierarchy.cophenet(linkage)
    constant = np.ptp(condensed) == 0 or np.ptp(joined) == 0
    cophenetic = float("nan") if constant else float(np.corrcoef(condensed, joined)[0, 1])
    order = tuple(encoders[int(k)] for k in hierarchy.leaves_list(linkage))
    return Dendrogram(tuple(encoders), matrix, linkage, order, cophenetic)


def rate_distances(rates: ArrayLike) -> Float[np.ndarray, "K K"]:
    """100 − symmetrised rate in per cent, as published: (R + Rᵀ) / 2 of source by target, zero diagonal.

    Args:
      rates: identification rates from 0 to 1, shape [K, K]; the diagonal is not read.

    References:
      Rubab, Tong, Ross, arXiv 2604.07282, 2026.
    """
    matrix = np.asarray(rates, np.float64)
    found = 100 - 100 * (matrix + matrix.T) / 2
    np.fill_diagonal(found, 0)
    return found


Item = TypeVar("Item")


def complete(encoders: Sequence[Item], matrix: ArrayLike) -> tuple[Item, ...]:
    """The encoders that are left when those with missing (NaN) entries in a matrix [K, K] go, the one with most first.

    The diagonal is not read.
    """
    missing = np.isnan(np.asarray(matrix, np.float64))
    np.fill_diagonal(missing, False)
    left = list(range(len(encoders)))
    while (inside := missing[np.ix_(left, left)]).any():
        left.pop(int(np.argmax(inside.sum(axis=0) + inside.sum(axis=1))))
    return tuple(encoders[k] for k in left)


def source_means(matrix: ArrayLike) -> Float[np.ndarray, " K"]:
    """Mean of each row without the diagonal: how well an encoder is translated from (transposed: into)."""
    values = np.array(matrix, np.float64)
    np.fill_diagonal(values, 0)
    return values.sum(axis=1) / (len(values) - 1)


def nearest_counts(distances: ArrayLike) -> np.ndarray:
    """Hub-ness of encoders: for how many others each is the nearest, ties shared, shape [K].

    Reference: the 1-occurrence of Radovanović, Nanopoulos, Ivanović, "Hubs in space", JMLR 2010.
    """
    values = np.array(distances, np.float64)
    np.fill_diagonal(values, np.inf)
    nearest = values == values.min(axis=1, keepdims=True)
    return (nearest / nearest.sum(axis=1, keepdims=True)).sum(axis=0)


@dataclasses.dataclass(frozen=True)
class PermutationTest:
    """A statistic and how often chance does as well."""

    statistic: float  # on the labels as they are
    p: float  # share of relabellings with a statistic at least as large, the observed one among them
    permutations: int  # how many relabellings were looked at
    exact: bool  # whether these are all there are

    @property
    def least(self) -> float:
        """The smallest p there can be."""
        return 1 / (self.permutations + (not self.exact))


def permutation_test(
    statistic: Callable[[np.ndarray], np.ndarray], labels: Sequence, *, permutations: int, seed: int
) -> PermutationTest:
    """Tests a statistic of labelled encoders under exchange of the labels.

    Args:
      statistic: of an array of relabellings, integers [b, K]; returns [b], larger is stronger.
      labels: of the encoders, shape [K]; equal ones are the same.
      permutations: of a random sample, where more than ``MOST_ENUMERATED`` relabellings differ.
      seed: of the sample.

    References:
      Phipson, Smyth, "Permutation p-values should never be zero", 2010: (1 + those as large) / (1 + permutations).
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    observed = float(statistic(codes[None])[0])
    exact = _distinct(codes) <= MOST_ENUMERATED
    if exact:
        relabelled = np.array(list(_arrangements(tuple(codes.tolist()))))
    else:
        random = np.random.default_rng(seed)
        relabelled = np.stack([random.permutation(codes) for _ in range(permutations)])
    values = statistic(relabelled)
    rounding = 1e-9 * max(1.0, abs(observed)) if np.isfinite(observed) else 0.0
    as_large = int(np.sum(values >= observed - rounding))
    p = as_large / len(values) if exact else (1 + as_large) / (1 + len(values))
    return PermutationTest(observed, p, len(relabelled), exact)


def _distinct(codes: np.ndarray) -> int:
    """How many different arrangements of the labels there are."""
    return math.factorial(len(codes)) // math.prod(map(math.factorial, Counter(codes.tolist()).values()))


def _arrangements(codes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All different arrangements of labels, without going through equal ones more than once."""
    if not codes:
        yield ()
    for code in sorted(set(codes)):
        place = codes.index(code)
        for rest in _arrangements(codes[:place] + codes[place + 1 :]):
            yield (code, *rest)


def family_test(
    distances: ArrayLike, labels: Sequence[str], *, permutations: int = 9999, seed: int = 0
) -> PermutationTest:
    """Do families explain the distances? Permutational analysis of variance (PERMANOVA).

    With SS = Σ_{i<j} d²ᵢⱼ / K and SS_within = Σ over families of Σ_{i<j within} d²ᵢⱼ / (size of the family),

      F = ((SS − SS_within) / (G − 1)) / (SS_within / (K − G)),

    for G families; its p-value is the share of relabellings with an F at least as large: of all different ones where
    these are few, else of a random sample.

    Args:
      distances: symmetric, zero diagonal, shape [K, K].
      labels: the family of each encoder.
      permutations, seed: of the random sample.

    Raises:
      UserError: there are fewer than two families, or no family has two encoders.

    Equivalent: ``skbio.stats.distance.permanova`` (which always samples).

    References:
      Anderson, "A new method for non-parametric multivariate analysis of variance", Austral Ecology 2001.
    """
    squared = np.asarray(distances, np.float64) ** 2
    count, families = len(labels), len(set(labels))
    if not 2 <= families < count:
        raise UserError(
            f"families: a test takes at least two families, one of them with two encoders; got {families} of {count} "
            "encoders"
        )

    def pseudo_f(codes: np.ndarray) -> np.ndarray:
        same = codes[:, :, None] == codes[:, None, :]
        within = np.einsum("bij,ij->b", same / same.sum(axis=2, keepdims=True), squared) / 2
        between = squared.sum() / (2 * count) - within
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (between / (families - 1)) / (within / (count - families))
        # Distances within families may all be zero, or all distances.
        return np.where(within > 0, found, np.where(between > 0, np.inf, 0.0))

    return permutation_test(pseudo_f, labels, permutations=permutations, seed=seed)


def labels_of(families: Mapping[str, Sequence[str]], encoders: Sequence[str]) -> tuple[str, ...]:
    """The family of each encoder, from the names of encoders by family.

    Raises:
      UserError: an encoder of a family is not there, one is in two families, or one is in none.
    """
    found: dict[str, str] = {}
    for family, members in families.items():
        for name in members:
            if name not in encoders:
                there = ", ".join(encoders)
                raise UserError(
                    f"families: {family!r} names an encoder {name!r} that is not there; there are {there}"
                )
            if found.setdefault(name, family) != family:
                raise UserError(
                    f"families: encoder {name!r} is in two families, {found[name]!r} and {family!r}"
                )
    lacking = [name for name in encoders if name not in found]
    if lacking:
        raise UserError(f"families: no family has the encoder {lacking[0]!r}; each needs one")
    return tuple(found[name] for name in encoders)
