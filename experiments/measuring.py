"""One split's test side: which rows are compared, and every number of one pair of encoders."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import PairwiseConfig
from experiments.inputs import Data
from jaxalign import Fit
from jaxalign.biometrics import EvaluationPlan, evaluate
from jaxalign.biometrics import Measure as Number
from jaxalign.blocks import padded_width
from jaxalign.errors import UserError
from jaxalign.lazy_rows import LazyRows
from jaxalign.pair_lists import PairList, published_pairs, read_lfw_pairs, read_pairs_csv
from jaxalign.splits import Split, identity_folds
from jaxalign.workers import MOST_WORKERS

TestRows = Mapping[str, jax.Array | LazyRows]  # of every encoder
ROWS_STEP = 256
TEST_BYTES = 2**28  # of test rows that are read once and stay on the device


@dataclasses.dataclass(frozen=True, eq=False)
class Measuring:
    """How to measure on one split.

    Attributes:
      config: of the run.
      split: positions among the usable rows.
      fold: of the training rows, where something is chosen by cross-validation; else None.
      identities: of the test rows, shape [m].
      plan: who is who among the test rows, laid out once; None where the gallery is not all of them.
      pairs: the comparisons of verification; None for all of them.
    """

    config: PairwiseConfig
    split: Split
    fold: np.ndarray | None
    identities: np.ndarray
    plan: EvaluationPlan | None
    pairs: PairList | None

    @classmethod
    def of(cls, config: PairwiseConfig, data: Data, seed: int) -> "Measuring":
        """Splits people for one seed, with every check that needs no embeddings.

        Raises:
          UserError: there are too few people or photographs, or a list of pairs cannot be used.
        """
        split = data.split(seed, config.protocol.train_fraction, config.max_per_person)
        fold = None
        if config.needs_folds():
            fold = identity_folds(data.identities[split.train], config.folds)
        pairs = None
        if config.pair_list is not None:
            pairs = read_pairs(config.pair_list, data).among(data.rows[split.test])
            _require_both_kinds(pairs, config.pair_list, seed)
        elif config.protocol.comparisons == "balanced" and "verification" in config.measures:
            pairs = published_pairs(data.identities[split.test], seed)
        identities = data.identities[split.test]
        plan = EvaluationPlan.of(identities) if config.gallery == "all" else None
        return cls(config, split, fold, identities, plan, pairs)

    @property
    def seed(self) -> int:
        """Of the split."""
        return self.split.seed

    def test_rows(self, data: Data) -> TestRows:
        """Test rows of every encoder on the device, filled up by ``filled``; lazy ones where they are too many."""
        rows = data.select(self.split.test)
        if self._few(data):
            return {name: filled(np.asarray(lazy)) for name, lazy in rows.items()}
        return {name: lazy.then(_widened, width=padded_width(lazy.width)) for name, lazy in rows.items()}

    def at_once(self, data: Data) -> int:
        """How many pairs to measure side by side: of large test sets one, each holds a part of the gallery."""
        return MOST_WORKERS if self._few(data) else 1

    def _few(self, data: Data) -> bool:
        return 4 * len(self.split.test) * sum(data.store.dims[name] for name in data.encoders) <= TEST_BYTES

    def evaluate(self, fit: Fit, source: jax.Array | LazyRows, target: jax.Array | LazyRows) -> list[Number]:
        """Every number of one pair.

        Args:
          fit: both sides' maps into the space where the cosine is taken.
          source, target: rows as ``test_rows`` gives them.

        Raises:
          UserError: mapped rows cannot be compared, because they are zero or not finite.
        """
        padded = fit.padded()
        return self.compare(padded.source(source), padded.target(target))

    def compare(self, probes: jax.Array | LazyRows, gallery: jax.Array | LazyRows) -> list[Number]:
        """Every number of rows that lie in one space already, shape [rows of ``test_rows``, d]."""
        count = len(self.split.test)
        left, right = (
            side if isinstance(side, LazyRows) else np.asarray(side)[:count] for side in (probes, gallery)
        )
        config = self.config
        kinds = tuple(kind for kind in config.measures if kind != "verification" or self.pairs is None)
        options: dict[str, Any] = {
            "fmr": config.fmr,
            "ranks": config.rank_k,
            "measures": kinds,
            "pairs": self.pairs,
            "devices": jax.local_devices(),
        }
        if self.plan is None:
            result = evaluate(left, right, self.identities, templates=config.gallery, **options)
        else:
            result = evaluate(left, right, self.plan, **options)
        wanted = ("", *config.protocol.own_photograph)
        return [measure for measure in result.measures() if measure.own_photograph in wanted]

    def record(self, data: Data) -> dict[str, Any]:
        """How many people, photographs and listed comparisons there are on either side."""
        people = [len(np.unique(data.identities[rows])) for rows in (self.split.train, self.split.test)]
        listed = {} if self.pairs is None else {"listed_pairs": len(self.pairs)}
        return {
            "seed": self.seed,
            "train_people": people[0],
            "train_rows": len(self.split.train),
            "test_people": people[1],
            "test_rows": len(self.split.test),
            **listed,
        }


def filled(rows: np.ndarray) -> jax.Array:
    """Rows on the device, with zero rows up to a multiple of ``ROWS_STEP`` and zero columns up to a padded width.

    Seeds, and encoders of like width, then share compiled programs.
    """
    return jnp.asarray(np.pad(_widened(rows), ((0, -len(rows) % ROWS_STEP), (0, 0))))


def _widened(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, padded_width(rows.shape[1]) - rows.shape[1])))


def read_pairs(path: str, data: Data) -> PairList:
    """Reads a CSV by its suffix, anything else as LFW's pairs.txt; rows are numbered as in the store."""
    read = read_pairs_csv if path.lower().endswith(".csv") else read_lfw_pairs
    return read(path, data.store.identities, data.store.sample_ids)


def _require_both_kinds(pairs: PairList, path: str, seed: int) -> None:
    genuine = int(np.sum(pairs.genuine))
    if genuine == 0 or genuine == len(pairs):
        raise UserError(
            f"{path}: of its pairs, {genuine:,} genuine and {len(pairs) - genuine:,} impostor ones are among "
            f"the test photographs of seed {seed}; some of either kind are needed."
        )
