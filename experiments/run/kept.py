"""What analyses of one process share: moments of the last split, and maps fitted on them."""

from collections.abc import Callable, Hashable

from jaxalign import FoldMoments, PairwiseMaps


class Kept:
    """Keeps the moments of one split, and maps that several analyses ask for.

    Args:
      most: bytes of maps to keep; none by default, for an analysis on its own asks for no map twice.
    """

    def __init__(self, most: int = 0):
        self._most = most
        self._moments: dict[Hashable, FoldMoments] = {}  # of the last split
        self._maps: dict[Hashable, PairwiseMaps] = {}
        self._bytes = 0

    def moments(self, of: Hashable, folds: bool, summed: Callable[[], FoldMoments]) -> FoldMoments:
        """The moments of a split.

        Args:
          of: what tells splits apart.
          folds: whether those of folds are needed; whoever needs none is followed by others that need none.
          summed: makes them.
        """
        if of not in self._moments or (folds and not self._moments[of].folds):
            self._let_go()  # before the next are made: two may not fit
            self._moments[of] = summed()
        elif not folds and self._moments[of].folds:
            self._moments[of] = FoldMoments(self._moments[of].total, ())
        return self._moments[of]

    def maps(
        self, moments: FoldMoments, what: Hashable, size: int, fit: Callable[[], PairwiseMaps]
    ) -> PairwiseMaps:
        """Maps fitted on the moments, once if the moments are those kept and there is room.

        Args:
          moments: of any rows.
          what: tells apart what is fitted on one total.
          size: bytes of the maps.
          fit: makes them.
        """
        if not any(kept.total is moments.total for kept in self._moments.values()):
            return fit()
        if what in self._maps:
            return self._maps[what]
        made = fit()
        if self._bytes + size <= self._most:
            self._maps[what], self._bytes = made, self._bytes + size
        return made

    def _let_go(self) -> None:
        self._moments.clear()
        self._maps.clear()
        self._bytes = 0
