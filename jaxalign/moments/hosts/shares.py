"""What part of the work is whose: rows for moments, pairs for maps and measuring."""

from collections.abc import Callable, Hashable, Sequence

Pair = tuple[str, str]

# What must not be divided: pairs that one factorisation serves, and both directions where one decomposition gives both.
WHOLE: dict[str, Callable[[Pair], Hashable]] = {
    "pair": lambda pair: pair,
    "source": lambda pair: pair[0],
    "unordered": frozenset,
}


def share(count: int, index: int, shares: int) -> slice:
    """The part of ``count`` things, in order, that is share ``index``; shares differ by one thing at most."""
    return slice(index * count // shares, (index + 1) * count // shares)


def share_of_pairs(pairs: Sequence[Pair], index: int, shares: int, whole: str) -> list[Pair]:
    """The ordered pairs of one share, in the order given; every pair is in exactly one share.

    Args:
      pairs: all of them, none twice.
      index: of the share.
      shares: their number.
      whole: what stays together, of ``WHOLE``. Shares differ by one of these.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(WHOLE[whole](pair), []).append(place)
    mine = list(groups.values())[share(len(groups), index, shares)]
    return [pairs[place] for place in sorted(place for group in mine for place in group)]
