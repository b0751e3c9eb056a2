"""Records in the files that commands write: the fields of each are the columns of its file."""

from typing import NamedTuple

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet take a cell for a formula
COSINE = "cosine"  # the score that needs nothing but the two rows


class Row(NamedTuple):
    """One measured number; the fields are the columns of ``results.csv``, in this order.

    Attributes:
      dataset, source, target, method: names; source and target are empty where a number is of the mean over pairs.
      rank: at most so many dimensions; None where the method has no rank or none was asked for.
      seed: of the split.
      own_photograph: whether the gallery held the same image as the probe: "included", "excluded" (left out), "absent"
        (it was never there), or "" where the question does not arise.
      measure: "rank1", "map50", "auc", "eer", "tmr@fmr=0.001", ...
      value: the number: a rate in [0, 1], or a count, a distance or a ratio; NaN where there is none, with ``reason``.
      threshold: similarity at and above which a comparison counts as a match; None where there is none.
      achieved: the false match rate at that threshold, or the false positive identification rate; None where there is
        none.
      comparisons: how many the number rests on; None where unknown.
      test_dataset: where it was measured, if that is not ``dataset``, where the map was fitted.
      axis: what an analysis varies, such as "train_people" or "l2"; "" where nothing is.
      at: the value on that axis; None where there is none.
      low, high: interval of 95 % from a bootstrap over people; None where there is none.
      reason: why there is no value, in words; "" where there is one.
      score: what two mapped rows are compared by: "cosine", "cohort", ...
      variant: of the map or model that the number is of, such as "restored"; "" where there is one.
      pairs_owned: pairs of photographs that an attacker's map was fitted on; None where nobody attacks.
      threshold_low, threshold_high: interval of ``threshold``, as ``low`` and ``high`` are of ``value``.
    """

    dataset: str
    source: str
    target: str
    method: str
    rank: int | None
    seed: int
    own_photograph: str
    measure: str
    value: float
    threshold: float | None = None
    achieved: float | None = None
    comparisons: int | None = None
    test_dataset: str = ""
    axis: str = ""
    at: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    score: str = COSINE
    variant: str = ""
    pairs_owned: int | None = None
    threshold_low: float | None = None
    threshold_high: float | None = None


class Difference(NamedTuple):
    """One method less another on the same resampled people; the fields are the columns of ``differences.csv``.

    Attributes:
      method, other: settings, in words; ``value`` is the first less the second.
      low, high: interval of 95 %; this and all others are as in ``results.csv``.
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


class ProjectedPoint(NamedTuple):
    """One photograph in two dimensions; the fields are the columns of ``projection.csv``.

    Attributes:
      stage: "before" or "after" the map.
      side: "source" or "target".
      person: a number; names stay private.
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


class Predicted(NamedTuple):
    """How well one similarity predicts what alignment reaches; the fields are the columns of ``prediction.csv``.

    Attributes:
      similarity: its name.
      calibrated: "yes" or "no".
      alignment_method, measure: what is predicted.
      spearman: rank correlation over unordered pairs of encoders.
      low, high: 95 % interval from a bootstrap over encoders.
      pairs: how many.
      p: of a two-sided Mantel test.
    """

    similarity: str
    calibrated: str
    alignment_method: str
    measure: str
    spearman: float
    low: float
    high: float
    pairs: int
    p: float
