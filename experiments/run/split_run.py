"""One split of a run: its moments and test rows, made when they are first needed, and what is measured on it."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Generator, Iterator

from experiments.run.aligning import Aligning
from experiments.run.comparing import views
from experiments.run.controls import Controls
from experiments.run.measuring import Measuring, TestRows
from experiments.run.parts import Content, Parts, content_of, content_of_rows, rows_of
from experiments.run.progress import Progress
from jaxalign import FoldMoments, PairwiseMaps
from jaxalign.core.devices import beside
from jaxalign.report import Row


class SplitRun:
    """Measures methods and controls on one split; of several processes each does its share.

    Args:
      run: that the split belongs to.
      measuring: how to measure on it.
      parts: where finished parts are found and kept.
      progress, label: shows what happens, with this in front.
      maps: where to keep maps; None for nowhere.
      seen: whether this is the split whose people are drawn in two dimensions, where curves are asked for.
    """

    def __init__(
        self,
        run: Aligning,
        measuring: Measuring,
        parts: Parts,
        progress: Progress,
        label: str,
        maps: pathlib.Path | None,
        *,
        seen: bool,
    ):
        self.run, self.measuring, self.parts = run, measuring, parts
        self.progress, self.label, self.maps = progress, label, maps
        self.seen = seen

    @functools.cached_property
    def moments(self) -> FoldMoments:
        """Of the training rows."""
        self.progress.show(f"{self.label}: second moments of {len(self.run.encoders)} encoders")
        return self.run.moments(self.measuring)

    @functools.cached_property
    def test(self) -> TestRows:
        """Test rows of the encoders that this process measures."""
        return self.measuring.test_rows(self.run.data.only(self._encoders()))

    def part(self, method: str) -> Content | None:
        """What all processes measure by one method; None elsewhere than at process 0."""
        return self.parts.get(
            part_name(self.measuring, method), lambda: self._measured(method), self.run.pairs
        )

    @contextlib.contextmanager
    def controls(self) -> Iterator[Callable[[], list[Row]]]:
        """Gives a function that measures the controls. A process on its own measures them beside the block."""
        run = self.run
        controls = Controls(run.config, run.data, run.pairs, run.hosts)
        if run.hosts.count > 1:  # sums over processes must come in one order everywhere
            yield lambda: self._control_rows(lambda: list(controls.measure(self.measuring, self.test)))
            return
        _ = self.moments
        with beside(controls.measure(self.measuring, self.test)) as found:
            yield lambda: self._control_rows(found.result)

    def _measured(self, method: str) -> Content:
        run, found = self.run, Aligning(self.run.config, self.run.data, self.run.hosts)
        self.progress.show(f"{self.label}: fitting {method}")
        maps = next(self._fits)
        cuts = run.config.cuts(method)
        for done, (source, target) in found.measure_maps(self.measuring, self.test, method, maps, cuts):
            self.progress.step(f"{self.label}: {method}, {done}, {source} → {target}")
        if self.maps is not None:
            seed = self.measuring.seed
            maps.save(self.maps / f"seed{seed}" / method, {"seed": seed})
        seen = self.seen and run.config.curves
        return content_of(found, views(run.data, self.measuring, method, maps) if seen else ())

    @functools.cached_property
    def _fits(self) -> Generator[PairwiseMaps, None, None]:
        """The maps of every method that is still to be measured, in order."""
        run, moments, measuring = self.run, self.moments, self.measuring
        names = {method: part_name(measuring, method) for method in run.protocol.methods}
        left = [method for method, name in names.items() if name not in self.parts]
        fits = (run.fit(moments, method, measuring) for method in left)
        return run.ahead(fits) if run.hosts.count == 1 else fits

    def close(self) -> None:
        """Lets go of maps that nobody asked for, and waits for a fit that is under way."""
        if "_fits" in self.__dict__:
            self._fits.close()
            del self._fits

    def _control_rows(self, measure: Callable[[], list[Row]]) -> list[Row]:
        run = self.run
        if not run.config.controls:
            return []
        self.progress.show(f"{self.label}: controls")
        order = [*((name, name) for name in run.encoders), *run.pairs]
        part = self.parts.get(
            part_name(self.measuring, "controls"), lambda: content_of_rows(measure()), order
        )
        return [] if part is None else rows_of(part)

    def _encoders(self) -> list[str]:
        run = self.run
        if run.hosts.count == 1:
            return list(run.encoders)
        pairs = [pair for method in run.protocol.methods for pair in run.own_pairs(method)]
        used = {name for pair in pairs for name in pair}
        if "own" in run.config.controls:
            used |= set(run.encoders[run.hosts.share(len(run.encoders))])
        if "shuffled" in run.config.controls:
            used |= {name for pair in run.hosts.pairs(run.pairs, "source") for name in pair}
        return [name for name in run.encoders if name in used]


def part_name(measuring: Measuring, what: str) -> str:
    """Names what is measured on one split by a method, or the controls."""
    return f"seed{measuring.seed}-{what}"
