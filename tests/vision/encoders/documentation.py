"""Examples as docs/encoders.md has them."""

import pathlib
import re

DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "encoders.md"


def documented(test: str) -> str:
    """The code block that the document marks as tested in a file of this folder."""
    found = re.search(
        rf"<!-- tested: tests/vision/encoders/{re.escape(test)} -->\n```python\n(.*?)```",
        DOCUMENT.read_text(),
        re.DOTALL,
    )
    assert found is not None
    return found[1]
