"""The grid of a sweep: its configuration, its items, how one item is computed, and how items become one table."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.run import flags, results
from experiments.run.aligning import Aligning, Place, empty_rows
from experiments.run.config import OF_PHOTOGRAPHS, PairwiseConfig, Stores
from experiments.run.data import Data
from experiments.run.flags import Penalty
from experiments.run.hosts import describe_store, differences
from experiments.run.measuring import Measuring, TestRows
from experiments.run.protocols import PENALISED
from experiments.run.results import FitRow, Writer, plain
from experiments.run.results_tree import SWEEP
from experiments.run.units import Units
from jaxalign import FoldMoments
from jaxalign.core.errors import UserError
from jaxalign.core.files import read_json
from jaxalign.data.atomic import locked, remove_left, temporary_name, write_atomically, writing
from jaxalign.report import Row

FORMAT = {"format": "jaxalign-sweep", "version": 2}
MERGE = "merge"  # what the tables are until all of them are written
# Each store sees the configuration of ``experiments.pairwise``; these fields are set per store and item, or have no
# meaning in a sweep.
NOT_SHARED = ("store", *OF_PHOTOGRAPHS, "overwrite", "save_maps")
NOT_SHARED += ("controls", "heatmaps", "pair_list", "intervals", "curves")


@dataclasses.dataclass(frozen=True)
class Item:
    """One unit of a sweep: a method with its penalty (None if it has none) at one rank, on one split of one store.

    ``number`` is its index in the order of the results, ``store`` that of the store, ``rank`` an upper limit or None.
    """

    number: int
    store: int
    dataset: str
    seed: int
    method: str
    l2: Penalty | None
    rank: int | None

    @property
    def id(self) -> str:
        """Names its file."""
        parts = [f"{self.number:05d}", self.dataset, f"seed{self.seed}", self.method]
        if self.l2 is not None:
            parts.append("l2_" + ("grid" if isinstance(self.l2, tuple) else f"{self.l2}"))
        parts += [] if self.rank is None else [f"rank{self.rank}"]
        return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(parts))

    @property
    def split(self) -> tuple[int, int]:
        """Items of one split share rows and moments."""
        return self.store, self.seed

    @property
    def fit(self) -> tuple[Any, ...]:
        """Items of one fit share maps."""
        return *self.split, self.method, self.l2


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A grid over stores (paths), seeds, methods, penalties and ranks.

    ``pairwise`` is everything else, as ``experiments.pairwise`` has it for the first store.
    """

    stores: tuple[str, ...]
    penalties: tuple[Penalty, ...]
    pairwise: PairwiseConfig

    @classmethod
    def from_flags(cls, values: Any) -> "SweepConfig":
        """Reads absl's flag values; ``UserError`` where one is not usable, or two contradict each other."""
        if values.stores is None:
            raise UserError("--stores is missing. " + flags.of(Stores)["stores"].help)
        if values.l2 is not None and values.penalties is not None:
            raise UserError("--l2 and --penalties exclude each other; leave one out.")
        stores = flags.words("stores", values.stores, None, "store")
        fixed = {"store": stores[0], "controls": "none", "heatmaps": "none", "images": None, "curves": False}
        pairwise = PairwiseConfig.from_flags(flags.namespace(values, **fixed))
        return cls(stores, _penalties(values.penalties, pairwise), pairwise)

    def for_store(self, number: int) -> PairwiseConfig:
        """What all items of a store share. If one of them needs folds, the split has folds for all of them."""
        chosen = [penalty for penalty in self.penalties if not isinstance(penalty, float)]
        penalty = "cv" if "cv" in chosen else (chosen or self.penalties)[0]
        return dataclasses.replace(self.pairwise.with_protocol(l2=penalty), store=self.stores[number])

    def for_item(self, item: Item) -> PairwiseConfig:
        """The configuration that ``experiments.pairwise`` would need to fit the item's maps."""
        penalty = {} if item.l2 is None else {"l2": item.l2}
        config = self.for_store(item.store)
        return config.with_protocol(seeds=(item.seed,), methods=(item.method,), **penalty)

    def items(self, datasets: list[str]) -> list[Item]:
        """All items in the order of the results: those of one split follow each other, and in it those of one fit."""
        protocol, found = self.pairwise.protocol, []
        every = itertools.product(range(len(self.stores)), protocol.seeds, protocol.methods)
        for store, seed, method in every:
            penalties = self.penalties if method in PENALISED else (None,)
            for l2, rank in itertools.product(penalties, self.pairwise.cuts(method)):
                found.append(Item(len(found), store, datasets[store], seed, method, l2, rank))
        return found

    def varied_penalty(self, item: Item) -> dict[str, Any]:
        """The fields that tell the rows of an item from those of another penalty."""
        if item.l2 is None or len(self.penalties) == 1:
            return {}
        return {"axis": "l2", "at": item.l2 if isinstance(item.l2, float) else None}

    def describe(self) -> dict[str, Any]:
        """What every process must agree on: the configuration, and the content of the stores by checksum."""
        own = (*NOT_SHARED, "out", "devices")
        shared = {key: value for key, value in plain(self.pairwise).items() if key not in own}
        stores = [describe_store(path, self.pairwise.models) for path in self.stores]
        names = [store["dataset"] for store in stores]
        if len(set(names)) < len(names):
            same = f"two stores hold a data set of one name ({', '.join(names)})"
            raise UserError(f"--stores: {same}; import one of them under another name.")
        # Through JSON, so that it equals what is read back from a file.
        return json.loads(json.dumps({"stores": stores, "penalties": plain(self.penalties), **shared}))


