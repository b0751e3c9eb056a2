"""manifest.json of a store: what the other files must hold."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jaxalign.core.checks import is_whole
from jaxalign.core.errors import UserError
from jaxalign.core.files import content_checksum, read_json
from jaxalign.data.atomic import write_atomically

FILE = "manifest.json"
FORMAT = "jaxalign-store"
VERSION = 1
DTYPES = ("float16", "float32", "bfloat16")
OWN_FIELDS = frozenset({"dim", "dtype", "sha256"})

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class EncoderEntry:
    """What the manifest says of one encoder; ``info`` is whatever else was noted, such as the weights or the source."""

    dim: int  # width of its embeddings
    dtype: str  # one of ``DTYPES``
    sha256: str  # of the whole .npy file, in hexadecimal digits
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What manifest.json says."""

    dataset: str  # name of the data set
    rows: int  # of every encoder and of samples.parquet
    encoders: Mapping[str, EncoderEntry]  # by name, in the order they were added
    samples_sha256: str | None = None  # of samples.parquet; None in a store that does not note it

    @classmethod
    def read(cls, directory: pathlib.Path) -> "Manifest":
        """Reads the manifest of a store; a ``UserError`` if it is missing, damaged, or of another format or version.

        One without a checksum of its own, such as another program may write, is taken as it is.
        """
        path = directory / FILE
        if not directory.exists():
            raise UserError(f"there is no store at {directory}.")
        if not directory.is_dir():
            raise UserError(f"{directory} is a file; a store is a directory that holds {FILE}.")
        if not path.exists():
            raise UserError(f"{directory} is not a store: {path} is missing.")
        content = read_json(path, "the manifest of a store")
        return _parse(content, path)

    def write(self, directory: pathlib.Path) -> None:
        """Writes the manifest of a store in one step: the old one or the new one is there, never half."""
        encoders = {
            name: {**entry.info, "dim": entry.dim, "dtype": entry.dtype, "sha256": entry.sha256}
            for name, entry in self.encoders.items()
        }
        own = {"dataset": self.dataset, "rows": self.rows, "encoders": encoders}
        content: dict[str, Any] = {"format": FORMAT, "version": VERSION, **own}
        if self.samples_sha256:
            content["samples"] = {"sha256": self.samples_sha256}
        content["checksum"] = content_checksum(content)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(directory / FILE, lambda file: file.write(text.encode()))


def check_encoder_name(name: str) -> str:
    """The name, if a file can safely be called so; else a ``UserError``."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name):
        raise UserError(
            f"an encoder cannot be called {name!r}: its name becomes a file's name, so it takes letters, "
            "digits and _ . + @ - (starting with a letter, a digit or _), 100 at most."
        )
    return name


def check_new_names(new: Iterable[str], there: Iterable[str] = ()) -> None:
    """Refuses names that are not safe, that mean something else in a flag, or that are taken.

    Names that differ only in case are one file on some disks.
    """
    taken = {name.lower(): name for name in there}
    for name in new:
        if check_encoder_name(name) == "all":
            raise UserError("an encoder cannot be called 'all', which means every encoder.")
        if name.lower() in taken:
            raise UserError(f"encoder {name!r}: there is already an encoder {taken[name.lower()]!r}.")
        taken[name.lower()] = name


def check_info(name: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """What is noted of an encoder, if JSON can hold it."""
    own = sorted(OWN_FIELDS.intersection(info))
    if own:
        raise UserError(f"encoder {name!r}: {', '.join(own)} is found out from the array and not given.")
    try:
        return json.loads(json.dumps(dict(info), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"encoder {name!r}: what is noted of it must fit JSON ({error}).") from error


def _parse(content: Any, path: pathlib.Path) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f'{path} is not the manifest of a store: it lacks "format": "{FORMAT}".')
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has version {content.get('version')!r}; this program reads version {VERSION}. "
            "A newer jaxalign may read it."
        )
    dataset, rows, encoders = (content.get(key) for key in ("dataset", "rows", "encoders"))
    samples = content.get("samples", {})
    digest = samples.get("sha256") if isinstance(samples, dict) else ""
    checks = {
        f'"dataset" must be a name, it is {dataset!r}': isinstance(dataset, str) and dataset,
        f'"rows" must be a whole number of 1 or more, it is {rows!r}': is_whole(rows, 1),
        '"encoders" must name at least one encoder': isinstance(encoders, dict) and encoders,
        '"sha256" of "samples" must be 64 hexadecimal digits': digest is None or _is_digest(digest),
    }
    _require(checks, path)
    if content.get("checksum", content_checksum(content)) != content_checksum(content):
        raise UserError(
            f"{path} is not as it was written: its checksum differs. Restore it; if you edited it on purpose, delete "
            'its field "checksum".'
        )
    return Manifest(dataset, rows, {name: _entry(name, encoders[name], path) for name in encoders}, digest)  # pyright: ignore


def _entry(name: str, entry: Any, path: pathlib.Path) -> EncoderEntry:
    try:
        check_encoder_name(name)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    fields = entry if isinstance(entry, dict) else {}
    dim, dtype, digest = (fields.get(key) for key in ("dim", "dtype", "sha256"))
    known = ", ".join(DTYPES)
    checks = {
        f'"dim" of encoder {name!r} must be 1 or more, it is {dim!r}': is_whole(dim, 1),
        f'"dtype" of encoder {name!r} must be one of {known}; it is {dtype!r}': isinstance(dtype, str)
        and dtype in DTYPES,
        f'"sha256" of encoder {name!r} must be 64 hexadecimal digits': _is_digest(digest),
    }
    _require(checks, path)
    return EncoderEntry(dim, dtype, digest, {key: fields[key] for key in fields if key not in OWN_FIELDS})  # pyright: ignore[reportArgumentType]


def _require(checks: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises a ``UserError`` for the first check that failed."""
    for sentence, passed in checks.items():
        if not passed:
            raise UserError(f"{path} is damaged: {sentence}.")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
