"""What a run measures beside the methods, so that its numbers can be judged.

- ``own``: every encoder against itself without a map, which bounds what a map can reach; figures of pairs are also
  given relative to the geometric mean of the figures of their two encoders.
- ``shuffled``: maps fitted on rows that do not belong together. What they reach is chance.
- ``pixels``: maps from principal components of the photographs' pixels. What they reach, a map can draw from the
  picture alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.run.aligning import Aligning, Pair
from experiments.run.data import PIXELS, mesh_for
from experiments.run.measuring import Compared, Measuring, TestRows, padded_rows
from jaxalign import FoldMoments, fit_pairs
from jaxalign.align.subspaces import principal_components
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.report import Row
from jaxalign.report.part import OWN, PIXEL_MAPS, SHUFFLED

FITTED = "ridge"
COMPONENTS = 64


def control_rows(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """The rows of every control that the run has, on one split; each of several processes has its share."""
    for name, rows in (("own", own), ("shuffled", shuffled), ("pixels", pixels)):
        if name in run.config.controls:
            yield from rows(run, measuring, test)


def own(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """Encoders against themselves."""
    encoders = run.encoders[run.hosts.share(len(run.encoders))]
    found = measuring.concurrently(lambda name: measuring.compare(test[name], test[name]), encoders, run.data)
    for name, numbers in zip(encoders, found):
        yield from _rows(run, measuring, OWN, (name, name), numbers)


def shuffled(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """Maps fitted on training rows in another random order for each encoder."""
    train = measuring.split.train
    random = np.random.default_rng(measuring.seed)
    order = {name: random.permutation(len(train)) for name in run.encoders}
    whole = run.data.select(train)
    used = list(dict.fromkeys(name for pair in run.pairs for name in pair))

    def rows(part: slice) -> Mapping[str, LazyRows]:
        return {name: whole[name].select(order[name][part]) for name in used}

    moments = run.moments_of(rows, len(train), measuring.fold)
    pairs = run.hosts.pairs(run.pairs, "source")
    if pairs:  # there may be fewer pairs than processes
        mesh = mesh_for(run.devices, moments)
        yield from _fitted(run, measuring, SHUFFLED, moments, test, pairs, mesh=mesh)


def pixels(run: Aligning, measuring: Measuring, test: TestRows) -> Iterator[Row]:
    """Maps from principal components of the pixels, and these components against themselves."""
    seen = run.data.take_pixels(measuring.split.train)
    components = principal_components(seen, min(COMPONENTS, *seen.shape))
    targets = list(dict.fromkeys(target for _, target in run.pairs))
    selected = run.data.select(measuring.split.train)
    train = {PIXELS: LazyRows.of(components(seen)), **{name: selected[name] for name in targets}}
    tested = padded_rows(np.asarray(components(run.data.take_pixels(measuring.split.test))))
    moments = FoldMoments.of(train, fold=measuring.fold)
    pairs = [(PIXELS, name) for name in targets]
    yield from _fitted(run, measuring, PIXEL_MAPS, moments, {PIXELS: tested, **test}, pairs)
    yield from _rows(run, measuring, OWN, (PIXELS, PIXELS), measuring.compare(tested, tested))


def _fitted(
    run: Aligning,
    measuring: Measuring,
    method: str,
    moments: FoldMoments,
    test: TestRows,
    pairs: list[Pair],
    **options: Any,
) -> Iterator[Row]:
    maps = fit_pairs(moments, FITTED, pairs=pairs, l2=run.config.protocol.l2, **options)

    def compare(pair: Pair) -> Compared:
        try:
            return measuring.evaluate(maps[pair], test[pair[0]], test[pair[1]])
        except UserError:  # a map that carries nothing: as good as chance, but not a number
            return Compared([])

    for pair, numbers in zip(pairs, measuring.concurrently(compare, pairs, run.data)):
        yield from _rows(run, measuring, method, pair, numbers)


def _rows(run: Aligning, measuring: Measuring, method: str, pair: Pair, numbers: Compared) -> list[Row]:
    return numbers.rows(run.data.store.dataset, *pair, method, None, measuring.seed)
