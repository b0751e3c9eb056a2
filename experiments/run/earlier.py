"""Results of earlier runs to use instead of measuring again (--results)."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.run import flags
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from experiments.run.results import plain
from experiments.run.results_tree import read_config, read_rows, shown
from jaxalign.core.errors import UserError
from jaxalign.report.part import CONTROLS, RELATIVE
from jaxalign.report.records import COSINE, Row

TABLES = ("results.parquet", "alignability.parquet")
# What the numbers of one store by its own maps depend on, besides encoders, methods and seeds.
SETTINGS = (
    *("folds", "max_per_person", "measures", "rank_k", "fmr", "pair_list", "gallery", "nonfinite"),
    *("intervals", "ranks", "loss", "steps", "fit_rank"),
)
PROTOCOL_SETTINGS = (
    *("normalize", "train_fraction", "l2", "centred_identity", "own_photograph", "comparisons", "fixed"),
)

READING: flags.Group = dict(
    results=flags.Flag(
        None,
        "Directories of an earlier run, separated by commas, to read results from instead of measuring again: of "
        "`experiments.pairwise`, or of `experiments.geometry` where similarities of spaces are wanted. "
        "Example: --results=results/pairwise",
    ),
)


@dataclasses.dataclass(frozen=True)
class Earlier:
    """An earlier run: its path as ``--results`` names it, its ``config.json``, the rows of its tables."""

    path: str
    content: Mapping[str, Any]
    rows: Sequence[Row]

    @classmethod
    def open(cls, text: str) -> "Earlier":
        """Reads a directory; ``UserError`` where it holds no results, damaged ones, or those of another version."""
        path = pathlib.Path(text.strip()).expanduser()
        try:
            return cls(text, read_config(path), [row for name in TABLES for row in read_rows(path / name)])
        except UserError as error:
            raise UserError(f"--results={text}: {error}") from error

    @property
    def datasets(self) -> list[str]:
        """The data sets that the results are of."""
        return sorted({row.dataset for row in self.rows})

    @property
    def own_rows(self) -> list[Row]:
        """The rows by the cosine of stores by their own maps that vary nothing, without controls and what follows.

        Raises:
          UserError: there are such rows, but by other scores alone.
        """
        found = [
            row
            for row in self.rows
            if not row.axis
            and row.test_dataset in ("", row.dataset)
            and row.method not in CONTROLS
            and not row.measure.endswith(RELATIVE)
        ]
        by_cosine = [row for row in found if row.score == COSINE]
        if found and not by_cosine:
            other = ",".join(dict.fromkeys(row.score for row in found))
            raise UserError(
                f"--results={self.path}: expected results by the cosine, got --scores={other} alone."
            )
        return by_cosine

    def require_same_embeddings(self, data: Data, config: PairwiseConfig) -> None:
        """Refuses results of other embeddings, or of embeddings prepared or split otherwise."""
        of = self.content.get("store") or next(iter(self.content.get("stores") or ({},)))
        theirs, ours = of.get("checksums", {}), data.store.checksums
        for name in data.encoders:
            if theirs.get(name, ours[name]) != ours[name]:
                other = f"is of other embeddings of encoder {name!r} than this store's"
                raise UserError(f"--results={self.path} {other}.")
        self._require_same(config.protocol, self._config.get("protocol", {}), ("normalize", "train_fraction"))

    def require_same_settings(self, config: PairwiseConfig) -> None:
        """Refuses results with other settings, or without one of the methods or seeds."""
        protocol = self._config.get("protocol", {})
        self._require_same(config.protocol, protocol, PROTOCOL_SETTINGS)
        self._require_same(config, self._config, SETTINGS)
        for name in ("methods", "seeds"):
            lacking = set(getattr(config.protocol, name)) - set(protocol.get(name, ()))
            if lacking:
                raise UserError(f"--results={self.path} has none of --{name}={min(lacking)}.")

    @property
    def _config(self) -> Mapping[str, Any]:
        return self.content.get("config", {})

    def _require_same(self, ours: Any, theirs: Mapping[str, Any], names: Sequence[str]) -> None:
        for name in names:
            own = plain(getattr(ours, name))
            if theirs.get(name, own) != own:
                made = f"was made with --{name}={shown(theirs[name])}, this run has {shown(own)}"
                raise UserError(f"--results={self.path} {made}.")


def of_stores(
    directories: str | None, stores: Sequence[Data], config: PairwiseConfig
) -> dict[str, list[Row]]:
    """Rows of stores by their own maps, by data set, where ``directories`` have results of ``experiments.pairwise``.

    Raises:
      UserError: a directory has results of another command, of none of the stores, of other embeddings or settings
        than ``config``, or lacks a pair, method or seed of it.
    """
    of = {data.store.dataset: data for data in stores}
    known: dict[str, list[Row]] = {}
    for earlier in map(Earlier.open, directories.split(",") if directories else ()):
        called, driver = f"--results={earlier.path}", earlier.content.get("driver")
        if driver != "pairwise":
            raise UserError(f"{called}: expected results of pairwise, got those of {driver}.")
        name = earlier.datasets[0] if len(earlier.datasets) == 1 else ""
        if name not in of:
            raise UserError(f"{called} is not of one of the data sets {', '.join(of)} alone.")
        earlier.require_same_embeddings(of[name], config)
        earlier.require_same_settings(config)
        pairs = config.pairs(of[name].dims)
        wanted = dict.fromkeys(itertools.product(pairs, config.protocol.methods, config.protocol.seeds))
        place_of = lambda row: ((row.source, row.target), row.method, row.seed)  # noqa: E731
        known[name] = [row for row in earlier.own_rows if place_of(row) in wanted]
        there = set(map(place_of, known[name]))
        for (source, target), method, seed in wanted:
            if ((source, target), method, seed) not in there:
                raise UserError(f"{called} has nothing of {source} → {target} by {method}, seed {seed}.")
    return known
