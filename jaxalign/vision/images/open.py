"""Opens photographs by a source string: folders, CSV files, Hugging Face data sets, synthetic faces."""

import csv
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.hub import open_hub
from jaxalign.vision.images.landmarks import five_points, landmark_columns
from jaxalign.vision.images.source import (
    ImageSource,
    Picture,
    Sample,
    SourceOptions,
    check_samples,
    read_file,
)

_OPTIONS = ("image_column", "identity_column", "sample_id_column", "landmarks_column")


class CsvSource:
    """Photographs listed in a CSV file whose first line names the columns.

    Columns ``path`` (relative to the file's folder, or absolute) and ``identity``; optional ``sample_id``, else the
    path is the sample's name; optional landmarks, in one column ``landmarks`` or in ten (see ``landmark_columns``).
    Other columns are passed over. The order is the file's.

    Attributes:
      dataset: the file's name without its suffix.
      samples: of all photographs.
    """

    def __init__(self, path: str | os.PathLike[str], options: SourceOptions | None = None):
        """Reads the list and looks for every file; reads no photograph.

        Raises:
          UserError: the file is missing or of another format, a column or a photograph is missing, a sample id
            occurs twice, or all are of one person.
        """
        options = options or SourceOptions()
        options.refuse_all_but(_OPTIONS, "csv:FILE")
        path = pathlib.Path(path).expanduser()
        self.dataset = path.stem
        records = _records(path)
        columns = list(records[0][1])
        image = _column(options.image_column or "path", columns, path)
        identity = _column(options.identity_column or "identity", columns, path)
        usual = "sample_id" if "sample_id" in columns else image
        sample_id = _column(options.sample_id_column or usual, columns, path)
        self.samples: Sequence[Sample] = [
            _sample(record, image, identity, sample_id, path, line) for line, record in records
        ]
        _require_files(self.samples, records, path)
        _require_unique(self.samples, records, path)
        check_samples(self.samples, str(path))
        self._landmarks = _landmarks(records, options.landmarks_column, path)

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        for row in range(start, len(self.samples)):
            sample = self.samples[row]
            points = None if self._landmarks is None else self._landmarks[row]
            yield Picture(sample, functools.partial(read_file, str(sample.path)), points)


def open_csv(place: str, options: SourceOptions) -> CsvSource:
    """The source of ``csv:FILE``."""
    return CsvSource(place, options)


def _records(path: pathlib.Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the file by column, with their numbers."""
    records: list[tuple[int, dict[str, str]]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            if len(set(header)) < len(header):
                raise UserError(f"{path}: two columns have one name: {', '.join(header)}.")
            reader.fieldnames = header
            for record in reader:
                if None in record or None in record.values():
                    expected = f"{len(header)} values, as in the first line"
                    raise UserError(f"{path}, line {reader.line_num}: expected {expected}.")
                records.append((reader.line_num, record))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}.") from error
    except OSError as error:
        raise UserError(f"the list of images {path} cannot be read: {error.strerror}.") from error
    if not records:
        raise UserError(
            f"{path} lists no photographs; expected a first line path,identity and one line for each."
        )
    return records


def _column(name: str, there: Sequence[str], path: pathlib.Path) -> str:
    if name not in there:
        raise UserError(f"{path} has no column {name!r}; its first line names {', '.join(there)}.")
    return name


def _sample(
    record: dict[str, str], image: str, identity: str, sample_id: str, path: pathlib.Path, line: int
) -> Sample:
    values = {name: record[name].strip() for name in (image, identity, sample_id)}
    for name, value in values.items():
        if not value:
            raise UserError(f"{path}, line {line}: the column {name} is empty.")
    photograph = os.path.join(path.parent, os.path.expanduser(values[image]))
    return Sample(values[sample_id], values[identity], photograph)


def _require_files(
    samples: Sequence[Sample], records: Sequence[tuple[int, dict[str, str]]], path: pathlib.Path
) -> None:
    missing = [row for row, sample in enumerate(samples) if not os.path.isfile(str(sample.path))]
    if missing:
        first = f"{samples[missing[0]].path} of line {records[missing[0]][0]}"
        raise UserError(
            f"{path}: {len(missing):,} of its {len(samples):,} photographs are missing (first: {first})."
        )


def _require_unique(
    samples: Sequence[Sample], records: Sequence[tuple[int, dict[str, str]]], path: pathlib.Path
) -> None:
    lines: dict[str, int] = {}
    for sample, (line, _) in zip(samples, records):
        if sample.sample_id in lines:
            first = lines[sample.sample_id]
            raise UserError(
                f"{path}: the lines {first} and {line} both name the sample {sample.sample_id!r}."
            )
        lines[sample.sample_id] = line


def _landmarks(
    records: Sequence[tuple[int, dict[str, str]]], asked: str | None, path: pathlib.Path
) -> list[np.ndarray | None] | None:
    """The points of each row, None in a row that leaves them empty."""
    columns = landmark_columns(list(records[0][1]), asked, str(path))
    if not columns:
        return None
    points: list[np.ndarray | None] = []
    for line, record in records:
        values = [record[name].strip() for name in columns]
        points.append(five_points(values, f"{path}, line {line}") if any(values) else None)
    return points


IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm",
    ".pbm", ".jp2",
)  # fmt: skip


class FolderSource:
    """Photographs in a folder per person, in whatever folders below that.

    The person is the name of the first folder, to the letter: ``Ann`` and ``ann`` are two people. A sample's name is
    its path below the folder with ``/`` between the parts, such as ``Ann/0001.jpg``. People and photographs are
    sorted by name, character by character, so the order is the same on every machine. Names that start with a dot,
    other files than images, and people without photographs are passed over.

    Attributes:
      dataset: name of the folder.
      samples: of all photographs.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        """Lists the photographs; reads none.

        Raises:
          UserError: the folder is missing, unreadable or empty, has photographs outside people's folders, or those of
            one person only.
        """
        folder = pathlib.Path(folder).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder} is {'not a folder' if folder.exists() else 'missing'}: {_EXPECTED}.")
        self.dataset = os.path.basename(os.path.realpath(folder)) or "images"
        self.samples: Sequence[Sample] = _samples(folder)
        check_samples(self.samples, f"folder {folder}")

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        for sample in self.samples[start:]:
            yield Picture(sample, functools.partial(read_file, str(sample.path)))


def open_folder(place: str, options: SourceOptions) -> FolderSource:
    """The source of ``folder:DIR``."""
    options.refuse_all_but((), "folder:DIR")
    return FolderSource(place)


_EXPECTED = "expected a folder that holds a folder of photographs per person"


def _samples(folder: pathlib.Path) -> list[Sample]:
    entries = _entries(folder)
    if not entries:
        raise UserError(f"{folder} is empty: {_EXPECTED}.")
    people = [entry for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if _is_image(entry)]
    if loose:
        count = f"{len(loose):,} {'photograph lies' if len(loose) == 1 else 'photographs lie'}"
        raise UserError(f"{folder}: {count} in no person's folder (first: {loose[0]}): {_EXPECTED}.")
    if not people:
        raise UserError(f"{folder} holds no folders: {_EXPECTED}.")
    samples = [
        Sample("/".join((person.name, *parts)), person.name, os.path.join(person.path, *parts))
        for person in people
        for parts in _images_below(person.path)
    ]
    if not samples:
        names = f"{len(people):,} folders (first: {people[0].name})"
        raise UserError(f"{folder}: none of its {names} holds a photograph ({', '.join(IMAGE_SUFFIXES)}).")
    return samples


def _images_below(folder: str) -> Iterator[tuple[str, ...]]:
    """Paths of the images of one person; links to folders are not followed, as they may lead in circles."""
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from ((entry.name, *parts) for parts in _images_below(entry.path))
        elif _is_image(entry):
            yield (entry.name,)


def _entries(folder: str | os.PathLike[str]) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"the folder {os.fspath(folder)} cannot be read: {error.strerror}.") from error
    return sorted(shown, key=lambda entry: entry.name)


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()


DEFAULT = "300x8"
FORM = "faces:PEOPLExPHOTOGRAPHS"
MOST_FACES = 100_000


@dataclasses.dataclass(frozen=True)
class MadeFaces:
    """Some people of the default range, the same number of photographs of each, rendered when they are asked for.

    Attributes:
      people: how many.
      each: photographs of each.
    """

    people: int
    each: int

    @classmethod
    def open(cls, place: str, options: SourceOptions) -> "MadeFaces":
        """Reads ``300x8``; nothing stands for the default.

        Raises:
          UserError: it is written otherwise.
        """
        options.refuse_all_but((), FORM)
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", place or DEFAULT)
        people, each = (int(match[1]), int(match[2])) if match else (0, 0)
        if not (2 <= people <= MOST_FACES and 1 <= each <= MOST_FACES):
            raise UserError(
                f"synthetic faces are written as {FORM}, such as faces:{DEFAULT}, with 2 people or more; "
                f"got faces:{place}."
            )
        return cls(people, each)

    @property
    def dataset(self) -> str:
        """Says how many."""
        return f"faces-{self.people}x{self.each}"

    @property
    def samples(self) -> Sequence[Sample]:
        """Person by person."""
        return [self._sample(number) for number in range(self.people * self.each)]

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Renders a block at a time, in the thread that asks."""
        from jaxalign.vision.faces.people import BLOCK, DEFAULT_PEOPLE, photographs

        for first in range(start, self.people * self.each, BLOCK):
            numbers = range(first, min(first + BLOCK, self.people * self.each))
            who = [DEFAULT_PEOPLE[number // self.each] for number in numbers]
            images = photographs(who, [number % self.each for number in numbers])
            for number, image in zip(numbers, images, strict=True):
                yield Picture(self._sample(number), lambda image=image: image)

    def _sample(self, number: int) -> Sample:
        person, photograph = divmod(number, self.each)
        return Sample(f"person{person:05d}/{photograph:03d}", f"person{person:05d}")


class SourceKind(NamedTuple):
    """A row of ``SOURCES``: how the specification is written, and what opens the part behind the colon."""

    form: str
    open: Callable[[str, SourceOptions], ImageSource]


SOURCES: Mapping[str, SourceKind] = {
    "folder": SourceKind("folder:DIR (a folder per person)", open_folder),
    "csv": SourceKind("csv:FILE (columns path and identity)", open_csv),
    "hub": SourceKind("hub:NAME or hub:DIR (a Hugging Face data set)", open_hub),
    "faces": SourceKind("faces:PEOPLExPHOTOGRAPHS (made ones, of nobody)", MadeFaces.open),
}


def open_images(spec: str, options: SourceOptions | None = None) -> ImageSource:
    """Opens a data set of photographs; reads none of them.

    Args:
      spec: ``folder:DIR``, ``csv:FILE``, ``hub:NAME_OR_DIR`` or ``faces:300x8``; see ``SOURCES``.
      options: names of columns and the like.

    Returns:
      The source.

    Raises:
      UserError: there is no such form, place or column, an option means nothing here, or the data set is empty or
        of one person only.
    """
    kind, colon, place = spec.strip().partition(":")
    if not colon or kind not in SOURCES or not place:
        forms = ", ".join(row.form for row in SOURCES.values())
        hint = f" Did you mean folder:{spec}?" if os.path.isdir(os.path.expanduser(spec)) else ""
        raise UserError(f"images are given as {forms}; got {spec!r}.{hint}")
    return SOURCES[kind].open(place, options or SourceOptions())
