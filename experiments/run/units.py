"""Units of work that survive a kill: one file each, written whole and renamed, skipped when it is there.

A unit is a piece of a run whose content is the same whoever computes it, such as all pairs of one seed by one method.
Nothing has to be locked: two processes that compute one unit at once write the same file.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from jaxalign.core.errors import UserError
from jaxalign.data.atomic import write_atomically, writing

SUFFIX = ".json"


@dataclasses.dataclass(frozen=True)
class Units:
    """The finished units of one run: ``name in units``, ``units.read(name)``, ``units.write(name, content)``.

    Attributes:
      directory: holds the files; made by the first ``write``.
      key: digest of all that the units depend on. The files of a run with another key count as missing.
    """

    directory: pathlib.Path
    key: str

    @classmethod
    def beside(cls, out: str | os.PathLike, described: Any) -> "Units":
        """Units in a directory next to the results, ``<out>.<key>.parts``; the key is the digest of ``described``."""
        path, key = pathlib.Path(os.path.abspath(os.path.expanduser(out))), digest(described)
        return cls(path.with_name(f"{path.name}.{key}.parts"), key)

    def names(self) -> list[str]:
        """The units that have a sound file, sorted."""
        return sorted(path.stem for path in self.directory.glob(f"*{SUFFIX}") if path.stem in self)

    def __contains__(self, name: str) -> bool:
        return self._content(name) is not None

    def read(self, name: str) -> dict[str, Any]:
        """The content of a unit; ``UserError`` where the file is missing, damaged or of another run."""
        content = self._content(name)
        if content is None:
            why = "is missing, damaged or of another run; the same command does it again"
            raise UserError(f"{self.path(name)} {why}.")
        return content

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a unit, of what JSON can hold, NaN and infinity included; ``UserError`` where the disk refuses."""
        text = _text({"unit": name, "of": self.key, "checksum": digest(content), "content": content})
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path(name), lambda file: file.write(text.encode()))

    def remove(self) -> None:
        """Deletes the directory; for the end of a run whose results are written."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, name: str) -> pathlib.Path:
        """The file of a unit."""
        return self.directory / f"{name}{SUFFIX}"

    def _content(self, name: str) -> dict[str, Any] | None:
        """The content of a unit; None where the file is missing, damaged or of another run."""
        try:
            found = json.loads(self.path(name).read_bytes())
            content = found["content"]
            sound = [found["unit"], found["of"], found["checksum"]] == [name, self.key, digest(content)]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{self.path(name)} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return content if sound else None


def digest(content: Any) -> str:
    """Twelve hexadecimal digits that tell apart what JSON can hold; the order of fields does not matter."""
    return hashlib.sha256(_text(content, sort_keys=True).encode()).hexdigest()[:12]


def _text(content: Any, **options: Any) -> str:
    return json.dumps(content, ensure_ascii=False, **options)
