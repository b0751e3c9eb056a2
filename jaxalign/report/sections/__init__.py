"""Sections of the report, one for each results directory, by the driver that wrote it."""

from collections.abc import Callable, Iterator, Sequence

from jaxalign.report.part import Part
from jaxalign.report.sections.comparison import pairwise
from jaxalign.report.sections.ensemble import ensemble
from jaxalign.report.sections.geometry import families, family_order, geometry
from jaxalign.report.sections.migration import migration
from jaxalign.report.sections.run_details import run_details
from jaxalign.report.sections.section import Block as Block
from jaxalign.report.sections.section import Folded as Folded
from jaxalign.report.sections.section import Section as Section
from jaxalign.report.sections.section import Together as Together
from jaxalign.report.sections.security import security
from jaxalign.report.sections.sweeps import sweep
from jaxalign.report.sections.transfer import transfer

# By the command that wrote the part, in the order of the page. Each takes the part and the order of its encoders.
SECTIONS: dict[str, Callable[[Part, Sequence[str]], Section]] = {
    "pairwise": pairwise,
    "transfer": transfer,
    "families": families,
    "geometry": geometry,
    "data_efficiency": sweep,
    "rank_sweep": sweep,
    "ridge_path": sweep,
    "capacity": run_details,
    "stability": run_details,
    "ensemble": ensemble,
    "migrate": migration,
    "security": security,
}
BY_ITSELF = "ensemble", "migrate", "security"
OF_STUDY = tuple(name for name in SECTIONS if name not in BY_ITSELF)  # what a study may hold


def sections(parts: Sequence[Part]) -> Iterator[Section]:
    """A section for each part, in the order of the page; heat maps follow the families of their data set."""
    orders = {name: family_order(part) for part in parts if part.families for name in part.datasets}
    for part in sorted(parts, key=lambda part: list(SECTIONS).index(part.driver)):
        order = next((orders[name] for name in part.datasets if orders.get(name)), [])
        yield SECTIONS[part.driver](part, order)
