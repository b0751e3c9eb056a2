"""Results that an earlier run left, to read instead of measuring again: of the same embeddings and settings."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.run import flags, results
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from jaxalign.core.errors import UserError
from jaxalign.report import Row

FILES = ("results.parquet", "alignability.parquet")
# What numbers of one store by its own maps depend on, beside encoders, methods and seeds.
SETTINGS = (
    *("folds", "max_per_person", "measures", "rank_k", "fmr", "pair_list", "gallery", "nonfinite"),
    *("intervals", "ranks", "loss", "steps", "fit_rank"),
)
OF_PROTOCOL = (
    "normalize",
    "train_fraction",
    "l2",
    "centred_identity",
    "own_photograph",
    "comparisons",
    "fixed",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What an analysis reads instead of measuring it."""

    results: str | None = flags.field(
        None,
        "Directories of an earlier run, separated by commas, to read results from instead of measuring again: of "
        "`experiments.pairwise`, or of `experiments.geometry` where similarities of spaces are wanted. "
        "Example: --results=results/pairwise",
    )


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A results directory.

    Attributes:
      path: as ``--results`` names it.
      content: its ``config.json``.
      rows: of all of its tables.
    """

    path: str
    content: Mapping[str, Any]
    rows: Sequence[Row]

    @classmethod
    def open(cls, text: str) -> "Earlier":
        """Reads a directory.

        Raises:
          UserError: it holds no results, or those of another version.
        """
        path = pathlib.Path(text.strip()).expanduser()
        content = _config(path)
        tables = [path / name for name in FILES if (path / name).exists()]
        return cls(text, content, [row for table in tables for row in results.read_parquet(table)])

    @property
    def datasets(self) -> list[str]:
        """Whose results these are."""
        return sorted({row.dataset for row in self.rows})

    def require_same_embeddings(self, data: Data, config: PairwiseConfig) -> None:
        """Refuses results of other embeddings, or of embeddings prepared or split otherwise."""
        of = self.content.get("store") or next(iter(self.content.get("stores") or ({},)))
        theirs, ours = of.get("checksums", {}), data.store.checksums
        for name in data.encoders:
            if name in theirs and theirs[name] != ours[name]:
                raise UserError(
                    f"--results={self.path} is of other embeddings of encoder {name!r} than this store's."
                )
        self._require_same(config.protocol, self._config.get("protocol", {}), ("normalize", "train_fraction"))

    def require_same_settings(self, config: PairwiseConfig) -> None:
        """Refuses results with other settings, or without one of the methods or seeds."""
        protocol = self._config.get("protocol", {})
        self._require_same(config.protocol, protocol, OF_PROTOCOL)
        self._require_same(config, self._config, SETTINGS)
        for name in ("methods", "seeds"):
            lacking = set(getattr(config.protocol, name)) - set(protocol.get(name, ()))
            if lacking:
                raise UserError(f"--results={self.path} has none of --{name}={min(lacking)}.")

    @property
    def own_rows(self) -> list[Row]:
        """The rows of stores by their own maps that vary nothing."""
        return [row for row in self.rows if not row.axis and row.test_dataset in ("", row.dataset)]

    @property
    def _config(self) -> Mapping[str, Any]:
        return self.content.get("config", {})

    def _require_same(self, ours: Any, theirs: Mapping[str, Any], names: Sequence[str]) -> None:
        for name in names:
            own = results.plain(getattr(ours, name))
            if theirs.get(name, own) != own:
                raise UserError(
                    f"--results={self.path} was made with --{name}={_shown(theirs[name])}, this run has {_shown(own)}."
                )


def of_stores(
    directories: str | None, stores: Sequence[Data], config: PairwiseConfig
) -> dict[str, list[Row]]:
    """Rows of stores by their own maps, by name of the data set, of those that ``directories`` have results of.

    Args:
      directories: of ``experiments.pairwise``, separated by commas, each of one store; None for none.
      stores: those that are asked about.
      config: with the methods and seeds that are wanted, and the settings that the results must have.

    Raises:
      UserError: a directory holds results of another driver, of none of the stores, of other embeddings or settings,
        or not of every pair, method and seed.
    """
    of, protocol = {data.store.dataset: data for data in stores}, config.protocol
    known: dict[str, list[Row]] = {}
    for earlier in map(Earlier.open, directories.split(",") if directories else ()):
        name = earlier.datasets[0] if len(earlier.datasets) == 1 else ""
        if earlier.content.get("driver") != "pairwise":
            raise UserError(
                f"--results={earlier.path}: expected results of pairwise, got those of {earlier.content.get('driver')}."
            )
        if name not in of:
            raise UserError(f"--results={earlier.path} is not of one of the data sets {', '.join(of)} alone.")
        earlier.require_same_embeddings(of[name], config)
        earlier.require_same_settings(config)
        pairs = config.pairs(of[name].encoders)
        wanted = dict.fromkeys(itertools.product(pairs, protocol.methods, protocol.seeds), False)
        known[name] = []
        for row in earlier.own_rows:
            place = (row.source, row.target), row.method, row.seed
            if place in wanted:
                known[name].append(row)
                wanted[place] = True
        lacking = next((place for place, there in wanted.items() if not there), None)
        if lacking is not None:
            (source, target), method, seed = lacking
            raise UserError(
                f"--results={earlier.path} has nothing of {source} → {target} by {method}, seed {seed}."
            )
    return known


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _config(path: pathlib.Path) -> dict:
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--results={path} holds no results: its config.json cannot be read.") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (
        results.FORMAT,
        results.FORMAT_VERSION,
    ):
        raise UserError(f"--results={path}: its config.json is not of results of this version.")
    return content
