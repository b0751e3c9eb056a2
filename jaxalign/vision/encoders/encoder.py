"""What an encoder is, and how a picture is prepared for it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.core.errors import UserError
from jaxalign.vision.images.landmarks import LandmarkTable
from jaxalign.vision.images.pictures import fitted, fitted_inside, pillow

BILINEAR = 2  # Pillow's number, as checkpoints write it
DEFAULT_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture before the network sees it, in this order; a value, so it can be recorded.

    Resize and crop happen on the host, picture by picture (``prepare``). The rest happens where the network runs, batch
    by batch: pixels · rescale, minus mean, over std, channels in the order of ``color``; then padding is set to zero.

    Attributes:
      size: (height, width) of the network's input.
      resize: the length of the shorter edge (the shape is kept), or (height, width), or None for no resizing.
      resample: Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
      crop: (height, width) cut from the centre, padded with black where the picture is smaller; None for no crop.
      rescale: factor from bytes to the scale of ``mean`` and ``std``; 1/255 for most checkpoints.
      mean, std: one number for each channel, in the order of ``color``.
      color: "RGB" or "BGR", the order of channels that the network takes; pictures are always given as RGB.
      longest_edge: instead of ``resize`` and ``crop``, the length of the longer edge (the shape is kept); below and to
        the right the picture is padded up to ``size``. None for no padding.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None = None
    resample: int = BILINEAR
    crop: tuple[int, int] | None = None
    rescale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color: str = "RGB"
    longest_edge: int | None = None

    def __post_init__(self) -> None:
        edges = [*self.size, *np.ravel(() if self.resize is None else self.resize), *(self.crop or ())]
        if self.longest_edge is not None:
            edges.append(self.longest_edge)
            if self.resize or self.crop or self.longest_edge > min(self.size):
                raise UserError(
                    f"preprocessing: a longer edge goes without resize and crop and into the size, got "
                    f"longest_edge={self.longest_edge}, size={self.size}, resize={self.resize}, crop={self.crop}."
                )
        if len(self.size) != 2 or any(int(edge) != edge or edge < 1 for edge in edges):
            raise UserError(
                f"preprocessing: expected sizes of at least 1 pixel, got size={self.size}, resize={self.resize}, "
                f"crop={self.crop}, longest_edge={self.longest_edge}."
            )
        if self.color not in ("RGB", "BGR"):
            raise UserError(f"preprocessing: the colour order is RGB or BGR, got {self.color!r}.")
        if self.resample not in range(6):
            raise UserError(f"preprocessing: expected one of Pillow's filters 0 to 5, got {self.resample!r}.")
        numbers = np.asarray([*self.mean, *self.std, self.rescale], float)
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite(numbers).all() or 0 in numbers[3:]:
            raise UserError(
                f"preprocessing: expected three finite means, three finite standard deviations other than 0 and a "
                f"finite factor other than 0, got mean={self.mean}, std={self.std}, rescale={self.rescale}."
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
        shape = getattr(image, "shape", ())
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise UserError(f"prepare: expected a uint8 RGB picture [h, w, 3], got {_described(image)}.")
        if min(shape) == 0:
            raise UserError(f"prepare: expected a picture with pixels, got shape {shape}.")
        picture = image
        if self.longest_edge is not None:
            inside = np.asarray(fitted_inside(pillow().fromarray(image), self.longest_edge, self.resample))
            picture = np.full((*self.size, 3), self.padding, np.uint8)
            picture[: len(inside), : inside.shape[1]] = inside
        elif self.resize is not None or self.crop is not None:
            picture = np.asarray(fitted(pillow().fromarray(image), self.resize, self.crop, self.resample))
        if picture.shape[:2] != self.size:
            raise UserError(
                f"prepare: a picture of {_pixels(shape)} came out at {_pixels(picture.shape)}, but the network "
                f"takes {_pixels(self.size)} and its preprocessing does not change that; crop or resize it before."
            )
        return np.ascontiguousarray(picture)

    @property
    def padding(self) -> tuple[int, ...]:
        """Red, green and blue of the padding: the bytes nearest to ``mean``."""
        nearest = np.rint(np.asarray(self.mean) / self.rescale).clip(0, 255).astype(int).tolist()
        return tuple(nearest if self.color == "RGB" else nearest[::-1])

    def inside(self, images: Any) -> Any:
        """Which pixels are of the picture and not of its padding.

        Padding is what is wholly of its colour, from the lower and from the right edge on. A photograph that ends in
        exactly this colour loses those rows or columns to it, which moves them by at most half a byte.

        Args:
          images: uint8 [n, height, width, 3] from ``prepare``, a NumPy or a JAX array.

        Returns:
          bool [n, height, width], of the same kind.
        """
        used = (images != np.asarray(self.padding, np.uint8)).any(-1)
        rows, columns = (used.any(axis)[:, ::-1].cumsum(1)[:, ::-1] > 0 for axis in (2, 1))
        return rows[:, :, None] & columns[:, None, :]

    def describe(self) -> dict[str, Any]:
        """The same in JSON's types, for a manifest; without ``longest_edge`` where that is None, as in older stores."""
        fields = {
            key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()
        }
        return {key: value for key, value in fields.items() if key != "longest_edge" or value is not None}


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{value.dtype} of shape {tuple(shape)}"


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} × {shape[1]} pixels (height × width)"


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


