"""Ctrl-C and other requests to end a command: a clean end at the next step, or two seconds later whatever runs.

Python calls a signal handler in the main thread only, between two of its instructions: not while a compiled program
runs, and an exception that the handler raises is lost if Python happens to be in a callback of JAX. So the handler does
nothing. A thread reads the signal, ``check`` raises in the main thread at the next step, and the thread ends the
process if that takes too long. The second signal ends it at once. Neither can interrupt a call that holds Python's
lock, as scipy.linalg does: use JAX's or NumPy's decompositions, which release it.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from jaxalign.data.atomic import remove_unfinished

HEARD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE_SECONDS = 2.0  # from the signal until the process ends by itself
_received: list[int] = []
_ending = threading.Lock()


def check() -> None:
    """Raises ``KeyboardInterrupt`` if a signal has asked the command to end; for every step of a long loop."""
    if _received:
        raise KeyboardInterrupt


def end_if_asked() -> None:
    """Ends the process, once it has unwound, if a signal has asked for it."""
    if _received:
        _end()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Listens to signals while the block runs; those that the caller ignores (``nohup``) stay ignored."""
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.getsignal(number) for number in HEARD}
    listen()
    watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        watcher.join()
        os.close(reader)


def listen() -> None:
    """Sets the handlers; again after a library has set its own."""
    for number in HEARD:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def _watch(reader: int) -> None:
    end = None
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            _end()
        numbers = os.read(reader, 64)
        if not numbers:
            return
        for number in numbers:
            if number in HEARD:
                _received.append(number)
        if len(_received) > 1:
            _end()
        if _received and end is None:
            end = time.monotonic() + GRACE_SECONDS


def _end() -> NoReturn:
    """Ends the process without Python's or JAX's own clean-up, which may wait for, or crash with, running threads."""
    _ending.acquire()
    remove_unfinished()
    with contextlib.suppress(OSError):
        os.write(2, b"\ninterrupted\n" if os.isatty(2) else b"interrupted\n")
    os._exit(128 + _received[0])
