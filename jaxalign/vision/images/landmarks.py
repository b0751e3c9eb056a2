"""Facial landmarks: read from files, and faces aligned by them."""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.core.errors import UserError
from jaxalign.core.files import csv_lines, read_text
from jaxalign.vision.images.source import Sample

# Where the points lie in ArcFace's 112 × 112 pictures, (x, y) in pixels from the centre of the first pixel; left and
# right as seen in the picture. As distributed with insightface (python-package/insightface/utils/face_align.py).
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112


def template(height: int, width: int) -> np.ndarray:
    """ArcFace's template for a picture of this size in pixels: five points (x, y), float64 [5, 2].

    Multiples of the shorter side of 112, as insightface does it: template · side / 112, centred along the longer side.
    """
    side = min(height, width)
    return ARCFACE_TEMPLATE * (side / ARCFACE_SIZE) + np.array([width - side, height - side]) / 2


def fit_similarity(source: ArrayLike, target: ArrayLike) -> np.ndarray:
    """The rotation, scale and shift that best carry one set of points onto another.

    Minimises Σᵢ ‖s R sourceᵢ + t − targetᵢ‖² over s > 0, rotations R (no reflection) and shifts t. In the plane,
    with points as complex numbers z, w taken from their means, Umeyama's solution is one quotient:
    s R = Σ z̄ w / Σ |z|².

    Equivalent: ``skimage.transform.SimilarityTransform.from_estimate(source, target).params[:2]``.

    Args:
      source, target: points (x, y), shape [n, 2], n at least 2.

    Returns:
      [s R | t], float64 [2, 3].

    Raises:
      UserError: a number is not finite, all source points coincide, or no rotation is better than another.

    References:
      Umeyama, "Least-squares estimation of transformation parameters between two point patterns", IEEE PAMI 1991.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.ndim != 2 or source.shape != target.shape or source.shape[1] != 2 or len(source) < 2:
        shapes = f"{list(source.shape)} and {list(target.shape)}"
        raise UserError(f"expected two sets of at least two points, shape [n, 2], got shapes {shapes}.")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise UserError("the points must be finite numbers.")
    means = source.mean(axis=0), target.mean(axis=0)
    z, w = ((points - mean) @ [1, 1j] for points, mean in zip((source, target), means))
    spread = np.vdot(z, z).real
    if np.sqrt(spread) <= 1e-9 * max(1.0, np.abs(source).max()):
        raise UserError(f"all {len(source)} points lie on one place, {source[0].tolist()}.")
    turn = np.vdot(z, w) / spread
    if abs(turn) * np.sqrt(spread) <= 1e-9 * np.linalg.norm(w):
        raise UserError("the points lie so that no rotation fits better than another.")
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([linear, means[1] - linear @ means[0]])


def warp(pixels: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Moves a picture by an affine map, bilinear, black outside.

    Pixel centres lie on whole numbers. Like ArcFace's own preparation it samples four neighbours and no more, also
    where the picture shrinks.

    Equivalent: ``cv2.warpAffine(pixels, matrix, (width, height), borderValue=0)``, which rounds the positions to
    1/32 of a pixel; ``scipy.ndimage.map_coordinates(..., order=1, mode="grid-constant")`` agrees up to rounding.

    Args:
      pixels: uint8 [h, w, 3].
      matrix: carries places (x, y) of the picture to places of the result, invertible, [2, 3].
      height, width: of the result.

    Returns:
      uint8 [height, width, 3].
    """
    inverse = np.linalg.inv(matrix[:, :2])
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns - matrix[0, 2], rows - matrix[1, 2]], axis=-1).reshape(-1, 2) @ inverse.T
    # A ring of black pixels around the picture, so that what lies outside is looked up like the rest.
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0))).reshape(-1, pixels.shape[2])
    bound = np.array(pixels.shape[1::-1])
    places = np.clip(places, -1, bound)
    first = np.minimum(np.floor(places), bound - 1).astype(np.int64)
    part = (places - first).astype(np.float32)
    stride = pixels.shape[1] + 2
    corner = (first[:, 1] + 1) * stride + first[:, 0] + 1
    result = np.zeros((height * width, pixels.shape[2]), np.float32)
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - part[:, 1]) * np.abs(1 - right - part[:, 0])
            result += weight[:, None] * np.take(padded, corner + down * stride + right, axis=0)
    return np.rint(result).astype(np.uint8).reshape(height, width, -1)


