"""What a sweep does: its configuration, its work items, and what every process of it must agree on."""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from experiments.run import flags
from experiments.run.agreement import describe_store, differences
from experiments.run.config import PairwiseConfig, Stores
from experiments.run.flags import Penalty
from experiments.run.protocols import PENALISED
from experiments.run.results import plain
from jaxalign.core.errors import UserError
from jaxalign.data.atomic import create_once

FILE = "sweep.json"
FORMAT = "jaxalign-sweep"
# Each store sees the configuration of ``experiments.pairwise``; these are set per store and item, or not of use here.
NOT_SHARED = ("store", "images", "crop", "bad_images", "embedding_cache", "overwrite", "save_maps")
NOT_SHARED += ("controls", "heatmaps", "pair_list", "intervals", "curves")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """What a sweep varies beside methods, ranks and seeds."""

    penalties: str | None = flags.field(
        None,
        "Penalties of ridge and reduced_rank, each measured for itself, separated by commas: numbers, and cv or gcv "
        "beside them. Without it: that of --l2. Example: --penalties=0.01,0.1,1,cv",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharing:
    """How many processes share a sweep."""

    stale_seconds: float = flags.field(
        300.0, "An item whose process has shown no sign of life for so long is taken over by another."
    )
    retry_failed: bool = flags.field(False, "Try items again that have failed.")
    wait: bool = flags.field(
        False,
        "At the end wait for items that other processes hold, and take over those whose process stops.",
    )
    max_items: int = flags.field(0, "End after so many items; 0 sets no limit.")
    minutes: float = flags.field(0.0, "Begin no item after so many minutes; 0 sets no limit.")
    merge_only: bool = flags.field(
        False, "Write results.csv and results.parquet from the items done so far, and end."
    )
    dry_run: bool = flags.field(False, "Print how much there is to do, and end; writes nothing.")


@dataclasses.dataclass(frozen=True)
class Item:
    """One piece of work: a method with its penalty at one rank, on one split of one store.

    Attributes:
      number: its place in the order of the results.
      store: number of the store.
      dataset: name of the store's data set.
      seed, method: of the split and the map.
      l2: penalty, or None where the method has none.
      rank: upper limit, or None for none.
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
        """Names its files."""
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
    """A grid over stores, seeds, methods, penalties and ranks.

    Attributes:
      stores: paths.
      penalties: each measured for itself.
      pairwise: everything else, as ``experiments.pairwise`` has it, of the first store.
    """

    stores: tuple[str, ...]
    penalties: tuple[Penalty, ...]
    pairwise: PairwiseConfig

    @classmethod
    def from_flags(cls, values: Any) -> "SweepConfig":
        """Reads absl's flag values.

        Raises:
          UserError: a value is not usable, or two contradict each other.
        """
        if values.stores is None:
            raise UserError("--stores is missing. " + flags.of(Stores)["stores"].help)
        if values.l2 is not None and values.penalties is not None:
            raise UserError("--l2 and --penalties exclude each other; leave one out.")
        paths = tuple(part.strip() for part in values.stores.split(","))
        stores = flags.words("stores", values.stores, paths, "store")
        fixed = {"store": stores[0], "controls": "none", "heatmaps": "none", "images": None, "curves": False}
        pairwise = PairwiseConfig.from_flags(flags.namespace(values, **fixed))
        penalties = (pairwise.protocol.l2,)
        if values.penalties is not None:
            penalties = _penalties(values.penalties, pairwise)
        return cls(stores, penalties, pairwise)

    def for_store(self, number: int) -> PairwiseConfig:
        """What all items of a store share; if one of them needs folds, the split has them for all."""
        chosen = [penalty for penalty in self.penalties if not isinstance(penalty, float)]
        penalty = "cv" if "cv" in chosen else (chosen or self.penalties)[0]
        protocol = dataclasses.replace(self.pairwise.protocol, l2=penalty)
        return dataclasses.replace(self.pairwise, store=self.stores[number], protocol=protocol)

    def for_item(self, item: Item) -> PairwiseConfig:
        """What ``experiments.pairwise`` would be given to fit the item's maps."""
        config = self.for_store(item.store)
        changed: dict[str, Any] = {"seeds": (item.seed,), "methods": (item.method,)}
        changed |= {} if item.l2 is None else {"l2": item.l2}
        return dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, **changed))

    def items(self, datasets: list[str]) -> list[Item]:
        """All items, those of one split after one another, in the order of the results."""
        protocol, found = self.pairwise.protocol, []
        for store, seed, method in itertools.product(
            range(len(self.stores)), protocol.seeds, protocol.methods
        ):
            for l2 in self.penalties if method in PENALISED else (None,):
                for rank in self.pairwise.cuts(method):
                    found.append(Item(len(found), store, datasets[store], seed, method, l2, rank))
        return found

    def varied_penalty(self, item: Item) -> dict[str, Any]:
        """What the rows of an item need to be told from those of another penalty."""
        if item.l2 is None or len(self.penalties) == 1:
            return {}
        return {"axis": "l2", "at": item.l2 if isinstance(item.l2, float) else None}

    def describe(self) -> dict[str, Any]:
        """What all processes must agree on: the configuration, and the content of the stores by checksum.

        Raises:
          UserError: a store cannot be opened, or two hold one data set.
        """
        own = (*NOT_SHARED, "out", "devices")
        shared = {key: value for key, value in plain(self.pairwise).items() if key not in own}
        stores = [describe_store(path, self.pairwise.models) for path in self.stores]
        names = [store["dataset"] for store in stores]
        if len(set(names)) < len(names):
            raise UserError(
                f"--stores: two stores hold a data set of one name ({', '.join(names)}), so that their results "
                "could not be told apart; import one under another name."
            )
        return {"stores": stores, "penalties": plain(self.penalties), **shared}


def agree(directory: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Writes ``sweep.json``; of several processes that begin one sweep, one does, and the others compare with it.

    Raises:
      UserError: as ``require_agreement``.
    """
    text = json.dumps(_content(described), indent=1, ensure_ascii=False) + "\n"
    if not create_once(directory / FILE, text.encode()):
        require_agreement(directory, described)


def require_agreement(directory: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Compares with the ``sweep.json`` of a directory, if there is one.

    Raises:
      UserError: it is of another configuration, or of stores of another content.
    """
    path = directory / FILE
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error}).") from error
    found = list(differences(there, json.loads(json.dumps(_content(described)))))
    if found:
        raise UserError(
            f"{directory} holds another sweep: {'; '.join(found[:3])}. Give the same flags and stores, or "
            "another --out."
        )


def _content(described: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "version": 1, **described}


def _penalties(text: str, pairwise: PairwiseConfig) -> tuple[Penalty, ...]:
    if not PENALISED & set(pairwise.protocol.methods):
        raise UserError(f"--penalties applies to {', '.join(sorted(PENALISED))}; --methods has none of them.")
    if "l2" in pairwise.protocol.fixed:
        raise UserError(f"--protocol={pairwise.protocol.name} fixes the penalty; leave --penalties out.")
    found: list[Penalty] = []
    for part in text.split(","):
        found.append(flags.penalty("penalties", part.strip()))
    if len(set(found)) < len(found):
        raise UserError("--penalties names one twice.")
    if {"cv", "gcv"} <= set(found):
        raise UserError("--penalties takes cv or gcv, not both: their results could not be told apart.")
    return tuple(found)
