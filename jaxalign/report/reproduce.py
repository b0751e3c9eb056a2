"""What another needs to get the same numbers, from a part's ``config.json``."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxalign.report.labels import shown
from jaxalign.report.parts import Part

WIDTH = 92  # of a command on one line


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
    """The command line as one would type it at the root of the source, a line for each flag if it is long."""
    if not isinstance(words, list) or not words:
        return ""
    program, *rest = map(str, words)
    path = pathlib.PurePath(program)
    start = f"python -m {path.parent.name}.{path.stem}" if path.suffix == ".py" else program
    flags = [shlex.quote(shown(word)) for word in rest]
    line = " ".join([start, *flags])
    return line if len(line) <= WIDTH else " \\\n  ".join([start, *flags])


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
            f"{machine.get('platform')}, {machine.get('cpus')} cores; {devices.get('count')} × {kinds}",
        )
    if config.get("written") is not None:
        took = f", after {config['seconds']:g} s" if isinstance(config.get("seconds"), (int, float)) else ""
        yield "written", f"{config['written']}{took}"
    seeds = ((config.get("config") or {}).get("protocol") or {}).get("seeds")
    if seeds:
        yield "seeds", _text(seeds)
    stores = config.get("stores") or [config.get("store") or {}]
    for store in stores.values() if isinstance(stores, Mapping) else stores:
        yield from _store(store) if isinstance(store, Mapping) else ()
    for split in config.get("splits") or []:
        yield "split", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in split.items())
    for file, checksum in part.checksums.items():
        yield file, f"SHA-256 {checksum}"


def _store(store: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The data set, and each encoder's width and checksum."""
    known = {"path", "dataset", "dims", "checksums"}
    rest = "".join(
        f", {name.replace('_', ' ')} {_text(value)}" for name, value in store.items() if name not in known
    )
    if store:
        yield "data set", f"{store.get('dataset')}, from {store.get('path')}{rest}"
    dims, checksums = store.get("dims") or {}, store.get("checksums") or {}
    for encoder in dict.fromkeys([*dims, *checksums]):
        yield encoder, f"width {dims.get(encoder, 'unknown')}, SHA-256 {checksums.get(encoder, 'unknown')}"


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