# Names, in lower case and without underscores, under which data sets keep the ten numbers apart; CelebA's second.
_TEN_NAMES = (
    tuple(f"{axis}{point}" for point in range(1, 6) for axis in "xy"),
    tuple(
        f"{point}{axis}"
        for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
        for axis in "xy"
    ),
)


@dataclasses.dataclass(frozen=True, eq=False)
class LandmarkTable:
    """The points of many photographs: float64 [5, 2] by sample id or path, as the file at ``path`` has it."""

    path: str
    sha256: str
    points: Mapping[str, np.ndarray]

    def find(self, sample: Sample) -> np.ndarray | None:
        """The points of a sample, by its id, else by its path, whole or relative to the file's folder."""
        for name in (sample.sample_id, sample.path):
            if name is not None and name in self.points:
                return self.points[name]
        if sample.path is None:
            return None
        folder = os.path.dirname(os.path.abspath(self.path))
        return self.points.get(os.path.relpath(os.path.abspath(sample.path), folder).replace(os.sep, "/"))

    def of_all(self, samples: Sequence[Sample]) -> np.ndarray:
        """The points of each sample, float64 [n, 5, 2]; raises ``UserError`` where one has none."""
        found = [self.find(sample) for sample in samples]
        missing = [sample.sample_id for sample, points in zip(samples, found) if points is None]
        if missing:
            raise UserError(
                f"{self.path} has no key points for {len(missing):,} of {len(samples):,} photographs (first: "
                f"{missing[0]!r})."
            )
        return np.array(found, np.float64).reshape(-1, 5, 2)


def read_landmarks(path: str | os.PathLike[str]) -> LandmarkTable:
    """Reads a CSV file with a sample id or a path (perhaps relative to the file's folder) and ten numbers per line.

    The ten numbers are x and y in pixels of the upright picture, from the centre of its first pixel, of the left
    eye, the right eye, the tip of the nose, the left and the right corner of the mouth, left and right as seen in
    the picture. A first line with names is passed over.

    Raises:
      UserError: the file is missing or of another format, or names a photograph twice.
    """
    path = pathlib.Path(path).expanduser()
    points: dict[str, np.ndarray] = {}
    for number, line in csv_lines(read_text(path, "a CSV file of landmarks"), path):
        if number == 1 and not _is_number(line[-1]):
            continue
        where = f"{path}, line {number}"
        if len(line) != 11:
            raise UserError(f"{where}: expected a sample id and 10 numbers, got {len(line)} values.")
        name = line[0].strip().removeprefix("./")
        if name in points:
            raise UserError(f"{where}: {name!r} is there a second time.")
        points[name] = five_points(line[1:], where)
    if not points:
        raise UserError(f"{path} holds no landmarks; expected lines of a sample id and 10 numbers.")
    return LandmarkTable(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), points)


def landmark_columns(there: Sequence[str], asked: str | None, where: str) -> tuple[str, ...]:
    """The one column or the ten columns of a data set that hold landmarks; empty where there are none.

    Without ``asked`` these are ``landmarks``, ``x1,y1,...,x5,y5`` or CelebA's names. ``where`` is for the message that
    there is no column ``asked``.
    """
    if asked is not None:
        if asked not in there:
            raise UserError(f"{where} has no column {asked!r}; it has {', '.join(there)}.")
        return (asked,)
    plain = {name.lower().replace("_", ""): name for name in there}
    if "landmarks" in plain:
        return (plain["landmarks"],)
    return next((tuple(map(plain.__getitem__, ten)) for ten in _TEN_NAMES if plain.keys() >= set(ten)), ())


def five_points(values: Any, where: str) -> np.ndarray:
    """Ten numbers as five points, float64 [5, 2].

    Args:
      values: ten numbers in any nesting, texts of numbers, or one text with blanks or commas between them.
      where: they are from, for the message.

    Raises:
      UserError: they are not ten finite numbers.
    """
    found = values
    while isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if isinstance(found, str):
        found = re.split(r"[\s,;]+", found.strip(" \t[]()"))
    try:
        numbers = np.array(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != 10 or not np.isfinite(numbers).all():
        raise UserError(f"{where}: expected 10 finite numbers (x and y of five points), got {values!r}.")
    return numbers.reshape(5, 2)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
