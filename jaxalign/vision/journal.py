"""What was embedded so far, on disk beside the store to be: a run that was killed goes on from there."""

import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.data.atomic import write_atomically, writing
from jaxalign.vision.images import BadImage, Sample

PLAN, STATE, SAMPLES = "plan.json", "state.json", "samples.jsonl"
SECONDS = 5.0  # between checkpoints; what came since the last is embedded again


class Journal:
    """Files that only grow, and a state that says how much of them counts.

    Attributes:
      directory: of the files.
      stop: photographs of the source that are done, bad ones included.
      rows: photographs embedded.
      bad: photographs skipped.
    """

    def __init__(self, directory: pathlib.Path, dims: Mapping[str, int], dtype: np.dtype):
        self.directory, self.dims, self.dtype = directory, dict(dims), dtype
        self.stop, self.rows, self.bad = 0, 0, 0
        self._length = 0  # of the file of samples, as far as it counts
        self._saved = time.monotonic()
        self._files: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        out: pathlib.Path,
        plan: Mapping[str, Any],
        dims: Mapping[str, int],
        dtype: np.dtype,
        *,
        afresh: bool,
    ) -> "Journal":
        """Begins, or takes up what a run of the same plan left.

        Args:
          out: of the store to be.
          plan: all that the embeddings depend on, as JSON can hold it.
          dims: width of each encoder's embeddings.
          dtype: to keep them in.
          afresh: throw away what is there.

        Raises:
          UserError: what is there was begun by another plan or is damaged, or another program is at it.
        """
        journal = cls(out.with_name(f".{out.name}.unfinished"), dims, dtype)
        try:
            with writing(journal.directory):
                journal.directory.mkdir(parents=True, exist_ok=True)
                journal._hold()
                journal._take_up(json.loads(json.dumps(plan, allow_nan=False)), afresh)
        except BaseException:
            journal._close_files()
            raise
        return journal

    def _hold(self) -> None:
        """Keeps a second program out for as long as this one has the files open."""
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        file = self._files["lock"] = open(self.directory / "lock", "ab")  # noqa: SIM115  # closed by ``close``
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.directory}: another program is embedding into it; wait until it ends."
            ) from None
        except OSError:  # a file system without locks
            return

    def _take_up(self, plan: Mapping[str, Any], afresh: bool) -> None:
        """Opens the files where the state says they end."""
        state, begun = (None, None) if afresh else (self._read(STATE), self._read(PLAN))
        if state is None or begun is None:
            self._clear()
            state = {"stop": 0, "rows": 0, "bad": 0, "samples": 0}
            text = json.dumps(plan, indent=1, sort_keys=True)
            write_atomically(self.directory / PLAN, lambda file: file.write(text.encode()))
        elif begun != plan:
            raise UserError(
                f"{self.directory} holds an unfinished run with other photographs, encoders or settings: repeat that "
                "command, or delete that directory to give it up."
            )
        self.stop, self.rows, self.bad, self._length = (
            state[key] for key in ("stop", "rows", "bad", "samples")
        )
        lengths = {
            f"{name}.rows": self.rows * width * self.dtype.itemsize for name, width in self.dims.items()
        }
        for name, length in {SAMPLES: self._length, **lengths}.items():
            file = self._files[name] = open(self.directory / name, "ab")  # noqa: SIM115  # closed by ``close``
            if file.tell() < length:
                raise UserError(
                    f"{self.directory / name} was cut short; delete that directory to begin again."
                )
            file.truncate(length)

    def _read(self, name: str) -> Any:
        """What one of the small files holds; None where it is missing."""
        path = self.directory / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{path} is damaged: it is not JSON ({error}); delete that directory to begin again."
            ) from error

    def _clear(self) -> None:
        """Removes all but the lock; the state first, without which the rest means nothing."""
        (self.directory / STATE).unlink(missing_ok=True)
        for path in self.directory.iterdir():
            if path.name != "lock":
                path.unlink()

    def append(
        self,
        samples: Sequence[Sample],
        digests: Sequence[str],
        rows: Mapping[str, np.ndarray],
        bad: Sequence[BadImage],
        stop: int,
    ) -> None:
        """Adds a batch; every few seconds it is made to last."""
        lines = [
            json.dumps([sample.sample_id, sample.identity, sample.path, digest]) + "\n"
            for sample, digest in zip(samples, digests, strict=True)
        ]
        with writing(self.directory):
            self._files[SAMPLES].write("".join(lines).encode())
            for name, array in rows.items():
                self._files[f"{name}.rows"].write(np.ascontiguousarray(array, self.dtype).tobytes())
        added, skipped, length = len(samples), len(bad), sum(map(len, lines))
        # In one statement, so that Ctrl-C finds all of it done or nothing.
        self.stop, self.rows, self.bad, self._length = (
            stop,
            self.rows + added,
            self.bad + skipped,
            self._length + length,
        )
        if time.monotonic() - self._saved >= SECONDS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Makes sure that what was added survives a kill."""
        if self.stop == 0:
            return
        with writing(self.directory):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            state = {"stop": self.stop, "rows": self.rows, "bad": self.bad, "samples": self._length}
            write_atomically(self.directory / STATE, lambda file: file.write(json.dumps(state).encode()))
        self._saved = time.monotonic()

    def samples(self) -> list[tuple[str, str, str | None, str]]:
        """Sample id, identity, path and digest of every row."""
        self._files[SAMPLES].flush()
        with open(self.directory / SAMPLES, encoding="utf-8") as file:
            return [tuple(json.loads(line)) for line in file]

    def embeddings(self) -> dict[str, np.ndarray]:
        """The rows of every encoder, memory-mapped, shape [rows, dim]."""
        self.checkpoint()
        return {
            name: np.memmap(self.directory / f"{name}.rows", self.dtype, "r", shape=(self.rows, width))
            for name, width in self.dims.items()
        }

    def close(self) -> None:
        """Closes the files; what was added stays for the next run, and where nothing was, nothing stays."""
        if self.stop == 0:
            self.remove()
        self._close_files()

    def remove(self) -> None:
        """Throws everything away, once the store is there; the lock is the last to go."""
        self._close_files(keep=("lock",))
        (self.directory / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        self._close_files()

    def _close_files(self, keep: Sequence[str] = ()) -> None:
        for name in self._files.keys() - set(keep):
            with contextlib.suppress(OSError):  # what a full disk did not take does not count
                self._files.pop(name).close()
