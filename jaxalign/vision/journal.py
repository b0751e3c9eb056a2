"""Embeddings of an unfinished run, kept beside the future store so that a run that was killed continues from there.

Every few seconds the photographs embedded since the last time become one file, written whole and renamed. A run that
starts again takes the whole files that follow each other, and embeds the rest.
"""

import contextlib
import json
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import read_json, regular_file
from jaxalign.data.atomic import write_atomically, writing
from jaxalign.vision.images import Batch

SECONDS = 5.0  # between files; what came since the last one is embedded again
PLAN = "plan.json"
Row = tuple[str, str, str | None, str]  # sample id, identity, path and digest


def unfinished(out: pathlib.Path) -> pathlib.Path:
    """The directory of the journal of the store at ``out``."""
    return out.with_name(f".{out.name}.unfinished")


def left_plan(out: pathlib.Path) -> dict[str, Any] | None:
    """The plan of a run that did not end; empty where it was being deleted, None where nothing usable is left."""
    if not unfinished(out).is_dir():
        return None
    path = unfinished(out) / PLAN
    try:
        plan = read_json(path) if path.exists() else {}
    except UserError:
        return None
    return plan if isinstance(plan, dict) else None


class Journal:
    """Embeddings of an unfinished run.

    Attributes:
      directory: of the files.
      rows, bad: photographs embedded, and skipped.
      stop: photographs of the source that are done, bad ones included.
    """

    def __init__(
        self,
        out: pathlib.Path,
        plan: Mapping[str, Any],
        dims: Mapping[str, int],
        dtype: np.dtype,
        *,
        afresh: bool,
    ):
        """Begins a run, or continues what a run of the same plan left (unless ``afresh``, which throws that away).

        The plan is all that the embeddings depend on, in JSON's types; ``dims`` and ``dtype`` are the embeddings'.

        Raises:
          UserError: another plan began what is there, its plan is damaged, or another program is using it.
        """
        self.directory, self.dims, self.dtype = unfinished(out), dims, dtype
        self.stop = self.rows = self.bad = 0
        self._plan = self.directory / PLAN
        self._samples: list[Row] = []
        self._files: list[pathlib.Path] = []
        self._pending: list[dict[str, np.ndarray]] = []  # batches that are not in a file yet
        self._lock: Any = None
        try:
            with writing(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
                self._hold()
                self._take_up(plan, afresh)
        except BaseException:
            self._release()
            raise
        self._written = self.stop, self.rows  # of the files
        self._saved = time.monotonic()

    def _hold(self) -> None:
        """Refuses a second program until this one ends or closes the journal."""
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        self._lock = open(self.directory / "lock", "ab")  # noqa: SIM115  # closed by ``_release``
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.directory}: another program is embedding into it; wait until it ends."
                ) from None

    def _take_up(self, plan: Mapping[str, Any], afresh: bool) -> None:
        """Takes the files of this plan that are whole and follow each other; removes all others."""
        if afresh or not self._plan.exists():
            self._plan.unlink(missing_ok=True)  # first: without it the rest means nothing
            for path in self.directory.iterdir():
                if path.name != "lock":
                    path.unlink()
            write_atomically(self._plan, lambda file: file.write(json.dumps(plan, indent=1).encode()))
            return
        try:
            begun = read_json(self._plan)
        except UserError as error:
            raise UserError(f"{error} Delete {self.directory} to begin again.") from error
        if begun != plan:
            raise UserError(
                f"{self.directory} holds an unfinished run with other photographs, encoders or settings: repeat that "
                "command, or delete that directory to give it up."
            )
        for path in sorted(self.directory.glob("*.npz")):
            about = self._read(path)
            if about is None:
                path.unlink()
                continue
            self._samples += [tuple(row) for row in about["samples"]]
            self.stop, self.rows, self.bad = about["stop"], len(self._samples), about["bad"]
            self._files.append(path)

    def _read(self, path: pathlib.Path) -> dict[str, Any] | None:
        """What a file says of itself; None where it is damaged or does not follow those before it."""
        try:
            with np.load(regular_file(path)) as content:
                about = json.loads(content["about"].tobytes())
                # Reads all rows, with their checksums.
                shapes = {name: content[f"rows.{name}"].shape for name in self.dims}
        except Exception:  # of zipfile and NumPy; what damage may lead to is not listed anywhere
            return None
        size = self.dtype.itemsize
        expected = {name: (len(about["samples"]), width * size) for name, width in self.dims.items()}
        return about if about["start"] == self.stop and shapes == expected else None

    def append(self, batch: Batch, rows: dict[str, np.ndarray]) -> None:
        """Adds a batch, with rows [len(batch.samples), dim] of every encoder; writes a file every few seconds."""
        self._samples += [
            (sample.sample_id, sample.identity, sample.path, digest)
            for sample, digest in zip(batch.samples, batch.digests, strict=True)
        ]
        self._pending.append(rows)
        # In one statement, so that Ctrl-C finds all of it done or nothing: rows beyond these numbers are not written.
        self.stop, self.rows, self.bad = batch.stop, self.rows + len(batch.samples), self.bad + len(batch.bad)
        if time.monotonic() - self._saved >= SECONDS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Writes what was added since the last file."""
        start, written = self._written
        if self.stop == start:
            return
        samples = self._samples[written : self.rows]
        about = {"start": start, "stop": self.stop, "bad": self.bad, "samples": samples}
        content = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
        for name, width in self.dims.items():
            batches = [batch[name] for batch in self._pending if name in batch]
            joined = np.concatenate([*batches, np.empty((0, width), self.dtype)])
            content[f"rows.{name}"] = joined[: len(samples)].view(np.uint8)  # NumPy's files know no bfloat16
        path = self.directory / f"{start:012d}.npz"
        with writing(self.directory):
            write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **content))
        self._files.append(path)
        self._written = self.stop, self.rows
        self._pending = []
        self._saved = time.monotonic()

    def samples(self) -> list[Row]:
        """Sample id, identity, path and digest of every row."""
        return self._samples[: self.rows]

    def embeddings(self) -> dict[str, np.ndarray]:
        """The rows of every encoder, memory-mapped, shape [rows, dim]; there must be some."""
        self.checkpoint()
        with writing(self.directory):
            joined: dict[str, np.ndarray] = {
                name: np.memmap(self.directory / f"{name}.rows", self.dtype, "w+", shape=(self.rows, width))
                for name, width in self.dims.items()
            }
            start = 0
            for path in self._files:
                with np.load(path) as content:
                    parts = {name: content[f"rows.{name}"].view(self.dtype) for name in joined}
                stop = start + len(next(iter(parts.values())))
                for name, part in parts.items():
                    joined[name][start:stop] = part
                start = stop
        return joined

    def close(self) -> None:
        """Ends the use of the files; they stay for the next run, unless nothing was embedded."""
        if self._written[0] == 0:
            self.remove()
        self._release()

    def remove(self) -> None:
        """Throws everything away, once the store is there."""
        self._plan.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.close()
            self._lock = None
