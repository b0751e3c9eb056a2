"""The page: one self-contained HTML file, with each figure and table as a file next to it."""

import base64
import hashlib
import json
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from jaxalign.report.definitions import SYNTHETIC, define
from jaxalign.report.figures.drawing import Plot, require_libraries
from jaxalign.report.labels import count, shown
from jaxalign.report.part import Part
from jaxalign.report.sections import OF_STUDY, Folded, Section, Together, sections
from jaxalign.report.tables import FORMATS, Table, to_csv

PAGE = "report.html"
COMMAND_WIDTH = 92  # of a command on one line
_KINDS = {str: "text", Table: "table", Plot: "picture", Together: "together", Folded: "folded"}


def require_report_libraries() -> None:
    """Raises ``UserError`` if matplotlib or Jinja2 is missing, before any work is done."""
    require_libraries("the report needs", ["jinja2", "matplotlib"])


def write_report(
    parts: Sequence[Part],
    directory: pathlib.Path,
    *,
    title: str,
    absent: Sequence[str] = (),
    written: str = "",
    formats: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[int, int]:
    """Writes the page, ``figures/`` (PNG and SVG of each) and ``tables/`` (CSV of each).

    Args:
      parts: what was measured.
      directory: where to write; must exist.
      title: of the page.
      absent: parts of a study that are not there, and why.
      written: when, for the end of the page.
      formats: further ones of ``FORMATS`` to write every table in.
      progress: called with the title of each section that is drawn.

    Returns:
      How many figures and tables there are.

    Raises:
      UserError: a library is not installed.
    """
    require_report_libraries()
    found = []
    for section in sections(parts):
        found.append(section)
        if progress is not None:
            progress(section.title)
    text = _render(found, parts, title=title, absent=absent, written=written)
    (directory / PAGE).write_text(text, encoding="utf-8")
    pictures = [picture for section in found for picture in section.pictures()]
    tables = [table for section in found for table in section.tables()]
    figures_at, tables_at = directory / "figures", directory / "tables"
    figures_at.mkdir(exist_ok=True)
    tables_at.mkdir(exist_ok=True)
    for picture in pictures:
        (figures_at / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (figures_at / f"{picture.name}.png").write_bytes(picture.png)
    for suffix, write in [(".csv", to_csv), *(FORMATS[name] for name in formats)]:
        for table in tables:
            (tables_at / f"{table.name}{suffix}").write_text(write(table), encoding="utf-8")
    return len(pictures), len(tables)


def _render(found: Sequence[Section], parts: Sequence[Part], **words: Any) -> str:
    """The HTML text of the page.

    Every name is escaped where it is written. A content security policy lets the page load nothing and run no
    script but its own, so that a name that were markup after all could do nothing.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxalign.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "kind": lambda block: _KINDS[type(block)], "count": count}
    environment.filters["inline"] = lambda picture: markupsafe.Markup(picture.inline)
    templates = resources.files("jaxalign.report") / "templates"
    style, script = ((templates / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        **words,
        sections=found,
        origins=[origin(part) for part in parts],
        known=[*remarks(parts)],
        words=define(
            name for part in parts for row in part.rows for name in (row.method, row.score, row.measure)
        ),
        not_there=_not_there({part.driver for part in parts}),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _not_there(drivers: set[str]) -> list[str]:
    """What a study may hold and these results do not; nothing where they are of no study."""
    return [name for name in OF_STUDY if name not in drivers] if drivers & set(OF_STUDY) else []


def remarks(parts: Sequence[Part]) -> Iterator[str]:
    """What a reader must know before any number: synthetic faces, and the warnings of each part."""
    if any(part.synthetic for part in parts):
        yield SYNTHETIC
    warnings = [str(warning) for part in parts for warning in part.config.get("warnings") or []]
    yield from dict.fromkeys(warnings)


class Origin(NamedTuple):
    """How one part was produced, so that others can repeat it.

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
    settings = [(name, _text(value)) for name, value in _flat(part.config.get("config"))]
    warnings = [str(warning) for warning in part.config.get("warnings") or []]
    return Origin(part.name, command(part.config.get("command")), list(_facts(part)), settings, warnings)


def command(words: Any) -> str:
    """The command line as one would type it at the root of the source, a line for each flag if it is long."""
    if not isinstance(words, list) or not words:
        return ""
    program, *rest = map(str, words)
    path = pathlib.PurePath(program)
    start = f"python -m {path.parent.name}.{path.stem}" if path.suffix == ".py" else program
    flags = [shlex.quote(shown(word)) for word in rest]
    line = " ".join([start, *flags])
    return line if len(line) <= COMMAND_WIDTH else " \\\n  ".join([start, *flags])


def _facts(part: Part) -> Iterator[tuple[str, str]]:
    config = part.config
    git, machine, devices = (config.get(name) or {} for name in ("git", "machine", "devices"))
    if versions := config.get("versions"):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    if git:
        changed = ", with changes that were not committed" if git.get("modified") else ""
        yield "commit", f"{git.get('commit')}{changed}"
    if machine or devices:
        cores = f"{machine.get('platform')}, {machine.get('cpus')} cores"
        yield "machine", f"{cores}; {devices.get('count')} × {', '.join(devices.get('kinds', []))}"
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
