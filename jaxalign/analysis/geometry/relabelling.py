"""Permutation tests over encoders: all relabellings where they are few, a random sample otherwise."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

MOST_ENUMERATED = 10_000


@dataclasses.dataclass(frozen=True)
class PermutationTest:
    """A statistic and how often chance does as well.

    Attributes:
      statistic: on the labels as they are.
      p: share of relabellings with a statistic at least as large, the observed one among them.
      permutations: how many relabellings were looked at.
      exact: whether these are all there are.
    """

    statistic: float
    p: float
    permutations: int
    exact: bool

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
        relabelled = np.array(list(_arrangements(codes)))
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
    return math.factorial(len(codes)) // math.prod(
        math.factorial(n) for n in Counter(codes.tolist()).values()
    )


def _arrangements(codes: np.ndarray) -> Iterator[tuple[int, ...]]:
    """All different arrangements of labels, without going through equal ones more than once."""
    if len(set(codes.tolist())) == len(codes):
        yield from itertools.permutations(codes.tolist())
        return

    def fill(left: Counter, length: int) -> Iterator[tuple[int, ...]]:
        if not length:
            yield ()
            return
        for code in sorted(left):
            if left[code]:
                left[code] -= 1
                for rest in fill(left, length - 1):
                    yield (code, *rest)
                left[code] += 1

    yield from fill(Counter(codes.tolist()), len(codes))
