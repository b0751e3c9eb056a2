"""What an encoder is, and how a picture is prepared for it."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxalign.core.errors import UserError

NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)  # Pillow's numbers, as checkpoints write them


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture before the network sees it, in this order; a value, so it can be recorded.

    Resize and crop happen on the host, picture by picture (``prepare``). The rest happens where the network runs, batch
    by batch: pixels · rescale, minus mean, over std, channels in the order of ``color``.

    Attributes:
      size: (height, width) of the network's input.
      resize: the length of the shorter edge (the shape is kept), or (height, width), or None for no resizing.
      resample: Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
      crop: (height, width) cut from the centre, padded with black where the picture is smaller; None for no crop.
      rescale: factor from bytes to the scale of ``mean`` and ``std``; 1/255 for most checkpoints.
      mean, std: one number for each channel, in the order of ``color``.
      color: "RGB" or "BGR", the order of channels that the network takes; pictures are always given as RGB.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None = None
    resample: int = BILINEAR
    crop: tuple[int, int] | None = None
    rescale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color: str = "RGB"

    def __post_init__(self) -> None:
        edges = [*self.size, *_edges(self.resize), *_edges(self.crop)]
        if len(self.size) != 2 or any(int(edge) != edge or edge < 1 for edge in edges):
            raise UserError(
                f"preprocessing: expected sizes of at least 1 pixel, got size={self.size}, resize={self.resize}, "
                f"crop={self.crop}."
            )
        if self.color not in ("RGB", "BGR"):
            raise UserError(f"preprocessing: the colour order is RGB or BGR, got {self.color!r}.")
        if self.resample not in range(6):
            raise UserError(
                f"preprocessing: resample is one of Pillow's filters 0 to 5, got {self.resample!r}."
            )
        numbers = np.asarray([*self.mean, *self.std, self.rescale], float)
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite(numbers).all() or 0 in self.std:
            raise UserError(
                f"preprocessing: expected three finite means and three finite standard deviations other than 0, got "
                f"mean={self.mean}, std={self.std}, rescale={self.rescale}."
            )

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resizes and crops one picture as the checkpoint's own preprocessor does.

        Equivalent: the slow image processors of transformers, up to their rescaling and normalisation.

        Args:
          image: RGB bytes, shape [h, w, 3], of any size.

        Returns:
          RGB bytes, shape [height, width, 3] with (height, width) = ``size``.

        Raises:
          UserError: the picture has another shape or format, or comes out at another size because this preprocessing
            neither resizes nor crops to the network's input.
        """
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
        ):
            raise UserError(
                f"prepare: expected a uint8 RGB picture of shape [h, w, 3], got {_described(image)}."
            )
        if min(image.shape) == 0:
            raise UserError(f"prepare: expected a picture with pixels, got shape {image.shape}.")
        picture = self._resized(image)
        if self.crop is not None:
            picture = _center_crop(picture, *self.crop)
        if picture.shape[:2] != self.size:
            raise UserError(
                f"prepare: a picture of {_pixels(image.shape)} came out at {_pixels(picture.shape)}, but the network "
                f"takes {_pixels(self.size)} and its preprocessing does not change that; crop or resize it before."
            )
        return np.ascontiguousarray(picture)

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if self.resize is None:
            return image
        from PIL import Image

        height, width = image.shape[:2]
        if isinstance(self.resize, int):  # the longer edge is cut down to whole pixels, as transformers does
            short = min(height, width)
            size = tuple(
                self.resize if edge == short else int(self.resize * edge / short) for edge in (height, width)
            )
        else:
            size = self.resize
        return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling(self.resample)))

    def describe(self) -> dict[str, Any]:
        """The same in JSON's types, for a manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def check_images(images: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Refuses what is no batch of prepared pictures."""
    shape = getattr(images, "shape", None)
    if (
        getattr(images, "dtype", None) != np.uint8
        or shape is None
        or len(shape) != 4
        or shape[1:] != (*size, 3)
    ):
        raise UserError(
            f"encoder {name!r}: expected uint8 RGB pictures of shape [n, {size[0]}, {size[1]}, 3] (encoder.prepare "
            f"makes them), got {_described(images)}."
        )
    return np.asarray(images)


def _edges(value: int | tuple[int, int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{value.dtype} of shape {tuple(shape)}"


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} × {shape[1]} pixels (height × width)"


def _center_crop(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The centre; odd margins go as transformers' ``center_crop`` has them, for cutting and for padding."""
    for axis, wanted in enumerate((height, width)):
        there = picture.shape[axis]
        if there < wanted:
            before = -(-(wanted - there) // 2)
            padding = [(0, 0)] * 3
            padding[axis] = (before, wanted - there - before)
            picture = np.pad(picture, padding)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


@runtime_checkable
class Encoder(Protocol):
    """A frozen network from photographs to embeddings.

    Attributes:
      name: short, of letters, digits and ``_ . + @ -``; what the columns of tables and files of stores are called.
      dim: width of the embeddings.
      batch_size: pictures in one batch of the network. ``encode`` takes any number; multiples waste nothing.
      preprocessing: how pictures are made ready; ``preprocessing.size`` is the input's (height, width).
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One RGB picture of any size, uint8 [h, w, 3], as uint8 [height, width, 3]; safe to call from threads.

        It does what ``preprocessing`` says: encoders of equal preprocessing may be given one another's pictures.
        """
        ...

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Prepared pictures, uint8 [n, height, width, 3], to float32 [n, dim], not normalised in length."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the numbers depend on, in JSON's types: two encoders that say the same give the same embeddings."""
        ...
