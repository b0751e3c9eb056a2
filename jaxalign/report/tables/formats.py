"""A table as CSV for spreadsheets, Markdown, and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Callable

from jaxalign.report.labels import shown
from jaxalign.report.records import FORMULA
from jaxalign.report.result_table import Cell
from jaxalign.report.tables.model import Table, Written

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
_EXTRAS = {"deviation": "standard deviation", "low": "low", "high": "high", "reason": "reason"}


def to_csv(table: Table) -> str:
    """Numbers unrounded, each with columns for its deviation, interval and reason where the table has any.

    A name that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    columns = []
    for j, column in enumerate(table.columns):
        entries = [row[j] for row in table.rows]
        numbers = [entry.mean if isinstance(entry, Cell) else entry for entry in entries]
        columns.append([column.title, *numbers])
        for field, words in _EXTRAS.items():
            values = [getattr(entry, field, None) for entry in entries]
            if any(value not in (None, "") for value in values):
                columns.append([f"{column.title}: {words}", *values])
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n")
    write.writerows([_plain(value) for value in line] for line in zip(*columns))
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
    """An entry with its mark of doubt, its deviation and its interval; ``escape`` makes text safe for the format."""
    text = escape(entry.text + "*" * entry.doubtful)
    text = bold.format(text) if entry.best else text
    text += f" {plus_minus} {escape(entry.spread)}" if entry.spread else ""
    return text + (f" ({escape(entry.interval)})" if entry.interval else "")


def _plain(value: str | float | None) -> str:
    if not isinstance(value, str):
        return "" if value is None or math.isnan(value) else repr(float(value))
    text = shown(value)
    return "'" + text if (text.startswith(FORMULA) or text.lstrip().startswith(FORMULA)) else text


def _markdown(text: str) -> str:
    if re.fullmatch(r"[−\-\d.,e ]+( to [−\-\d.,e ]+)?", text):  # a number or an interval
        return text
    text = shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in shown(text))
