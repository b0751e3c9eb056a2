"""Attacks without known pairs, or with few: two leaked collections, of which nobody says what belongs together.

Two situations. Either both collections hold the same photographs in unknown order; then their matrices of similarities
are the same up to that order and the networks' differences, which quadratic assignment undoes. Or they hold different
people; then nothing corresponds but the shape of the two clouds, by principal axes or by the centroids of clusters. In
both, some seeds may be known: photographs whose rows are known in both collections.

Every attack has restarts, and every restart is a guess of its own. What the attacker sees of a guess is its
``agreement``; how good it is, ``recognised`` says.

References:
  Vogelstein et al., "Fast approximate quadratic programming for graph matching", PLOS ONE 2015.
  Fishkind et al., "Seeded graph matching", Pattern Recognition 2019.
  Artetxe, Labaka, Agirre, "A robust self-learning method for fully unsupervised cross-lingual mappings", ACL 2018
  (starts from profiles of similarities).
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment, quadratic_assignment

from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.rows import unit_rows
from jaxalign.security.keys import procrustes

TOP = 10  # nearest rows of the other side, whose mean cosine says how near a row lies to strangers
MOST_ROWS = 2000  # quadratic assignment of n rows takes n² memory and n³ steps
NO_SEEDS = np.empty((0, 2), np.int64)
STARTS = ("moments", "anchors")

Pairs = Int[np.ndarray, "k 2"]  # indices of rows of the two collections that are taken for one photograph


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """Rows of one collection of length 1, less the collection's mean, again of length 1, shape [n, d]."""

    rows: Float[np.ndarray, "n d"]
    mean: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n d"]) -> Self:
        """The space of a leaked collection."""
        unit = unit_rows(rows)
        mean = unit.mean(axis=0)
        return cls(unit_rows(unit - mean), mean)

    def place(self, rows: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
        """Other rows of the same network in this space."""
        return unit_rows(unit_rows(rows) - self.mean)


class Guess(NamedTuple):
    """One restart's map between two collections.

    Attributes:
      weights: the rotation from the first space to the second, shape [d, k].
      agreement: what the attacker sees: how alike the rows that are mutual nearest neighbours under this map lie in
        both collections, as the correlation of the cosines among them; 0 where they are fewer than three.
      restart: its number.
    """

    weights: Float[np.ndarray, "d k"]
    agreement: float
    restart: int


def cohort_centred(cosines: Float[np.ndarray, "n m"], top: int = TOP) -> Float[np.ndarray, "n m"]:
    """Cosines less how near both rows lie to strangers: s − ½ (r(x) + r(y)), r a row's mean of its ``top`` highest."""
    n, m = cosines.shape
    rows = np.partition(cosines, m - min(top, m), axis=1)[:, -top:].mean(axis=1)
    columns = np.partition(cosines, n - min(top, n), axis=0)[-top:].mean(axis=0)
    return cosines - (rows[:, None] + columns) / 2


def mutual_neighbours(scores: Float[np.ndarray, "n m"]) -> Pairs:
    """Rows and columns that are each other's highest score."""
    best = scores.argmax(axis=1)
    mutual = np.flatnonzero(scores.argmax(axis=0)[best] == np.arange(len(scores)))
    return np.stack([mutual, best[mutual]], axis=1)


def refine(
    weights: Float[np.ndarray, "d k"],
    one: Space,
    other: Space,
    seeds: Pairs = NO_SEEDS,
    steps: int = 5,
    restart: int = 0,
) -> Guess:
    """Turns mutual nearest neighbours into pairs and fits the rotation to them, until nothing changes.

    Args:
      weights: where to start.
      one, other: the two collections.
      seeds: pairs that are known and stay.
      steps: at most; 0 leaves the map as it is and only measures its agreement.
      restart: number of the guess.
    """
    earlier = NO_SEEDS
    for step in range(steps + 1):
        found = mutual_neighbours(cohort_centred(one.rows @ weights @ other.rows.T))
        if step == steps or np.array_equal(earlier, found):
            break
        earlier = found
        pairs = np.concatenate([seeds, found[~np.isin(found[:, 0], seeds[:, 0])]])
        weights = procrustes(one.rows[pairs[:, 0]], other.rows[pairs[:, 1]])
    return Guess(weights, _agreement(one.rows[found[:, 0]], other.rows[found[:, 1]]), restart)


def _agreement(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the cosines among rows with those among others, row for row; the map plays no part."""
    if len(x) < 3:
        return 0.0
    above = np.triu_indices(len(x), 1)
    return float(np.corrcoef((x @ x.T)[above], (y @ y.T)[above])[0, 1])


def same_photographs(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n k"],
    seeds: Pairs = NO_SEEDS,
    *,
    restarts: int = 5,
    steps: int = 5,
    seed: int = 0,
) -> Iterator[Guess]:
    """Matches two collections of the same photographs in unknown order.

    The order that makes the matrices of cosines most alike is looked for by quadratic assignment, first from the start
    that prefers no order and then from random ones. Without seeds the very first start is the order that the profiles
    of similarities suggest: each row's sorted cosines, which no order changes. The rotation is fitted to the pairs
    found, and refined.

    Args:
      x, y: rows of the two networks, at most ``MOST_ROWS``.
      seeds: indices of rows of x and y that are known to be one photograph.
      restarts: how many guesses.
      steps: of refinement, see ``refine``.
      seed: of the random starts.

    Raises:
      UserError: collections of other sizes, or seeds that are not rows or occur twice.
    """
    one, other = _spaces(x, y, seeds, restarts, seed)
    if len(x) != len(y) or len(x) > MOST_ROWS:
        raise UserError(
            f"two collections of the same photographs: expected as many rows, {MOST_ROWS:,} at most, "
            f"got {len(x):,} and {len(y):,}"
        )
    if len(seeds) >= len(x):
        raise UserError(f"seeds: expected fewer than the {len(x):,} photographs, got {len(seeds):,}")
    grams = [space.rows @ space.rows.T for space in (one, other)]
    free = [np.setdiff1d(np.arange(len(x)), seeds[:, side]) for side in (0, 1)]
    profiles = [np.sort(gram[rows], axis=1) for gram, rows in zip(grams, free)]
    profiles = [unit_rows(profile - profile.mean(axis=0)) for profile in profiles]
    suggested = np.eye(len(free[0]))[linear_sum_assignment(-profiles[0] @ profiles[1].T)[1]]
    suggested = (suggested + 1 / len(suggested)) / 2  # halfway to the start that prefers nothing
    starts = ["barycenter"] if len(seeds) else [suggested, "barycenter"]
    random = np.random.default_rng(seed)
    for restart in range(restarts):
        start = starts[restart] if restart < len(starts) else "randomized"
        options = {"maximize": True, "partial_match": seeds, "P0": start, "rng": random}
        order = quadratic_assignment(grams[0], grams[1], options=options).col_ind
        yield refine(procrustes(one.rows, other.rows[order]), one, other, seeds, steps, restart)


def different_people(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m k"],
    seeds: Pairs = NO_SEEDS,
    *,
    start: str = "anchors",
    anchors: int = 40,
    restarts: int = 5,
    steps: int = 0,
    seed: int = 0,
) -> Iterator[Guess]:
    """Matches two collections of different people, but for the seeds.

    With seeds the rotation is fitted to them, and there is one guess. Without, it comes from the shapes of the clouds:
    from the principal axes, signed by their third moments, or from the centroids of clusters, matched by quadratic
    assignment of their cosines.

    Args:
      x, y: rows of the two networks.
      seeds: indices of rows of x and y that are known to be one photograph.
      start: a name in ``STARTS``, for attacks without seeds.
      anchors: how many clusters.
      restarts: how many guesses, each with clusters of its own; principal axes give one.
      steps: of refinement, see ``refine``; none by default, since neighbours among different people are wrong pairs.
      seed: of the clusters and the assignment.

    Raises:
      UserError: an unknown start, more anchors than rows, or seeds that are not rows or occur twice.
    """
    one, other = _spaces(x, y, seeds, restarts, seed)
    if start not in STARTS:
        raise UserError(f"start: expected one of {', '.join(STARTS)}, got {start!r}")
    if not checks.is_whole(anchors, 2) or anchors > min(len(x), len(y)):
        raise UserError(f"anchors: expected 2 to {min(len(x), len(y)):,}, got {anchors!r}")
    if len(seeds):
        pairs = one.rows[seeds[:, 0]], other.rows[seeds[:, 1]]
        yield refine(procrustes(*pairs), one, other, seeds, steps)
    elif start == "moments":
        axes = [_signed_axes(space.rows) for space in (one, other)]
        width = min(axis.shape[1] for axis in axes)
        yield refine(axes[0][:, :width] @ axes[1][:, :width].T, one, other, steps=steps)
    else:
        random = np.random.default_rng(seed)
        for restart in range(restarts):
            centres = [
                unit_rows(kmeans2(space.rows, anchors, minit="++", rng=random)[0]) for space in (one, other)
            ]
            grams = [rows @ rows.T for rows in centres]
            options = {"maximize": True, "rng": random, "P0": "randomized"}
            order = quadratic_assignment(grams[0], grams[1], options=options).col_ind
            weights = procrustes(centres[0], centres[1][order])
            yield refine(weights, one, other, steps=steps, restart=restart)


def recognised(
    guess: Guess,
    spaces: tuple[Space, Space],
    probes: tuple[Float[np.ndarray, "n d"], np.ndarray],
    gallery: tuple[Float[np.ndarray, "m k"], np.ndarray],
) -> Bool[np.ndarray, " n"]:
    """Which probes of the first network have the highest cosine with a gallery row of their person; ties count against.

    Args:
      guess: the map.
      spaces: of the two collections that it was made from.
      probes, gallery: rows and identities; a gallery has one row a person, so that chance is 1 / m.
    """
    cosines = unit_rows(spaces[0].place(probes[0]) @ guess.weights) @ spaces[1].place(gallery[0]).T
    mates = probes[1][:, None] == gallery[1]
    return np.where(mates, cosines, -np.inf).max(axis=1) > np.where(mates, -np.inf, cosines).max(axis=1)


def _spaces(x: np.ndarray, y: np.ndarray, seeds: Pairs, restarts: int, seed: int) -> tuple[Space, Space]:
    """The spaces of both collections, once everything is checked."""
    checks.seed(seed)
    checks.positive(restarts, "restarts")
    for side, rows in enumerate((x, y)):
        checks.embedding(rows, "xy"[side])
        known = seeds[:, side]
        if len(known) and (known.min() < 0 or known.max() >= len(rows) or len(np.unique(known)) < len(known)):
            raise UserError(f"seeds: expected rows of {'xy'[side]} from 0 to {len(rows) - 1:,}, none twice")
    return Space.of(x), Space.of(y)


def _signed_axes(rows: np.ndarray) -> np.ndarray:
    """Principal axes in the order of their variances, each in the direction in which its third moment is positive."""
    _, vectors = np.linalg.eigh(rows.T @ rows)
    vectors = vectors[:, ::-1]
    return vectors * np.where(((rows @ vectors) ** 3).sum(axis=0) < 0, -1.0, 1.0)
