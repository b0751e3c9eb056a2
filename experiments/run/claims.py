"""Who does which item of a shared list: a protocol of files that any number of processes on any host can follow.

The directory holds, for an item ``<id>``::

  <id>.<attempt>.claim     somebody works on it; touched as long as he lives
  <id>.<attempt>.failed    that attempt ended in a failure, with its reason
  <id>.done                it is done

Attempts are numbered from 1. A claim is made by creating the file of the next attempt, which succeeds for exactly one
process, and no claim is ever removed or renamed. So a process that decides by an old listing (network file systems keep
listings for seconds) can only try to create what is there already, and loses: there is no moment in which two hold one
attempt. A claim that was not touched for long, or was given back by setting its time to 1970, does not hold: the next
attempt may be created.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxalign.data.atomic import create_once

PENDING, CLAIMED, STALE, FAILED, DONE = "pending", "claimed", "stale", "failed", "done"
_NAME = re.compile(r"(?P<item>.+?)(?:\.(?P<attempt>\d+))?\.(?P<kind>claim|failed|done)")


@dataclasses.dataclass(frozen=True)
class State:
    """Where an item stands.

    Attributes:
      kind: ``PENDING``, ``CLAIMED``, ``STALE``, ``FAILED`` or ``DONE``.
      attempt: number of the last one; 0 for none.
    """

    kind: str
    attempt: int = 0


@dataclasses.dataclass(frozen=True)
class Claim:
    """The right to do an item.

    Attributes:
      item: its id.
      attempt: number of this one.
      path: of the claim's file.
      released: set when the item was given back.
    """

    item: str
    attempt: int
    path: pathlib.Path
    released: threading.Event = dataclasses.field(default_factory=threading.Event, compare=False)

    def touch(self) -> None:
        """Shows that the owner lives. The file server's clock is used where it has one."""
        if not self.released.is_set():
            os.utime(self.path)

    def release(self) -> None:
        """Gives the item back, to be taken at once by anybody."""
        self.released.set()
        os.utime(self.path, (0, 0))

    @contextlib.contextmanager
    def heartbeat(self, seconds: float) -> Iterator[None]:
        """Touches the claim every so many seconds, on a thread, until the block ends."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(seconds):
                with contextlib.suppress(OSError):  # the file server is away; the next beat may reach it
                    self.touch()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Claims:
    """The states of all items.

    Args:
      directory: shared by all processes; must be there.
      stale_seconds: a claim untouched for longer does not hold.
    """

    def __init__(self, directory: pathlib.Path, stale_seconds: float):
        self.directory = directory
        self.stale_seconds = stale_seconds

    def states(self, items: Collection[str]) -> dict[str, State]:
        """The state of each item, from one listing of the directory."""
        # The clock first: it makes a file, after which a network file system lists the directory anew.
        now = self._now()
        claims, failed, done = dict.fromkeys(items, 0), {}, set()
        for name in os.listdir(self.directory):
            found = _NAME.fullmatch(name)
            if found is None or found["item"] not in claims:
                continue
            item, attempt = found["item"], int(found["attempt"] or 0)
            if found["kind"] == "claim":
                claims[item] = max(claims[item], attempt)
            elif found["kind"] == "failed":
                failed[item] = max(failed.get(item, 0), attempt)
            else:
                done.add(item)
        return {
            item: self._state(item, claims[item], failed.get(item, 0), item in done, now) for item in items
        }

    def take(self, item: str, state: State) -> Claim | None:
        """Begins the attempt after ``state``; None where somebody else has begun it, or the item is done by now."""
        attempt = state.attempt + 1
        path = self._path(item, "claim", attempt)
        if not create_once(path, _json(owner())) or self._path(item, "done").exists():
            return None
        return Claim(item, attempt, path)

    def finish(self, claim: Claim, record: Mapping[str, Any]) -> bool:
        """Marks an item as done; False where another attempt was first, whose record then stays."""
        content = {**owner(), "attempt": claim.attempt, **record}
        return create_once(self._path(claim.item, "done"), _json(content))

    def fail(self, claim: Claim, record: Mapping[str, Any]) -> None:
        """Marks an attempt as failed."""
        content = {**owner(), "attempt": claim.attempt, **record}
        create_once(self._path(claim.item, "failed", claim.attempt), _json(content))

    def done(self, item: str) -> dict[str, Any]:
        """The record of an item that is done."""
        return json.loads(self._path(item, "done").read_text(encoding="utf-8"))

    def failure(self, item: str, state: State) -> str:
        """Why an item failed."""
        return json.loads(self._path(item, "failed", state.attempt).read_text(encoding="utf-8"))["reason"]

    def _state(self, item: str, attempt: int, failed: int, done: bool, now: float) -> State:
        if done:
            return State(DONE, attempt)
        if attempt == 0:
            return State(PENDING)
        if failed == attempt:
            return State(FAILED, attempt)
        touched = os.stat(self._path(item, "claim", attempt)).st_mtime
        return State(STALE if now - touched > self.stale_seconds else CLAIMED, attempt)

    def _path(self, item: str, kind: str, attempt: int | None = None) -> pathlib.Path:
        return self.directory / (f"{item}.{kind}" if attempt is None else f"{item}.{attempt}.{kind}")

    def _now(self) -> float:
        """The time by the clock that stamps the claims, which over a network is the file server's and not ours."""
        probe = self.directory / f".clock.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def owner() -> dict[str, Any]:
    """Who writes: for people who look into the files."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
