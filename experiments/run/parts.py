"""What several processes measured of one split by one method, put together, and kept until the run is done.

A part is everything of one seed and method. Process 0 has it from all processes and writes it beside the results, under
a temporary name and renamed. A run that was cut short goes on with the parts it finds; the directory's name holds a
digest of configuration, stores and version, so that it never finds those of another.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from experiments.run.aligning import Aligning, Place
from experiments.run.results import FitRow
from experiments.run.units import Units
from jaxalign.biometrics import Sampled
from jaxalign.moments.hosts import Hosts
from jaxalign.report import Row, Setting
from jaxalign.report.result_table import Point

Content = dict[str, Any]


def _of_row(row: Any) -> tuple[str, str]:
    return row[1], row[2]


def _of_entry(entry: Any) -> tuple[str, str]:
    return _of_row(entry[0])


# What a part holds, each a list, and how to tell which pair of encoders an item of it belongs to.
PAIR_OF: dict[str, Callable[[Any], tuple[str, str]]] = {
    "rows": _of_row,
    "fits": _of_row,
    "doubtful": lambda mark: (mark[0], mark[1]),
    "without_value": _of_entry,
    "curves": _of_row,
    "views": _of_row,
    "sampled": _of_entry,
}


class Parts:
    """The parts of a run, at every process: which there are; at process 0: what is in them.

    Args:
      hosts: the processes.
      units: where process 0 keeps them; None for one process, which keeps none.
    """

    def __init__(self, hosts: Hosts, units: Units | None):
        self.hosts, self.units = hosts, units
        self._names = set(hosts.spread(units.names() if units is not None and hosts.first else []))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def get(
        self, name: str, measure: Callable[[], Content], order: Sequence[tuple[str, str]]
    ) -> Content | None:
        """A part that is there, or one that all processes measure now.

        Args:
          name: of the part.
          measure: gives what this process has to measure of it.
          order: of the pairs in the results.

        Returns:
          The whole part at process 0, as one process would have measured it; None elsewhere.
        """
        if name in self:
            return self.units.read(name) if self.units is not None and self.hosts.first else None
        contents = self.hosts.gather(measure())
        if contents is None:
            return None
        whole = contents[0] if len(contents) == 1 else _together(contents, order)
        if self.units is not None:
            self.units.write(name, whole)
        return whole

    def remove(self) -> None:
        """Forgets all, the run being done."""
        if self.units is not None and self.hosts.first:
            self.units.remove()


def content_of(found: Aligning, views: Iterable[Point] = ()) -> Content:
    """What was measured, as JSON can hold it."""
    return content_of_rows(found.rows) | {
        "curves": [list(row) for row in found.curves],
        "views": [list(view) for view in views],
        "sampled": [
            [list(place), [[*key, one.estimate, one.samples.tolist()] for key, one in of.items()]]
            for place, of in found.sampled.items()
        ],
        "fits": [list(row) for row in found.fits],
        "doubtful": [
            [source, target, setting.method, setting.rank] for source, target, setting in found.doubtful
        ],
        "without_value": [[list(place), reason] for place, reason in found.without_value.items()],
    }


def content_of_rows(rows: Sequence[Row]) -> Content:
    """Rows alone, such as of controls."""
    return {name: [] for name in PAIR_OF} | {"rows": [list(row) for row in rows]}


def rows_of(content: Content) -> list[Row]:
    """The rows of a part."""
    return [Row(*row) for row in content["rows"]]


def add_content(found: Aligning, content: Content) -> None:
    """Adds what ``content_of`` made to what was measured."""
    found.rows += rows_of(content)
    found.fits += [FitRow(*row) for row in content["fits"]]
    found.doubtful |= {
        (source, target, Setting(*setting)) for source, target, *setting in content["doubtful"]
    }
    found.without_value |= {Place(*place): reason for place, reason in content["without_value"]}
    found.curves += [Row(*row) for row in content["curves"]]
    found.sampled |= {
        Place(*place): {
            (own, name): Sampled(estimate, np.array(samples)) for own, name, estimate, samples in of
        }
        for place, of in content["sampled"]
    }


def views_of(content: Content) -> list[Point]:
    """The views of a part."""
    return [Point(*view) for view in content["views"]]


def _together(contents: Sequence[Content], order: Sequence[tuple[str, str]]) -> Content:
    """The contents of all processes, pair by pair in the order of a single one's."""
    place = {pair: number for number, pair in enumerate(order)}
    return {
        name: sorted(
            (line for content in contents for line in content[name]), key=lambda line: place[pair_of(line)]
        )
        for name, pair_of in PAIR_OF.items()
    }
