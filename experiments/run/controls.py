"""What a run measures beside the methods, so that its numbers can be judged.

- ``own``: every encoder against itself without a map, which bounds what can cross; figures of pairs are also given
  relative to the geometric mean of their two encoders' own.
- ``shuffled``: maps fitted on rows that do not belong together. What they reach is chance.
- ``pixels``: maps from principal components of the photographs' pixels. What they reach, a map can draw from the
  picture alone.
"""

from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from experiments.run import devices
from experiments.run.config import PairwiseConfig
from experiments.run.data import PIXELS, Data
from experiments.run.measuring import Compared, Measuring, TestRows, filled
from jaxalign import FoldMoments, fit_pairs
from jaxalign.align.subspaces import principal_components
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.moments.hosts import ALONE, Hosts
from jaxalign.report import Row
from jaxalign.report.part import OWN, PIXEL_MAPS, SHUFFLED

FITTED = "ridge"
COMPONENTS = 64
Pair = tuple[str, str]


class Controls:
    """The controls of one run, measured on each of its splits."""

    def __init__(self, config: PairwiseConfig, data: Data, pairs: list[Pair], hosts: Hosts = ALONE):
        self.config, self.data, self.pairs, self.hosts = config, data, pairs, hosts
        self.devices = devices.chosen(config.devices)

    def measure(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        """The rows of every control that the run has; of several processes each has its share."""
        if "own" in self.config.controls:
            yield from self._own(measuring, test)
        if "shuffled" in self.config.controls:
            yield from self._shuffled(measuring, test)
        if "pixels" in self.config.controls:
            yield from self._pixels(measuring, test)

    def _own(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        def compare(name: str) -> Compared:
            return measuring.compare(test[name], test[name])

        encoders = self.data.encoders[self.hosts.share(len(self.data.encoders))]
        found = measuring.side_by_side(compare, encoders, self.data)
        for name, numbers in zip(encoders, found):
            yield from self._rows(measuring, OWN, (name, name), numbers)

    def _shuffled(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        train = measuring.split.train
        random = np.random.default_rng(measuring.seed)
        order = {name: random.permutation(len(train)) for name in self.data.encoders}
        used = dict.fromkeys(name for pair in self.pairs for name in pair)
        widths = [self.data.store.dims[name] for name in used]

        whole = self.data.select(train)

        def of(part: slice, fold: np.ndarray | None, mesh: Mesh | None) -> FoldMoments:
            rows = {name: whole[name].select(order[name][part]) for name in used}
            return FoldMoments.of(rows, fold=fold, mesh=mesh)

        mesh = devices.mesh_of(self.devices, widths, measuring.fold)
        moments = self.hosts.moments(of, len(train), measuring.fold, mesh)
        pairs = self.hosts.pairs(self.pairs, "source")
        yield from self._fitted(measuring, SHUFFLED, moments, test, pairs)

    def _pixels(self, measuring: Measuring, test: TestRows) -> Iterator[Row]:
        pixels = self.data.take_pixels(measuring.split.train)
        components = principal_components(pixels, min(COMPONENTS, *pixels.shape))
        train = {PIXELS: LazyRows.of(components(pixels)), **self.data.select(measuring.split.train)}
        seen = np.asarray(components(self.data.take_pixels(measuring.split.test)))
        test = {PIXELS: filled(seen), **test}
        targets = dict.fromkeys(target for _, target in self.pairs)
        moments = FoldMoments.of({name: train[name] for name in (PIXELS, *targets)}, fold=measuring.fold)
        yield from self._fitted(measuring, PIXEL_MAPS, moments, test, [(PIXELS, name) for name in targets])
        yield from self._rows(measuring, OWN, (PIXELS, PIXELS), measuring.compare(test[PIXELS], test[PIXELS]))

    def _fitted(
        self,
        measuring: Measuring,
        method: str,
        moments: FoldMoments,
        test: TestRows,
        pairs: list[Pair],
    ) -> Iterator[Row]:
        if not pairs:  # fewer pairs than processes
            return
        mesh = devices.mesh_for(self.devices, moments)
        maps = fit_pairs(moments, FITTED, pairs=pairs, l2=self.config.protocol.l2, mesh=mesh)

        def compare(pair: Pair) -> Compared:
            try:
                return measuring.evaluate(maps[pair], test[pair[0]], test[pair[1]])
            except UserError:  # a map that carries nothing: as good as chance, but not a number
                return Compared([])

        for pair, numbers in zip(pairs, measuring.side_by_side(compare, pairs, self.data)):
            yield from self._rows(measuring, method, pair, numbers)

    def _rows(self, measuring: Measuring, method: str, pair: Pair, numbers: Compared) -> list[Row]:
        here = (self.data.store.dataset, *pair, method, None, measuring.seed)
        return numbers.rows(*here)
