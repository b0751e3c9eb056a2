"""The page: one file that needs nothing else, and beside it each figure and table as files of their own."""

import base64
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from importlib import resources

from jaxalign.core.errors import UserError
from jaxalign.report.figures.drawing import Picture
from jaxalign.report.labels import count, shown
from jaxalign.report.parts import Part
from jaxalign.report.reproduce import origin
from jaxalign.report.sections import SECTIONS, Folded, Section, Text, Together, sections
from jaxalign.report.tables import FORMATS, Column, Table, Value, to_csv

PAGE = "report.html"
_KINDS = {Text: "text", Table: "table", Picture: "picture", Together: "together", Folded: "folded"}


def require_report_libraries() -> None:
    """Says in one sentence what is missing, before any work is done.

    Raises:
      UserError: matplotlib or Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the report needs {error.name}, which is not installed; run `pip install {error.name}`."
        ) from error


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
    text = render_page(found, parts, title=title, absent=absent, written=written)
    (directory / PAGE).write_text(text, encoding="utf-8")
    pictures = [picture for section in found for picture in section.pictures()]
    tables = [table for section in found for table in section.tables()]
    _write_pictures(pictures, directory / "figures")
    _write_tables(tables, directory / "tables", formats)
    return len(pictures), len(tables)


def render_page(
    found: Sequence[Section],
    parts: Sequence[Part],
    *,
    title: str,
    absent: Sequence[str] = (),
    written: str = "",
) -> str:
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
        title=title,
        sections=found,
        origins=[origin(part) for part in parts],
        absent=absent,
        not_there=_not_there(parts),
        written=written,
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        rows=_rows,
        sort_key=_sort_key,
    )


def _not_there(parts: Sequence[Part]) -> list[str]:
    """Drivers that the page could show and has nothing of."""
    there = {part.driver for part in parts}
    return [driver for driver in SECTIONS if driver not in there]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An entry as the template shows it; ``note`` is the number of its reason below the table."""

    text: str
    sort: str | None
    spread: str = ""
    interval: str = ""
    best: bool = False
    doubtful: bool = False
    note: int | None = None


def _rows(table: Table) -> list[list[_Entry]]:
    best, notes = table.best(), {note: place + 1 for place, note in enumerate(table.notes)}
    rows = []
    for i, row in enumerate(table.rows):
        entries = []
        for j, (entry, column) in enumerate(zip(row, table.columns, strict=True)):
            key = _sort_key(column, entry)
            if isinstance(entry, Value):
                main, spread, interval = table.parts(column, entry)
                note = notes.get(entry.reason)
                entries.append(_Entry(main, key, spread, interval, (i, j) in best, entry.doubtful, note))
            else:
                entries.append(_Entry("" if entry is None else shown(entry), key))
        rows.append(entries)
    return rows


def _sort_key(column: Column, entry: str | Value | None) -> str | None:
    """A number for the script to sort by; "" goes last; None for text."""
    if isinstance(entry, Value):
        return "" if entry.mean != entry.mean else repr(entry.mean)
    if column.kind == "text":
        return None
    return "" if not entry else entry.replace(",", "").replace("\N{MINUS SIGN}", "-")


def _write_pictures(pictures: Sequence[Picture], directory: pathlib.Path) -> None:
    directory.mkdir(exist_ok=True)
    for picture in pictures:
        (directory / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (directory / f"{picture.name}.png").write_bytes(picture.png)


def _write_tables(tables: Sequence[Table], directory: pathlib.Path, formats: Sequence[str]) -> None:
    directory.mkdir(exist_ok=True)
    for table in tables:
        (directory / f"{table.name}.csv").write_text(to_csv(table), encoding="utf-8")
        for name in formats:
            suffix, write = FORMATS[name]
            (directory / f"{table.name}{suffix}").write_text(write(table), encoding="utf-8")
