"""From any size to an encoder's, with Pillow's filters."""

import dataclasses
from typing import TYPE_CHECKING, Any

from jaxalign.core.errors import UserError
from jaxalign.vision.images.decode import pillow
from jaxalign.vision.images.source import BadImageError

if TYPE_CHECKING:
    import PIL.Image

# Numbers as in Pillow and in the `resample` of a checkpoint's preprocessor_config.json.
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_LARGEST = 8192
LONGEST = 64  # times the shorter side: scaled by its shorter side, a thread of pixels would fill the memory


@dataclasses.dataclass(frozen=True)
class Resize:
    """Brings a picture to height × width, with a filter that widens as the picture shrinks.

    Without ``shortest_edge`` both sides are scaled on their own, so a face may be stretched. With it the shorter
    side is scaled to that many pixels and the longer in proportion (rounded down); then the middle height × width
    is cut out, with black around it where it is larger. This is what image processors of ``transformers`` do for
    ``size = {"shortest_edge": ...}`` and ``crop_size``.

    Attributes:
      height, width: of the result in pixels.
      resample: nearest, lanczos, bilinear or bicubic; given by name or by Pillow's number, kept as the name.
      shortest_edge: in pixels, or None.
    """

    height: int
    width: int
    resample: str | int = "bilinear"
    shortest_edge: int | None = None

    def __post_init__(self):
        for name in ("height", "width", "shortest_edge"):
            side = getattr(self, name)
            if side is not None and not (isinstance(side, int) and 1 <= side <= _LARGEST):
                raise UserError(
                    f"{name} must be a whole number of pixels from 1 to {_LARGEST:,}, got {side!r}."
                )
        names = {number: name for name, number in RESAMPLING.items()} | {name: name for name in RESAMPLING}
        if isinstance(self.resample, bool) or self.resample not in names:
            known = ", ".join(f"{name} ({number})" for name, number in RESAMPLING.items())
            raise UserError(f"resample must be one of {known}, got {self.resample!r}.")
        object.__setattr__(self, "resample", names[self.resample])

    def facts(self) -> dict[str, Any]:
        """The settings, for a manifest."""
        return dataclasses.asdict(self)

    def __call__(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        """Resizes a picture; one that has the size already is not touched."""
        resample = pillow().Resampling(RESAMPLING[str(self.resample)])
        if self.shortest_edge is None:
            return _resized(image, self.width, self.height, resample)
        short, long = sorted(image.size)
        if long > LONGEST * short:
            raise BadImageError(
                f"it is {image.width:,} × {image.height:,} pixels, far too narrow for a photograph"
            )
        longer = int(self.shortest_edge * long / short)
        width, height = image.size
        size = (self.shortest_edge, longer) if width <= height else (longer, self.shortest_edge)
        scaled = _resized(image, *size, resample)
        left, upper = (scaled.width - self.width) // 2, (scaled.height - self.height) // 2
        return scaled.crop((left, upper, left + self.width, upper + self.height))


def _resized(image: "PIL.Image.Image", width: int, height: int, resample: Any) -> "PIL.Image.Image":
    return image if image.size == (width, height) else image.resize((width, height), resample)
