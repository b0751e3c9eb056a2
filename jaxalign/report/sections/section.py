"""Building blocks of a section."""

import dataclasses
from collections.abc import Iterator, Sequence

from jaxalign.report.figures.drawing import Plot
from jaxalign.report.labels import file_stem
from jaxalign.report.tables import Table


@dataclasses.dataclass(frozen=True)
class Together:
    """Small figures in a row, where there is room."""

    pictures: Sequence[Plot]


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks that few readers need; a click opens them."""

    title: str
    blocks: Sequence["Block"]


Block = str | Table | Plot | Together | Folded  # a string is a paragraph


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
      name: for links, made safe for that.
      title: its heading.
      summary: sentences with numbers, which also open the page.
      blocks: from top to bottom.
    """

    name: str
    title: str
    summary: Sequence[str]
    blocks: Sequence[Block]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", file_stem(self.name))

    def pictures(self) -> Iterator[Plot]:
        """All of them, folded ones included."""
        for block in _unfolded(self.blocks):
            if isinstance(block, Plot):
                yield block
            elif isinstance(block, Together):
                yield from block.pictures

    def tables(self) -> Iterator[Table]:
        """All of them, folded ones included."""
        yield from (block for block in _unfolded(self.blocks) if isinstance(block, Table))


def _unfolded(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Folded):
            yield from _unfolded(block.blocks)
        else:
            yield block
