"""Connections between the processes of one run: they agree, hand over small results, and notice each other's end.

Every process keeps one connection to process 0. JAX's own coordination service cannot serve for this: what it does
where a process is gone, or cannot be reached, is to end this one with a stack trace (``LOG(FATAL)``; jaxlib 0.10.2
cannot call Python instead).

Whoever reaches the port can take part: it is for a network that is trusted, as JAX's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from jaxalign.errors import UserError
from jaxalign.hosts.place import Place

REACH_SECONDS = 50.0  # until process 0 must answer, and all processes must have come
SILENT_SECONDS = (
    60.0  # without a sign of life a machine counts as lost; a process that ends is noticed at once
)
BEAT_SECONDS = 10.0
HELLO = "jaxalign"
LOST = 1  # exit status

_LENGTH = struct.Struct(">Q")
_MOST_BYTES = 2**34
_FOREIGN_BYTES = 2**16  # of a greeting; what is longer is not ours


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
            links._sockets = _gathered(place, time.monotonic() + seconds)
        else:
            links._sockets = {0: _connected(place, time.monotonic() + seconds, seconds)}
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
                _write(self._sockets[number], message)
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
                message = _read(connection)
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
                _write(connection, message)
        for directory in self.scratch:
            shutil.rmtree(directory, ignore_errors=True)
        self._on_end(f"{sentence} {self.advice}".strip(), status)


def _gathered(place: Place, until: float) -> dict[int, socket.socket]:
    """At process 0: the connections of all others."""
    with _listener(place) as listener:
        found: dict[int, socket.socket] = {}
        problem = None
        while problem is None and len(found) < place.count - 1:
            missing = [str(number) for number in range(1, place.count) if number not in found]
            listener.settimeout(max(0.01, until - time.monotonic()))
            try:
                connection, _ = listener.accept()
                connection.settimeout(max(0.01, until - time.monotonic()))
                hello = _read(connection, _FOREIGN_BYTES)
            except TimeoutError:
                which = f"process{'es' * (len(missing) > 1)} {', '.join(missing[:8])}"
                problem = f"{which} of {place.count} did not come to {place.address} in time."
                break
            except (OSError, ValueError):
                continue  # somebody else
            number = hello.get(HELLO)
            if not isinstance(number, int) or hello.get("count") != place.count or str(number) not in missing:
                problem = (
                    f"at {place.address} one process says that it is process {number} of {hello.get('count')}; "
                    f"process 0 expects {', '.join(missing)} of {place.count}."
                )
                with contextlib.suppress(OSError):
                    _write(connection, {"refused": problem})
                break
            found[number] = connection
        for connection in found.values():
            with contextlib.suppress(OSError):
                _write(connection, {"refused": problem} if problem else {"complete": True})
    if problem:
        raise UserError(problem)
    return found


def _listener(place: Place) -> socket.socket:
    address = ("127.0.0.1" if place.host == "localhost" else place.host) if place.is_loopback else ""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, place.port), family=family, backlog=place.count)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at {place.address}: {error.strerror or error}; give another port."
        ) from error


def _connected(place: Place, until: float, seconds: float) -> socket.socket:
    """Elsewhere: the connection to process 0, once all are there."""
    while True:
        try:
            connection = socket.create_connection(
                (place.host, place.port), timeout=max(0.01, until - time.monotonic())
            )
            break
        except OSError as error:
            if time.monotonic() + 0.2 > until:
                raise UserError(
                    f"the coordinator {place.address} cannot be reached within {seconds:g} s by process "
                    f"{place.index} of {place.count}: {error.strerror or error}."
                ) from error
            time.sleep(0.2)
    foreign = (
        f"what answers at {place.address} is not process 0 of this run; check the address of the coordinator."
    )
    try:
        _write(connection, {HELLO: place.index, "count": place.count})
        # Process 0 may have begun later, and waits as long.
        connection.settimeout(2 * seconds)
        answer = _read(connection, _FOREIGN_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(foreign) from error
    if "complete" not in answer:
        raise UserError(str(answer.get("refused", foreign)))
    return connection


def _write(connection: socket.socket, message: dict[str, Any]) -> None:
    content = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(content)) + content)


def _read(connection: socket.socket, most: int = _MOST_BYTES) -> dict[str, Any]:
    """One message.

    Raises:
      OSError: the connection ended or was silent for too long.
      ValueError: what came is not a message.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > most:
        raise ValueError(f"a message of {length} bytes")
    message = json.loads(_exactly(connection, length))
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def _exactly(connection: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        part = connection.recv(min(length - len(content), 2**20))
        if not part:
            raise ConnectionError("the connection ended")
        content += part
    return bytes(content)
