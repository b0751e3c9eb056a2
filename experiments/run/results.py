"""The results directory: one tidy table, the exact configuration, and never a half-written state.

All files are written to a hidden directory beside ``--out``, which is renamed at the end. An error or Ctrl-C leaves
``--out`` as it was.
"""

import contextlib
import csv
import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import IO, Any, NamedTuple

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import content_checksum
from jaxalign.data import samples
from jaxalign.data.atomic import new_directory, write_atomically, writing
from jaxalign.report.records import FORMULA, Row
from jaxalign.version import __version__

COLUMNS = Row._fields
FORMAT = "jaxalign-results"
FORMAT_VERSION = 1
INCOMPLETE = ".incomplete"  # ends the name of a directory that the disk refused a file of
OURS = frozenset(
    {"config.json", "fits.csv", "results.csv", "results.parquet", "table.txt", "maps", "heatmaps"}
    | {"report", "report.html", "figures", "tables"}
    | {"prediction.csv", "alignability.csv", "alignability.parquet", "families.json"}
    | {"curves.csv", "curves.parquet", "differences.csv", "projection.csv", "three_way.csv"}
    | {"migration.json", "reenrol.csv", "security.json"}
)


class FitRow(NamedTuple):
    """One fit; the fields are the columns of ``fits.csv``, the first five as in ``results.csv``.

    Attributes:
      l2: penalty, given or chosen; None where the method has none.
      rank: chosen for this pair; None where none was chosen.
      r2: share of the target's variance that the source explains, on training rows.
      effective_rank: directions of the source that the map uses.
      condition: condition number of the problem solved.
      ok: whether the numbers can be trusted.
    """

    dataset: str
    source: str
    target: str
    method: str
    seed: int
    l2: float | None
    rank: int | None
    r2: float
    effective_rank: float
    condition: float
    ok: bool


class NotWrittenError(UserError):
    """Results that the disk refused."""


class Writer:
    """Writes results into a directory; names of files must be in ``OURS``, which ``--overwrite`` may replace.

    A file that the disk refuses does not stop the run: ``writer`` raises at the end, and keeps the others.

    Attributes:
      failed: the first file that could not be written, and why; empty if there is none.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.failed = ""

    @contextlib.contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Writes a file or directory; notes in ``failed`` that the disk refused it."""
        try:
            yield
        except OSError as error:
            self.failed = self.failed or f"{name} cannot be written: {error.strerror or error}"

    def table(self, rows: Sequence[Row], name: str = "results") -> None:
        """Writes rows as CSV and Parquet; None and NaN become empty fields and nulls."""
        self.csv(f"{name}.csv", COLUMNS, rows)
        with self.trying(f"{name}.parquet"):
            write_parquet(self.directory / f"{name}.parquet", rows)

    def csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Writes another table."""
        with self.trying(name):
            write_csv(self.directory / name, columns, rows)

    def config(self, driver: str, config: Any, **more: Any) -> None:
        """Writes ``config.json``: configuration, versions, devices, whatever else is given, and checksums.

        Write it last: it holds the SHA-256 of every file beside it, and of its own content.
        """
        content = {"format": FORMAT, "version": FORMAT_VERSION, "driver": driver, "command": sys.argv}
        content |= {"config": plain(config), **environment(), **plain(more)}
        content["files"] = checksums(self.directory)
        content["checksum"] = content_checksum(content)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        with self.trying("config.json"):
            write_atomically(self.directory / "config.json", lambda file: file.write(text.encode()))

    def text(self, name: str, text: str) -> None:
        """Writes a text file."""
        with self.trying(name):
            (self.directory / name).write_text(text, encoding="utf-8")

    def require_all(self, final: pathlib.Path) -> None:
        """Raises ``NotWrittenError`` if a file could not be written; the others are kept beside ``final``."""
        if self.failed:
            kept = final.with_name(f"{final.name}.{secrets.token_hex(4)}{INCOMPLETE}")
            os.rename(self.directory, kept)
            raise NotWrittenError(f"{final}: {self.failed}. What could be written is in {kept}.")


def checksums(directory: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of ours in a results directory but ``config.json``, by name."""
    names = sorted(OURS - {"config.json"})
    return {name: _sha256(directory / name) for name in names if (directory / name).is_file()}


