"""What the colours of a heat map mean, and how large its cells are."""

import dataclasses

import numpy as np

from jaxalign.report.rows import Measure


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the colours mean: the ends of the scale, and whether the dark end is the better one.

    Attributes:
      low, high: in the unit shown.
      reverse: the low end is the bright one.
      factor: from a row's value to the unit.
      unit: written above the scale.
    """

    low: float
    high: float
    reverse: bool = False
    factor: float = 100
    unit: str = "%"

    @classmethod
    def of(cls, measure: Measure) -> "Scale":
        """The same for every method, so that pictures of one measure can be compared by eye."""
        if measure.lower_is_better:
            return cls(0, 50, reverse=True)
        return cls(50, 100) if measure.name == "auc" else cls(0, 100)

    @classmethod
    def around(cls, values: np.ndarray) -> "Scale":
        """For numbers of no known range: from 0 where they come near it, else from the lowest to the highest."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        low = 0.0 if 0 <= low < 0.5 * high else low
        return cls(low, high if high > low else low + 1, factor=1, unit="")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes, in inches and points, that keep numbers readable from 2 to 40 encoders."""

    width: float
    height: float
    size: float
    digits: int | None  # after the point; None for no numbers at all
    deviations: bool

    @classmethod
    def of(cls, encoders: int, numbers_to: int) -> "Layout":
        if encoders <= 10:
            return cls(0.66, 0.48, 8.5, 1, True)
        if encoders <= 14:
            return cls(0.52, 0.42, 7.5, 1, True)
        if encoders <= 24:
            side = 9.4 / (encoders + 1)
            return cls(side, max(side, 0.36), 7, 1, False)
        digits = 0 if encoders <= numbers_to else None
        side = max(0.1, 9.6 / (encoders + 1))
        return cls(side, side, 6, digits, False)
