"""Photographs from Hugging Face data sets."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import read_json
from jaxalign.vision.images.landmarks import five_points, landmark_columns
from jaxalign.vision.images.source import (
    BadImageError,
    Content,
    Picture,
    Sample,
    SourceOptions,
    check_names,
    check_samples,
    read_file,
    reason,
)

# Names, in lower case, under which data sets keep the person; the first that is there counts.
IDENTITY_NAMES = (
    "identity", "person", "subject", "identity_id", "person_id", "subject_id", "celeb_id", "label", "labels",
    "celebrity", "name",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
      image: with the photograph.
      identity: with the person.
      classes: their names, where the person is a number that stands for a name.
      sample_id: with the sample's name, or None.
      landmarks: one column, ten, or none.
    """

    image: str
    identity: str
    classes: tuple[str, ...] | None
    sample_id: str | None
    landmarks: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """Every column but the image's, none twice."""
        return list(dict.fromkeys(filter(None, (self.identity, self.sample_id, *self.landmarks))))

    def sample(self, row: Mapping[str, Any], where: str, name: str) -> Sample:
        """The sample of one row, called ``name`` where no column has its name."""

        def refused(column: str, expected: str) -> UserError:
            return UserError(f"{where}: the column {column} must be {expected}, got {row[column]!r}.")

        person = row[self.identity]
        if self.classes is None:
            if not _is_name(person):
                raise refused(self.identity, "text or a whole number")
        elif isinstance(person, int) and 0 <= person < len(self.classes):
            person = self.classes[person]
        else:
            raise refused(self.identity, "the number of a class")
        if self.sample_id is not None:
            if not _is_name(row[self.sample_id]):
                raise refused(self.sample_id, "text or a number")
            name = str(row[self.sample_id])
        return Sample(name, str(person))

    def points(self, row: Mapping[str, Any], where: str) -> np.ndarray | None:
        """The landmarks of one row; None where it has none."""
        values = [row[name] for name in self.landmarks]
        if not values or any(value is None for value in values):
            return None
        return five_points(values, where)


def find_columns(features: Mapping[str, Any], options: SourceOptions, where: str) -> Columns:
    """Picks the columns asked for among the features of a data set, or those that can only be meant.

    Raises:
      UserError: there is no such column, none that fits, or several images.
    """
    names = list(features)
    for asked in (options.image_column, options.identity_column, options.sample_id_column):
        if asked is not None and asked not in features:
            raise UserError(f"{where} has no column {asked!r}; it has {', '.join(names)}.")
    image = options.image_column or _find_image(features, where)
    if not (_is_image(features[image]) or _holds_files(features[image])):
        raise UserError(f"{where}: the column {image} holds {features[image]}, expected images.")
    identity = options.identity_column or _find_identity(features, image, where)
    classes = getattr(features[identity], "names", None)
    return Columns(
        image,
        identity,
        None if classes is None else tuple(classes),
        options.sample_id_column or ("sample_id" if "sample_id" in features else None),
        landmark_columns([name for name in names if name != image], options.landmarks_column, where),
    )


def _is_image(feature: Any) -> bool:
    """Whether a column has the type of pictures; others may still hold the bytes of image files."""
    return type(feature).__name__ == "Image"


