"""Small clouds for geometry: two encoders that share some of their variance, with the troubles of real ones."""

import numpy as np
import scipy.stats

ROWS, PEOPLE = 48, 12
CLOUDS = ("tall", "wide", "rank_deficient", "constant_column", "huge_mean", "float16")


def make(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 48 photographs, four of each of twelve people, under two encoders of widths 9 and 14 (wide: 60)."""
    random = np.random.default_rng(seed)
    width = 60 if name == "wide" else 14
    person = np.repeat(random.normal(size=(PEOPLE, 6)), ROWS // PEOPLE, axis=0)
    shared = person + 0.5 * random.normal(size=(ROWS, 6))
    x = shared @ random.normal(size=(6, 9)) + random.normal(size=(ROWS, 9))
    y = shared @ random.normal(size=(6, width)) + random.normal(size=(ROWS, width))
    if name == "rank_deficient":
        y[:, 8:] = y[:, :6] @ random.normal(size=(6, 6))
    if name == "constant_column":
        x[:, 3] = 2.5
    if name == "huge_mean":
        x += 1000 * random.normal(size=9)
    if name == "float16":
        return x.astype(np.float16), y.astype(np.float16)
    return x, y


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    return next(iter(scipy.stats.spearmanr(x, y)))  # pyright: ignore[reportReturnType]


def identities() -> np.ndarray:
    """The person of each row."""
    return np.repeat([f"p{k:02d}" for k in range(PEOPLE)], ROWS // PEOPLE)


def rotation(width: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def centred(rows: np.ndarray) -> np.ndarray:
    """float64 rows less their mean."""
    rows = np.asarray(rows, np.float64)
    return rows - rows.mean(axis=0)
