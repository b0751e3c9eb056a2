"""Progress on standard error: what is done, for how long, and how long it will still take."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from experiments.run import signals

QUIET_SECONDS = 30.0
REDRAW_SECONDS = 0.1


class Progress:
    """Counts equal steps towards a total; a terminal's line is redrawn, a file gets one every ``QUIET_SECONDS``.

    ``step`` and ``show`` raise ``KeyboardInterrupt`` if a signal has asked the command to end.

    Args:
      total: number of steps; 0 where it is unknown.
      stream: where to write; standard error by default.
      clock: gives seconds, monotonic; tests pass their own.
    """

    def __init__(self, total: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self.total, self.done = total, 0
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.clock, self.started = clock, clock()
        self._last, self._width = self.started, 0
        self._first: tuple[float, int] | None = None  # when steps began to be done, and how many were then

    def step(self, label: str, steps: int = 1) -> None:
        """Counts ``steps`` and shows ``label`` beside the times."""
        self.done += steps
        self._first = self._first or (self.clock(), self.done)
        self.show(label)

    def show(self, label: str) -> None:
        """Shows ``label`` without counting."""
        signals.check()
        now = self.clock()
        if now - self._last < (REDRAW_SECONDS if self.terminal else QUIET_SECONDS):
            return
        self._last, line = now, self.line(label, now)
        self.stream.write("\r" + line.ljust(self._width) if self.terminal else line + "\n")
        self.stream.flush()
        self._width = len(line)

    def note(self, sentence: str) -> None:
        """Writes a sentence that stays on screen, such as a warning."""
        self.clear()
        print(sentence, file=self.stream, flush=True)

    def clear(self) -> None:
        """Clears the redrawn line from the terminal."""
        if self.terminal and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()
            self._width = 0

    def line(self, label: str, now: float) -> str:
        """The text of one progress line."""
        elapsed = now - self.started
        share = f"{100 * self.done / self.total:3.0f} %  " if self.total else ""
        left, (since, before) = "", self._first or (now, self.done)
        if (
            before < self.done < self.total
        ):  # what came before the first step, such as compiling, says nothing
            seconds = (now - since) / (self.done - before) * (self.total - self.done)
            left = f", about {duration(seconds)} left"
        return f"{share}{label}  {duration(elapsed)} elapsed{left}"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *unused: object) -> None:
        self.clear()


def duration(seconds: float) -> str:
    """Seconds as text: 42s, 3m05s, 2h10m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
