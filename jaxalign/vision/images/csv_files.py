"""A CSV file of paths and people."""

import csv
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.landmarks import five_points, landmark_columns
from jaxalign.vision.images.source import Picture, Sample, SourceOptions, check_samples, read_file

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
