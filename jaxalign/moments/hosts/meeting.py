"""How the processes of a run come together at process 0, and the messages that they send.

A message is its length in 8 bytes and JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from typing import Any

from jaxalign.core.errors import UserError
from jaxalign.moments.hosts.place import Place

HELLO = "jaxalign"
GREETING_SECONDS = 5.0  # for who has connected to say who it is

_LENGTH = struct.Struct(">Q")
_MOST_BYTES = 2**34
_FOREIGN_BYTES = 2**16  # of a greeting; what is longer is not ours


def gathered(place: Place, until: float) -> dict[int, socket.socket]:
    """At process 0: the connections of all others."""
    found: dict[int, socket.socket] = {}
    answer: dict[str, Any] = {"complete": True}
    try:
        with _listener(place) as listener:
            while missing := [number for number in range(1, place.count) if number not in found]:
                number, connection = _next(listener, place, missing, until)
                found[number] = connection
    except UserError as problem:
        answer = {"refused": str(problem)}
        raise
    finally:
        for connection in found.values():
            with contextlib.suppress(OSError):
                write(connection, answer)
    return found


def _next(
    listener: socket.socket, place: Place, missing: list[int], until: float
) -> tuple[int, socket.socket]:
    """The next of the missing processes that comes, and its connection; who is silent or foreign is passed over."""
    while True:
        listener.settimeout(max(0.01, until - time.monotonic()))
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            which = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing[:8]))}"
            raise UserError(f"{which} of {place.count} did not come to {place.address} in time.") from error
        try:
            connection.settimeout(GREETING_SECONDS)
            hello = read(connection, _FOREIGN_BYTES)
        except (OSError, ValueError):
            connection.close()
            continue
        number = hello.get(HELLO)
        if number in missing and hello.get("count") == place.count:
            return number, connection
        problem = (
            f"at {place.address} one process says that it is process {number} of {hello.get('count')}; process 0 "
            f"expects {', '.join(map(str, missing[:8]))} of {place.count}."
        )
        with contextlib.suppress(OSError):
            write(connection, {"refused": problem})
        raise UserError(problem)


def _listener(place: Place) -> socket.socket:
    address = ("127.0.0.1" if place.host == "localhost" else place.host) if place.is_loopback else ""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, place.port), family=family, backlog=place.count)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at {place.address}: {error.strerror or error}; give another port."
        ) from error


def connected(place: Place, until: float, seconds: float) -> socket.socket:
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
        write(connection, {HELLO: place.index, "count": place.count})
        # Process 0 may have begun later, and waits as long.
        connection.settimeout(2 * seconds)
        answer = read(connection, _FOREIGN_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(foreign) from error
    if "complete" not in answer:
        raise UserError(str(answer.get("refused", foreign)))
    return connection


def write(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message."""
    content = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(content)) + content)


def read(connection: socket.socket, most: int = _MOST_BYTES) -> dict[str, Any]:
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
