"""Small paired point clouds with the troubles of real embeddings; most share shapes, so that few programs compile."""

import dataclasses

import numpy as np

TALL, SQUARE, WIDENING = (12, 8), (12, 12), (8, 12)
ROWS, NEW_ROWS = 90, 20

NAMES = (
    "tall", "square", "widening", "wide", "rank_deficient", "constant_column", "huge_mean", "two_rows",
    "one_person_per_fold", "float16", "float32",
)  # fmt: skip
PLANTED = ("shift", "rotation", "semi_rotation", "similarity", "affine", "low_rank")


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Training rows of both sides, new rows of both sides, and the person of each training row."""

    x: np.ndarray
    y: np.ndarray
    x_new: np.ndarray
    y_new: np.ndarray
    identities: np.ndarray

    @property
    def widths(self) -> tuple[int, int]:
        return self.x.shape[1], self.y.shape[1]

    def weights(self) -> np.ndarray:
        """Row weights between 0 and 3, two of them zero."""
        weights = np.random.default_rng(5).uniform(0.1, 3, len(self.x))
        weights[:2] = 0
        return weights


def loadings(generator: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """A loading matrix whose directions differ in variance by two orders of magnitude."""
    return generator.normal(size=(rows, width)) * np.geomspace(1, 0.1, rows)[:, None]


def make(name: str, seed: int) -> Cloud:
    """The named cloud; the same for the same name and seed."""
    generator = np.random.default_rng([seed, NAMES.index(name)])
    p, q = {"square": SQUARE, "widening": WIDENING}.get(name, TALL)
    rows = {"wide": 9, "two_rows": 2}.get(name, ROWS)
    everyone = rows + NEW_ROWS
    common = generator.normal(size=(everyone, 6))
    x, y = (
        common @ loadings(generator, 6, width)
        + 0.3 * generator.normal(size=(everyone, width))
        + generator.normal(size=width)
        for width in (p, q)
    )
    if name == "rank_deficient":
        x = x[:, :5] @ generator.normal(size=(5, p))
        x[:, -2:] = x[:, :2]
        y[:, -1] = y[:, 0]
    if name == "constant_column":
        x[:, 3], y[:, 2] = 0.1, -7.3
    if name == "huge_mean":
        x, y = x + 1e6, y - 1e5 * np.arange(q)
    if name in ("float16", "float32"):
        x, y = x.astype(name), y.astype(name)
    people = 5 if name == "one_person_per_fold" else max(2, rows // 3)
    identities = np.array([f"person {number % people:03}" for number in range(rows)])
    return Cloud(x[:rows], y[:rows], x[rows:], y[rows:], identities)


def planted(kind: str, seed: int) -> Cloud:
    """Rows whose y is the exact image of x under a map of the named kind, with a shift."""
    generator = np.random.default_rng([seed, 100 + PLANTED.index(kind)])
    p, q = {"semi_rotation": WIDENING, "affine": TALL, "low_rank": TALL}.get(kind, SQUARE)
    x = generator.normal(size=(ROWS + NEW_ROWS, p)) * np.geomspace(1, 0.1, p) + generator.normal(size=p)
    turn = np.linalg.qr(generator.normal(size=(max(p, q), max(p, q))))[0][:p, :q]
    matrix = {
        "shift": np.eye(p, q),
        "rotation": turn,
        "semi_rotation": turn,
        "similarity": 0.37 * turn,
        "affine": generator.normal(size=(p, q)),
        "low_rank": generator.normal(size=(p, 3)) @ generator.normal(size=(3, q)),
    }[kind]
    y = x @ matrix + generator.normal(size=q)
    identities = np.array([f"person {number // 3:03}" for number in range(ROWS)])
    return Cloud(x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:], identities)


def two_views() -> tuple[np.ndarray, np.ndarray]:
    """Rows of widths 6 and 4 with five directions in common, whose variances differ."""
    random = np.random.default_rng(1)
    base = random.normal(size=(60, 5)) * [3, 2, 1, 0.5, 0.2]
    x, y = (base @ random.normal(size=(5, width)) + 0.1 * random.normal(size=(60, width)) for width in (6, 4))
    return x + 2, y - 1


def several(seed: int) -> dict[str, np.ndarray]:
    """Three encoders of two widths, of the same rows."""
    generator = np.random.default_rng([seed, 999])
    common = generator.normal(size=(ROWS, 6))
    return {
        name: common @ loadings(generator, 6, width) + 0.3 * generator.normal(size=(ROWS, width)) + 1.5
        for name, width in (("a", 12), ("b", 8), ("c", 12))
    }
