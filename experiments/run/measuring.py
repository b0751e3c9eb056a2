"""Measures maps on the test rows of one split: which rows are compared, and every number of one pair of encoders."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run.computing import chosen_devices
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from jaxalign import Fit
from jaxalign.biometrics import (
    Cohort,
    Comparator,
    CurvePoint,
    Draw,
    EvaluationPlan,
    MeasuredValue,
    Resampling,
    Sampled,
    comparator,
    curve_points,
    decision_costs,
    draw,
    evaluate,
    mean_of,
    open_set,
)
from jaxalign.biometrics.comparators import cohort_rows
from jaxalign.biometrics.evaluate import RANKS, Rows
from jaxalign.biometrics.pair_lists import PairList, published_pairs, read_lfw_pairs, read_pairs_csv
from jaxalign.biometrics.plan import padded
from jaxalign.core.devices import MOST_WORKERS, concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.people import Split, identity_folds
from jaxalign.core.rows import LazyRows
from jaxalign.moments.blocks import padded_width
from jaxalign.report import Row
from jaxalign.report.records import COSINE

Item = TypeVar("Item")
Side = jax.Array | LazyRows
Pair = tuple[str, str]  # source and target
TEST_BYTES = 2**28  # of test rows that are read once and stay on the device


@dataclasses.dataclass(frozen=True, eq=False)
class TestRows(Mapping[str, Side]):
    """Test rows of every encoder and, where a score needs them, the rows of its cohort."""

    rows: Mapping[str, Side]
    cohort: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Side:
        return self.rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Compared(NamedTuple):
    """The numbers of one pair of mapped encoders: every measure, and what else is asked for.

    Attributes:
      sampled: resamples of the measures, by same image in or out and by name.
      curves: points of CMC and DET curves.
      thresholds: resamples of the thresholds of measures, by name.
    """

    numbers: list[MeasuredValue]
    sampled: Mapping[tuple[str, str], Sampled] = {}
    curves: tuple[CurvePoint, ...] = ()
    thresholds: Mapping[str, Sampled] = {}

    def rows(self, *here: Any, **more: Any) -> list[Row]:
        """Result rows. ``here`` are the first six fields of a row, ``more`` further fields by name."""
        rows = []
        for number in self.numbers:
            reason = "too few comparisons to support a number" if np.isnan(number.value) else ""
            known = {**number._asdict(), "reason": reason}
            if sample := self.sampled.get(number[:2]):
                known["low"], known["high"] = sample.interval()
            if sample := self.thresholds.get(number.measure):
                known["threshold_low"], known["threshold_high"] = sample.interval()
            rows.append(Row(*here, **known)._replace(**more))
        return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Measuring:
    """How maps are measured on one split.

    Attributes:
      split: indices among the usable rows.
      fold: of the training rows, where something is chosen by cross-validation; else None.
      cohort: training rows that scores other than the cosine need, of some thousand people at most.
      identities: of the test rows, shape [m]; ``cohort_identities`` of the cohort's.
      images: numbers of their images, equal for copies, shape [m]; None where they are not known.
      plan: what all evaluations of the test rows share; None where the gallery is not all of them.
      pairs: the comparisons of verification; None for all of them.
      resampling: of test people, the same for all that is measured; None where no intervals are asked for.
      searches: the draws of open-set identification, and who is who in each; none where it is not asked for.
    """

    config: PairwiseConfig
    split: Split
    fold: np.ndarray | None
    cohort: np.ndarray
    cohort_identities: np.ndarray
    identities: np.ndarray
    images: np.ndarray | None
    plan: EvaluationPlan | None
    pairs: PairList | None
    resampling: Resampling | None = None
    searches: tuple[tuple[Draw, EvaluationPlan], ...] = ()

    @classmethod
    def of(cls, config: PairwiseConfig, data: Data, seed: int, split: Split | None = None) -> "Measuring":
        """Splits people for one seed, or takes a split, and makes every check that needs no embeddings."""
        config = data.with_supported_scores(config)
        if split is None:
            split = data.split(seed, config.protocol.train_fraction, config.max_per_person)
        identities = data.identities[split.test]
        _require_gallery(config, identities, seed)
        images = None if data.images is None else data.images[split.test]
        pairs = resampling = None
        if config.pair_list is not None:
            pairs = _listed_pairs(config.pair_list, data, split)
        elif config.protocol.comparisons == "balanced" and "verification" in config.measures:
            pairs = published_pairs(identities, seed, images)
        plan = EvaluationPlan.of(identities, images=images) if config.gallery == "all" else None
        if config.intervals and plan is not None:
            resampling = Resampling.of(plan, resamples=config.intervals, seed=seed)
        cohort = cohort_rows(split.train, data.identities)
        fold, others = folds_of(config, data, split), data.identities[cohort]
        searches = tuple(_searches(config, identities, images, seed)) if config.open_set else ()
        return cls(config, split, fold, cohort, others, identities, images, plan, pairs, resampling, searches)

    @property
    def seed(self) -> int:
        """The seed of the split."""
        return self.split.seed

    def test_rows(self, data: Data) -> TestRows:
        """Test rows of every encoder on the device, padded by ``padded_rows``; lazy ones where they are too many."""
        rows, cohort = data.select(self.split.test), {}
        if self.config.scores != (COSINE,):
            others = data.select(self.cohort)
            cohort = {name: padded_rows(np.asarray(lazy)) for name, lazy in others.items()}
        if self._few(data):
            return TestRows({name: padded_rows(np.asarray(lazy)) for name, lazy in rows.items()}, cohort)
        wide = {
            name: lazy.then(_padded_columns, width=padded_width(lazy.width)) for name, lazy in rows.items()
        }
        return TestRows(wide, cohort)

    def concurrently(
        self, compare: Callable[[Item], Any], items: Sequence[Item], data: Data
    ) -> Iterator[Any]:
        """``map(compare, items)``, several at a time. Each holds a part of the gallery, so large test sets take one."""
        return concurrently(compare, items, MOST_WORKERS if self._few(data) else 1)

    def _few(self, data: Data) -> bool:
        return 4 * len(self.split.test) * sum(data.dims.values()) <= TEST_BYTES

    def evaluate(self, fit: Fit, test: TestRows, pair: Pair) -> dict[str, Compared]:
        """Every number of one pair by each score; ``UserError`` if mapped rows are unusable.

        By cosine alone where ``test`` has no rows of a cohort.
        """
        padded = fit.padded()
        rows = padded.source(test[pair[0]]), padded.target(test[pair[1]])
        return self.by_score(rows, self.people_of(test, pair, padded))

    def people_of(self, test: TestRows, pair: Pair, fit: Fit | None = None) -> Cohort | None:
        """The cohort of a pair where ``fit``, padded or not, compares it; None where no score needs one."""
        if not test.cohort:
            return None
        left, right = (test.cohort[name][: len(self.cohort)] for name in pair)
        if fit is not None:
            left, right = fit.source(left[:, : fit.source.in_dim]), fit.target(right[:, : fit.target.in_dim])
        return Cohort.of(np.asarray(left), np.asarray(right), self.cohort_identities)

    def by_score(self, rows: tuple[Side, Side], cohort: Cohort | None) -> dict[str, Compared]:
        """Every number of probes and gallery that lie in one space already, by each score or by cosine alone."""
        if cohort is None:
            return {COSINE: self.compare(*rows)}
        by_score = {name: comparator(name, cohort) for name in self.config.scores}
        return {name: self.compare(*rows, score) for name, score in by_score.items()}

    def compare(self, probes: Side, gallery: Side, score: Comparator | None = None) -> Compared:
        """Every number of rows that lie in one space already, shape [rows of ``test_rows``, d]."""
        count = len(self.split.test)
        left, right = (
            side if isinstance(side, LazyRows) else np.asarray(side)[:count] for side in (probes, gallery)
        )
        config = self.config
        result = evaluate(
            *(left, right, self.identities if self.plan is None else self.plan),
            images=self.images if self.plan is None else None,
            score=score,
            fmr=config.fmr,
            ranks=config.rank_k,
            measures=tuple(kind for kind in config.measures if kind != "verification" or self.pairs is None),
            own_photograph=config.protocol.own_photograph,
            templates=config.gallery,
            pairs=self.pairs,
            people_weights=None if self.resampling is None else self.resampling.weights,
            devices=chosen_devices(config.devices),
        )
        of_people = self.resampling
        sampled = {} if of_people is None else of_people.measures(result)
        thresholds = {} if of_people is None else of_people.thresholds(result)
        curves = tuple(curve_points(result, self.resampling)) if config.curves else ()
        found, found_sampled = self._searched(LazyRows.of(left), LazyRows.of(right), score)
        costs = self._costs(left, right, score) if config.calibration else []
        return Compared(
            [*result.measures(), *found, *costs], {**sampled, **found_sampled}, curves, thresholds
        )

    def _costs(self, probes: Rows, gallery: Rows, score: Comparator | None) -> list[MeasuredValue]:
        """What decisions by calibrated scores cost."""
        names = "prior", "cost_miss", "cost_false"
        options = {name: getattr(self.config, name) for name in names}
        options |= {"images": self.images, "score": score, "seed": self.seed}
        return decision_costs(probes, gallery, self.identities, **options)

    def _searched(
        self, probes: LazyRows, gallery: LazyRows, score: Comparator | None
    ) -> tuple[list[MeasuredValue], dict[tuple[str, str], Sampled]]:
        """Open-set identification, the mean over draws; ``comparisons`` are those of all draws."""
        results = [
            open_set(
                *(probes.select(sets.probes), gallery.select(sets.gallery), plan),
                score=score,
                fpir=self.config.fpir,
            )
            for sets, plan in self.searches
        ]
        numbers = []
        for same in zip(*(result.measures() for result in results)):
            means = np.mean([number[2:5] for number in same], axis=0).tolist()
            probes_of_all = sum(number.comparisons or 0 for number in same)
            numbers.append(MeasuredValue._make((*same[0][:2], *means, probes_of_all)))
        if self.resampling is None:
            return numbers, {}
        drawn = [result.resampled(self.resampling.weights) for result in results]
        common = [name for name in drawn[0] if all(name in found for found in drawn)] if drawn else []
        return numbers, {("", name): mean_of([found[name] for found in drawn]) for name in common}

    def record(self, data: Data) -> dict[str, Any]:
        """How many people, photographs and listed comparisons there are on either side."""
        found = {"seed": self.seed}
        for side, rows in (("train", self.split.train), ("test", self.split.test)):
            found |= {f"{side}_people": len(np.unique(data.identities[rows])), f"{side}_rows": len(rows)}
        return found if self.pairs is None else {**found, "listed_pairs": len(self.pairs)}


def padded_rows(rows: np.ndarray) -> jax.Array:
    """Rows on the device, with zero rows up to one of a few sizes and zero columns up to a padded width.

    Seeds, and encoders of like width, then share compiled programs.
    """
    return jnp.asarray(np.pad(_padded_columns(rows), ((0, padded(len(rows)) - len(rows)), (0, 0))))


def _padded_columns(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, padded_width(rows.shape[1]) - rows.shape[1])))


def require_ranks(config: PairwiseConfig, data: Data) -> None:
    """Raises ``UserError`` if a rank exceeds the gallery of any split. Stores that cannot be split pass."""
    for seed in config.protocol.seeds:
        try:
            split = data.split(seed, config.protocol.train_fraction, config.max_per_person)
        except UserError:
            return
        _require_gallery(config, data.identities[split.test], seed)


def _require_gallery(config: PairwiseConfig, identities: np.ndarray, seed: int) -> None:
    size, largest = len(identities if config.gallery == "all" else np.unique(identities)), max(config.rank_k)
    if largest > size and config.rank_k != RANKS:  # the usual ranks may be too many for a small store
        raise UserError(f"--rank_k asks for rank {largest:,}; the gallery of seed {seed} has {size:,} rows.")


def _searches(
    config: PairwiseConfig, identities: np.ndarray, images: np.ndarray | None, seed: int
) -> Iterator[tuple[Draw, EvaluationPlan]]:
    for number in range(config.draws):
        try:
            sets = draw(identities, number, seed, images)
        except UserError as error:
            raise UserError(f"--open_set, test people of seed {seed}: {error}") from error
        yield sets, EvaluationPlan.of(identities[sets.probes], identities[sets.gallery])


def folds_of(config: PairwiseConfig, data: Data, split: Split) -> np.ndarray | None:
    """The fold of each training row, where something is chosen by cross-validation."""
    return identity_folds(data.identities[split.train], config.folds) if config.needs_folds() else None


def _listed_pairs(path: str, data: Data, split: Split) -> PairList:
    """The pairs of a file, a CSV by its suffix or LFW's pairs.txt, that are among the test rows; some of both kinds."""
    read = read_pairs_csv if path.lower().endswith(".csv") else read_lfw_pairs
    pairs = read(path, data.store.identities, data.store.sample_ids).among(data.rows[split.test])
    genuine = int(np.sum(pairs.genuine))
    if genuine == 0 or genuine == len(pairs):
        raise UserError(
            f"{path}: of its pairs, {genuine:,} genuine and {len(pairs) - genuine:,} impostor ones are among "
            f"the test photographs of seed {split.seed}; some of either kind are needed."
        )
    return pairs
