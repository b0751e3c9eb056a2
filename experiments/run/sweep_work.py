"""One process's part in a sweep: takes items, does them, publishes what came out."""

import contextlib
import dataclasses
import pathlib
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.run import results
from experiments.run.aligning import Aligning
from experiments.run.claims import CLAIMED, DONE, FAILED, PENDING, STALE, Claim, Claims, State
from experiments.run.data import Data
from experiments.run.measuring import Measuring, TestRows
from experiments.run.progress import Progress, duration
from experiments.run.sweep_config import Item, SweepConfig
from experiments.run.sweep_results import publish
from jaxalign import FoldMoments, PairwiseMaps
from jaxalign.core.errors import UserError

LONGEST_BEAT = 30.0  # seconds between signs of life
LONGEST_NAP = 5.0  # seconds between looks at what others hold


@dataclasses.dataclass(frozen=True)
class Split:
    """What the items of one (store, seed) share; only the last one is kept."""

    measuring: Measuring
    moments: FoldMoments
    test: TestRows


class Doing:
    """Does items as ``experiments.pairwise`` does, keeping the last split's moments and the last fit's maps.

    Attributes:
      environment: versions and machine, to record with every item.
      last: the item done last.
    """

    def __init__(self, config: SweepConfig, stores: Sequence[Data]):
        self.config, self.stores = config, stores
        self.environment = results.environment()
        self.last: Item | None = None
        self._split: tuple[tuple[int, int], Split] | None = None
        self._maps: tuple[tuple[Any, ...], PairwiseMaps] | None = None

    def do(self, item: Item, progress: Progress) -> Aligning:
        """Everything measured of one item.

        Raises:
          UserError: the split cannot be made, or the method cannot be fitted.
        """
        self.last = item
        aligning = Aligning(self.config.for_item(item), self.stores[item.store])
        split = self._split_of(item, aligning)
        maps = self._maps_of(item, aligning, split)
        measured = aligning.measure_maps(split.measuring, split.test, item.method, maps, (item.rank,))
        for done, (source, target) in measured:
            progress.show(f"{item.id}, {done}, {source} → {target}")
        mark = self.config.varied_penalty(item)
        aligning.rows = [row._replace(**mark) for row in aligning.rows]
        return aligning

    def _split_of(self, item: Item, aligning: Aligning) -> Split:
        if self._split is None or self._split[0] != item.split:
            self._split = self._maps = None  # before the next are made: two may not fit
            data = self.stores[item.store]
            measuring = Measuring.of(self.config.for_store(item.store), data, item.seed)
            made = Split(measuring, aligning.moments(measuring), measuring.test_rows(data))
            self._split = item.split, made
        return self._split[1]

    def _maps_of(self, item: Item, aligning: Aligning, split: Split) -> PairwiseMaps:
        if self._maps is None or self._maps[0] != item.fit:
            self._maps = None
            self._maps = item.fit, aligning.fit(split.moments, item.method, split.measuring)
        return self._maps[1]


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a process ends though there are items left.

    Attributes:
      items: that it begins at most; 0 for any number.
      until: by ``time.monotonic``; begins none after it.
      wait: whether to wait for items that others hold.
    """

    items: int = 0
    until: float = float("inf")
    wait: bool = False

    def reached(self, begun: int) -> bool:
        """Whether no further item may begin."""
        return bool(self.items and begun >= self.items) or time.monotonic() > self.until


def work(
    directory: pathlib.Path,
    items: Sequence[Item],
    claims: Claims,
    doing: Doing,
    limits: Limits,
    retry_failed: bool,
    progress: Progress,
) -> int:
    """Takes and does items until there are none to take, or a limit is reached.

    Args:
      directory: of the sweep.
      items, claims: all of them, and their states.
      doing: does one.
      limits: of this process.
      retry_failed: take items, too, that had failed when it began.
      progress: shows what happens.

    Returns:
      How many items it did, failed ones included.
    """
    ids = [item.id for item in items]
    begun, again = 0, {}
    if retry_failed:
        again = {id: state for id, state in claims.states(ids).items() if state.kind == FAILED}
    while not limits.reached(begun):
        states = claims.states(ids)
        taken = take_next(items, states, claims, doing.last, again)
        if taken is not None:
            _do(directory, *taken, claims, doing, progress)
            begun += 1
        elif limits.wait and any(state.kind == CLAIMED for state in states.values()):
            progress.show("waiting for items that other processes hold")
            time.sleep(min(LONGEST_NAP, claims.stale_seconds / 4))
        elif not any(_is_free(states[id], again.get(id)) for id in ids):
            break  # otherwise others were faster with all of them: look again
    return begun


def take_next(
    items: Sequence[Item],
    states: Mapping[str, State],
    claims: Claims,
    last: Item | None,
    again: Mapping[str, State],
) -> tuple[Item, Claim] | None:
    """The first item that this process gets, in the order of ``by_shared_work``."""
    for item in by_shared_work(items, states, last):
        state = states[item.id]
        if _is_free(state, again.get(item.id)):
            claim = claims.take(item.id, state)
            if claim is not None:
                return item, claim
    return None


def by_shared_work(items: Sequence[Item], states: Mapping[str, State], last: Item | None) -> list[Item]:
    """Items in the order in which a process should try them.

    First those whose maps it has in memory, then those whose moments it has, then those of splits that the fewest
    others work on, so that processes spread over splits and each reads few.
    """
    held = [item for item in items if states[item.id].kind == CLAIMED]
    on_split, on_fit = Counter(item.split for item in held), Counter(item.fit for item in held)

    def key(item: Item) -> tuple[Any, ...]:
        fit = last is not None and item.fit == last.fit
        split = last is not None and item.split == last.split
        return not fit, not split, 0 if split else on_split[item.split], on_fit[item.fit], item.number

    return sorted(items, key=key)


def _is_free(state: State, failed_before: State | None) -> bool:
    return state.kind in (PENDING, STALE) or (state.kind == FAILED and state == failed_before)


def _do(
    directory: pathlib.Path, item: Item, claim: Claim, claims: Claims, doing: Doing, progress: Progress
) -> None:
    """Does one item; whatever happens, its claim ends as done, failed or given back."""
    started = time.monotonic()
    beat = min(LONGEST_BEAT, claims.stale_seconds / 5)
    with _given_back_when_interrupted(claim):
        try:
            with claim.heartbeat(beat):
                found = doing.do(item, progress)
                record = publish(directory, item, claim, found)
        except UserError as mistake:
            claims.fail(claim, {"reason": str(mistake)})
            progress.note(f"{item.id}: failed")
            return
        except OSError:  # a full disk or a lost server: of this process, not of the item
            claim.release()
            raise
        except Exception as defect:
            # It would stop whoever takes the item next, too: the others shall go on with theirs.
            claims.fail(claim, {"reason": f"a defect, {defect!r}", "traceback": traceback.format_exc()})
            raise
        seconds = time.monotonic() - started
        more = {"seconds": round(seconds, 3), "environment": doing.environment}
        claims.finish(claim, {**record, **more})
    progress.note(f"{item.id}: {len(found.rows):,} results in {duration(seconds)}")


@contextlib.contextmanager
def _given_back_when_interrupted(claim: Claim) -> Iterator[None]:
    """Ctrl-C and SIGTERM give the claim back at once, before threads that still compute have come to their end."""

    def interrupt(*_: object) -> None:
        claim.release()
        raise KeyboardInterrupt

    kinds = [kind for kind in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(kind) is not signal.SIG_IGN]
    before = {kind: signal.signal(kind, interrupt) for kind in kinds}
    try:
        yield
    except KeyboardInterrupt:
        claim.release()
        raise
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def unfinished(states: Mapping[str, State]) -> list[str]:
    """Ids of items that are neither done nor failed."""
    return [id for id, state in states.items() if state.kind not in (DONE, FAILED)]
