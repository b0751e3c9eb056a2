"""What one encoder sees of a photograph: a crop and a size."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.crops import Crop, LandmarkCrop, NoCrop
from jaxalign.vision.images.resize import Resize
from jaxalign.vision.images.source import BadImageError, ImageSource

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
