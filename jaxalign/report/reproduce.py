"""What another needs to get the same numbers, from a part's ``config.json``."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxalign.report.parts import Part


@dataclasses.dataclass(frozen=True)
class Origin:
    """How one part came about.

    Attributes:
      name: of the part.
      command: to type.
      facts: (what, value) of versions, commit, machine, data and files.
      settings: (name, value) of the whole configuration.
      warnings: what a reader of the results must know.
    """

    name: str
    command: str
    facts: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    warnings: Sequence[str]


def origin(part: Part) -> Origin:
    """The origin of a part; what its configuration does not say is left out."""
    config = part.config
    return Origin(
        part.name,
        command(config.get("command")),
        list(_facts(part)),
        [(name, _text(value)) for name, value in _flat(config.get("config"))],
        [str(warning) for warning in config.get("warnings") or []],
    )


def command(words: Any) -> str:
    """The command line as one would type it at the root of the source."""
    if not isinstance(words, list) or not words:
        return ""
    program, *rest = map(str, words)
    path = pathlib.PurePath(program)
    start = f"python -m {path.parent.name}.{path.stem}" if path.suffix == ".py" else program
    return " ".join([start, *map(shlex.quote, rest)])


def _facts(part: Part) -> Iterator[tuple[str, str]]:
    config = part.config
    versions = config.get("versions") or {}
    if versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    git = config.get("git")
    if git:
        changed = ", with changes that were not committed" if git.get("modified") else ""
        yield "commit", f"{git.get('commit')}{changed}"
    machine, devices = config.get("machine") or {}, config.get("devices") or {}
    if machine or devices:
        kinds = ", ".join(devices.get("kinds", []))
        yield (
            "machine",
            f"{machine.get('platform')}, {machine.get('cpus')} CPUs; {devices.get('count')} × {kinds}",
        )
    for key in ("written", "seconds"):
        if config.get(key) is not None:
            yield key, str(config[key])
    for name, value in _flat({"store": config.get("store"), "stores": config.get("stores")}):
        yield name, _text(value)
    for split in config.get("splits") or []:
        yield "split", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in split.items())
    for file, checksum in part.checksums.items():
        yield f"SHA-256 of {file}", checksum


def _flat(value: Any, under: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as one list, with points between the names."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{under}.{name}" if under else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _flat(item, f"{under}.{place}")
    elif value is not None:
        yield under, value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
