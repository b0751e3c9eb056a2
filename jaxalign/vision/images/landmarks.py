"""Five points per photograph, from a CSV file or from columns of a data set."""

import csv
import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.source import Sample

# Names, in lower case and without underscores, under which data sets keep the ten numbers apart; CelebA's second.
_TEN_NAMES = (
    ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5"),
    (
        "lefteyex", "lefteyey", "righteyex", "righteyey", "nosex", "nosey",
        "leftmouthx", "leftmouthy", "rightmouthx", "rightmouthy",
    ),
)  # fmt: skip
_ONE_NAME = "landmarks"


@dataclasses.dataclass(frozen=True, eq=False)
class LandmarkTable:
    """The points of many photographs.

    Attributes:
      path: of the file.
      sha256: of the file.
      points: float64 [5, 2] by sample id or path, as the file has it.
    """

    path: str
    sha256: str
    points: Mapping[str, np.ndarray]

    def find(self, sample: Sample) -> np.ndarray | None:
        """The points of a sample, by its id, else by its path, whole or relative to the file's folder."""
        for name in (sample.sample_id, sample.path):
            if name is not None and name in self.points:
                return self.points[name]
        if sample.path is None:
            return None
        folder = os.path.dirname(os.path.abspath(self.path))
        return self.points.get(os.path.relpath(os.path.abspath(sample.path), folder).replace(os.sep, "/"))


def read_landmarks(path: str | os.PathLike[str]) -> LandmarkTable:
    """Reads a CSV file with a sample id or a path and ten numbers per line.

    The ten numbers are x and y in pixels of the upright picture, from the centre of its first pixel, of the left
    eye, the right eye, the tip of the nose, the left and the right corner of the mouth, left and right as seen in
    the picture. A first line with names is passed over.

    Args:
      path: of the file. Paths in it may be relative to its folder.

    Raises:
      UserError: the file is missing or of another format, or names a photograph twice.
    """
    path = pathlib.Path(path).expanduser()
    points: dict[str, np.ndarray] = {}
    try:
        content = path.read_bytes()
        reader = csv.reader(content.decode("utf-8-sig").splitlines(), skipinitialspace=True)
        for line in reader:
            if not line or (reader.line_num == 1 and not _is_number(line[-1])):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(line) != 11:
                raise UserError(f"{where}: expected a sample id and 10 numbers, got {len(line)} values.")
            name = line[0].strip().removeprefix("./")
            if name in points:
                raise UserError(f"{where}: {name!r} is there a second time.")
            points[name] = five_points(line[1:], where)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}.") from error
    except OSError as error:
        raise UserError(f"the landmarks {path} cannot be read: {error.strerror}.") from error
    if not points:
        raise UserError(f"{path} holds no landmarks; expected lines of a sample id and 10 numbers.")
    return LandmarkTable(str(path), hashlib.sha256(content).hexdigest(), points)


def landmark_columns(there: Sequence[str], asked: str | None, where: str) -> tuple[str, ...]:
    """The column or the ten columns of a data set that hold landmarks.

    Args:
      there: names of the columns.
      asked: for the column; None looks for ``landmarks``, ``x1,y1,...,x5,y5`` or CelebA's names.
      where: it is, for the message.

    Returns:
      One name, ten, or none.

    Raises:
      UserError: there is no such column.
    """
    if asked is not None:
        if asked not in there:
            raise UserError(f"{where} has no column {asked!r}; it has {', '.join(there)}.")
        return (asked,)
    plain = {name.lower().replace("_", ""): name for name in there}
    if _ONE_NAME in plain:
        return (plain[_ONE_NAME],)
    return next((tuple(map(plain.__getitem__, ten)) for ten in _TEN_NAMES if plain.keys() >= set(ten)), ())


def five_points(values: Any, where: str) -> np.ndarray:
    """Ten numbers, as five points.

    Args:
      values: ten numbers in any nesting, texts of numbers, or one text with blanks or commas between them.
      where: they are from, for the message.

    Returns:
      float64 [5, 2].

    Raises:
      UserError: they are not ten finite numbers.
    """
    found = values
    while isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if isinstance(found, str):
        found = re.split(r"[\s,;]+", found.strip(" \t[]()"))
    try:
        numbers = np.array(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != 10 or not np.isfinite(numbers).all():
        raise UserError(f"{where}: expected 10 finite numbers (x and y of five points), got {values!r}.")
    return numbers.reshape(5, 2)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
