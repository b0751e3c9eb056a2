"""What was embedded so far, on disk next to the future store, so that a run that was killed goes on from there.

Every few seconds the photographs embedded since the last time become one file, written whole and renamed. A run that
starts again counts the files that are whole and follow each other, and embeds the rest.
"""

import contextlib
import json
import pathlib
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.data.atomic import write_atomically, writing
from jaxalign.vision.images import BadImage, Sample

PLAN, ABOUT = "plan.json", "about"
SECONDS = 5.0  # between files; what came since the last one is embedded again
Row = tuple[str, str, str | None, str]  # sample id, identity, path and digest


class Journal:
    """Embeddings of a run that is not finished.

    Attributes:
      directory: of the files.
      stop: photographs of the source that are done, bad ones included.
      rows: photographs embedded.
      bad: photographs skipped.
    """

    def __init__(self, directory: pathlib.Path, dims: Mapping[str, int], dtype: np.dtype):
        self.directory, self.dims, self.dtype = directory, dict(dims), dtype
        self.stop, self.rows, self.bad = 0, 0, 0
        self._samples: list[Row] = []
        self._pieces: list[pathlib.Path] = []
        self._pending: dict[str, list[np.ndarray]] = {name: [] for name in dims}  # not yet in a file
        self._written = 0, 0, 0  # stop, rows and bad of the files
        self._saved = time.monotonic()
        self._lock: Any = None

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
        """Begins, or continues what a run of the same plan left.

        Args:
          out: of the future store.
          plan: all that the embeddings depend on, as JSON can hold it.
          dims: width of each encoder's embeddings.
          dtype: of the embeddings on disk.
          afresh: throw away what is there.

        Raises:
          UserError: what is there was begun by another plan, its plan is damaged, or another program is using it.
        """
        journal = cls(out.with_name(f".{out.name}.unfinished"), dims, dtype)
        try:
            with writing(journal.directory):
                journal.directory.mkdir(parents=True, exist_ok=True)
                journal._hold()
                journal._take_up(json.loads(json.dumps(plan, allow_nan=False)), afresh)
        except BaseException:
            journal._release()
            raise
        return journal

    def _hold(self) -> None:
        """Keeps a second program out until this one ends or closes the journal."""
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        self._lock = open(self.directory / "lock", "ab")  # noqa: SIM115  # closed by ``_release``
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.directory}: another program is embedding into it; wait until it ends."
            ) from None
        except OSError:  # a file system without locks
            return

    def _take_up(self, plan: Mapping[str, Any], afresh: bool) -> None:
        """Counts the files of this plan that are whole and follow each other; removes all others."""
        path = self.directory / PLAN
        begun = None if afresh or not path.exists() else _json(path)
        if begun is None:
            self._clear()
            write_atomically(path, lambda file: file.write(json.dumps(plan, indent=1).encode()))
        elif begun != plan:
            raise UserError(
                f"{self.directory} holds an unfinished run with other photographs, encoders or settings: repeat that "
                "command, or delete that directory to give it up."
            )
        for path in sorted(self.directory.glob("*.npz")):
            piece = self._read(path)
            if piece is None:
                path.unlink()
                continue
            self.stop, self.rows, self.bad = piece["stop"], self.rows + len(piece["samples"]), piece["bad"]
            self._samples += [tuple(row) for row in piece["samples"]]
            self._pieces.append(path)
        self._written = self.stop, self.rows, self.bad

    def _read(self, path: pathlib.Path) -> dict[str, Any] | None:
        """What a file says of itself; None where it is damaged or does not follow those before it."""
        try:
            with np.load(path) as content:
                about = json.loads(content[ABOUT].tobytes())
                shapes = {
                    name: content[f"rows.{name}"].shape for name in self.dims
                }  # reads all of it, with its checksums
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        rows = len(about["samples"])
        size = self.dtype.itemsize
        expected = {name: (rows, width * size) for name, width in self.dims.items()}
        return about if about["start"] == self.stop and shapes == expected else None

    def _clear(self) -> None:
        """Removes all but the lock; the plan first, without which the rest means nothing."""
        (self.directory / PLAN).unlink(missing_ok=True)
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
        """Adds a batch; every few seconds what was added is written."""
        made = [
            (sample.sample_id, sample.identity, sample.path, digest)
            for sample, digest in zip(samples, digests, strict=True)
        ]
        arrays = [(self._pending[name], np.asarray(array, self.dtype)) for name, array in rows.items()]
        for pending, array in arrays:
            pending.append(array)
        self._samples += made
        # In one statement, so that Ctrl-C finds all of it done or nothing: rows beyond these numbers are not written.
        self.stop, self.rows, self.bad = stop, self.rows + len(made), self.bad + len(bad)
        if time.monotonic() - self._saved >= SECONDS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Writes what was added since the last file."""
        start, written, _ = self._written
        if self.stop == start:
            return
        rows = self.rows - written
        about = {
            "start": start,
            "stop": self.stop,
            "bad": self.bad,
            "samples": self._samples[written : self.rows],
        }
        arrays = {
            f"rows.{name}": np.concatenate([*pending, np.empty((0, self.dims[name]), self.dtype)])[
                :rows
            ].view(np.uint8)
            for name, pending in self._pending.items()
        }
        content = {ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays}
        path = self.directory / f"{start:012d}.npz"
        with writing(self.directory):
            write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **content))
        self._pieces.append(path)
        self._written = self.stop, self.rows, self.bad
        self._pending = {name: [] for name in self.dims}
        self._saved = time.monotonic()

    def samples(self) -> list[Row]:
        """Sample id, identity, path and digest of every row."""
        return self._samples[: self.rows]

    def embeddings(self) -> dict[str, np.ndarray]:
        """The rows of every encoder, memory-mapped, shape [rows, dim]."""
        self.checkpoint()
        with writing(self.directory):
            return {name: self._joined(name) for name in self.dims}

    def _joined(self, name: str) -> np.ndarray:
        if not self.rows:
            return np.empty((0, self.dims[name]), self.dtype)
        shape = self.rows, self.dims[name]
        joined = np.memmap(self.directory / f"{name}.rows", self.dtype, "w+", shape=shape)
        start = 0
        for path in self._pieces:
            with np.load(path) as content:
                rows = content[f"rows.{name}"].view(self.dtype)
            joined[start : start + len(rows)] = rows
            start += len(rows)
        return joined

    def close(self) -> None:
        """Ends the use of the files; they stay for the next run, unless nothing was embedded."""
        if self._written[0] == 0:
            self.remove()
        self._release()

    def remove(self) -> None:
        """Throws everything away, once the store is there."""
        (self.directory / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.close()
            self._lock = None


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: it is not JSON ({error}); delete that directory to begin again."
        ) from error