def _holds_files(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return {"bytes", "path"} <= set(feature)
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _find_image(features: Mapping[str, Any], where: str) -> str:
    for fits in (_is_image, _holds_files):
        found = [name for name, feature in features.items() if fits(feature)]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(found)
            raise UserError(f"{where} has several columns of images, {several}; name one (image_column).")
    raise UserError(f"{where} has no column of images; it has {', '.join(features)}.")


def _find_identity(features: Mapping[str, Any], image: str, where: str) -> str:
    lower = {name.lower(): name for name in reversed(list(features)) if name != image}
    usual = [lower[name] for name in IDENTITY_NAMES if name in lower]
    classes = [name for name, feature in features.items() if hasattr(feature, "names")]
    if usual or len(classes) == 1:
        return (usual or classes)[0]
    raise UserError(
        f"{where}: which column has the person is not clear from {', '.join(features)}; name it (identity_column)."
    )


def _is_name(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


class HubSource:
    """Photographs of a Hugging Face data set; ``samples`` is None while streaming.

    A sample's name is what its column says, else ``<split>/<row>`` with the row from 0 in eight digits. The person
    is the class's name where the column holds numbers of named classes. The data set is called like the last part of
    its name or directory.
    """

    def __init__(self, place: str, options: SourceOptions):
        """Opens the data set, downloading it where it is not here and not streamed; decodes no photograph.

        ``place`` is a name on the hub, such as ``owner/name``, or a local directory: one that ``save_to_disk`` wrote,
        or of Parquet files or images as ``datasets.load_dataset`` reads them.
        """
        try:
            import datasets
        except ImportError as error:
            install = "pip install 'jaxalign[images]'"
            raise UserError(f"hub data sets need the library datasets: {install}.") from error
        place = os.path.expanduser(place)
        self._where = f"data set {place}"
        self.dataset = os.path.basename(os.path.realpath(place) if os.path.isdir(place) else place)
        data, self._split = _open(place, options, self._where)
        if data.features is None:
            raise UserError(f"{self._where} does not tell its columns; read it without streaming.")
        self._columns = find_columns(data.features, options, self._where)
        if _is_image(data.features[self._columns.image]):
            data = data.cast_column(self._columns.image, datasets.Image(decode=False))
        self._data = data
        self.samples: list[Sample] | None = None
        if not isinstance(data, datasets.IterableDataset):
            data = self._data = data.with_format(None)  # one that was saved may leave columns out
            self._labels = data.select_columns(self._columns.labels)
            try:
                # Reading a damaged Arrow file may end the process.
                data.select_columns([self._columns.image, *self._columns.labels]).data.validate(full=True)
            except Exception as error:
                raise UserError(f"{self._where} is damaged ({reason(error)}).") from error
            self.samples = [self._sample(row, labels) for row, labels in enumerate(self._labels)]
            check_samples(self.samples, self._where)

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        return self._stream(start) if self.samples is None else self._stored(self.samples, start)

    def _stored(self, samples: list[Sample], start: int) -> Iterator[Picture]:
        images = self._data.select_columns([self._columns.image])
        for row in range(start, len(samples)):
            points = None
            if self._columns.landmarks:
                points = self._columns.points(self._labels[row], self._row(row))
            yield Picture(samples[row], lambda row=row: _content(images[row][self._columns.image]), points)

    def _stream(self, start: int) -> Iterator[Picture]:
        data = self._data.select_columns([self._columns.image, *self._columns.labels])
        seen: set[str] = set()
        row = start
        try:
            for row, values in enumerate(data.skip(start) if start else data, start):
                sample = self._sample(row, values)
                check_names(sample, self._row(row))
                if self._columns.sample_id:  # names made from row numbers cannot repeat
                    if sample.sample_id in seen:
                        raise UserError(f"{self._row(row)}: the sample id {sample.sample_id!r} came before.")
                    seen.add(sample.sample_id)
                value = values[self._columns.image]
                points = self._columns.points(values, self._row(row))
                yield Picture(sample, lambda value=value: _content(value), points)
        except UserError:
            raise
        except (OSError, ValueError) as error:  # of the network, of damaged files, of labels without a class
            raise UserError(f"{self._where} broke off after row {row:,}: {reason(error)}.") from error

    def _sample(self, row: int, values: Mapping[str, Any]) -> Sample:
        name = f"{self._split}/{row:08d}" if self._split else f"{row:08d}"
        return self._columns.sample(values, self._row(row), name)

    def _row(self, row: int) -> str:
        return f"{self._where}, row {row}"


def _open(place: str, options: SourceOptions, where: str) -> tuple[Any, str | None]:
    """The data of one split, and the split's name where it has one."""
    import datasets

    if not os.path.isdir(place):
        if os.path.exists(place):
            raise UserError(f"{place} is a file; expected a data set's name or directory.")
        if place.startswith((".", "/")) or place.count("/") > 1 or "\\" in place:
            raise UserError(f"the directory {place} is missing; a name on the hub is like owner/name.")
    whole, one = (os.path.isfile(os.path.join(place, name)) for name in ("dataset_dict.json", "state.json"))
    try:
        if whole or one:  # what ``save_to_disk`` wrote is memory-mapped, so streaming would save nothing
            _require_saved(pathlib.Path(place), whole)
            data = datasets.load_from_disk(place)
        else:
            data = datasets.load_dataset(
                place,
                options.config,
                split=options.split,
                revision=options.revision,
                streaming=options.streaming,
            )
    except UserError:
        raise
    except Exception as error:
        if whole or one:
            may = "state.json, dataset_info.json or an Arrow file in it may be damaged"
            raise UserError(f"{where} cannot be opened: {may} ({reason(error)}).") from error
        raise _explained(error, place, where) from error
    if isinstance(data, dict):
        names = [str(name) for name in data]
        if options.split is None and len(names) != 1:
            raise UserError(f"{where} has the splits {', '.join(names)}; name one (split).")
        split = options.split or names[0]
        if split not in names:
            raise UserError(f"{where} has no split {split!r}; it has {', '.join(names)}.")
        return data[split], split
    if not one:
        return data, options.split
    split = None if data.split is None else str(data.split)
    if options.split not in (None, split):
        raise UserError(f"{where} was saved as {split or 'one table without splits'}, not {options.split!r}.")
    return data, split


def _require_saved(folder: pathlib.Path, splits: bool) -> None:
    """Names the first damaged file of metadata in what ``save_to_disk`` wrote; ``datasets`` would name none."""
    folders = [folder]
    if splits:
        file = folder / "dataset_dict.json"
        content = read_json(file)
        names = content.get("splits") if isinstance(content, dict) else None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f'{file} is damaged: expected the names of splits as "splits", got {names!r}.')
        folders = [folder / name for name in names]
    for file in (part / name for part in folders for name in ("state.json", "dataset_info.json")):
        content = read_json(file)
        if not isinstance(content, dict):
            raise UserError(f"{file} is damaged: expected a JSON object, got {type(content).__name__}.")


def _explained(error: Exception, place: str, where: str) -> UserError:
    name = type(error).__name__
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in name or "Offline" in name:
        return UserError(
            f"{where} cannot be reached: there is no directory of that name here, and no connection to the hub. "
            "Give a local directory, hub:DIR, as written by save_to_disk or with Parquet files or images."
        )
    if name == "DatasetNotFoundError":
        return UserError(f"{where} is not on the hub, or only for those who log in ({reason(error)}).")
    if name == "EmptyDatasetError":
        expected = "expected what save_to_disk writes, Parquet files or images"
        return UserError(f"{pathlib.Path(place)} holds no data set: {expected}.")
    return UserError(f"{where} cannot be opened ({reason(error.__cause__ or error)}).")


def _content(value: Any) -> Content:
    """The bytes of the photograph in one row, read from its file where the row has only the path."""
    if isinstance(value, bytes):
        return value
    value = value or {}
    if value.get("bytes") is not None:
        return value["bytes"]
    if not value.get("path"):
        raise BadImageError("its row has no picture")
    if "://" not in value["path"]:
        return read_file(value["path"])
    from datasets.utils.file_utils import xopen  # reads from inside archives and from the hub

    with xopen(value["path"], "rb") as file:
        return file.read()
