"""What one encoder sees of a photograph: the user's crop, then the encoder's own preprocessing."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.encoders import Encoder
from jaxalign.images import LandmarkCrop, Resize, View

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

    def apply(self, image: "PIL.Image.Image", points: np.ndarray | None = None) -> np.ndarray:
        """Crops and prepares an upright RGB picture: uint8 [height, width, 3]."""
        if isinstance(self.crop, LandmarkCrop):
            return np.asarray(self.crop.apply(image, Resize(*self.size), points))
        return self.encoder.prepare(np.asarray(self.crop.apply(image, None, points)))
