"""What one encoder sees of a photograph: the user's crop, then the encoder's own preprocessing."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.data.manifest import check_info
from jaxalign.vision.encoders import Encoder
from jaxalign.vision.images import BadImageError, LandmarkCrop, Resize, View
from jaxalign.vision.images.resize import LONGEST

if TYPE_CHECKING:
    import PIL.Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderView(View):
    """A view whose size and resizing are the encoder's.

    A crop by landmarks is warped straight to the encoder's input, so that an aligned face is sampled once.

    Attributes:
      encoder: whose input it is.
    """

    encoder: Encoder

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the encoder's input."""
        return self.encoder.preprocessing.size

    def facts(self) -> dict[str, Any]:
        """The settings as plain values; equal facts mean equal pixels."""
        return {"crop": self.crop.facts(), "preprocessing": self.encoder.preprocessing.describe()}

    def info(self) -> dict[str, Any]:
        """What a store's manifest says of the encoder: how it was loaded and what it sees, as JSON gives it back."""
        return check_info(self.encoder.name, {"encoder": self.encoder.describe(), "view": self.facts()})

    def apply(self, image: "PIL.Image.Image", points: np.ndarray | None = None) -> np.ndarray:
        """Crops and prepares an upright RGB picture: uint8 [height, width, 3]."""
        if isinstance(self.crop, LandmarkCrop):
            return np.asarray(self.crop.apply(image, Resize(*self.size), points))
        cropped = self.crop.apply(image, None, points)
        short, long = sorted(cropped.size)
        if isinstance(self.encoder.preprocessing.resize, int) and long > LONGEST * short:
            raise BadImageError(
                f"it is {cropped.width:,} × {cropped.height:,} pixels, far too narrow for a photograph"
            )
        try:
            return self.encoder.prepare(np.asarray(cropped))
        except UserError as error:
            raise BadImageError(f"encoder {self.encoder.name!r}: {error}") from error
