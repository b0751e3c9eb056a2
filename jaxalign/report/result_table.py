"""How rows of results become means over pairs and matrices, and what a measure is called in words."""

import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from jaxalign.report.records import COSINE, Row

WORDS = {  # pattern of a measure's name: in few words, and in full
    r"rank(\d+)": ("rank-{}", "rank-{} identification rate"),
    r"map(\d+)": ("mAP{}", "mean average precision over the first {}"),
    r"map": ("mAP", "mean average precision"),
    r"auc": ("AUC", "area under the ROC curve"),
    r"eer": ("EER", "equal error rate"),
    r"cllr": ("Cllr", "cost of log-likelihood ratios (Cllr)"),
    r"min_cllr": ("min Cllr", "least Cllr of any calibration"),
    r"min_dcf@prior=(.+)": ("min DCF at prior {}", "least detection cost at a prior of {}"),
    r"d_sys": ("D_sys",) * 2,
    r"maximal_linkability": ("maximal linkability",) * 2,
    r"best_l2": ("best penalty",) * 2,
    r"linear_cka": ("linear CKA",) * 2,
    r"linear_cka_unbiased": ("linear CKA, unbiased",) * 2,
    r"rsa_spearman": ("RSA (Spearman)",) * 2,
    r"mutual_knn": ("mutual k nearest neighbours",) * 2,
    r"mean_cca": ("mean CCA",) * 2,
    r"svcca": ("SVCCA",) * 2,
    r"pwcca": ("PWCCA",) * 2,
    r"procrustes_distance": ("Procrustes distance",) * 2,
    r"intrinsic_dimension_twonn": ("intrinsic dimension, TwoNN",) * 2,
    r"intrinsic_dimension_mle": ("intrinsic dimension, maximum likelihood",) * 2,
    r"between_within_ratio": ("between- to within-person scatter",) * 2,
}
NO_REASON = "too few comparisons to support a number, or none possible"
RATES = re.compile(r"rank\d+|map\d*|auc|eer|(tmr|tpir|fmr|fnmr|fpir|fnir\d*)\b.*|cmc")
Pair = tuple[str, str]  # source and target


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """A method at a rank under a score: what one heat map shows, and one line of the summary."""

    method: str
    rank: int | None = None
    score: str = COSINE

    @classmethod
    def of(cls, row: "Row", merged: Collection[str] = ()) -> "Setting":
        """That of a row; all ranks of the ``merged`` methods, whose rank was chosen per pair, are one."""
        return cls(row.method, None if row.method in merged else row.rank, row.score)

    @property
    def fit(self) -> "Setting":
        """The fit alone, whatever the score."""
        return Setting(self.method, self.rank)

    def __str__(self) -> str:
        of_fit = self.method if self.rank is None else f"{self.method} r={self.rank}"
        return of_fit if self.score == COSINE else f"{of_fit}, {self.score}"


