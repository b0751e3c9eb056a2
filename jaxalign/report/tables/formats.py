"""A table as CSV for spreadsheets, Markdown, and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Callable

from jaxalign.report.labels import shown
from jaxalign.report.tables.model import Table, Value, Written

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "→": r"\(\rightarrow\)",
    "±": r"\(\pm\)",
    "≤": r"\(\leq\)",
    "−": r"\(-\)",
} | {letter: "\\" + letter for letter in "&%$#_{}"}
_FORMULA = tuple("=+-@")  # what makes a spreadsheet take a cell for a formula


def to_csv(table: Table) -> str:
    """Numbers unrounded, each with columns for its deviation, interval and reason where the table has any.

    A name that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n")
    extras = [_extras(table, j) for j in range(len(table.columns))]
    heads: list[str] = []
    for column, more in zip(table.columns, extras, strict=True):
        heads += [_cell(column.title), *(_cell(f"{column.title}: {name}") for name in more)]
    write.writerow(heads)
    for row in table.rows:
        line: list[str] = []
        for entry, more in zip(row, extras, strict=True):
            if isinstance(entry, Value):
                line += [_plain(entry.mean), *(_extra(entry, name) for name in more)]
            else:
                line += [_cell(entry or ""), *("" for _ in more)]
        write.writerow(line)
    return file.getvalue()


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown, best numbers in bold."""
    lines = [f"**{_markdown(table.title)}.** {_markdown(table.caption)}", ""]
    lines.append("| " + " | ".join(_markdown(column.head) for column in table.columns) + " |")
    lines.append("| " + " | ".join("---" if c.kind == "text" else "---:" for c in table.columns) + " |")
    for row in table.written():
        lines.append("| " + " | ".join(entry_text(entry, _markdown, "**{}**") for entry in row) + " |")
    lines += ["", *(f"n/a: {_markdown(note)}." for note in table.notes)]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: Table) -> str:
    """A floating table with booktabs' rules, best numbers in bold."""
    kinds = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    notes = "".join(f" n/a: {_latex(note)}." for note in table.notes)
    lines = [
        r"% needs \usepackage{booktabs}, and \usepackage[T1]{fontenc} for quotation marks",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}. {_latex(table.caption)}{notes}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(_latex(column.head) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.written():
        cells = (entry_text(entry, _latex, r"\textbf{{{}}}", r"\(\pm\)") for entry in row)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "markdown": (".md", to_markdown),
    "latex": (".tex", to_latex),
}


def entry_text(
    entry: Written, escape: Callable[[str], str] = str, bold: str = "{}", plus_minus: str = "±"
) -> str:
    """An entry with its mark of doubt, its deviation and its interval.

    Args:
      entry: to write.
      escape: makes text safe for a format.
      bold: a pattern for the best numbers.
      plus_minus: in front of a deviation.
    """
    text = escape(entry.text + "*" * entry.doubtful)
    text = bold.format(text) if entry.best else text
    text += f" {plus_minus} {escape(entry.spread)}" if entry.spread else ""
    return text + (f" ({escape(entry.interval)})" if entry.interval else "")


def _extras(table: Table, j: int) -> list[str]:
    """The columns that go with a column in CSV: those that some row has something for."""
    values = [row[j] for row in table.rows]
    names = {
        "standard deviation": lambda value: value.deviation is not None,
        "low": lambda value: value.low is not None,
        "high": lambda value: value.high is not None,
        "reason": lambda value: bool(value.reason),
    }
    return [
        name
        for name, has in names.items()
        if any(isinstance(value, Value) and has(value) for value in values)
    ]


def _extra(value: Value, name: str) -> str:
    if name == "reason":
        return _cell(value.reason)
    return _plain(value.deviation if name == "standard deviation" else getattr(value, name))


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _cell(text: str) -> str:
    text = shown(text)
    return "'" + text if text.lstrip().startswith(_FORMULA) else text


def _markdown(text: str) -> str:
    text = shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text) if not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[−\-\d.,e ]+( to [−\-\d.,e ]+)?", text) is not None


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in shown(text))
