"""What drivers write beside their rows: differences between methods, and a few people's embeddings."""

from typing import NamedTuple


class Difference(NamedTuple):
    """One method less another on the same resampled people; the fields are the columns of ``differences.csv``.

    Attributes:
      dataset, test_dataset, axis, at, seed: as in ``results.csv``.
      source, target: the pair of encoders; empty for the mean over pairs.
      method, other: settings, in words; the value is the first less the second.
      own_photograph, measure: as in ``results.csv``.
      value: the difference.
      low, high: its interval of 95 %.
    """

    dataset: str
    test_dataset: str
    axis: str
    at: float | None
    seed: int
    source: str
    target: str
    method: str
    other: str
    own_photograph: str
    measure: str
    value: float
    low: float
    high: float


class Point(NamedTuple):
    """One photograph in two dimensions; the fields are the columns of ``projection.csv``.

    Attributes:
      dataset, source, target, method: as in ``results.csv``.
      stage: "before" or "after" the map.
      side: "source" or "target".
      person: a number; names are nobody's business.
      x, y: where it is.
    """

    dataset: str
    source: str
    target: str
    method: str
    stage: str
    side: str
    person: int
    x: float
    y: float
