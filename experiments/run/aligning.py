"""Fits the maps of one method on one split and measures them; collects what is found."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.run.computing import chosen_devices, mesh_for
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data, told
from experiments.run.measuring import Compared, Measuring, Pair, TestRows
from experiments.run.results import FitRow
from jaxalign import Fit, FoldMoments, PairwiseMaps, device_mesh, fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.biometrics import Sampled
from jaxalign.core.devices import at_once, padded_width
from jaxalign.core.errors import UserError
from jaxalign.core.memory import available_memory
from jaxalign.core.rows import LazyRows, prefetch
from jaxalign.moments.accumulate import SPARE
from jaxalign.moments.hosts import ALONE, Hosts
from jaxalign.report import Row, Setting
from jaxalign.report.records import COSINE, ProjectedPoint

Item = TypeVar("Item")
Task = tuple[Pair, int | None, Fit]  # a pair, the rank to measure it at, and its maps
PROGRAM_BYTES = 2**29  # of compiled programs and their threads
SCORE_BYTES = 2**29  # of the scores of one pair at once, at most
TAKEN = 2.2  # times what is counted, as measured: what solvers, programs and the allocator hold besides
AHEAD_BYTES = 2**29  # of the maps of all pairs, up to which the next are fitted while one is measured


class Place(NamedTuple):
    """The fields that the rows of one comparison share."""

    dataset: str
    source: str
    target: str
    method: str
    rank: int | None
    seed: int
    test_dataset: str = ""
    axis: str = ""
    at: float | None = None
    score: str = COSINE


class Aligning:
    """Fits and measures the pairs of one data set, and collects what is found; of several processes each its own pairs.

    Attributes:
      pairs: ordered pairs of encoders, of all processes.
      rows, fits: results, and statistics of the fits.
      doubtful: (source, target, setting) of fits that were not numerically sound.
      without_value: comparisons that could not be made, and why.
      curves, views: points of CMC and DET curves, and a few test people in two dimensions, where curves are asked for.
      sampled: the resamples of every comparison, where intervals are asked for.
    """

    def __init__(self, config: PairwiseConfig, data: Data, hosts: Hosts = ALONE):
        self.config, self.protocol = data.with_supported_scores(config), config.protocol
        self.data, self.hosts = data, hosts
        self.encoders = data.encoders
        self.devices = chosen_devices(config.devices)
        self.dims = data.dims
        self.pairs = config.pairs(self.dims)
        self.rows: list[Row] = []
        self.fits: list[FitRow] = []
        self.doubtful: set[tuple[str, str, Setting]] = set()
        self.without_value: dict[Place, str] = {}
        self.curves: list[Row] = []
        self.sampled: dict[Place, Mapping[tuple[str, str], Sampled]] = {}
        self.views: list[ProjectedPoint] = []
        self._moments: tuple[Measuring, FoldMoments] | None = None  # of the last split

    def splits(self) -> list[Measuring]:
        """Every seed's split, with its checks, before any work starts."""
        splits = [Measuring.of(self.config, self.data, seed) for seed in self.protocol.seeds]
        self._require_memory(splits)
        return splits

    def _require_memory(self, splits: Sequence[Measuring]) -> None:
        """Says what a run takes if that may be more memory than this host has, on a CPU.

        Raises:
          UserError: the moments of a split alone need more than there is.
        """
        free = available_memory() if self.devices[0].platform == "cpu" else None
        if free is None:
            return
        folds = max(0 if split.fold is None else 1 + int(split.fold.max()) for split in splits)
        matrix = 8 * sum(map(padded_width, self.dims.values())) ** 2
        # A matrix for each fold, for all rows and for what is in between; and the compiled programs.
        needed = matrix * (folds + 1 + SPARE) + PROGRAM_BYTES
        takes = f"aligning {len(self.dims)} encoders of {sum(self.dims.values()):,} dimensions together takes"
        if needed > free:
            raise UserError(
                f"{takes} at least {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free: give fewer "
                "encoders (--models), one penalty or gcv (--l2), or more memory."
            )
        expected = TAKEN * (needed + max(0, max(map(self._measuring_bytes, splits)) - SPARE * matrix))
        if expected > free:
            told(
                [
                    f"{takes} about {expected / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; where there "
                    "is a limit the system may end the run without a word. Fewer encoders (--models) take less"
                ]
            )

    def _measuring_bytes(self, split: Measuring) -> int:
        """Memory of the maps of two methods, of the test rows, and of the scores of the pairs that are measured."""
        maps = 2 * 8 * sum(self.dims[source] * self.dims[target] for source, target in self.pairs)
        rows = 4 * (len(split.split.test) + len(split.cohort)) * sum(map(padded_width, self.dims.values()))
        scores = min(3 * 4 * len(split.split.test) ** 2, SCORE_BYTES)
        return maps + rows + at_once(len(self.pairs)) * scores

    def own_pairs(self, method: str) -> list[Pair]:
        """The pairs of this process: those of a source or both directions stay together, as the method is solved."""
        return self.hosts.pairs(self.pairs, SOLVERS[method].whole if method in SOLVERS else "pair")

    def moments(self, measuring: Measuring) -> FoldMoments:
        """Moments of the training rows, which serve every method; those of the last split are cached."""
        if self._moments is None or self._moments[0] is not measuring:
            self._moments = None  # freed before the next are made: two may not fit
            train = measuring.split.train
            found = self.moments_of(lambda part: self.data.select(train[part]), len(train), measuring.fold)
            self._moments = measuring, found
        return self._moments[1]

    def moments_of(
        self, rows: Callable[[slice], Mapping[str, LazyRows]], count: int, fold: np.ndarray | None
    ) -> FoldMoments:
        """Moments of n = ``count`` rows with their folds, shape [n], in one pass; each process reads its share."""
        mesh = None
        if len(self.devices) > 1:
            # The moments of each fold are in memory together with the total.
            matrices = 1 if fold is None else 2 + int(fold.max())
            mesh = device_mesh(self.devices, widths=[*self.dims.values()], matrices=matrices)

        def of(part: slice, fold: np.ndarray | None, mesh: Mesh | None) -> FoldMoments:
            return FoldMoments.of(rows(part), fold=fold, mesh=mesh)

        return self.hosts.moments(of, count, fold, mesh)

    def fit(
        self, moments: FoldMoments, method: str, measuring: Measuring, full: bool = False
    ) -> PairwiseMaps:
        """The maps of this process's pairs, which serve every rank; ``full`` where a rank would be chosen otherwise."""
        pairs = self.own_pairs(method)
        if not pairs:  # fewer pairs than processes
            return PairwiseMaps(method, {}, {})
        options = self.config.fit_options(method, max(self.dims.values()))
        if full:
            options.pop("rank", None)
        fitted_as = self.protocol.fitted_as(method)
        if not SOLVERS[fitted_as].needs_rows:
            mesh = mesh_for(self.devices, moments)
            return fit_pairs(moments, fitted_as, pairs=pairs, mesh=mesh, **options)
        # "joint" has one space for all encoders, whichever pairs are measured.
        fitted = self.pairs if method == "joint" else pairs
        train = measuring.split.train
        rows = self.data.only(list(dict.fromkeys(itertools.chain(*fitted)))).take(train)
        options |= {"identities": self.data.identities[train], "moments": moments}
        mesh = device_mesh(self.devices, pairs=len(self.devices))
        maps = fit_pairs(rows, fitted_as, pairs=fitted, mesh=mesh, **options)
        fits, settings = ({pair: of[pair] for pair in pairs} for of in (maps.fits, maps.settings))
        return dataclasses.replace(maps, fits=fits, settings=settings)

    def ahead(self, fitted: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """Iterates over fits; on a CPU the next maps are fitted while one is measured, where both are small."""
        small = 8 * sum(self.dims[source] * self.dims[target] for source, target in self.pairs) <= AHEAD_BYTES
        # Processes must enter their collectives in one order, so each of several does one thing at a time.
        alone = self.hosts.count == 1 and jax.default_backend() == "cpu"
        return prefetch(fitted) if small and alone else fitted

    def measure_maps(
        self,
        measuring: Measuring,
        test: TestRows,
        method: str,
        maps: PairwiseMaps,
        ranks: Sequence[int | None],
        *marks: Mapping[str, Any],
    ) -> Iterator[tuple[str, Pair]]:
        """Adds what the maps of one method reach; yields "k of n" and the pair after each measurement.

        Args:
          measuring, test: how to measure on the split, and its rows.
          method, maps: its name, and its maps as ``fit`` gives them.
          ranks: to measure at, of ``config.cuts(method)``. A pair with fewer dimensions keeps all of them.
          marks: fields of every row, such as the axis of an analysis and the place on it; several where the same
            maps stand in several places.
        """
        tasks: list[Task] = []
        for pair, fit in maps.items():
            chosen = maps.settings[pair]
            numbers = (float(fit.r2), float(fit.effective_rank), float(fit.condition), bool(fit.ok))
            here = (self.data.store.dataset, *pair, method, measuring.seed)
            self.fits.append(FitRow(*here, chosen.get("l2"), chosen.get("rank"), *numbers))
            fitted_rank = chosen["rank"] if self.config.rank_as_fitted(method) else None
            for rank in ranks:
                tasks.append((pair, fitted_rank, fit) if rank is None else (pair, rank, fit.at_rank(rank)))
        compare = functools.partial(self.compare, measuring, test)
        found = measuring.concurrently(compare, tasks, self.data)
        for done, (task, compared) in enumerate(zip(tasks, found), start=1):
            for mark in marks or ({},):
                self.keep(measuring.seed, method, task, compared, **mark)
            yield f"{done} of {len(tasks)}", task[0]

    def compare(self, measuring: Measuring, test: TestRows, task: Task) -> dict[str, Compared] | str:
        """The numbers of one pair at one rank by each score, or why it has none."""
        pair, _, fit = task
        try:
            return measuring.evaluate(fit, test, pair)
        except UserError as error:
            return str(error)

    def keep(
        self, seed: int, method: str, task: Task, found: Mapping[str, Compared] | str, **mark: Any
    ) -> None:
        """Adds the rows of one evaluation. A pair that cannot be compared never stops a run."""
        pair, rank, fit = task
        for score in self.config.scores if isinstance(found, str) else found:
            here = Place(self.data.store.dataset, *pair, method, rank, seed, **mark, score=score)
            if isinstance(found, str):
                self.without_value[here] = found
                continue
            compared = found[score]
            self.rows += compared.rows(*here[:6], **mark, score=score)
            self.curves += [Row(*here[:6], **point._asdict(), score=score) for point in compared.curves]
            if compared.sampled:
                self.sampled[here] = compared.sampled
        if isinstance(found, str) or not bool(fit.ok):
            merged = method in self.config.chosen_ranks()
            self.doubtful.add((*pair, Setting(method) if merged else Setting(method, rank)))


def empty_rows(rows: Sequence[Row], without_value: Mapping[Place, str]) -> list[Row]:
    """The rows of comparisons that could not be made: every measure that others have, without a value."""
    if without_value and not rows:
        raise UserError(f"no pair could be measured; the first: {next(iter(without_value.values()))}")
    kinds = dict.fromkeys((row.own_photograph, row.measure) for row in rows)
    return [
        Row(*here[:6], *kind, math.nan, reason=reason)._replace(**dict(zip(Place._fields[6:], here[6:])))
        for here, reason in without_value.items()
        for kind in kinds
    ]
