"""Names and numbers as a reader sees them."""

import hashlib
import math
import re
from collections.abc import Iterable

from jaxalign.report.rows import Cell

NO_VALUE = "n/a"
LONGEST = 24


def shown(text: str) -> str:
    """A name on one line: what cannot be printed (control characters, line ends) becomes the sign for that."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))


def short_names(names: Iterable[str], longest: int = LONGEST) -> dict[str, str]:
    """For figures: long names lose their middle, and stay different from each other.

    Args:
      names: any text.
      longest: letters of a shortened name.

    Returns:
      For each name what to show for it.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        text = shown(name)
        if len(text) > longest:
            head = (longest - 1) // 2
            text = text[:head] + "…" + text[len(text) - (longest - 1 - head) :]
        taken, plain = set(found.values()), text
        for number in range(2, len(found) + 2):
            if text not in taken:
                break
            text = f"{plain[: longest - 4]} ({number})"
        found[name] = text
    return found


def number(value: float) -> str:
    """A number of any size with three digits that count, whole numbers whole."""
    if math.isnan(value):
        return NO_VALUE
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", "\N{MINUS SIGN}")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "\N{MINUS SIGN}")
    text = (
        f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    )
    return text.replace("-", "\N{MINUS SIGN}", 1) if text[0] == "-" else text


def percent(value: float, digits: int = 1) -> str:
    """A share in per cent, with the sign."""
    return NO_VALUE if math.isnan(value) else f"{100 * value:.{digits}f} %"


def percent_cell(cell: Cell) -> str:
    """Mean and, over several seeds, its deviation."""
    if math.isnan(cell.mean) or cell.seeds < 2:
        return percent(cell.mean)
    return f"{100 * cell.mean:.1f} ± {100 * cell.deviation:.1f} %"


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
    if stem != plain or not stem[:1].isalpha():
        stem = f"x{stem}" if not stem[:1].isalpha() else stem
        return f"{stem}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return stem
