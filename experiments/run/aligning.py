"""Fits the maps of one method on one split and measures them: what the drivers that align pairs share."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.run import devices
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from experiments.run.kept import Kept
from experiments.run.measuring import Compared, Measuring, TestRows
from experiments.run.protocols import GRADIENT
from experiments.run.results import FitRow
from jaxalign import Fit, FoldMoments, PairwiseMaps, device_mesh, fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.biometrics import Sampled
from jaxalign.core.errors import UserError
from jaxalign.core.rows import prefetch
from jaxalign.moments.hosts import ALONE, Hosts
from jaxalign.report import Row, Setting

Item = TypeVar("Item")
MOST_AHEAD, AHEAD_BYTES = 2, 2**29  # sets of maps, and how large they are together
OFTEN = ("orthogonal", "ridge", "canonical")  # what several analyses fit unless asked otherwise
Task = tuple[tuple[str, str], int | None, Fit]  # a pair, the rank to measure it at, and its maps


class Place(NamedTuple):
    """Where a comparison stands: the fields that its rows share."""

    dataset: str
    source: str
    target: str
    method: str
    rank: int | None
    seed: int
    test_dataset: str = ""
    axis: str = ""
    at: float | None = None


class Aligning:
    """Collects what is measured; whoever calls decides on splits, methods and their order.

    Of several processes each fits and measures its own pairs.

    Attributes:
      pairs: ordered pairs of encoders, of all processes.
      rows: what was measured so far.
      fits: the statistics of the fits so far.
      doubtful: (source, target, setting) of fits that were not numerically sound.
      without_value: comparisons that could not be made, and why.
      curves: points of CMC and DET curves so far, where they are asked for.
      sampled: the resamples of every comparison so far, where intervals are asked for.
    """

    def __init__(
        self,
        config: PairwiseConfig,
        data: Data,
        hosts: Hosts = ALONE,
        kept: Kept | None = None,
    ):
        self.config, self.data, self.hosts, self.protocol = config, data, hosts, config.protocol
        self._kept = kept or Kept()
        self.encoders = data.encoders
        self.devices = devices.chosen(config.devices)
        self.pairs = config.pairs(self.encoders)
        config.check_fit_rank(self.pairs, data.store.dims)
        self.rows: list[Row] = []
        self.fits: list[FitRow] = []
        self.doubtful: set[tuple[str, str, Setting]] = set()
        self.without_value: dict[Place, str] = {}
        self.curves: list[Row] = []
        self.sampled: dict[Place, Mapping[tuple[str, str], Sampled]] = {}

    def own_pairs(self, method: str) -> list[tuple[str, str]]:
        """The pairs of this process: those of a source or both directions stay together, as the method is solved."""
        return self.hosts.pairs(self.pairs, SOLVERS[method].whole if method in SOLVERS else "pair")

    def moments(self, measuring: Measuring) -> FoldMoments:
        """One pass over the training rows, which serves every method; each process reads its share of them."""
        train, fold = measuring.split.train, measuring.fold
        key = id(self.data), hash(train.tobytes())
        return self._kept.moments(key, fold is not None, lambda: self._summed(self.data.rows[train], fold))

    def _summed(self, rows: np.ndarray, fold: np.ndarray | None) -> FoldMoments:
        def of(part: slice, fold: np.ndarray | None, mesh: Mesh | None) -> FoldMoments:
            return FoldMoments.of(self.data.lazy, rows=rows[part], fold=fold, mesh=mesh)

        widths = [self.data.store.dims[name] for name in self.encoders]
        return self.hosts.moments(of, len(rows), fold, devices.mesh_of(self.devices, widths, fold))

    def fit(
        self, moments: FoldMoments, method: str, measuring: Measuring, full: bool = False
    ) -> PairwiseMaps:
        """The maps of this process's pairs, which serve every rank; ``full`` where a rank would be chosen otherwise."""
        pairs = self.own_pairs(method)
        if not pairs:  # fewer pairs than processes
            return PairwiseMaps(method, {}, {})
        if method == "joint":  # one space for all encoders, whichever pairs are measured
            return _only(self._by_gradient(method, moments, measuring, self.pairs), pairs)
        if method in GRADIENT:
            return self._by_gradient(method, moments, measuring, pairs)
        options = self.config.fit_options(method, max(self.data.store.dims[name] for name in self.encoders))
        if full:
            options.pop("rank", None)
        mesh, fitted_as = devices.mesh_for(self.devices, moments), self.protocol.fitted_as(method)

        def solve() -> PairwiseMaps:
            return fit_pairs(moments, fitted_as, pairs=pairs, mesh=mesh, **options)

        if fitted_as not in OFTEN or any(
            isinstance(value, str) and value != "gcv" for value in options.values()
        ):
            return solve()  # one analysis alone fits them, or the penalty is chosen by folds, which few have
        return self._kept.maps(moments, (fitted_as, *options.items(), *pairs), self._bytes(), solve)

    def _bytes(self) -> int:
        """Of the maps of all pairs."""
        dims = self.data.store.dims
        return 8 * sum(math.prod(dims[name] for name in pair) for pair in self.pairs)

    def ahead(self, fitted: Generator[Item, None, None], sets: int = 1) -> Generator[Item, None, None]:
        """Goes through fits; on a CPU the next ones are made while one is measured, as many as are small together.

        Args:
          fitted: each item so many ``sets`` of maps of all pairs.
        """
        depth = min(MOST_AHEAD, AHEAD_BYTES // (sets * self._bytes()))
        return prefetch(fitted, depth) if jax.default_backend() == "cpu" and depth else fitted

    def _by_gradient(
        self, method: str, moments: FoldMoments, measuring: Measuring, pairs: list[tuple[str, str]]
    ) -> PairwiseMaps:
        train = measuring.split.train
        used = set(itertools.chain(*pairs))
        rows = self.data.only([name for name in self.encoders if name in used]).take(train)
        mesh = None if self.devices is None else device_mesh(self.devices, pairs=len(self.devices))
        known = {"identities": self.data.identities[train], "moments": moments, "pairs": pairs, "mesh": mesh}
        return fit_pairs(rows, method, **known, **self.config.gradient_options())

    def measure_maps(
        self,
        measuring: Measuring,
        test: TestRows,
        method: str,
        maps: PairwiseMaps,
        ranks: Sequence[int | None],
        *marks: Mapping[str, Any],
    ) -> Iterator[tuple[str, tuple[str, str]]]:
        """Adds what the maps of one method reach; tells how far it is and the pair that was measured.

        Args:
          measuring: on which split.
          test: its rows.
          method: its name.
          maps: as ``fit`` gives them.
          ranks: to measure at, of ``config.cuts(method)``.
          marks: fields of every row, such as the axis of an analysis and the place on it; several where the same
            maps stand in several places.
        """
        tasks: list[Task] = []
        for pair, fit in maps.items():
            self.fits.append(self._statistics(measuring.seed, method, pair, fit, maps.settings[pair]))
            tasks += [(pair, rank, cut) for rank, cut in self._cuts(method, fit, maps.settings[pair], ranks)]
        compare = functools.partial(self.compare, measuring, test)
        found = measuring.side_by_side(compare, tasks, self.data)
        for done, (task, numbers) in enumerate(zip(tasks, found), start=1):
            for mark in marks or ({},):
                self.keep(measuring.seed, method, task, numbers, **mark)
            yield f"{done} of {len(tasks)}", task[0]

    def _statistics(
        self, seed: int, method: str, pair: tuple[str, str], fit: Fit, chosen: Mapping[str, Any]
    ) -> FitRow:
        """What was chosen for a fit, and how well it fits the training rows."""
        numbers = (float(fit.r2), float(fit.effective_rank), float(fit.condition))
        here = (self.data.store.dataset, *pair, method, seed)
        return FitRow(*here, chosen.get("l2"), chosen.get("rank"), *numbers, bool(fit.ok))

    def _cuts(
        self, method: str, fit: Fit, chosen: Mapping[str, Any], ranks: Sequence[int | None]
    ) -> Iterator[tuple[int | None, Fit]]:
        """The pair's fit at every rank to measure, each with what to write as its rank.

        A rank is an upper limit: a pair whose narrower side has fewer dimensions keeps all of them.
        """
        for rank in ranks:
            if rank is not None:
                yield rank, fit.at_rank(rank)
            else:
                yield chosen["rank"] if self.config.rank_as_fitted(method) else None, fit

    def compare(self, measuring: Measuring, test: TestRows, task: Task) -> Compared | str:
        """The numbers of one pair at one rank, or why it has none."""
        (source, target), _, fit = task
        try:
            return measuring.evaluate(fit, test[source], test[target])
        except UserError as error:
            return str(error)

    def keep(self, seed: int, method: str, task: Task, found: Compared | str, **mark: Any) -> None:
        """Adds the rows of one evaluation. A pair that cannot be compared never stops a sweep."""
        pair, rank, fit = task
        here = Place(self.data.store.dataset, *pair, method, rank, seed, **mark)
        if isinstance(found, str):
            self.without_value[here] = found
        else:
            self.rows += found.rows(*here[:6], **mark)
            self.curves += found.curve_rows(*here[:6])
            if found.sampled:
                self.sampled[here] = found.sampled
        if isinstance(found, str) or not bool(fit.ok):
            merged = method in self.config.chosen_ranks()
            self.doubtful.add((*pair, Setting(method) if merged else Setting(method, rank)))


def _only(maps: PairwiseMaps, pairs: Sequence[tuple[str, str]]) -> PairwiseMaps:
    """The maps of some of the pairs."""
    fits, settings = ({pair: of[pair] for pair in pairs} for of in (maps.fits, maps.settings))
    return dataclasses.replace(maps, fits=fits, settings=settings)


def empty_rows(rows: Sequence[Row], without_value: Mapping[Place, str]) -> list[Row]:
    """The rows of comparisons that could not be made: every measure that others have, without a value.

    Raises:
      UserError: no other has one either.
    """
    if not rows:
        raise UserError(f"no pair could be measured; the first: {next(iter(without_value.values()))}")
    kinds = dict.fromkeys((row.own_photograph, row.measure) for row in rows)
    return [
        Row(*here[:6], *kind, math.nan, reason=reason)._replace(**dict(zip(Place._fields[6:], here[6:])))
        for here, reason in without_value.items()
        for kind in kinds
    ]
