"""What a run measures beside the methods, so that its numbers can be judged.

- ``own``: every encoder against itself without a map, which bounds what can cross; figures of pairs are also given
  relative to the geometric mean of their two encoders' own.
- ``shuffled``: maps fitted on rows that do not belong together. What they reach is chance.
- ``pixels``: maps from principal components of the photographs' pixels. What they reach, a map can draw from the
  picture alone.
"""

from collections.abc import Iterator

import numpy as np

from experiments.config import PairwiseConfig
from experiments.inputs import PIXELS, Data
from experiments.measuring import Compared, Measuring, TestRows, filled
from jaxalign import FoldMoments, fit_pairs
from jaxalign.components import principal_components
from jaxalign.errors import UserError
from jaxalign.report import Row
from jaxalign.report.controls import OWN, PIXEL_MAPS, SHUFFLED
from jaxalign.workers import concurrently

FITTED = "ridge"
COMPONENTS = 64
Pair = tuple[str, str]


class Controls:
    """The controls of one run, measured on each of its splits."""

    def __init__(self, config: PairwiseConfig, data: Data, pairs: list[Pair]):
        self.config, self.data, self.pairs = config, data, pairs

    def measure(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        """The rows of every control that the run has."""
        if "own" in self.config.controls:
            yield from self._own(measuring, test)
        if "shuffled" in self.config.controls:
            yield from self._shuffled(measuring, test)
        if "pixels" in self.config.controls:
            yield from self._pixels(measuring, test)

    def _own(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        def compare(name: str) -> Compared:
            return measuring.compare(test[name], test[name])

        for name, numbers in zip(self.data.encoders, concurrently(compare, self.data.encoders)):
            yield from self._rows(measuring, OWN, (name, name), numbers)

    def _shuffled(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        random = np.random.default_rng(measuring.seed)
        train = self.data.take(measuring.split.train)
        shuffled = {name: random.permutation(rows) for name, rows in train.items()}
        yield from self._fitted(measuring, SHUFFLED, shuffled, test, self.pairs)

    def _pixels(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        pixels = self.data.take_pixels(measuring.split.train)
        components = principal_components(pixels, min(COMPONENTS, *pixels.shape))
        train = {PIXELS: np.asarray(components(pixels)), **self.data.take(measuring.split.train)}
        seen = np.asarray(components(self.data.take_pixels(measuring.split.test)))
        test = {PIXELS: filled(seen), **test}
        targets = dict.fromkeys(target for _, target in self.pairs)
        yield from self._fitted(measuring, PIXEL_MAPS, train, test, [(PIXELS, name) for name in targets])
        yield from self._rows(measuring, OWN, (PIXELS, PIXELS), measuring.compare(test[PIXELS], test[PIXELS]))

    def _fitted(
        self,
        measuring: Measuring,
        method: str,
        train: dict[str, np.ndarray],
        test: TestRows,
        pairs: list[Pair],
    ) -> Iterator[Row]:
        used = dict.fromkeys(name for pair in pairs for name in pair)
        moments = FoldMoments.of({name: train[name] for name in used}, fold=measuring.fold)
        maps = fit_pairs(moments, FITTED, pairs=pairs, l2=self.config.protocol.l2)

        def compare(pair: Pair) -> Compared:
            try:
                return measuring.evaluate(maps[pair], test[pair[0]], test[pair[1]])
            except UserError:  # a map that carries nothing: as good as chance, but not a number
                return Compared([])

        for pair, numbers in zip(pairs, concurrently(compare, pairs)):
            yield from self._rows(measuring, method, pair, numbers)

    def _rows(self, measuring: Measuring, method: str, pair: Pair, numbers: Compared) -> list[Row]:
        here = (self.data.store.dataset, *pair, method, None, measuring.seed)
        return numbers.rows(*here)
