"""``faces:``: procedural faces as a source; nobody on them exists, so the data set ships with the package."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from jaxalign.core.errors import UserError
from jaxalign.vision.images.source import Picture, Sample, SourceOptions

DEFAULT = "300x8"
FORM = "faces:PEOPLExPHOTOGRAPHS"
LARGEST = 100_000


@dataclasses.dataclass(frozen=True)
class MadeFaces:
    """Some people of the default range, the same number of photographs of each, rendered when they are asked for.

    Attributes:
      people: how many.
      each: photographs of each.
    """

    people: int
    each: int

    @classmethod
    def open(cls, place: str, options: SourceOptions) -> "MadeFaces":
        """Reads ``300x8``; nothing stands for the default.

        Raises:
          UserError: it is written otherwise.
        """
        options.refuse_all_but((), FORM)
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", place or DEFAULT)
        people, each = (int(match[1]), int(match[2])) if match else (0, 0)
        if not (2 <= people <= LARGEST and 1 <= each <= LARGEST):
            raise UserError(
                f"made faces are asked for as {FORM}, such as faces:{DEFAULT}, with 2 people or more; "
                f"got faces:{place}."
            )
        return cls(people, each)

    @property
    def dataset(self) -> str:
        """Says how many."""
        return f"faces-{self.people}x{self.each}"

    @property
    def samples(self) -> Sequence[Sample]:
        """Person by person."""
        return [self._sample(number) for number in range(self.people * self.each)]

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Renders a block at a time, in the thread that asks."""
        from jaxalign.vision.faces.people import BLOCK, DEFAULT_PEOPLE, photographs

        for first in range(start, self.people * self.each, BLOCK):
            numbers = range(first, min(first + BLOCK, self.people * self.each))
            who = [DEFAULT_PEOPLE[number // self.each] for number in numbers]
            images = photographs(who, [number % self.each for number in numbers])
            for number, image in zip(numbers, images, strict=True):
                yield Picture(self._sample(number), lambda image=image: image)

    def _sample(self, number: int) -> Sample:
        person, photograph = divmod(number, self.each)
        return Sample(f"person{person:05d}/{photograph:03d}", f"person{person:05d}")
