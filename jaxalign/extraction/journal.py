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

from jaxalign.embeddings.atomic import write_atomically, writing
from jaxalign.errors import UserError
from jaxalign.images import BadImage, Sample

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
        self._saved = time.monotonic()
        self._files: dict[str, Any] = {}

    @classmethod
    def open(
        cls, out: pathlib.Path, plan: Mapping[str, Any], dims: Mapping[str, int], dtype: np.dtype, *, afresh: bool
    ) -> "Journal":
        """Begins, or takes up what a run of the same plan left.

        Args:
          out: of the store to be.
          plan: all that the embeddings depend on, as JSON can hold it.
          dims: width of each encoder's embeddings.
          dtype: to keep them in.
          afresh: throw away what is there.

        Raises:
          UserError: what is there was begun by another plan, or another program is at it.
        """
        journal = cls(out.with_name(f".{out.name}.unfinished"), dims, dtype)
        with writing(journal.directory):
            if afresh:
                shutil.rmtree(journal.directory, ignore_errors=True)
            journal.directory.mkdir(parents=True, exist_ok=True)
            journal._hold()
            text = json.dumps(plan, indent=1, sort_keys=True, allow_nan=False)
            if not (journal.directory / PLAN).exists():
                write_atomically(journal.directory / PLAN, lambda file: file.write(text.encode()))
            elif json.loads((journal.directory / PLAN).read_text()) != json.loads(text):
                raise UserError(
                    f"{journal.directory} holds an unfinished run with other photographs, encoders or settings: "
                    "repeat that command, or throw it away (--overwrite)."
                )
            journal._take_up()
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
            raise UserError(f"{self.directory}: another program is embedding into it; wait until it ends.") from None

    def _take_up(self) -> None:
        state: dict[str, Any] = {"stop": 0, "rows": 0, "bad": 0, "samples": 0}
        with contextlib.suppress(FileNotFoundError):
            state = json.loads((self.directory / STATE).read_text())
        self.stop, self.rows, self.bad = state["stop"], state["rows"], state["bad"]
        lengths = {f"{name}.rows": self.rows * width * self.dtype.itemsize for name, width in self.dims.items()}
        for name, length in {SAMPLES: state["samples"], **lengths}.items():
            file = self._files[name] = open(self.directory / name, "ab")  # noqa: SIM115  # closed by ``close``
            if file.tell() < length:
                raise UserError(f"{self.directory / name} was cut short; throw the unfinished run away (--overwrite).")
            file.truncate(length)
            file.seek(length)

    def append(
        self,
        samples: Sequence[Sample],
        digests: Sequence[str],
        rows: Mapping[str, np.ndarray],
        bad: Sequence[BadImage],
        stop: int,
    ) -> None:
        """Adds a batch; every few seconds it is made to last."""
        with writing(self.directory):
            for sample, digest in zip(samples, digests, strict=True):
                line = json.dumps([sample.sample_id, sample.identity, sample.path, digest])
                self._files[SAMPLES].write(line.encode() + b"\n")
            for name, array in rows.items():
                self._files[f"{name}.rows"].write(np.ascontiguousarray(array, self.dtype).tobytes())
        self.stop, self.rows, self.bad = stop, self.rows + len(samples), self.bad + len(bad)
        if time.monotonic() - self._saved >= SECONDS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Makes sure that what was added survives a kill."""
        with writing(self.directory):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            state = {"stop": self.stop, "rows": self.rows, "bad": self.bad, "samples": self._files[SAMPLES].tell()}
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
        """Closes the files; what was added stays for the next run."""
        for file in self._files.values():
            file.close()

    def remove(self) -> None:
        """Throws everything away, once the store is there."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)
