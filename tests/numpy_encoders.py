"""Encoders in numpy, what they must give by Pillow and numpy alone, and folders of small photographs."""

import os
import pathlib
import signal
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image

from jaxalign.vision.encoders import Preprocessing


class NumpyEncoder:
    """A random matrix times the pixels; counts its ``calls`` and the photographs ``seen``."""

    def __init__(
        self,
        name: str = "small",
        size: tuple[int, int] = (6, 8),
        dim: int = 5,
        *,
        batch_size: int = 4,
        resample: int = PIL.Image.Resampling.BILINEAR,
        scale: float = 1.0,
        fails_at: int = 0,
        killed_at: int = 0,
    ):
        self.name, self.dim, self.batch_size = name, dim, batch_size
        self.preprocessing = Preprocessing(size=size, resize=size, resample=resample)
        seed = sum(name.encode())
        self.weights = scale * np.random.default_rng(seed).standard_normal((3 * size[0] * size[1], dim))
        self.calls = self.seen = 0
        self._scale, self._fails_at, self._killed_at = scale, fails_at, killed_at

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return self.preprocessing.prepare(image)

    def encode(self, images: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self._fails_at:
            raise RuntimeError("the network broke")
        if self.calls == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += len(images)
        return (images.reshape(len(images), -1) / 255 @ self.weights).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        return {"form": "numpy", "dim": self.dim, "scale": self._scale}

    def expected(self, files: Iterable[pathlib.Path], fraction: float = 1.0) -> np.ndarray:
        """The embeddings of photographs in files, of the middle ``fraction`` of each side, float64 [n, dim]."""
        height, width = self.preprocessing.size
        filter = PIL.Image.Resampling(self.preprocessing.resample)
        rows = []
        for file in files:
            picture = PIL.Image.open(file).convert("RGB")
            sides = [round(fraction * side) for side in picture.size]
            left, upper = ((side - kept) // 2 for side, kept in zip(picture.size, sides))
            picture = picture.crop((left, upper, left + sides[0], upper + sides[1]))
            pixels = np.asarray(picture.resize((width, height), filter), np.float64)
            rows.append(pixels.reshape(-1) / 255 @ self.weights)
        return np.stack(rows)


def small(name: str = "small", scale: str = "1") -> NumpyEncoder:
    """For ``python:numpy_encoders:small``; the variable KILLED_AT is no setting of the encoder."""
    return NumpyEncoder(name, scale=float(scale), killed_at=int(os.environ.get("KILLED_AT", "0")))


def wide(called: str = "wide", dim: str = "9") -> NumpyEncoder:
    """For ``python:numpy_encoders:wide``."""
    return NumpyEncoder(called, (12, 16), int(dim), batch_size=16, resample=PIL.Image.Resampling.BICUBIC)


def write_people(folder: pathlib.Path, people: int = 3, each: int = 50) -> list[pathlib.Path]:
    """Photographs of random colours, 16 × 20 pixels, a folder per person; the files in the order of their names."""
    random = np.random.default_rng(people)
    files = [folder / f"p{row // each}" / f"{row % each:02d}.png" for row in range(people * each)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(random.integers(0, 256, (16, 20, 3), np.uint8)).save(file)
    return files


def content(store: pathlib.Path) -> dict[str, bytes]:
    """All files of a store."""
    return {file.name: file.read_bytes() for file in sorted(store.iterdir())}