def write_description(directory: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Writes ``sweep.json``, for people and for ``require_same_sweep``."""
    text = json.dumps({**FORMAT, **described}, indent=1, ensure_ascii=False) + "\n"
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / SWEEP, lambda file: file.write(text.encode()))


def require_same_sweep(directory: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Raises ``UserError`` if a directory holds a sweep of another configuration, or of stores with other content."""
    path = directory / SWEEP
    if not path.exists():
        return
    found = list(differences(read_json(path), {**FORMAT, **described}))
    if found:
        advice = "Give the same flags and stores, or another --out."
        raise UserError(f"{directory} holds another sweep: {'; '.join(found[:3])}. {advice}")


class Computing:
    """Computes items as ``experiments.pairwise`` does; caches moments of the last split and maps of the last fit."""

    def __init__(self, config: SweepConfig, stores: Sequence[Data]):
        self.config, self.stores = config, stores
        self.environment = results.environment()
        self._split: tuple[Any, ...] = ()  # which split it is, and what its items share
        self._maps: tuple[Any, ...] = ()  # likewise of a fit

    def contents(
        self, items: Sequence[Item], deadline: float, show: Callable[[str], None]
    ) -> Iterator[tuple[Item, dict[str, Any]]]:
        """Items and what their files hold, one after another; none begins after the deadline."""
        for item in itertools.takewhile(lambda _: time.monotonic() <= deadline, items):
            yield item, self.content(item, show)

    def content(self, item: Item, show: Callable[[str], None]) -> dict[str, Any]:
        """What the item's file holds: rows, fits and comparisons without a value, or why it failed.

        Environment and seconds are for people; all else is the same whoever computes the item. An ``OSError`` says
        nothing about the item and is raised as ``UserError``.
        """
        started = time.monotonic()
        try:
            content = self._measured(item, show)
        except OSError as error:
            raise UserError(f"{item.id} could not be computed: {error.strerror or error}.") from error
        except UserError as mistake:
            content = {"failed": str(mistake)}
        except Exception as defect:
            content = {"failed": f"a defect, {defect!r}", "traceback": traceback.format_exc()}
        seconds = round(time.monotonic() - started, 3)
        by = {"host": socket.gethostname(), "process": os.getpid(), "seconds": seconds}
        return {**content, **by, "environment": self.environment}

    def _measured(self, item: Item, show: Callable[[str], None]) -> dict[str, Any]:
        data = self.stores[item.store]
        aligning = Aligning(self.config.for_item(item), data)
        measuring, moments, test = self._shared_by_split(item, aligning)
        if self._maps[:1] != (item.fit,):
            self._maps = ()
            self._maps = item.fit, aligning.fit(moments, item.method, measuring)
        measured = aligning.measure_maps(measuring, test, item.method, self._maps[1], (item.rank,))
        for done, (source, target) in measured:
            show(f"{item.id}, {done}, {source} → {target}")
        mark = self.config.varied_penalty(item)
        return {
            "rows": [row._replace(**mark) for row in aligning.rows],
            "fits": aligning.fits,
            "without_value": [(place._replace(**mark), why) for place, why in aligning.without_value.items()],
            "warnings": [*data.warnings, *data.score_notes(self.config.for_store(item.store))],
        }

    def _shared_by_split(self, item: Item, aligning: Aligning) -> tuple[Measuring, FoldMoments, TestRows]:
        if self._split[:1] != (item.split,):
            self._split = self._maps = ()  # first: memory may not hold two splits
            data = self.stores[item.store]
            measuring = Measuring.of(self.config.for_store(item.store), data, item.seed)
            self._split = item.split, (measuring, aligning.moments(measuring), measuring.test_rows(data))
        return self._split[1]


class Standing(NamedTuple):
    """How items of a sweep stand: those with results, those that failed and why, those without a sound file."""

    done: list[Item]
    failed: dict[Item, str]
    missing: list[Item]

    @classmethod
    def of(cls, items: Sequence[Item], units: Units) -> "Standing":
        """Reads the items' files."""
        found = cls([], {}, [])
        for item in items:
            content = units.read(item.id) if item.id in units else None
            if content is None:
                found.missing.append(item)
            elif "failed" in content:
                found.failed[item] = content["failed"]
            else:
                found.done.append(item)
        return found


def merge(
    directory: pathlib.Path, items: Sequence[Item], units: Units, described: Mapping[str, Any]
) -> list[Row]:
    """Writes the tables of finished items, which depend on the items' files alone; returns the rows.

    ``config.json`` holds the description of the sweep and checksums of the tables, for those who read them.

    Raises:
      UserError: not one comparison could be made.
    """
    rows: list[Row] = []
    fits: list[FitRow] = []
    warnings: dict[str, None] = {}
    for _, of_store in itertools.groupby(items, lambda item: item.store):
        stored: list[Row] = []
        missing: dict[Place, str] = {}
        for _, of_fit in itertools.groupby(of_store, lambda item: item.fit):
            contents = [units.read(item.id) for item in of_fit]
            warnings |= dict.fromkeys(text for content in contents for text in content.get("warnings", ()))
            fits += [FitRow(*fit) for fit in contents[0]["fits"]]  # the same at all ranks
            stored += _pair_by_pair([Row(*row) for content in contents for row in content["rows"]])
            missing |= {Place(*place): why for content in contents for place, why in content["without_value"]}
        rows += stored
        rows += empty_rows(stored or rows, missing)
    with writing(directory), locked(directory) as alone, temporary_name(directory / MERGE) as temporary:
        if alone:
            remove_left(directory, MERGE)
        temporary.mkdir()
        write = Writer(temporary)
        write.table(rows)
        write.csv("fits.csv", FitRow._fields, fits)
        write.config("sweep", described, warnings=list(warnings))
        if write.failed:
            raise results.NotWrittenError(f"{directory}: {write.failed}. The items are there.")
        for name in ("results.csv", "results.parquet", "fits.csv", "config.json"):
            os.replace(write.directory / name, directory / name)
    return rows


def _pair_by_pair(rows: Sequence[Row]) -> list[Row]:
    """The rows of several ranks, all ranks of a pair together."""
    order = {pair: k for k, pair in enumerate(dict.fromkeys(row[1:3] for row in rows))}
    return sorted(rows, key=lambda row: order[row[1:3]])


def _penalties(text: str | None, pairwise: PairwiseConfig) -> tuple[Penalty, ...]:
    """The penalties to measure, which are that of the protocol where no text is given."""
    if text is None:
        return (pairwise.protocol.l2,)
    if not PENALISED & set(pairwise.protocol.methods):
        raise UserError(f"--penalties applies to {', '.join(sorted(PENALISED))}; --methods has none of them.")
    if "l2" in pairwise.protocol.fixed:
        raise UserError(f"--protocol={pairwise.protocol.name} fixes the penalty; leave --penalties out.")
    found = [flags.penalty("penalties", part.strip()) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise UserError("--penalties names one twice.")
    if {"cv", "gcv"} <= set(found):
        raise UserError("--penalties takes cv or gcv, not both: their results could not be told apart.")
    return tuple(found)
