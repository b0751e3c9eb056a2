"""What an encoder sees of a photograph: the crop, then the encoder's size."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images import landmarks
from jaxalign.vision.images.landmarks import LandmarkTable, read_landmarks
from jaxalign.vision.images.pictures import Resize, pillow
from jaxalign.vision.images.source import BadImageError, ImageSource, Picture

if TYPE_CHECKING:
    import PIL.Image

FORMS = "none, center:<fraction>, landmarks or landmarks:FILE.csv"


class Crop(Protocol):
    """One way to crop; ``str`` gives the specification that ``parse_crop`` reads."""

    def facts(self) -> dict[str, Any]:
        """What was done, for a manifest."""
        ...

    def points(self, picture: Picture) -> np.ndarray | None:
        """The five points [5, 2] that it needs of a picture; None where it needs none.

        Raises:
          BadImageError: it needs some and there are none.
        """
        ...

    def apply(
        self, image: "PIL.Image.Image", resize: Resize | None, points: np.ndarray | None
    ) -> "PIL.Image.Image":
        """Crops an upright RGB picture and brings it to size; without ``resize`` it stays as large as it is."""
        ...


@dataclasses.dataclass(frozen=True)
class NoCrop:
    """The whole picture."""

    def __str__(self) -> str:
        return "none"

    def facts(self) -> dict[str, Any]:
        return {"kind": "none"}

    def points(self, picture: Picture) -> None:
        return None

    def apply(
        self, image: "PIL.Image.Image", resize: Resize | None, points: np.ndarray | None
    ) -> "PIL.Image.Image":
        return image if resize is None else resize(image)


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The middle of the picture: LFW's central crop for a fraction of 0.6.

    Attributes:
      fraction: of each side that stays, above 0 and up to 1; a side of n pixels becomes round(fraction · n), at
        least 1, and where an odd number goes the left or the upper edge loses the smaller half.
    """

    fraction: float

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise UserError(
                f"the fraction of a centre crop must be above 0 and at most 1, got {self.fraction}."
            )

    def __str__(self) -> str:
        return f"center:{self.fraction!r}"

    def facts(self) -> dict[str, Any]:
        return {"kind": "center", "fraction": self.fraction}

    def points(self, picture: Picture) -> None:
        return None

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in pixels."""
        sides = [max(1, int(self.fraction * side + 0.5)) for side in (width, height)]
        left, upper = ((side - kept) // 2 for side, kept in zip((width, height), sides))
        return left, upper, left + sides[0], upper + sides[1]

    def apply(
        self, image: "PIL.Image.Image", resize: Resize | None, points: np.ndarray | None
    ) -> "PIL.Image.Image":
        cropped = image.crop(self.box(*image.size))
        return cropped if resize is None else resize(cropped)


@dataclasses.dataclass(frozen=True)
class LandmarkCrop:
    """The face rotated, scaled and shifted so that its five points lie on ArcFace's template.

    It is sampled once, straight to the encoder's size (112 × 112 without one), bilinear, black outside the picture;
    how an encoder resizes and crops whole pictures has no say here.

    Attributes:
      table: the points by sample; None takes those that the source has.
    """

    table: LandmarkTable | None = None

    def __str__(self) -> str:
        return "landmarks" if self.table is None else f"landmarks:{self.table.path}"

    def facts(self) -> dict[str, Any]:
        facts = {"kind": "landmarks", "template": "arcface", "resample": "bilinear", "outside": [0, 0, 0]}
        if self.table is None:
            return {**facts, "points": "data set"}
        return {**facts, "points": self.table.path, "points_sha256": self.table.sha256}

    def points(self, picture: Picture) -> np.ndarray:
        points = picture.landmarks if self.table is None else self.table.find(picture.sample)
        if points is None:
            where = "the data set" if self.table is None else self.table.path
            raise BadImageError(f"{where} has no landmarks for it")
        return points

    def apply(
        self, image: "PIL.Image.Image", resize: Resize | None, points: np.ndarray | None
    ) -> "PIL.Image.Image":
        if points is None:
            raise UserError("a landmark crop needs the five points of the picture, got none.")
        size = (landmarks.ARCFACE_SIZE,) * 2 if resize is None else (resize.height, resize.width)
        try:
            matrix = landmarks.fit_similarity(points, landmarks.template(*size))
        except UserError as error:
            raise BadImageError(f"its landmarks are no face: {str(error).rstrip('.')}") from error
        return pillow().fromarray(landmarks.warp(np.asarray(image), matrix, *size))


def parse_crop(text: str) -> Crop:
    """The crop of a specification: ``none``, ``center:<fraction>``, ``landmarks`` or ``landmarks:FILE.csv``.

    Args:
      text: such as ``center:0.6``. A file of landmarks is read here; see ``read_landmarks``.

    Raises:
      UserError: it is none of these, the fraction is out of range or the file is not right.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind == "none" and not colon:
        return NoCrop()
    if kind == "center" and re.fullmatch(r"[0-9]*\.?[0-9]+|[0-9]+\.", rest):
        return CenterCrop(float(rest))
    if kind == "landmarks" and (rest or not colon):
        return LandmarkCrop(read_landmarks(rest) if colon else None)
    raise UserError(f"a crop is {FORMS}, such as center:0.6; got {text!r}.")


if TYPE_CHECKING:
    import PIL.Image


@dataclasses.dataclass(frozen=True)
class View:
    """How pictures are cut and sized for one encoder. Several views can be taken of one decoded picture.

    Attributes:
      crop: from ``parse_crop``.
      resize: to the encoder's input; None leaves the size as it is, so that pictures do not stack.
    """

    crop: Crop = dataclasses.field(default_factory=NoCrop)
    resize: Resize | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the result; None where each picture has its own."""
        return None if self.resize is None else (self.resize.height, self.resize.width)

    def facts(self) -> dict[str, Any]:
        """The settings as plain values, for a manifest; equal facts mean equal pixels."""
        return {"crop": self.crop.facts(), "resize": None if self.resize is None else self.resize.facts()}

    def apply(self, image: "PIL.Image.Image", points: np.ndarray | None = None) -> np.ndarray:
        """Takes the view.

        Args:
          image: an upright picture of mode RGB, from ``decode_picture``.
          points: its landmarks [5, 2], which only a landmark crop needs.

        Returns:
          uint8 [h, w, 3].
        """
        return np.asarray(self.crop.apply(image, self.resize, points))


def require_landmarks(source: ImageSource, views: Sequence[View]) -> None:
    """Looks before any work starts whether every photograph has the landmarks that the views need.

    A streamed source is not looked through.

    Raises:
      UserError: some have none.
    """
    crops = {id(view.crop): view.crop for view in views if isinstance(view.crop, LandmarkCrop)}
    if not crops or source.samples is None:
        return
    for crop in crops.values():
        missing = []
        for picture in source.pictures():
            try:
                crop.points(picture)
            except BadImageError:
                missing.append(picture.sample.sample_id)
        if missing:
            where = source.dataset if crop.table is None else crop.table.path
            raise UserError(
                f"{where} has no landmarks for {len(missing):,} of {len(source.samples):,} photographs (first: "
                f"{missing[0]!r}); give a file that has them, landmarks:FILE.csv, or another crop."
            )
