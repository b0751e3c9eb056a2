"""One sample of photographs under several encoders, prepared once, then compared pair by pair with its null."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.analysis.geometry import neighbours, spectral
from jaxalign.analysis.geometry.person_scatter import (
    identity_subspace,
    person_means,
    person_scatter,
    subspace_null,
)
from jaxalign.analysis.geometry.spectral import Basis, Whitened
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision
from jaxalign.moments.moments import Moments

SIMILARITIES = (
    "linear_cka",
    "linear_cka_unbiased",
    "rsa_spearman",
    "mutual_knn",
    "mean_cca",
    "svcca",
    "pwcca",
    "principal_angles",
    "procrustes_distance",
)
LOWER_IS_CLOSER = ("procrustes_distance",)  # 0 for spaces that agree; the others are 1
SATURATED = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrated:
    """One similarity of two encoders with its permutation null."""

    value: float  # on the rows as they belong together
    null: np.ndarray  # on rows of which one side is permuted, shape [permutations]
    best: float  # the value of spaces that agree, 1, or 0 for a distance
    items: int  # rows, people or pairs of rows that it rests on

    @property
    def null_mean(self) -> float:
        """The value to expect for unrelated spaces of these widths on this number of rows."""
        return float(np.mean(self.null))

    def null_quantile(self, level: float = 0.95) -> float:
        """Beyond what a share 1 − ``level`` of unrelated spaces is at least as close (for a distance: as near)."""
        return float(np.quantile(self.null, 1 - level if self.best == 0 else level))

    @property
    def calibrated(self) -> float:
        """(value − null mean) / (best − null mean): 0 in expectation for unrelated spaces, 1 for spaces that agree.

        NaN where permuted rows reach the best value as well, so that the similarity says nothing.

        References:
          Hubert, Arabie, "Comparing partitions", Journal of Classification 1985 (adjustment for chance).
          Gröger, Wen, Brbić, "Revisiting the Platonic Representation Hypothesis", arXiv 2602.14486, 2026, who subtract
          the null's upper quantile instead of its mean.
        """
        room = self.best - self.null_mean
        return (self.value - self.null_mean) / room if abs(room) > SATURATED else float("nan")

    @property
    def reason(self) -> str:
        """Why there is no calibrated value, in words; "" where there is one."""
        if np.isnan(self.value):
            return "an encoder has no variance on these rows"
        if np.isnan(self.calibrated):
            return "permuted rows reach the best value too: too few rows for so many dimensions"
        return ""


def permutations(items: int, count: int, seed: int) -> np.ndarray:
    """Random orders of so many items, int32, shape [count, items]."""
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(items) for _ in range(count)]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class GeometrySettings:
    """Settings of the measures of geometry."""

    permutations: int = 20  # of the rows of one side, for the nulls; the same for all pairs
    neighbours: int = 10  # k of shared neighbourhoods and hubness
    dimension_neighbours: int = 20  # k of the maximum-likelihood intrinsic dimension
    variance: float = 0.99  # share that SVCCA keeps of each side
    identity_dimensions: int = 32  # of the subspaces whose angles are taken; no more than half the people
    distance_rows: int = 1000  # rows, the first ones, whose pairwise cosines RSA ranks
    seed: int = 0  # of the permutations

    def check(self, rows: int, people: int) -> None:
        """Raises ``UserError`` for what so many rows of so many people cannot give."""
        least_of = {"permutations": 1, "neighbours": 1, "dimension_neighbours": 2, "identity_dimensions": 1}
        for name, least in {**least_of, "distance_rows": 3}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not 0 < self.variance <= 1:
            raise UserError(f"variance: expected a share above 0 and at most 1, got {self.variance!r}")
        most = max(self.neighbours, self.dimension_neighbours)
        if most >= rows:
            raise UserError(f"{most} nearest neighbours need more rows than that; there are {rows:,} rows")
        if people < 2:
            raise UserError(f"geometry needs the photographs of at least 2 people, got {people}")


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderGeometry:
    """The parts of one encoder that every comparison needs, and measures of this encoder alone."""

    axes: Basis
    scores: Whitened
    ranks: np.ndarray  # of pairwise cosines, shape [m, m]
    near: np.ndarray  # neighbours by cosine, shape [n, k]
    subspace: np.ndarray  # basis of the people, shape [P, identity dimensions]
    numbers: dict[str, float]


class GeometrySample:
    """The rows of several encoders, with what is needed of each encoder alone.

    Args:
      embeddings: per encoder an array [n, d], the same photographs row for row.
      identities: the person of each row, shape [n].
      settings: of the measures.
      each: how to go through the encoders, such as ``jaxalign.core.devices.concurrently``.

    Raises:
      UserError: arrays are not usable, or too small for the settings.
    """

    def __init__(
        self,
        embeddings: Mapping[str, ArrayLike],
        identities: ArrayLike,
        settings: GeometrySettings | None = None,
        each: Callable[[Callable[[str], EncoderGeometry], Sequence[str]], Iterable[EncoderGeometry]] = map,
    ):
        self.settings = settings = settings or GeometrySettings()
        self.rows = {name: np.asarray(rows) for name, rows in checks.embeddings(embeddings).items()}
        self.count = len(next(iter(self.rows.values())))
        self.identities = checks.identities(np.asarray(identities), self.count)
        self.people = len(np.unique(self.identities))
        settings.check(self.count, self.people)
        self.moments = Moments.of(self.rows)
        self._distance_rows = min(self.count, settings.distance_rows)
        self._prepared = dict(zip(self.rows, each(self._prepare, list(self.rows))))
        # The first of the orders is the one in which rows belong together.
        counts = {"rows": self.count, "people": self.people, "distances": self._distance_rows}
        self._orders = {}
        for name, count in counts.items():
            drawn = permutations(count, settings.permutations, settings.seed)
            self._orders[name] = np.vstack([np.arange(count, dtype=np.int32), drawn])

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All unordered pairs, in the order of the encoders."""
        return list(itertools.combinations(self.rows, 2))

    def _prepare(self, name: str) -> EncoderGeometry:
        rows, settings = self.rows[name], self.settings
        axes = spectral.principal_axes(self.moments, name, variance=settings.variance)
        means = person_means(rows, self.identities)
        most = max(settings.neighbours, settings.dimension_neighbours)
        near = neighbours.nearest_neighbours(rows, most, unit=True)
        unit = np.allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, rtol=0, atol=1e-5)
        away = near if unit else neighbours.nearest_neighbours(rows, most)
        index = near.index[:, : settings.neighbours]
        return EncoderGeometry(
            axes,
            spectral.scores(self.moments, name, axes, rows),
            neighbours.ranked_cosines(rows[: self._distance_rows]),
            index,
            identity_subspace(means, min(settings.identity_dimensions, self.people // 2)),
            self._numbers(rows, axes, index, away.distance[:, : settings.dimension_neighbours]),
        )

    def _numbers(
        self, rows: np.ndarray, axes: Basis, index: np.ndarray, away: np.ndarray
    ) -> dict[str, float]:
        values, people = np.asarray(axes.values), person_scatter(rows, self.identities)
        numbers = {
            "intrinsic_dimension_twonn": neighbours.intrinsic_dimension_twonn(away),
            "intrinsic_dimension_mle": neighbours.intrinsic_dimension_mle(away),
            "participation_ratio": spectral.participation_ratio(values),
            "first_component_share": spectral.first_component_share(values),
            "hubness_skewness": neighbours.hubness_skewness(index),
            "within_person_scatter": people.within,
            "between_person_scatter": people.between,
            "between_within_ratio": people.ratio,
        }
        if not axes.rank:  # equal rows: only rounding would be measured
            numbers = dict.fromkeys(numbers, float("nan"))
        return {**numbers, "anisotropy": spectral.anisotropy(rows)}

    def describe(self, name: str) -> dict[str, float]:
        """Numbers of one encoder alone: dimensions, common direction, hubness, scatter of people."""
        return dict(self._prepared[name].numbers)

    def compare(self, pair: tuple[str, str]) -> dict[str, Calibrated]:
        """Every similarity of two encoders; their order matters only for PWCCA at a tie (``moment_similarities``)."""
        names = spectral.by_rank(pair, {name: self._prepared[name].axes for name in pair})
        x, y = (self._prepared[name] for name in names)
        orders = self._orders
        values = spectral.observed(self.moments, names, x.axes, y.axes)
        with double_precision():
            powers = x.scores.power, y.scores.power
            values["linear_cka_unbiased"] = spectral.debiased(
                values["squared_cross"], *powers, x.axes, y.axes
            )
        nulls = spectral.permuted(x.axes, y.axes, x.scores, y.scores, orders["rows"][1:])
        for name, (value, *null) in {
            "rsa_spearman": neighbours.rsa_null(x.ranks, y.ranks, orders["distances"]),
            "mutual_knn": neighbours.mutual_null(x.near, y.near, orders["rows"]),
            "principal_angles": subspace_null(x.subspace, y.subspace, orders["people"]),
        }.items():
            values[name], nulls[name] = value, null  # pyright: ignore[reportArgumentType]
        items = {
            **dict.fromkeys(SIMILARITIES, self.count),
            "rsa_spearman": self._distance_rows * (self._distance_rows - 1) // 2,
            "principal_angles": self.people,
        }
        return {
            name: Calibrated(
                float(values[name]),
                np.asarray(nulls[name], np.float64),
                best=0.0 if name in LOWER_IS_CLOSER else 1.0,
                items=items[name],
            )
            for name in SIMILARITIES
        }
