"""One pair of planted encoders for all tests of gallery maps."""

import numpy as np
import pytest

from jaxalign import AffineMap, Fit
from jaxalign.gallery import GalleryMap, Threshold

PEOPLE, EACH = 60, 4


class Planted:
    """Rows of two encoders of the same photographs: people and photographs in 12 dimensions, seen by two matrices."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.identities = np.repeat([f"p{k:02d}" for k in range(PEOPLE)], EACH)
        people = np.repeat(random.normal(size=(PEOPLE, 12)), EACH, axis=0)
        seen = people + 0.4 * random.normal(size=people.shape)
        self.seen_by = [random.normal(size=(12, width)) for width in (20, 16)]
        sides = [seen @ matrix + 3 for matrix in self.seen_by]
        self.x, self.y = (rows + 0.3 * random.normal(size=rows.shape) for rows in sides)
        number = np.arange(PEOPLE * EACH) // EACH
        self.train, self.test = number < 40, number >= 40

    def fit(self, normalize: str) -> Fit:
        """Both sides go back to the 12 dimensions by pseudo-inverses: a fit that needs no solver."""
        sides = []
        for rows, matrix in zip((self.x, self.y), self.seen_by):
            length = np.linalg.norm(rows, axis=1, keepdims=True) if normalize == "l2" else 1
            center = (rows / length)[self.train].mean(axis=0)
            sides.append(AffineMap((np.linalg.pinv(matrix),), np.zeros(12), center))  # pyright: ignore
        return Fit(*sides, *(np.ones(12) for _ in range(2)), np.float64(12), np.float64(1), np.bool_(True))  # pyright: ignore

    def map(self, method: str = "planted", normalize: str = "l2", **options) -> GalleryMap:
        known = {"source": "old", "target": "new", "method": method, "normalize": normalize}
        of = {"rows": (self.x[self.train], self.y[self.train]), "identities": self.identities[self.train]}
        return GalleryMap.of(self.fit(known["normalize"]), **{**known, **of, **options})


@pytest.fixture(scope="session")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="session")
def two_sided(planted: Planted) -> GalleryMap:
    thresholds = (Threshold(1e-2, 0.4, 0.35, 0.45), Threshold(1e-3, 0.6, 0.5, 0.7))
    about = {
        "dataset": "planted",
        "license": "nobody's",
        "rates": {"tmr@fmr=0.01": {"value": 0.9, "low": 0.8}, "r": 1},
    }
    native = (np.array([-0.5, 0.1, 0.9]), np.array([0.0, 0.2, 0.8]))
    more = {"thresholds": thresholds, "native": native, "about": about}
    return planted.map(score="cohort", options={"top": 5}, **more)