class BatchEncoder:
    """What the encoders of this room share: all of ``Encoder`` but how one batch is computed.

    Attributes: see ``Encoder``, and
      key_points: where the network takes five points of each photograph, these points, in parts of the width and height
        of prepared pictures. ``encode`` is then given those of its pictures.
    """

    key_points: LandmarkTable | None = None
    name: str
    dim: int
    batch_size: int
    preprocessing: Preprocessing
    _dtype: np.dtype
    _facts: Callable[[], Mapping[str, Any]]  # further entries of ``describe``
    _pads = True  # whether the last batch is padded to ``batch_size``

    def _dispatch(self, images: np.ndarray, *key_points: np.ndarray) -> ArrayLike:
        """Starts one batch; gives its embeddings [b, dim], which the device may still be computing."""
        raise NotImplementedError

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See ``Preprocessing.prepare``."""
        return self.preprocessing.prepare(image)

    def encode(self, images: np.ndarray, key_points: np.ndarray | None = None) -> np.ndarray:
        """See ``Encoder``; raises ``UserError`` for other pictures and a network that cannot take such a batch.

        ``key_points`` are those of each picture, shape [n, 5, 2], for encoders that have ``key_points``.
        """
        height, width = self.preprocessing.size
        shape, size = getattr(images, "shape", ()), self.batch_size
        if getattr(images, "dtype", None) != np.uint8 or len(shape) != 4 or shape[1:] != (height, width, 3):
            raise UserError(
                f"encoder {self.name!r}: expected uint8 RGB pictures of shape [n, {height}, {width}, 3] "
                f"(encoder.prepare makes them), got {_described(images)}."
            )
        given = [images]
        if self.key_points is not None or key_points is not None:
            given.append(np.asarray(key_points, np.float32))
            if self.key_points is None or given[1].shape != (len(images), 5, 2):
                takes = "no key points" if self.key_points is None else f"key points [{len(images)}, 5, 2]"
                raise UserError(
                    f"encoder {self.name!r} takes {takes} beside pictures, got {_described(key_points)}."
                )
        rows = np.empty((len(images), self.dim), np.float32)
        running: ArrayLike | None = None
        for first in range(0, len(images), size):
            batch = [part[first : first + size] for part in given]
            if self._pads and (missing := size - len(batch[0])):
                batch = [np.pad(part, [(0, missing), *[(0, 0)] * (part.ndim - 1)]) for part in batch]
            following = self._dispatch(*batch)  # before the results of the batch before it are waited for
            if running is not None:
                rows[first - size : first] = running
            running = following
        if running is not None:
            last = (len(rows) - 1) // size * size
            rows[last:] = np.asarray(running)[: len(rows) - last]
        return rows

    def describe(self) -> dict[str, Any]:
        """See ``Encoder.describe``."""
        return {
            "dim": self.dim,
            "dtype": self._dtype.name,
            "preprocessing": self.preprocessing.describe(),
            **self._facts(),
        }
