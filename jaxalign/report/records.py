"""What drivers write beside their rows: differences between methods, a few people's embeddings, ways by a third."""

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


class ThreeWay(NamedTuple):
    """Agreement of source → via → target with source → target; the fields are the columns of ``three_way.csv``.

    Attributes:
      dataset, source, target, method, seed: as in ``results.csv``.
      via: the encoder between.
      value: 1 where both ways give the same.
      low, high: its interval of 95 %; NaN where there is none.
    """

    dataset: str
    source: str
    via: str
    target: str
    method: str
    seed: int
    value: float
    low: float
    high: float
