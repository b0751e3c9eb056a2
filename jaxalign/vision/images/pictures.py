"""One photograph: decoded from its file and rotated upright; cropped and resized as an encoder sees it."""

import contextlib
import dataclasses
import io
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images import landmarks
from jaxalign.vision.images.landmarks import LandmarkTable, read_landmarks
from jaxalign.vision.images.source import BadImageError, Content, Picture, reason

if TYPE_CHECKING:
    import PIL.Image

Pillow: TypeAlias = "PIL.Image.Image"
Color: TypeAlias = tuple[int, int, int]

WHITE = (255, 255, 255)
# What photographs come in. Pillow knows more, among them formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
# Numbers as in Pillow and in the `resample` of a checkpoint's preprocessor_config.json.
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_LARGEST = 8192
_LONGEST = 64  # times the shorter side: scaled by its shorter side, a thread of pixels would fill the memory


def decode(content: Content, background: Color = WHITE) -> np.ndarray:
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


def decode_picture(content: Content, background: Color = WHITE) -> Pillow:
    """As ``decode``, as a Pillow picture of mode RGB."""
    Image = pillow()
    if isinstance(content, np.ndarray):
        fits = content.ndim == 2 or (content.ndim == 3 and content.shape[2] == 3)
        if content.dtype != np.uint8 or not fits or 0 in content.shape:
            found = f"{content.dtype} {list(content.shape)}"
            raise BadImageError(f"its pixels must be uint8 [h, w, 3] or [h, w], they are {found}")
        return Image.fromarray(np.ascontiguousarray(content)).convert("RGB")
    if not content:
        raise BadImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            _turn_upright(image)
            return _rgb(image, background)
    except (BadImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise BadImageError(f"it is not an image, or damaged at its start (expected {known})") from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError and many more
        raise BadImageError(f"it is damaged ({reason(error)})") from error


def pillow() -> Any:
    """The module ``PIL.Image``, loaded only when a picture is read."""
    try:
        import PIL.Image
    except ImportError as error:
        raise UserError("reading photographs needs Pillow: pip install 'jaxalign[images]'.") from error
    return PIL.Image


def _turn_upright(image: Pillow) -> None:
    import PIL.ImageOps

    with contextlib.suppress(Exception):  # damage in an EXIF block loses the rotation only
        PIL.ImageOps.exif_transpose(image, in_place=True)


def _rgb(image: Pillow, background: Color) -> Pillow:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        kind = "32-bit whole" if image.mode == "I" else "floating-point"
        raise BadImageError(f"its pixels are {kind} numbers: their range is unknown; save it as 8 or 16 bits")
    if image.has_transparency_data:
        below = pillow().new("RGBA", image.size, (*background, 255))
        return pillow().alpha_composite(below, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Pillow) -> Pillow:
    """Pillow's own conversion cuts values above 255 off instead of scaling them."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError(f"its pixels go from {values.min():,} to {values.max():,}, expected 0 to 65,535")
    return pillow().fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def fitted(
    image: Pillow, resize: int | tuple[int, int] | None, crop: tuple[int, int] | None, resample: int
) -> Pillow:
    """Resizes a picture and cuts out its middle as the image processors of ``transformers`` do.

    ``resize`` is the length of the shorter edge (the longer one follows in proportion, rounded down) or (height,
    width), ``crop`` the (height, width) of the middle, with black around it where the picture is smaller, and
    ``resample`` Pillow's number of the filter.
    """
    if isinstance(resize, int):
        short = _shorter_edge(image)
        width, height = (resize if edge == short else int(resize * edge / short) for edge in image.size)
        resize = height, width
    if resize is not None:
        image = image.resize((resize[1], resize[0]), pillow().Resampling(resample))
    if crop is not None:
        height, width = crop
        left, upper = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, upper, left + width, upper + height))
    return image


def fitted_inside(image: Pillow, longest_edge: int, resample: int) -> Pillow:
    """Resizes a picture by the length of its longer edge, as the image processor of SAM in ``transformers`` does.

    The shorter edge follows in proportion, rounded to the nearest pixel.
    """
    _shorter_edge(image)
    scale = longest_edge / max(image.size)
    width, height = (max(1, int(edge * scale + 0.5)) for edge in image.size)
    return image.resize((width, height), pillow().Resampling(resample))


def _shorter_edge(image: Pillow) -> int:
    """In pixels; raises ``BadImageError`` for threads of pixels."""
    short, long = sorted(image.size)
    if long > _LONGEST * short:
        size = f"{image.width:,} × {image.height:,}"
        raise BadImageError(f"it is {size} pixels, far too narrow for a photograph")
    return short


@dataclasses.dataclass(frozen=True)
class Resize:
    """Brings a picture to height × width, with a filter that widens as the picture shrinks.

    Without ``shortest_edge`` both sides are scaled on their own, so a face may be stretched. With it the shorter
    side is scaled to that many pixels and the middle height × width is cut out; see ``fitted``.

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
                raise UserError(f"{name} must be from 1 to {_LARGEST:,} whole pixels, got {side!r}.")
        names = {number: name for name, number in RESAMPLING.items()} | {name: name for name in RESAMPLING}
        if isinstance(self.resample, bool) or self.resample not in names:
            known = ", ".join(f"{name} ({number})" for name, number in RESAMPLING.items())
            raise UserError(f"resample must be one of {known}, got {self.resample!r}.")
        object.__setattr__(self, "resample", names[self.resample])

    def facts(self) -> dict[str, Any]:
        """The settings, for a manifest."""
        return dataclasses.asdict(self)

    def __call__(self, image: Pillow) -> Pillow:
        """Resizes a picture."""
        size, number = (self.height, self.width), RESAMPLING[str(self.resample)]
        if self.shortest_edge is None:
            return fitted(image, size, None, number)
        return fitted(image, self.shortest_edge, size, number)


class Crop:
    """One way to crop; ``str`` gives the specification that ``parse_crop`` reads."""

    def facts(self) -> dict[str, Any]:
        """What was done, for a manifest."""
        raise NotImplementedError

    def points(self, picture: Picture) -> np.ndarray | None:
        """The points [5, 2] that it needs of a picture, or None; raises ``BadImageError`` where they are missing."""
        return None

    def apply(self, image: Pillow, resize: Resize | None, points: np.ndarray | None) -> Pillow:
        """Crops an upright RGB picture and brings it to size; without ``resize`` it stays as large as it is."""
        return image if resize is None else resize(image)


@dataclasses.dataclass(frozen=True)
class NoCrop(Crop):
    """The whole picture."""

    def __str__(self) -> str:
        return "none"

    def facts(self) -> dict[str, Any]:
        return {"kind": "none"}


@dataclasses.dataclass(frozen=True)
class CenterCrop(Crop):
    """The middle of the picture: LFW's central crop for a fraction of 0.6.

    Attributes:
      fraction: of each side that stays, above 0 and up to 1; a side of n pixels becomes round(fraction · n), at
        least 1, and where an odd number goes the left or the upper edge loses the smaller half.
    """

    fraction: float

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise UserError(f"the fraction of a centre crop is above 0 and at most 1, got {self.fraction}.")

    def __str__(self) -> str:
        return f"center:{self.fraction!r}"

    def facts(self) -> dict[str, Any]:
        return {"kind": "center", "fraction": self.fraction}

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in pixels."""
        sides = [max(1, int(self.fraction * side + 0.5)) for side in (width, height)]
        left, upper = ((side - kept) // 2 for side, kept in zip((width, height), sides))
        return left, upper, left + sides[0], upper + sides[1]

    def apply(self, image: Pillow, resize: Resize | None, points: np.ndarray | None) -> Pillow:
        return super().apply(image.crop(self.box(*image.size)), resize, points)


@dataclasses.dataclass(frozen=True)
class LandmarkCrop(Crop):
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

    def apply(self, image: Pillow, resize: Resize | None, points: np.ndarray | None) -> Pillow:
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
    forms = "none, center:<fraction>, landmarks or landmarks:FILE.csv"
    raise UserError(f"a crop is {forms}, such as center:0.6; got {text!r}.")


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

    def apply(self, image: Pillow, points: np.ndarray | None = None) -> np.ndarray:
        """The view, uint8 [h, w, 3], of an upright RGB picture; only a landmark crop needs its points [5, 2]."""
        return np.asarray(self.crop.apply(image, self.resize, points))
