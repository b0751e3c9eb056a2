"""The tidy results row, and how rows become means over pairs and matrices of source by target."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

PEOPLE_WORDS = {"included": "own photograph included", "excluded": "own photograph excluded"}
NO_REASON = "too few comparisons to support a number, or none possible"
RATES = re.compile(r"rank\d+|map\d*|auc|eer|(tmr|tpir|fmr|fnmr|fpir|fnir)\b.*|cmc")


class Row(NamedTuple):
    """One measured number; the fields are the columns of ``results.csv``, in this order.

    Attributes:
      dataset, source, target, method: names; source and target are empty where a number is of the mean over pairs.
      rank: at most so many dimensions; None where the method has no rank or none was asked for.
      seed: of the split.
      own_photograph: "included", "excluded", or "" where the question does not arise.
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


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """A method at a rank: what one heat map shows, and one line of the summary."""

    method: str
    rank: int | None = None

    def __str__(self) -> str:
        return self.method if self.rank is None else f"{self.method} r={self.rank}"


@dataclasses.dataclass(frozen=True, order=True)
class Measure:
    """A measure and whether the probe's own photograph was in the gallery."""

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
        """As the head of a column: short, with the own photograph where the question arises."""
        return f"{self.brief}, own {self.own_photograph}" if self.own_photograph else self.brief

    @property
    def brief(self) -> str:
        """In few words, for titles and axes."""
        if ":" in self.name:
            name, _, derived = self.name.partition(":")
            return f"{Measure(name).brief}: {derived.replace('_', ' ').replace('%', ' %')}"
        name, _, at = self.name.partition("@fmr=")
        if at:
            return f"{name.upper()} at FMR {float(at):g}"
        if re.fullmatch(r"rank\d+", name):
            return f"rank-{name[4:]}"
        if re.fullmatch(r"map\d*", name):
            return f"mAP{name[3:]}"
        known = {"auc": "AUC", "eer": "EER", "best_l2": "best penalty"}
        return known.get(name, name.replace("_", " "))

    @property
    def is_rate(self) -> bool:
        """Whether the number is a share, to be shown in per cent."""
        return ":" not in self.name and RATES.fullmatch(self.name.removesuffix("_relative")) is not None

    def describe(self) -> str:
        """In words, for a title."""
        if ":" in self.name:  # something derived from a measure
            name, _, derived = self.name.partition(":")
            words = derived.replace("_", " ").replace("%", " %")
            return f"{Measure(name, self.own_photograph).describe()}: {words}"
        name, _, at = self.name.partition("@fmr=")
        if at:
            words = f"{name.upper()} at FMR {float(at) * 100:g} %"
        elif name.startswith("rank") and name[4:].isdigit():
            words = f"rank-{name[4:]} identification rate"
        elif name.startswith("map") and name[3:].isdigit():
            words = f"mean average precision over the first {name[3:]}"
        else:
            known = {
                "map": "mean average precision",
                "auc": "area under the ROC curve",
                "eer": "equal error rate",
                "best_l2": "best penalty",
            }
            words = known.get(name, name.replace("_", " "))
        return f"{words}, {PEOPLE_WORDS[self.own_photograph]}" if self.own_photograph else words


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
        self._reasons: dict[tuple[Setting, Measure, str, str], dict[str, None]] = {}
        # Of each setting and measure, of each pair, of each seed.
        self._values: dict[tuple[Setting, Measure], dict[tuple[str, str], dict[int, float]]] = {}
        alike: dict[tuple[str, int | None, str, str], list[Row]] = {}
        for row in rows:
            rank = None if row.method in merge_ranks else row.rank
            alike.setdefault((row.method, rank, row.measure, row.own_photograph), []).append(row)
        for (method, rank, name, own_photograph), members in alike.items():
            pairs = self._values.setdefault((Setting(method, rank), Measure(name, own_photograph)), {})
            for row in members:
                pairs.setdefault((row.source, row.target), {})[row.seed] = row.value
                if math.isnan(row.value):
                    place = Setting(method, rank), Measure(name, own_photograph), row.source, row.target
                    self._reasons.setdefault(place, {})[row.reason or NO_REASON] = None
        everything = [(pair, seeds) for pairs in self._values.values() for pair, seeds in pairs.items()]
        self.seeds = list(dict.fromkeys(seed for _, seeds in everything for seed in seeds))
        self.settings = list(dict.fromkeys(setting for setting, _ in self._values))
        self.measures = list(dict.fromkeys(measure for _, measure in self._values))
        sources = list(dict.fromkeys(source for (source, _), _ in everything))
        encoders = list(dict.fromkeys([*sources, *(target for (_, target), _ in everything)]))
        place_of = {name: place for place, name in enumerate(order)}
        self.encoders = sorted(encoders, key=lambda name: place_of.get(name, len(place_of)))
        self.sources = sorted(sources, key=self.encoders.index)
        self.targets = sorted({target for (_, target), _ in everything}, key=self.encoders.index)
        self.left_out = self._without_any_value()

    def _without_any_value(self) -> set[tuple[str, str]]:
        """Pairs that some setting and seed gave not one number for."""
        without: set[tuple[str, str]] = set()
        for setting in self.settings:
            found: dict[tuple[tuple[str, str], int], bool] = {}
            for measure in self.measures:
                for pair, values in self._values.get((setting, measure), {}).items():
                    for seed, value in values.items():
                        found[pair, seed] = found.get((pair, seed), False) or not math.isnan(value)
            without |= {pair for (pair, _), any_value in found.items() if not any_value}
        return without

    def cell(self, setting: Setting, measure: Measure, source: str, target: str) -> Cell | None:
        """One pair over all seeds; None where it was not measured."""
        values = self._values.get((setting, measure), {}).get((source, target))
        return None if values is None else _over_seeds(list(values.values()))

    def reason(self, setting: Setting, measure: Measure, source: str, target: str) -> str:
        """Why a pair has no number in some seed; "" where it has one in all."""
        return "; ".join(self._reasons.get((setting, measure, source, target), {}))

    def reasons(self, setting: Setting, measure: Measure) -> list[str]:
        """Why pairs of a setting have no number, each reason once."""
        found = [why for (s, m, _, _), why in self._reasons.items() if (s, m) == (setting, measure)]
        return list(dict.fromkeys(reason for why in found for reason in why))

    def mean_over_pairs(self, setting: Setting, measure: Measure) -> Cell | None:
        """Mean over the ordered pairs within each seed, then mean and deviation of that over seeds.

        An encoder against itself is no pair and does not count; pairs in ``left_out`` do not count for any setting,
        so that the means of settings stay comparable.
        """
        per_seed: dict[int, list[float]] = {}
        for (source, target), values in self._values.get((setting, measure), {}).items():
            if source != target and (source, target) not in self.left_out:
                for seed, value in values.items():
                    per_seed.setdefault(seed, []).append(value)
        return (
            _over_seeds([math.fsum(values) / len(values) for values in per_seed.values()])
            if per_seed
            else None
        )

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
