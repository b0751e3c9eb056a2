"""What part of the work is whose: rows for moments, pairs for maps and measuring."""

from collections.abc import Sequence

import numpy as np

Pair = tuple[str, str]


def share(count: int, index: int, shares: int) -> slice:
    """The part of ``count`` things, in order, that is share ``index``; shares differ by one thing at most."""
    return slice(index * count // shares, (index + 1) * count // shares)


def share_of_pairs(pairs: Sequence[Pair], index: int, shares: int, *, together: bool) -> list[Pair]:
    """The ordered pairs of one share, in the order given; every pair is in exactly one share.

    Args:
      pairs: all of them, none twice.
      index: of the share.
      shares: their number.
      together: whether both directions of a pair stay together (solvers that get both from one decomposition), or else
        the pairs of a source as far as equal shares allow (solvers that factor the source: at most ``shares`` − 1 of
        them twice).
    """
    if not together:
        numbers = {source: number for number, source in enumerate(dict.fromkeys(pair[0] for pair in pairs))}
        order = sorted(range(len(pairs)), key=lambda place: numbers[pairs[place][0]])
        return [pairs[place] for place in sorted(order[share(len(pairs), index, shares)])]
    groups: dict[frozenset[str], list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(frozenset(pair), []).append(place)
    # Whose share a group's first pair falls in; groups have one or two pairs.
    starts = np.cumsum([0, *map(len, groups.values())])
    mine = [
        place
        for group, start in zip(groups.values(), starts)
        if int(start) * shares // len(pairs) == index
        for place in group
    ]
    return [pairs[place] for place in sorted(mine)]
