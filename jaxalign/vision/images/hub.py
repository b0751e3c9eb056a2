"""Photographs from Hugging Face data sets."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
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
      names: of the classes, where the person is a number that stands for a name.
      sample_id: with the sample's name, or None.
      landmarks: one column, ten, or none.
    """

    image: str
    identity: str
    names: tuple[str, ...] | None
    sample_id: str | None
    landmarks: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """Every column but the image's, none twice."""
        others = (self.identity, *((self.sample_id,) if self.sample_id else ()), *self.landmarks)
        return list(dict.fromkeys(others))

    def person(self, value: Any, where: str) -> str:
        """The person of one row, as text.

        Raises:
          UserError: it is missing, or no name.
        """
        if self.names is not None and isinstance(value, int) and 0 <= value < len(self.names):
            return self.names[value]
        if self.names is None and _is_name(value):
            return str(value)
        kind = "the number of a class" if self.names is not None else "text or a whole number"
        raise UserError(f"{where}: the column {self.identity} must be {kind}, got {value!r}.")

    def name(self, value: Any, where: str) -> str:
        """The sample's name in one row, as text.

        Raises:
          UserError: it is missing, or no name.
        """
        if not _is_name(value):
            raise UserError(f"{where}: the column {self.sample_id} must be text or a number, got {value!r}.")
        return str(value)

    def points(self, row: Mapping[str, Any], where: str) -> np.ndarray | None:
        """The landmarks of one row; None where it has none."""
        values = [row[name] for name in self.landmarks]
        if not values or any(value is None for value in values):
            return None
        return five_points(values, where)


def find_columns(features: Mapping[str, Any], options: SourceOptions, where: str) -> Columns:
    """Picks the columns asked for, or those that can only be meant.

    Args:
      features: of the data set, by column.
      options: with names of columns.
      where: it is, for the message.

    Raises:
      UserError: there is no such column, none that fits, or several images.
    """
    names = list(features)
    for asked in (options.image_column, options.identity_column, options.sample_id_column):
        if asked is not None and asked not in features:
            raise UserError(f"{where} has no column {asked!r}; it has {', '.join(names)}.")
    image = _image(features, options.image_column, where)
    identity = _identity(features, options.identity_column, image, where)
    classes = getattr(features[identity], "names", None)
    return Columns(
        image,
        identity,
        None if classes is None else tuple(classes),
        options.sample_id_column or ("sample_id" if "sample_id" in features else None),
        landmark_columns([name for name in names if name != image], options.landmarks_column, where),
    )


def is_image_feature(feature: Any) -> bool:
    """Whether a column has the type of pictures; others may still hold the bytes of image files."""
    return type(feature).__name__ == "Image"


