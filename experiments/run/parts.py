"""What several processes measured of one split by one method, put together and stored until the run is done.

A part is everything of one seed and method. Process 0 gathers it from all processes and writes it as a unit of work
(``units``), so that a run that was cut short goes on after the parts that are there. A process on its own stores none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.run.aligning import Aligning, Pair, Place
from experiments.run.results import FitRow
from experiments.run.units import Units
from jaxalign.biometrics import Sampled
from jaxalign.moments.hosts import Hosts
from jaxalign.report import Row, Setting
from jaxalign.report.result_table import Point

Content = dict[str, list[Any]]  # as JSON holds it
TUPLES = {"rows": Row, "fits": FitRow, "curves": Row, "views": Point}  # lists of an ``Aligning``


class Parts:
    """The parts of a run: their names at every process, their content at process 0.

    Args:
      hosts: the processes.
      units: where process 0 stores parts; None for a process on its own.
    """

    def __init__(self, hosts: Hosts, units: Units | None):
        self.hosts, self.units = hosts, units
        self._names = set(hosts.broadcast(units.names() if units is not None and hosts.first else []))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, run: Aligning, name: str, measure: Callable[[Aligning], None]) -> None:
        """Adds a part to what process 0 has found: read where it is there, else measured now by all processes.

        Args:
          run: to add to.
          name: of the part.
          measure: adds what this process has to measure of the part.
        """
        if self.units is None:
            measure(run)
            return
        if name not in self:
            mine = Aligning(run.config, run.data, run.hosts)
            measure(mine)
            contents = self.hosts.gather(content_of(mine))
            if contents is not None:
                self.units.write(name, _together(contents, run))
        if self.hosts.first:
            add_content(run, self.units.read(name))

    def remove(self) -> None:
        """Deletes all, the run being done."""
        if self.units is not None and self.hosts.first:
            self.units.remove()


def content_of(found: Aligning) -> Content:
    """What was measured, as JSON can hold it. Every item begins with its place or its pair of encoders."""
    return {name: [list(row) for row in getattr(found, name)] for name in TUPLES} | {
        "sampled": [
            [list(place), [[*key, one.estimate, one.samples.tolist()] for key, one in of.items()]]
            for place, of in found.sampled.items()
        ],
        "doubtful": [
            [source, target, setting.method, setting.rank] for source, target, setting in found.doubtful
        ],
        "without_value": [[list(place), reason] for place, reason in found.without_value.items()],
    }


def add_content(found: Aligning, content: Content) -> None:
    """Adds what ``content_of`` made to what was measured."""
    for name, kind in TUPLES.items():
        getattr(found, name).extend(kind(*row) for row in content[name])
    found.doubtful |= {
        (source, target, Setting(*setting)) for source, target, *setting in content["doubtful"]
    }
    found.without_value |= {Place(*place): reason for place, reason in content["without_value"]}
    found.sampled |= {
        Place(*place): {
            (own, name): Sampled(estimate, np.array(samples)) for own, name, estimate, samples in of
        }
        for place, of in content["sampled"]
    }


def _together(contents: Sequence[Content], run: Aligning) -> Content:
    """The contents of all processes, pair by pair in the order of a process on its own."""
    pairs = [*((name, name) for name in run.encoders), *run.pairs]
    order = {pair: number for number, pair in enumerate(pairs)}

    def index(kind: str, item: Any) -> int:
        return order[_pair_of(kind, item)]

    return {
        kind: sorted(
            (item for content in contents for item in content[kind]), key=lambda item: index(kind, item)
        )
        for kind in contents[0]
    }


def _pair_of(kind: str, item: Any) -> Pair:
    """The encoders that an item of a part belongs to."""
    if kind == "doubtful":
        return item[0], item[1]
    place = item if kind in TUPLES else item[0]
    return place[1], place[2]
