"""One photograph: decoded from its file, rotated upright, resized."""

import contextlib
import dataclasses
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.source import BadImageError, Content

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


if TYPE_CHECKING:
    import PIL.Image

WHITE = (255, 255, 255)

# What photographs come in. Pillow knows more, among them formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")


def decode(content: Content, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """The pixels of one picture.

    - Rotated and mirrored as its EXIF orientation says; an EXIF block that cannot be read is passed over.
    - Grey, 1 bit, palette, YCbCr and CMYK become RGB as Pillow converts them, without colour profiles.
    - 16 bits of grey become 8: v / 257, rounded. 16 bits of colour: the upper 8, as Pillow reads them.
    - Alpha, also of a palette or as one transparent colour, is composited on ``background``.
    - Of an animation or a file of several pictures, the first.

    Args:
      content: bytes of an image file, or pixels, uint8 [h, w, 3] or [h, w], which are taken as they are.
      background: red, green and blue behind what is transparent.

    Returns:
      uint8 [h, w, 3].

    Raises:
      BadImageError: the file is damaged, cut short, not an image, or of a kind whose brightness has no fixed range
        (32-bit and floating-point pictures).
    """
    return np.asarray(decode_picture(content, background))


def decode_picture(content: Content, background: tuple[int, int, int] = WHITE) -> "PIL.Image.Image":
    """As ``decode``, as a Pillow picture of mode RGB."""
    Image = pillow()
    if isinstance(content, np.ndarray):
        return Image.fromarray(_checked_pixels(content)).convert("RGB")
    if not content:
        raise BadImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            _turn_upright(image)
            return _rgb(image, background)
    except BadImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImageError(
            f"it is not an image, or damaged at its start (expected {', '.join(FORMATS)})"
        ) from error
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error and more
        raise BadImageError(f"it is damaged ({_reason(error)})") from error


def pillow():
    """The module ``PIL.Image``, loaded only when a picture is read."""
    try:
        import PIL.Image
    except ImportError as error:
        raise UserError("reading photographs needs Pillow: pip install 'jaxalign[images]'.") from error
    return PIL.Image


def _turn_upright(image: "PIL.Image.Image") -> None:
    import PIL.ImageOps

    with contextlib.suppress(
        Exception
    ):  # an EXIF block is not the picture: damage there loses the rotation only
        PIL.ImageOps.exif_transpose(image, in_place=True)


def _rgb(image: "PIL.Image.Image", background: tuple[int, int, int]) -> "PIL.Image.Image":
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        kind = "32-bit whole" if image.mode == "I" else "floating-point"
        raise BadImageError(
            f"its pixels are {kind} numbers, whose range is unknown; save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        below = pillow().new("RGBA", image.size, (*background, 255))
        return pillow().alpha_composite(below, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """Pillow's own conversion cuts values above 255 off instead of scaling them."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError(f"its pixels go from {values.min():,} to {values.max():,}, expected 0 to 65,535")
    return pillow().fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _checked_pixels(pixels: np.ndarray) -> np.ndarray:
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not fits or 0 in pixels.shape:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        raise BadImageError(f"its pixels must be uint8 [h, w, 3] or [h, w], they are {found}")
    return np.ascontiguousarray(pixels)


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
