"""Sections of the report, one for each results directory, by the driver that wrote it."""

from collections.abc import Callable, Iterator, Sequence

from jaxalign.report.parts import Part
from jaxalign.report.sections.blocks import Block as Block
from jaxalign.report.sections.blocks import Folded as Folded
from jaxalign.report.sections.blocks import Section as Section
from jaxalign.report.sections.blocks import Text as Text
from jaxalign.report.sections.blocks import Together as Together
from jaxalign.report.sections.families import families, family_order
from jaxalign.report.sections.geometry import geometry
from jaxalign.report.sections.pairwise import pairwise
from jaxalign.report.sections.settings import side_by_side
from jaxalign.report.sections.sweeps import sweep
from jaxalign.report.sections.transfer import transfer

# In the order of the page.
SECTIONS: dict[str, Callable[[Part, Sequence[str]], Section]] = {
    "pairwise": pairwise,
    "transfer": transfer,
    "families": families,
    "geometry": geometry,
    "data_efficiency": sweep,
    "rank_sweep": sweep,
    "ridge_path": sweep,
    "capacity": side_by_side,
    "stability": side_by_side,
}


def sections(parts: Sequence[Part]) -> Iterator[Section]:
    """A section for each part, in the order of the page; heat maps follow the families of their data set."""
    orders = {dataset: family_order(part.families) for part in parts for dataset in _datasets(part)}
    drivers = list(SECTIONS)
    ordered = sorted(parts, key=lambda part: drivers.index(part.driver))
    return (SECTIONS[part.driver](part, _order(part, orders)) for part in ordered)


def _datasets(part: Part) -> list[str]:
    """Those that a part has families of."""
    return part.datasets if part.families else []


def _order(part: Part, orders: dict[str, list[str]]) -> list[str]:
    return next((orders[dataset] for dataset in part.datasets if orders.get(dataset)), [])