def require_unaltered(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Checks a results directory against the checksums in its ``config.json``, whose content is given.

    Files that ``config.json`` does not list are not looked at. results.csv and table.txt, which no command reads, may
    be missing.

    Raises:
      UserError: a file was altered or is missing.
    """
    again = "Restore it, or run the command again"
    if content.get("checksum") != content_checksum(content):
        raise UserError(f"{path / 'config.json'} is not as it was written: its checksum differs. {again}.")
    for name, checksum in content["files"].items():
        file = path / name
        if not file.is_file():
            if name not in ("results.csv", "table.txt"):
                raise UserError(f"{path} holds no {name}, which its config.json lists. {again}.")
        elif _sha256(file) != checksum:
            edited = "if you edited it on purpose, keep the edited copy elsewhere"
            raise UserError(f"{file} is not as it was written: its checksum differs. {again}; {edited}.")


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_output(out: str | os.PathLike, overwrite: bool) -> pathlib.Path:
    """Checks before any work starts whether results may be written to ``out``; returns the absolute path.

    A free path and an empty directory are accepted, one with results only with ``overwrite``, one with anything else
    never, as it would be deleted.
    """
    if not str(out):
        raise UserError("--out is empty; give a directory for the results, such as --out=results/run1.")
    path = pathlib.Path(os.path.abspath(os.path.expanduser(out)))
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the results.")
    parent = next((parent for parent in path.parents if parent.exists()), path)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--out={out} cannot be made: {parent} is not a directory that you may write to.")
    entries = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    if not entries:
        return path
    foreign = [name for name in entries if name not in OURS]
    if foreign or not _is_results(path):
        named = ", ".join((foreign or entries)[:3])
        raise UserError(f"--out={out} holds files that are not results ({named}); choose another directory.")
    if not overwrite:
        raise UserError(f"--out={out} already holds results; choose another directory or add --overwrite.")
    return path


@contextlib.contextmanager
def writer(out: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Writer]:
    """A directory for results that becomes ``out`` when the block ends, and is removed on any exception.

    Raises:
      UserError: ``out`` may not be replaced, or another program is writing it.
      NotWrittenError: the disk refused a file.
    """
    check = functools.partial(check_output, out, overwrite)
    final = check()
    with no_new_parents(final), contextlib.ExitStack() as stack:
        with writing(final):
            directory = stack.enter_context(new_directory(final, check=check, overwrite=overwrite))
        write = Writer(directory)
        yield write
        write.require_all(final)


@contextlib.contextmanager
def no_new_parents(path: pathlib.Path) -> Iterator[None]:
    """Removes directories above ``path`` that were made in the block, and are empty, if the block fails."""
    missing = list(itertools.takewhile(lambda parent: not parent.exists(), path.parents))
    try:
        yield
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def write_csv(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes one line per row; numbers in the shortest form that reads back to the same float64.

    A text that a spreadsheet would run as a formula gets an apostrophe in front, which ``read_field`` removes.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        lines.writerow(columns)
        for row in rows:
            fields = [_field(value) for value in row]
            # Python's writer leaves a carriage return unquoted, and readers take it for the end of a line.
            (quoted if any("\r" in field for field in fields) else lines).writerow(fields)


def write_parquet(file: pathlib.Path | IO[bytes], rows: Sequence[Row]) -> None:
    """Writes the same table with types; empty fields of the CSV are null."""
    import pyarrow
    import pyarrow.parquet

    numbers = ("value", "threshold", "achieved", "at", "low", "high", "threshold_low", "threshold_high")
    kinds = {name: pyarrow.int64() for name in ("rank", "seed", "comparisons", "pairs_owned")}
    kinds |= {name: pyarrow.float64() for name in numbers}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    columns = [[None if _is_empty(row[k]) else row[k] for row in rows] for k in range(len(COLUMNS))]
    arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), file)


def read_parquet(path: pathlib.Path) -> list[Row]:
    """The rows that ``write_parquet`` wrote; a ``UserError`` if the file is damaged."""
    table = samples.read_parquet(path, f"{path} is damaged")
    if missing := [name for name in COLUMNS if table.column_names.count(name) != 1]:
        raise UserError(f"{path} is damaged or of another release: it has not one column {missing[0]}.")
    text = ("source", "target", "method", "own_photograph", "test_dataset", "axis", "reason", "variant")
    empty = {"value": math.nan, **dict.fromkeys(text, "")}
    columns = [[empty.get(name) if v is None else v for v in table[name].to_pylist()] for name in COLUMNS]
    return [Row(*values) for values in zip(*columns, strict=True)]


def environment() -> dict[str, Any]:
    """Versions, source commit, machine and devices: what others need to get the same numbers."""
    import jax

    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")} | {
        "jaxalign": __version__
    }
    devices = jax.devices()
    return {
        "versions": {"python": platform.python_version(), **versions},
        "git": _git(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "devices": {
            "platform": devices[0].platform,
            "count": len(devices),
            "kinds": sorted({device.device_kind for device in devices}),
        },
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def plain(value: Any) -> Any:
    """A configuration's values as JSON can hold them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _field(value: Any) -> str:
    if _is_empty(value):
        return ""
    if isinstance(value, str):
        return "'" + value if value.lstrip("'").startswith(FORMULA) else value
    return repr(float(value)) if isinstance(value, float) else str(value)


def read_field(text: str) -> str:
    """A text as it was before ``write_csv`` put an apostrophe in front of it."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(FORMULA) else text


def _git() -> dict[str, Any] | None:
    """Commit of the source that runs, and whether it was changed since; None outside a repository."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def ask(*command: str) -> str:
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        return subprocess.run(["git", "-C", str(root), *command], **options).stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "--verify", "HEAD"),
            "modified": bool(ask("status", "--porcelain")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _is_results(path: pathlib.Path) -> bool:
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT
