"""Opens photographs by a source string: folders, CSV files, Hugging Face data sets, synthetic faces."""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import csv_lines, read_text
from jaxalign.core.names import normal_name, note_joined
from jaxalign.data.readers.identity_files import IDENTITY_NAMES, SAMPLE_NAMES, find, slashed
from jaxalign.data.samples import DIGEST, REQUIRED, further_columns
from jaxalign.vision.images.folders import EXPECTED, FolderWalk
from jaxalign.vision.images.hub import HubSource
from jaxalign.vision.images.landmarks import five_points, landmark_columns
from jaxalign.vision.images.source import (
    ImageSource,
    Picture,
    Sample,
    SourceOptions,
    check_samples,
    read_file,
)


class CsvSource:
    """Photographs listed in a CSV file whose first line names the columns.

    Columns ``path`` (relative to the file's folder, or absolute, with slashes or backslashes) and ``identity``, or the
    other names that the importer knows; optional ``sample_id``, else the path is the sample's name; optional landmarks,
    in one column ``landmarks`` or in ten (see ``landmark_columns``). Values are separated by commas, semicolons or
    tabs. Other columns are kept as text, for a store. The order is the file's. The data set is called like the file,
    without its suffix.
    """

    def __init__(self, place: str, options: SourceOptions):
        """Reads the list and looks for every file; reads no photograph."""
        known = ("image_column", "identity_column", "sample_id_column", "landmarks_column")
        options.refuse_all_but(known, "csv:FILE")
        path = pathlib.Path(place).expanduser()
        self.dataset = path.stem
        records = _records(path)
        columns = list(records[0][1])
        image = options.image_column or find(None, SAMPLE_NAMES[2:], columns) or "path"
        identity = options.identity_column or find(None, IDENTITY_NAMES, columns) or "identity"
        sample_id = options.sample_id_column or find(None, SAMPLE_NAMES[:2], columns) or image
        for name in (image, identity, sample_id):
            if name not in columns:
                raise UserError(f"{path} has no column {name!r}; its first line names {', '.join(columns)}.")
        points = landmark_columns(columns, options.landmarks_column, str(path))
        others = [name for name in columns if name not in (image, identity, sample_id, *points)]
        people = {record[identity]: normal_name(record[identity]) for _, record in records}
        note_joined(people, f"people of {path}")
        self.samples: Sequence[Sample] = []
        self._landmarks: list[np.ndarray | None] = []
        lines: dict[str, int] = {}
        missing: list[str] = []
        for line, record in records:
            where = f"{path}, line {line}"
            for name in (image, identity, sample_id):
                if not record[name]:
                    raise UserError(f"{where}: the column {name} is empty.")
            file = os.path.join(path.parent, os.path.expanduser(record[image]))
            if not os.path.isfile(file):
                file = os.path.join(path.parent, os.path.expanduser(slashed(record[image])))
            name = slashed(record[image]) if sample_id == image else record[sample_id]
            further = further_columns({name: record[name] for name in others}, (*REQUIRED, DIGEST, "path"))
            sample = Sample(normal_name(name), people[record[identity]], file, further)
            if not os.path.isfile(file):
                missing.append(f"{file} of line {line}")
            first = lines.setdefault(sample.sample_id, line)
            if first != line:
                both = f"the lines {first} and {line} both name the sample"
                raise UserError(f"{path}: {both} {sample.sample_id!r}.")
            values = [record[name] for name in points]
            self._landmarks.append(five_points(values, where) if any(values) else None)
            self.samples.append(sample)
        if missing and options.bad_images == "fail":
            photographs = f"{len(missing):,} of its {len(records):,} photographs"
            raise UserError(
                f"{path}: {photographs} are missing (first: {missing[0]}); bad_images=skip leaves them out."
            )
        check_samples(self.samples, str(path))

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        for sample, points in zip(self.samples[start:], self._landmarks[start:]):
            yield Picture(sample, functools.partial(read_file, str(sample.path)), points)


def _records(path: pathlib.Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the file by column, with their numbers."""
    records: list[tuple[int, dict[str, str]]] = []
    lines = csv_lines(read_text(path, "a list of images"), path)
    header = [name.strip() for name in lines[0][1]] if lines else []
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have one name: {', '.join(header)}.")
    for number, line in lines[1:]:
        if len(line) != len(header):
            expected = f"{len(header)} values, as in the first line"
            raise UserError(f"{path}, line {number}: expected {expected}.")
        records.append((number, {name: value.strip() for name, value in zip(header, line)}))
    if not records:
        expected = "a first line path,identity and one line for each"
        raise UserError(f"{path} lists no photographs; expected {expected}.")
    return records


MOST_DEPTH = 8


class FolderSource:
    """Photographs in a folder per person, in whatever folders below that.

    The person is the name of the first folder, or with ``?depth=2`` of the second (``train/<person>/``), to the letter:
    ``Ann`` and ``ann`` are two people, however ``normal_name`` of both counts. A sample's name is its path below the
    folder with ``/`` between the parts, such as ``Ann/0001.jpg``. People and photographs are sorted by name, character
    by character, so the order is the same on every machine. Hidden names, folders that systems make, links to folders,
    other files than images, and people without photographs are passed over; ``notes`` says how many. The data set is
    called like the folder.
    """

    def __init__(self, place: str | os.PathLike[str], options: SourceOptions | None = None):
        """Lists the photographs; reads none."""
        (options or SourceOptions()).refuse_all_but((), "folder:DIR")
        path, _, depth = os.fspath(place).partition("?depth=")
        if depth and not (depth.isdecimal() and 1 <= int(depth) <= MOST_DEPTH):
            raise UserError(f"folder:{place}: depth is a whole number from 1 to {MOST_DEPTH}, got {depth!r}.")
        folder = pathlib.Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder} is {'not a folder' if folder.exists() else 'missing'}: {EXPECTED}.")
        self.dataset = os.path.basename(os.path.realpath(folder)) or "images"
        walk = FolderWalk()
        self.samples: Sequence[Sample] = walk.samples(folder, int(depth or 1))
        self.notes = walk.notes()
        check_samples(self.samples, f"folder {folder}")

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        for sample in self.samples[start:]:
            yield Picture(sample, functools.partial(read_file, str(sample.path)))


MOST_FACES = 100_000


class SyntheticFaces:
    """Some people of the default range, the same number of photographs of each, rendered when they are asked for."""

    def __init__(self, place: str, options: SourceOptions):
        """Reads ``300x8``."""
        form = "faces:PEOPLExPHOTOGRAPHS"
        options.refuse_all_but((), form)
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", place)
        people, self._each = (int(match[1]), int(match[2])) if match else (0, 0)
        if not (2 <= people <= MOST_FACES and 1 <= self._each <= MOST_FACES):
            raise UserError(
                f"synthetic faces are written as {form}, such as faces:300x8, with 2 people or more; got faces:{place}."
            )
        self.dataset = f"faces-{people}x{self._each}"
        self.samples: Sequence[Sample] = [
            Sample(f"person{person:05d}/{photograph:03d}", f"person{person:05d}")
            for person in range(people)
            for photograph in range(self._each)
        ]

    def fingerprint(self) -> str:
        """A text that changes with the people, the program that draws them, and the version of JAX that runs it."""
        import jax

        from jaxalign.vision import faces

        hasher = hashlib.sha256(f"{self.dataset} {jax.__version__}".encode())
        for path in sorted(pathlib.Path(faces.__path__[0]).glob("*.py")):
            hasher.update(path.read_bytes())
        return hasher.hexdigest()

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Renders a block at a time, in the thread that asks."""
        from jaxalign.vision.faces.synthetic_people import BLOCK, DEFAULT_PEOPLE, photographs

        for first in range(start, len(self.samples), BLOCK):
            numbers = range(first, min(first + BLOCK, len(self.samples)))
            who = [DEFAULT_PEOPLE[number // self._each] for number in numbers]
            images = photographs(who, [number % self._each for number in numbers])
            for number, image in zip(numbers, images, strict=True):
                yield Picture(self.samples[number], lambda image=image: image)


class SourceKind(NamedTuple):
    """A row of ``SOURCES``: how the specification is written, and what opens the part behind the colon."""

    form: str
    open: Callable[[str, SourceOptions], ImageSource]


SOURCES: Mapping[str, SourceKind] = {
    "folder": SourceKind(
        "folder:DIR (a folder per person; folder:DIR?depth=2 for train/<person>/)", FolderSource
    ),
    "csv": SourceKind("csv:FILE (columns path and identity)", CsvSource),
    "hub": SourceKind("hub:NAME or hub:DIR (a Hugging Face data set)", HubSource),
    "faces": SourceKind("faces:PEOPLExPHOTOGRAPHS (synthetic people)", SyntheticFaces),
}


def open_images(spec: str, options: SourceOptions | None = None) -> ImageSource:
    """Opens a data set of photographs; reads none of them.

    Args:
      spec: ``folder:DIR``, ``csv:FILE``, ``hub:NAME_OR_DIR`` or ``faces:300x8``; see ``SOURCES``.
      options: names of columns and the like.

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