def _holds_files(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return {"bytes", "path"} <= set(feature)
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _image(features: Mapping[str, Any], asked: str | None, where: str) -> str:
    if asked is not None:
        if not (is_image_feature(features[asked]) or _holds_files(features[asked])):
            raise UserError(f"{where}: the column {asked} holds {features[asked]}, expected images.")
        return asked
    for fits in (is_image_feature, _holds_files):
        found = [name for name, feature in features.items() if fits(feature)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{where} has several columns of images, {', '.join(found)}; name one (image_column)."
            )
    raise UserError(f"{where} has no column of images; it has {', '.join(features)}.")


def _identity(features: Mapping[str, Any], asked: str | None, image: str, where: str) -> str:
    if asked is not None:
        return asked
    lower = {name.lower(): name for name in reversed(list(features)) if name != image}
    usual = [lower[name] for name in IDENTITY_NAMES if name in lower]
    classes = [name for name, feature in features.items() if hasattr(feature, "names")]
    if usual:
        return usual[0]
    if len(classes) == 1:
        return classes[0]
    raise UserError(
        f"{where}: which column has the person is not clear from {', '.join(features)}; name it (identity_column)."
    )


def _is_name(value: Any) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (
        isinstance(value, int | np.integer) and not isinstance(value, bool)
    )


def only_split(splits: Sequence[str], where: str) -> str:
    """The split that is meant where none is named.

    Raises:
      UserError: there are several.
    """
    if len(splits) != 1:
        raise UserError(f"{where} has the splits {', '.join(splits)}; name one (split).")
    return splits[0]


class HubSource:
    """Photographs of a Hugging Face data set.

    A sample's name is what its column says, else ``<split>/<row>`` with the row from 0 in eight digits. The person
    is the class's name where the column holds numbers of named classes.

    Attributes:
      dataset: the last part of the name or of the directory.
      samples: of all photographs; None while streaming.
    """

    def __init__(self, place: str, options: SourceOptions | None = None):
        """Opens the data set, downloading it where it is not here and not streamed; decodes no photograph.

        Args:
          place: a name on the hub, such as ``owner/name``, or a local directory: one that ``save_to_disk`` wrote,
            or of Parquet files or images as ``datasets.load_dataset`` reads them.
          options: any.

        Raises:
          UserError: it cannot be found, reached or read, a split or a column is not clear, or it is empty or of one
            person only (which a streamed data set shows only at its end).
        """
        options = options or SourceOptions()
        self._where = f"data set {place}"
        self.dataset = os.path.basename(os.path.realpath(place)) if _is_local(place) else place.split("/")[-1]
        data, self._split = _open(place, options, self._where)
        if data.features is None:
            raise UserError(
                f"{self._where} does not tell its columns while streamed; read it without streaming."
            )
        self._columns = find_columns(data.features, options, self._where)
        if is_image_feature(data.features[self._columns.image]):
            import datasets

            data = data.cast_column(self._columns.image, datasets.Image(decode=False))
        self._data = data
        self._streamed = isinstance(data, datasets_module().IterableDataset)
        self._labels = None if self._streamed else data.select_columns(self._columns.labels)
        self.samples: list[Sample] | None = None
        if self._labels is not None:
            self.samples = [self._sample(row, labels) for row, labels in enumerate(self._labels)]
            check_samples(self.samples, self._where)

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        return self._stream(start) if self.samples is None else self._stored(self.samples, start)

    def _stored(self, samples: list[Sample], start: int) -> Iterator[Picture]:
        images = self._data.select_columns([self._columns.image])
        for row in range(start, len(samples)):
            points = None
            if self._columns.landmarks and self._labels is not None:
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
            raise UserError(f"{self._where} broke off after row {row:,}: {_reason(error)}.") from error

    def _sample(self, row: int, values: Mapping[str, Any]) -> Sample:
        columns: Columns = self._columns
        identity = columns.person(values[columns.identity], self._row(row))
        if columns.sample_id is not None:
            return Sample(columns.name(values[columns.sample_id], self._row(row)), identity)
        return Sample(f"{self._split}/{row:08d}" if self._split else f"{row:08d}", identity)

    def _row(self, row: int) -> str:
        return f"{self._where}, row {row}"


def open_hub(place: str, options: SourceOptions) -> HubSource:
    """The source of ``hub:NAME_OR_DIR``."""
    return HubSource(os.path.expanduser(place), options)


def datasets_module() -> Any:
    """The library ``datasets``."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("hub data sets need the library datasets: pip install 'jaxalign[images]'.") from error
    return datasets


def _is_local(place: str) -> bool:
    return os.path.isdir(place)


def _open(place: str, options: SourceOptions, where: str) -> tuple[Any, str | None]:
    """The data of one split, and the split's name where it has one."""
    library = datasets_module()
    if not _is_local(place):
        if os.path.exists(place):
            raise UserError(f"{place} is a file; expected a data set's name or directory.")
        if place.startswith((".", "/")) or place.count("/") > 1 or "\\" in place:
            raise UserError(f"the directory {place} is missing; a name on the hub is like owner/name.")
    try:
        if os.path.isfile(os.path.join(place, "dataset_dict.json")):
            splits = library.load_from_disk(place)
        elif os.path.isfile(os.path.join(place, "state.json")):
            return _saved(library.load_from_disk(place), options, where)
        else:
            splits = library.load_dataset(
                place,
                options.config,
                split=options.split,
                revision=options.revision,
                streaming=options.streaming,
            )
    except UserError:
        raise
    except Exception as error:
        raise _explained(error, place, where) from error
    if not isinstance(splits, dict):
        return splits, options.split
    split = options.split or only_split(list(splits), where)
    if split not in splits:
        raise UserError(f"{where} has no split {split!r}; it has {', '.join(splits)}.")
    return splits[split], split


def _saved(data: Any, options: SourceOptions, where: str) -> tuple[Any, str | None]:
    """What ``save_to_disk`` wrote of one split; it is memory-mapped, so streaming would save nothing."""
    split = None if data.split is None else str(data.split)
    if options.split not in (None, split):
        raise UserError(f"{where} was saved as {split or 'one table without splits'}, not {options.split!r}.")
    return data, split


def _explained(error: Exception, place: str, where: str) -> UserError:
    name = type(error).__name__
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in name or "Offline" in name:
        return UserError(
            f"{where} cannot be reached: there is no directory of that name here, and no connection to the hub. "
            "Give a local directory, hub:DIR, as written by save_to_disk or with Parquet files or images."
        )
    if name == "DatasetNotFoundError":
        return UserError(f"{where} is not on the hub, or only for those who log in ({_reason(error)}).")
    if name == "EmptyDatasetError":
        expected = "expected what save_to_disk writes, Parquet files or images"
        return UserError(f"{pathlib.Path(place)} holds no data set: {expected}.")
    return UserError(f"{where} cannot be opened ({_reason(error.__cause__ or error)}).")


def _content(value: Any) -> Content:
    """The bytes of the photograph in one row, read from its file where the row has only the path."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, Mapping) or (value.get("bytes") is None and not value.get("path")):
        raise BadImageError("its row has no picture")
    if value.get("bytes") is not None:
        return value["bytes"]
    if "://" not in value["path"]:
        return read_file(value["path"])
    from datasets.utils.file_utils import xopen  # reads from inside archives and from the hub

    with xopen(value["path"], "rb") as file:
        return file.read()


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
