"""Formats names and numbers for readers: short labels, percentages, counts, names of files."""

import hashlib
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable

from jaxalign.report.result_table import Cell

NO_VALUE = "n/a"
LONGEST = 24
SPACE = "\N{NO-BREAK SPACE}"  # within a number with its unit


def shown(text: str) -> str:
    """A name on one line: controls, line ends and marks of direction become the sign for what cannot be shown."""
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"
        else "\N{REPLACEMENT CHARACTER}"
        for letter in str(text)
    )


def short_names(names: Iterable[str], longest: int = LONGEST) -> dict[str, str]:
    """For figures, by name: long names lose their middle or, where that is what tells them apart, their ends.

    What to show has at most ``longest`` letters, and differs for any two names.
    """
    whole = {name: shown(name) for name in dict.fromkeys(names)}
    head, tail = (longest - 1) // 2, longest // 2
    cut = lambda text: text if len(text) <= longest else f"{text[:head]}…{text[-tail:]}"  # noqa: E731
    short = {name: cut(text) for name, text in whole.items()}
    for text in set(short.values()):
        alike = [name for name in whole if short[name] == text]
        if len(alike) > 1:
            letters = zip(*(whole[name] for name in alike))
            same = sum(1 for _ in itertools.takewhile(lambda of: len(set(of)) == 1, letters))
            short |= {name: _window(whole[name], same, longest) for name in alike}
    found: dict[str, str] = {}
    for name, text in short.items():
        numbered = (f"{text[: longest - 5]} ({number})" for number in itertools.count(2))
        unlike = (each for each in itertools.chain([text], numbered) if each not in found.values())
        found[name] = next(unlike)
    return found


def _window(text: str, place: int, longest: int) -> str:
    """The letters around a place."""
    start = max(0, min(place - longest // 3, len(text) - longest))
    end = start + longest
    before, after = start > 0, end < len(text)
    return "…" * before + text[start + before : end - after] + "…" * after


def number(value: float) -> str:
    """A number of any size: three digits that count, whole numbers and thousands whole."""
    if math.isnan(value):
        return NO_VALUE
    whole = value == round(value) and abs(value) < 1e15
    return with_minus(f"{value:,.0f}" if whole or 1000 <= abs(value) < 1e15 else f"{value:.3g}")


def with_minus(text: str) -> str:
    """A number's text with the sign for minus in place of the hyphen in front."""
    return "\N{MINUS SIGN}" + text[1:] if text.startswith("-") else text


def percent(value: float, digits: int = 1) -> str:
    """A share in per cent, with the sign."""
    return NO_VALUE if math.isnan(value) else f"{100 * value:.{digits}f}{SPACE}%"


def percent_cell(cell: Cell) -> str:
    """Mean and, over several seeds, its deviation."""
    if cell.deviation is None or math.isnan(cell.mean):
        return percent(cell.mean)
    return f"{100 * cell.mean:.1f}{SPACE}±{SPACE}{100 * cell.deviation:.1f}{SPACE}%"


def count(many: int, one: str, several: str = "") -> str:
    """Such as "1 pair" and "1,200 pairs"."""
    return f"{many:,} {one if many == 1 else several or one + 's'}"


def listed(items: Iterable[str]) -> str:
    """Such as "a, b and c"."""
    words = list(items)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def file_stem(text: str) -> str:
    """A name for files and ids: letters of ASCII, digits, point, minus and underscore, a letter first.

    Texts that differ keep different names: where letters are lost, a part of the text's hash is added.
    """
    plain = re.sub(r"[()]", "", text.replace("@", "-at-").replace("=", "-").replace(" ", "_"))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:80]
    stem = stem if stem[:1].isalpha() else f"x{stem}"
    lost = "" if stem == plain else f"-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return stem + lost
