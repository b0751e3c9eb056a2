"""What several processes must agree on: stores by their checksums, and how a difference is said."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from jaxalign.data.manifest import Manifest


def describe_store(path: str, models: tuple[str, ...] | None) -> dict[str, Any]:
    """A store by its content: name, rows and checksums, as its manifest has them.

    Raises:
      UserError: there is no store, or its manifest is damaged.
    """
    manifest = Manifest.read(pathlib.Path(path))
    names = [name for name in manifest.encoders if models is None or name in models]
    return {
        "dataset": manifest.dataset,
        "rows": manifest.rows,
        "samples checksum": manifest.samples_sha256,
        "checksum of": {name: manifest.encoders[name].sha256 for name in names},
    }


def differences(
    one: Any, other: Any, sides: tuple[str, str] = ("there", "here"), where: str = ""
) -> Iterator[str]:
    """What differs between two descriptions, one phrase each.

    Args:
      one, other: as JSON has them; lists under "stores" are compared store by store.
      sides: what to call them.
      where: what is compared.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(one.get(key), other.get(key), sides, f"{where} {key}".strip())
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and where == "stores":
        for left, right in zip(one, other):
            yield from differences(left, right, sides, f"store {left.get('dataset')!r}:")
    elif one != other:
        yield f"{where} is {_short(one)} {sides[0]}, {_short(other)} {sides[1]}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_short(item) for item in value)
    text = str(value)
    return text[:12] + "..." if re.fullmatch("[0-9a-f]{64}", text) else text
