"""Checkpoints are written once for all tests, each when first asked for."""

import functools
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from checkpoints import CASES, SIZE

from jaxalign.vision.encoders import Encoder, load_encoder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """The directory of a named case's checkpoint."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("checkpoints")
    cases = {case.name: case for case in CASES}

    def written(name: str) -> pathlib.Path:
        return folder / name if (folder / name).exists() else cases[name].write(folder)

    return written


@pytest.fixture(scope="session")
def encoder(checkpoint: Callable[[str], pathlib.Path]) -> Callable[[str], Encoder]:
    """A named case's encoder with its default pooling, in float32: loaded once and compiled once."""
    return functools.cache(lambda name: load_encoder(f"hf:{checkpoint(name)}", batch_size=8))


@pytest.fixture(scope="session")
def rows(encoder: Callable[[str], Encoder], pictures: np.ndarray) -> Callable[[str], np.ndarray]:
    """The pictures' embeddings under a named case's encoder."""
    return functools.cache(lambda name: encoder(name).encode(pictures))


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """Five prepared pictures of the checkpoints' size."""
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
