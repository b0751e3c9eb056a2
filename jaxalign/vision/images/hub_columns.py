"""Which columns of a Hugging Face data set hold the photograph, the person and the sample's name."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.landmarks import five_points, landmark_columns
from jaxalign.vision.images.source import SourceOptions

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
