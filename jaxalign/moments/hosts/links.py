"""Connections between the processes of one run: they agree, hand over small results, and notice each other's end.

Every process keeps one connection to process 0. JAX's own coordination service cannot serve for this: what it does
where a process is gone, or cannot be reached, is to end this one with a stack trace (``LOG(FATAL)``; jaxlib 0.10.2
cannot call Python instead).

Whoever reaches the port can take part: it is for a network that is trusted, as JAX's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import queue
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import meeting
from jaxalign.moments.hosts.place import Place

REACH_SECONDS = 50.0  # until process 0 must answer, and all processes must have come
SILENT_SECONDS = 60.0  # after which a silent machine counts as lost; an ended process is noticed at once
BEAT_SECONDS = 10.0
LOST = 1  # exit status


@dataclasses.dataclass(frozen=True)
class _Refusal:
    """What process 0 says instead of a value."""

    sentence: str


def end_process(sentence: str, status: int) -> NoReturn:
    """Ends this process at once: its main thread may wait for one that is gone."""
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(status)


class Links:
    """Connections to the other processes; made by ``join``.

    Values that pass are what JSON can hold. All processes call ``gather`` and ``spread`` in the same order.

    Attributes:
      place: of this process.
      scratch: directories to remove where the run is lost.
      advice: what to add to the sentence about a process that is gone.
    """

    def __init__(self, place: Place, on_end: Callable[[str, int], object] = end_process):
        self.place, self.scratch, self.advice = place, list[pathlib.Path](), ""
        self._on_end = on_end
        self._sockets: dict[int, socket.socket] = {}
        self._values: dict[int, queue.SimpleQueue[Any]] = {}
        self._readers: dict[int, threading.Thread] = {}
        self._sending = {number: threading.Lock() for number in range(place.count)}
        self._ending = threading.Lock()
        self._over = False

    @classmethod
    def join(
        cls, place: Place, seconds: float = REACH_SECONDS, on_end: Callable[[str, int], object] = end_process
    ) -> Links:
        """Connects the processes of a run; returns when all are there.

        Args:
          place: of this process.
          seconds: to wait for process 0, and for process 0 to wait for the others.
          on_end: called, from another thread, with a sentence and an exit status when a process is gone.

        Raises:
          UserError: process 0 cannot be reached, or not all came.
        """
        links = cls(place, on_end)
        if place.index == 0:
            links._sockets = meeting.gathered(place, time.monotonic() + seconds)
        else:
            links._sockets = {0: meeting.connected(place, time.monotonic() + seconds, seconds)}
        links._values = {number: queue.SimpleQueue() for number in links._sockets}
        for number in links._sockets:
            reader = threading.Thread(target=links._read, args=(number,), daemon=True)
            links._readers[number] = reader
            reader.start()
        threading.Thread(target=links._beat, daemon=True).start()
        return links

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes, in their order, at process 0; None elsewhere."""
        if self.place.index:
            self._send(0, {"value": value})
            return None
        return [value, *(self._values[number].get() for number in range(1, self.place.count))]

    def spread(self, value: Any = None) -> Any:
        """The value of process 0, everywhere."""
        if self.place.index:
            found = self._values[0].get()
            if isinstance(found, _Refusal):
                raise UserError(found.sentence)
            return found
        for number in self._sockets:
            self._send(number, {"value": value})
        return value

    def refuse(self, sentence: str) -> NoReturn:
        """At process 0, instead of ``spread``: raises the sentence everywhere.

        Raises:
          UserError: with the sentence.
        """
        self._last({"refused": sentence})
        raise UserError(sentence)

    def close(self) -> None:
        """Ends the run for this process, which has done its part; returns when process 0 has done its own."""
        if self.place.index:
            self._readers[0].join()
        else:
            self._last({"done": True})

    def fail(self, sentence: str, status: int) -> None:
        """Ends the run for all: this process cannot go on; the others say so and end with this exit status."""
        place = self.place
        self._last({"failed": f"process {place.index} of {place.count}: {sentence}", "status": status})

    def _last(self, message: dict[str, Any]) -> None:
        """Sends what ends the run, unless it has ended; nobody's end is a surprise from here on."""
        with self._ending:
            over, self._over = self._over, True
        for number in () if over else self._sockets:
            self._send(number, message)

    def _send(self, number: int, message: dict[str, Any]) -> None:
        try:
            with self._sending[number]:
                meeting.write(self._sockets[number], message)
        except OSError:
            self._lost(number)

    def _beat(self) -> None:
        while not self._over:
            time.sleep(BEAT_SECONDS)
            for number in self._sockets:
                if not self._over:
                    self._send(number, {})

    def _read(self, number: int) -> None:
        """Takes what one process sends, until it has done its part or is gone."""
        connection = self._sockets[number]
        connection.settimeout(SILENT_SECONDS)
        try:
            while True:
                message = meeting.read(connection)
                if "failed" in message:
                    self._end(message["failed"], message["status"])
                elif "value" in message:
                    self._values[number].put(message["value"])
                elif "refused" in message:
                    self._over = True
                    self._values[number].put(_Refusal(message["refused"]))
                    return
                elif "done" in message:
                    self._over = True
                    return
        except (OSError, ValueError):
            self._lost(number)

    def _lost(self, number: int) -> None:
        self._end(f"process {number} of {self.place.count} is gone before the run was done.", LOST)

    def _end(self, sentence: str, status: int) -> None:
        """Tells the others, cleans up, and ends this process; the first reason counts."""
        with self._ending:
            over, self._over = self._over, True
        if over:
            return
        message = {"failed": sentence, "status": status}
        for connection in self._sockets.values() if self.place.index == 0 else ():
            with contextlib.suppress(OSError):
                meeting.write(connection, message)
        for directory in self.scratch:
            shutil.rmtree(directory, ignore_errors=True)
        self._on_end(f"{sentence} {self.advice}".strip(), status)
