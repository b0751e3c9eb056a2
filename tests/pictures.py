"""Small pictures and data sets for the tests of images."""

import io
import pathlib
from typing import Any

import numpy as np
import PIL.Image


def noise(height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    """Random colours, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Slow colours, as in a photograph, uint8 [height, width, 3]."""
    phase = np.random.default_rng(seed).uniform(0, 6, (3, 2))
    down, right = np.mgrid[:height, :width]
    waves = [np.sin(down / 17 + first) + np.cos(right / 23 + second) for first, second in phase]
    return np.rint(127.5 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def encoded(image: np.ndarray | PIL.Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    picture = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    picture.save(file, format, **options)
    return file.getvalue()


def write(path: pathlib.Path, image: np.ndarray | None = None) -> pathlib.Path:
    """Writes a picture as PNG, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(noise() if image is None else image))
    return path


def people_folder(folder: pathlib.Path, people: int = 3, each: int = 4) -> pathlib.Path:
    """A folder per person; the photograph ``p<i>/<j>.png`` is grey of value 10 i + j."""
    for person in range(people):
        for number in range(each):
            write(folder / f"p{person}" / f"{number}.png", np.full((6, 8, 3), 10 * person + number, np.uint8))
    return folder
