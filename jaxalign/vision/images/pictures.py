"""One photograph: decoded, cropped, resized."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.landmarks import (
    ARCFACE_SIZE,
    LandmarkTable,
    fit_similarity,
    read_landmarks,
    template,
    warp,
)
from jaxalign.vision.images.source import BadImageError, Content, ImageSource, Picture

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
    """The face turned, scaled and shifted so that its five points lie on ArcFace's template.

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
        size = (ARCFACE_SIZE,) * 2 if resize is None else (resize.height, resize.width)
        try:
            matrix = fit_similarity(points, template(*size))
        except UserError as error:
            raise BadImageError(f"its landmarks are no face: {str(error).rstrip('.')}") from error
        return pillow().fromarray(warp(np.asarray(image), matrix, *size))


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
