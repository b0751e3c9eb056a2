"""Rows of the files that drivers write, and how rows of results become means over pairs and matrices."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

KNOWN_WORDS = {
    "map": "mean average precision",
    "auc": "area under the ROC curve",
    "eer": "equal error rate",
    "best_l2": "best penalty",
}
NO_REASON = "too few comparisons to support a number, or none possible"
RATES = re.compile(r"rank\d+|map\d*|auc|eer|(tmr|tpir|fmr|fnmr|fpir|fnir)\b.*|cmc")
Pair = tuple[str, str]  # source and target


class Row(NamedTuple):
    """One measured number; the fields are the columns of ``results.csv``, in this order.

    Attributes:
      dataset, source, target, method: names; source and target are empty where a number is of the mean over pairs.
      rank: at most so many dimensions; None where the method has no rank or none was asked for.
      seed: of the split.
      own_photograph: whether the gallery held the same image as the probe: "included", "excluded", or "" where the
        question does not arise.
      measure: "rank1", "map50", "auc", "eer", "tmr@fmr=0.001", ...
      value: the number: a rate in [0, 1], or a count, a distance or a ratio; NaN where there is none, with ``reason``.
      threshold: similarity at and above which a comparison counts as a match; None where there is none.
      achieved: the false match rate at that threshold; None where there is none.
      comparisons: how many the number rests on; None where unknown.
      test_dataset: where it was measured, if that is not ``dataset``, where the map was fitted.
      axis: what an analysis varies, such as "train_people" or "l2"; "" where nothing is.
      at: the value on that axis; None where there is none.
      low, high: interval of 95 % from a bootstrap over people; None where there is none.
      reason: why there is no value, in words; "" where there is one.
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
      person: a number; names stay private.
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


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """A method at a rank: what one heat map shows, and one line of the summary."""

    method: str
    rank: int | None = None

    def __str__(self) -> str:
        return self.method if self.rank is None else f"{self.method} r={self.rank}"


@dataclasses.dataclass(frozen=True, order=True)
class Measure:
    """A measure and, for identification, whether the gallery held the same image as the probe."""

    name: str
    own_photograph: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.own_photograph})" if self.own_photograph else self.name

    @property
    def lower_is_better(self) -> bool:
        """Error rates, as opposed to hit rates."""
        return self.name.startswith(("eer", "fmr", "fnmr"))

    @property
    def head(self) -> str:
        """As the head of a column: short, with the same image where the question arises."""
        return f"{self.brief}, same image {self.own_photograph}" if self.own_photograph else self.brief

    @property
    def brief(self) -> str:
        """In few words, for titles and axes."""
        name, _, derived = self.name.partition(":")
        if derived:
            return f"{Measure(name).brief}: {_plain(derived)}"
        name, _, at = self.name.partition("@fmr=")
        if at:
            return f"{name.upper()} at FMR {float(at):g}"
        if re.fullmatch(r"rank\d+", name):
            return f"rank-{name[4:]}"
        if re.fullmatch(r"map\d*", name):
            return f"mAP{name[3:]}"
        return name.upper() if name in ("auc", "eer") else KNOWN_WORDS.get(name, _plain(name))

    def describe(self) -> str:
        """In words, for a title."""
        name, _, derived = self.name.partition(":")
        if derived:
            return f"{Measure(name, self.own_photograph).describe()}: {_plain(derived)}"
        name, _, at = self.name.partition("@fmr=")
        if at:
            words = f"{name.upper()} at FMR {float(at) * 100:g} %"
        elif re.fullmatch(r"rank\d+", name):
            words = f"rank-{name[4:]} identification rate"
        elif re.fullmatch(r"map\d+", name):
            words = f"mean average precision over the first {name[3:]}"
        else:
            words = KNOWN_WORDS.get(name, _plain(name))
        return f"{words}, same image {self.own_photograph}" if self.own_photograph else words

    @property
    def is_rate(self) -> bool:
        """Whether the number is a share, to be shown in per cent."""
        return ":" not in self.name and RATES.fullmatch(self.name.removesuffix("_relative")) is not None


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("%", " %")


@dataclasses.dataclass(frozen=True)
class Cell:
    """Mean and population standard deviation over seeds; NaN where a seed's number is unsupported."""

    mean: float
    deviation: float
    seeds: int