@dataclasses.dataclass(frozen=True, order=True)
class Measure:
    """A measure and, for identification, whether the gallery held the same image as the probe."""

    name: str
    own_photograph: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.own_photograph})" if self.own_photograph else self.name

    @property
    def lower_is_better(self) -> bool:
        """Error rates, costs and numbers of candidates, as opposed to hit rates."""
        return self.name.startswith(
            ("eer", "fmr", "fnmr", "fpir", "fnir", "sel@", "cllr", "min_", "calibration")
        )

    @property
    def is_rate(self) -> bool:
        """Whether the number is a share, to be shown in per cent."""
        return ":" not in self.name and RATES.fullmatch(self.name.removesuffix("_relative")) is not None

    @property
    def brief(self) -> str:
        """In few words, for titles and axes."""
        return self._words(full=False)

    @property
    def head(self) -> str:
        """For the head of a column: in few words, with the same image where the question arises."""
        return self.brief + self._same_image

    def describe(self) -> str:
        """In full words, for captions and sentences."""
        return self._words(full=True, then=self._same_image)

    @property
    def _same_image(self) -> str:
        return f", same image {self.own_photograph}" if self.own_photograph else ""

    def _words(self, full: bool, then: str = "") -> str:
        name, _, derived = self.name.partition(":")
        words = _plain(name)
        if point := re.fullmatch(r"(\w+)@(fmr|fpir)=(.+)", name):
            kind, of, rate = point.groups()
            shown = f"{100 * float(rate):g} %" if full else f"{float(rate):g}"
            words = f"{kind.upper()} at {of.upper()} {shown}"
        for pattern, forms in WORDS.items():
            if found := re.fullmatch(pattern, name):
                words = forms[full].format(*found.groups())
        return words + then + (f": {_plain(derived)}" if derived else "")


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("%", " %")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number with its uncertainty, or the reason why there is none.

    Attributes:
      mean: the number; NaN where there is none, or where one of those it is the mean of is unsupported.
      deviation: population standard deviation over seeds; None for a single seed.
      low, high: interval of 95 %; None where there is none.
      reason: why ``mean`` is NaN; "" where it is not.
      doubtful: whether a fit behind it was numerically doubtful.
    """

    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    doubtful: bool = False

    def __post_init__(self) -> None:
        reason = (self.reason or NO_REASON) if math.isnan(self.mean) else ""
        object.__setattr__(self, "reason", reason)
        for name in ("low", "high"):
            number = getattr(self, name)
            object.__setattr__(self, name, None if number is None or math.isnan(number) else number)


class ResultTable:
    """Rows, indexed by setting, measure and pair.

    Args:
      rows: what a driver measured.
      merge_ranks: methods whose rank was chosen per pair: all their ranks are one setting.
      doubtful: (source, target, setting) of fits that were not numerically sound in some seed.
      order: encoders that come first, in this order, such as families give it.

    Attributes:
      settings, measures, seeds: what there is, in order of appearance.
      encoders: the sources and then what is only a target, in the order asked for, then of appearance.
      sources, targets: those of ``encoders`` that maps start from and lead to.
      left_out: pairs for which some setting has no number at all in some seed.
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
        self._rows: dict[tuple[Setting, Measure], dict[Pair, dict[int, Row]]] = {}
        unanswered: set[tuple[Setting, Pair, int]] = set()
        answered: set[tuple[Setting, Pair, int]] = set()
        for row in rows:
            setting = Setting.of(row, merge_ranks)
            pair = row.source, row.target
            pairs = self._rows.setdefault((setting, Measure(row.measure, row.own_photograph)), {})
            pairs.setdefault(pair, {})[row.seed] = row
            (unanswered if math.isnan(row.value) else answered).add((setting, pair, row.seed))
        self.left_out = {pair for _, pair, _ in unanswered - answered}
        self.settings = list(dict.fromkeys(setting for setting, _ in self._rows))
        self.measures = list(dict.fromkeys(measure for _, measure in self._rows))
        every = [each for pairs in self._rows.values() for each in pairs.items()]
        self.seeds = list(dict.fromkeys(seed for _, seeds in every for seed in seeds))
        sources = dict.fromkeys(source for (source, _), _ in every)
        targets = dict.fromkeys(target for (_, target), _ in every)
        index_of = {name: index for index, name in enumerate(order)}
        self.encoders = sorted(sources | targets, key=lambda name: index_of.get(name, len(index_of)))
        self.sources = [name for name in self.encoders if name in sources]
        self.targets = [name for name in self.encoders if name in targets]

    def cell(self, setting: Setting, measure: Measure, source: str, target: str) -> Cell | None:
        """One pair over all seeds or, with a single seed, with its interval; None where it was not measured."""
        rows = list(self._rows.get((setting, measure), {}).get((source, target), {}).values())
        if not rows:
            return None
        low, high = (rows[0].low, rows[0].high) if len(self.seeds) == 1 else (None, None)
        mean, deviation = _over_seeds([row.value for row in rows])
        doubtful = (source, target, setting.fit) in self.doubtful
        return Cell(mean, deviation, low, high, "; ".join(_reasons(rows)), doubtful)

    def rows_of(self, setting: Setting, measure: Measure) -> dict[Pair, list[Row]]:
        """The rows of every pair, one for each seed."""
        return {pair: list(rows.values()) for pair, rows in self._rows.get((setting, measure), {}).items()}

    def reasons(self, setting: Setting, measure: Measure) -> list[str]:
        """Why pairs of a setting have no number, each reason once."""
        pairs = self._rows.get((setting, measure), {})
        return _reasons(row for rows in pairs.values() for row in rows.values())

    def mean_over_pairs(self, setting: Setting, measure: Measure) -> Cell | None:
        """Mean over the ordered pairs within each seed, then mean and deviation of that over seeds.

        An encoder against itself is no pair and does not count; pairs in ``left_out`` do not count for any setting,
        so that the means of settings stay comparable. None where no pair was measured.
        """
        pairs = [
            list(rows.values())
            for (source, target), rows in self._rows.get((setting, measure), {}).items()
            if source != target and (source, target) not in self.left_out
        ]
        per_seed: dict[int, list[float]] = {}
        for row in itertools.chain(*pairs):
            per_seed.setdefault(row.seed, []).append(row.value)
        if not per_seed:
            return None
        means = [math.fsum(values) / len(values) for values in per_seed.values()]
        if any(map(math.isnan, means)):
            missing = [reasons for rows in pairs if (reasons := _reasons(rows))]
            words = "; ".join(dict.fromkeys(itertools.chain(*missing)))
            every = f"{len(pairs):,} pair{'s' * (len(pairs) != 1)}"
            return Cell(math.nan, reason=f"{len(missing):,} of {every}: {words}")
        doubtful = any(mark[2] == setting.fit for mark in self.doubtful)
        return Cell(*_over_seeds(means), doubtful=doubtful)

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
                    deviation = np.nan if cell.deviation is None else cell.deviation
                    means[i, j], deviations[i, j], measured[i, j] = cell.mean, deviation, True
        return means, deviations, measured


def _over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and, over several seeds, population standard deviation."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std()) if len(array) > 1 else None


def _reasons(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.reason or NO_REASON for row in rows if math.isnan(row.value)))