class ResultTable:
    """Rows, indexed by setting, measure and pair.

    Args:
      rows: what a driver measured.
      merge_ranks: methods whose rank was chosen per pair: all their ranks are one setting.
      doubtful: (source, target, setting) of fits that were not numerically sound in some seed.
      order: encoders that come first, in this order, such as families give it.

    Attributes:
      settings, measures, sources, targets, encoders, seeds: what there is, in order of appearance;
        ``encoders`` are the sources and then what is only a target, and ``targets`` follow the order of
        ``encoders``.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        merge_ranks: Collection[str] = (),
        doubtful: Iterable[tuple[str, str, Setting]] = (),
        order: Sequence[str] = (),
    ):
        self.doubtful = set(doubtful)
        # For each setting and measure, for each pair, for each seed.
        found: dict[tuple[str, int | None, str, str], dict[Pair, dict[int, Row]]] = {}
        for row in rows:
            rank = None if row.method in merge_ranks else row.rank
            pairs = found.setdefault((row.method, rank, row.measure, row.own_photograph), {})
            pairs.setdefault((row.source, row.target), {})[row.seed] = row
        self._rows = {
            (Setting(method, rank), Measure(name, own)): pairs
            for (method, rank, name, own), pairs in found.items()
        }
        every = [(pair, seeds) for pairs in self._rows.values() for pair, seeds in pairs.items()]
        self.seeds = list(dict.fromkeys(seed for _, seeds in every for seed in seeds))
        self.settings = list(dict.fromkeys(setting for setting, _ in self._rows))
        self.measures = list(dict.fromkeys(measure for _, measure in self._rows))
        sources = list(dict.fromkeys(source for (source, _), _ in every))
        encoders = list(dict.fromkeys([*sources, *(target for (_, target), _ in every)]))
        index_of = {name: index for index, name in enumerate(order)}
        self.encoders = sorted(encoders, key=lambda name: index_of.get(name, len(index_of)))
        self.sources = sorted(sources, key=self.encoders.index)
        self.targets = sorted({target for (_, target), _ in every}, key=self.encoders.index)
        self.left_out = self._without_any_value()

    def _without_any_value(self) -> set[Pair]:
        """Pairs for which some setting has no number at all in some seed."""
        without: set[Pair] = set()
        for setting in self.settings:
            found: dict[tuple[Pair, int], bool] = {}
            for measure in self.measures:
                for pair, rows in self._rows.get((setting, measure), {}).items():
                    for seed, row in rows.items():
                        found[pair, seed] = found.get((pair, seed), False) or not math.isnan(row.value)
            without |= {pair for (pair, _), any_value in found.items() if not any_value}
        return without

    def cell(self, setting: Setting, measure: Measure, source: str, target: str) -> Cell | None:
        """One pair over all seeds; None where it was not measured."""
        rows = self._rows.get((setting, measure), {}).get((source, target))
        return None if rows is None else _over_seeds([row.value for row in rows.values()])

    def reason(self, setting: Setting, measure: Measure, source: str, target: str) -> str:
        """Why a pair has no number in some seed; "" where it has one in all."""
        rows = self._rows.get((setting, measure), {}).get((source, target), {})
        return "; ".join(_reasons(rows.values()))

    def reasons(self, setting: Setting, measure: Measure) -> list[str]:
        """Why pairs of a setting have no number, each reason once."""
        pairs = self._rows.get((setting, measure), {})
        return _reasons(row for rows in pairs.values() for row in rows.values())

    def mean_over_pairs(self, setting: Setting, measure: Measure) -> Cell | None:
        """Mean over the ordered pairs within each seed, then mean and deviation of that over seeds.

        An encoder against itself is no pair and does not count; pairs in ``left_out`` do not count for any setting,
        so that the means of settings stay comparable.
        """
        per_seed: dict[int, list[float]] = {}
        for (source, target), rows in self._rows.get((setting, measure), {}).items():
            if source != target and (source, target) not in self.left_out:
                for seed, row in rows.items():
                    per_seed.setdefault(seed, []).append(row.value)
        means = [math.fsum(values) / len(values) for values in per_seed.values()]
        return _over_seeds(means) if means else None

    def matrix(self, setting: Setting, measure: Measure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source by target over ``sources`` and ``targets``.

        Returns:
          means [sources, targets], deviations [sources, targets] (NaN where unmeasured or unsupported) and
          whether there is a measurement at all [sources, targets], bool.
        """
        shape = len(self.sources), len(self.targets)
        means, deviations, measured = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
        for i, source in enumerate(self.sources):
            for j, target in enumerate(self.targets):
                cell = self.cell(setting, measure, source, target)
                if cell is not None:
                    means[i, j], deviations[i, j], measured[i, j] = cell.mean, cell.deviation, True
        return means, deviations, measured


def _over_seeds(values: Sequence[float]) -> Cell:
    array = np.asarray(values, np.float64)
    return Cell(float(array.mean()), float(array.std()), len(array))


def _reasons(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.reason or NO_REASON for row in rows if math.isnan(row.value)))
