"""Log-likelihood ratios of two mapped rows: probabilistic linear discriminant analysis (PLDA) with two covariances."""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
from jaxtyping import Float

from jaxalign.biometrics.inputs import PIECE_ROWS, Side
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows, unit_rows

SHRINKAGE = 0.6
SMALLEST_SHARE = 1e-8  # of the variance that lies within people, below which ratios have no digits


@dataclasses.dataclass(frozen=True, eq=False)
class TwoCovariance:
    """How unit rows of people vary: x = μ + u + e, u ~ N(0, B) for each person and e ~ N(0, W) for each photograph.

    In coordinates in which W is the identity and B is diagonal, b, the log-likelihood ratio of "one person" to "two
    people" is

      Σ [b / (2b + 1) (xy − ½ b / (b + 1) (x² + y²)) + log(b + 1) − ½ log(2b + 1)],

    with coordinates z scaled by √(b / (2b + 1)) an inner product and a number of each row.

    Attributes:
      means: μ of the probes' and of the gallery's side, shape [2, d].
      directions: unit rows less their mean times this are the scaled coordinates, shape [d, d].
      bend: ½ b / (b + 1) of each coordinate, shape [d]; a row loses Σ bend z².
      constant: the logarithms of all coordinates, which every ratio has.

    Reference: Brümmer and de Villiers, "The speaker partitioning problem", Odyssey 2010.
    """

    means: Float[np.ndarray, "2 d"]
    directions: Float[np.ndarray, "d d"]
    bend: Float[np.ndarray, " d"]
    constant: float

    @classmethod
    def fit(
        cls, source: LazyRows, target: LazyRows, identities: np.ndarray, *, shrinkage: float = SHRINKAGE
    ) -> Self:
        """Fits both covariances to the mapped rows of both sides together, each less its own mean.

        Args:
          source, target: mapped rows of the same photographs, shape [n, d]; columns of zeros do not count.
          identities: of the rows, shape [n].
          shrinkage: the share of the mean variance, the same along every direction, in W. Maps bring the rows they were
            fitted on closer together than those of other people, and there may be fewer rows than dimensions.

        Raises:
          UserError: fewer than two people, or rows of a person that do not differ or are not finite.
        """
        people, person = np.unique(identities, return_inverse=True)
        width, sides = source.width, [unit_rows(np.asarray(side)) for side in (source, target)]
        means = np.stack([rows.mean(axis=0) for rows in sides])
        centres, within = np.zeros((len(people), width)), np.zeros((width, width))
        for rows, mean in zip(sides, means):
            rows -= mean
            np.add.at(centres, person, rows)
        centres /= 2 * np.bincount(person)[:, None]
        total = sum(float(np.sum(rows * rows)) for rows in sides)
        live = np.any([rows.any(axis=0) for rows in sides], axis=0)
        for rows in sides:
            rows -= centres[person]
            within += rows.T @ rows / (2 * len(person) - len(people))
        variance = np.trace(within) / max(live.sum(), 1)
        if len(people) < 2 or not np.trace(within) * len(person) > SMALLEST_SHARE * total:
            raise UserError(
                f"plda: expected rows of two people or more that differ within a person, got {len(identities):,} "
                f"rows of {len(people):,} people, whose variance within a person is {variance:g}"
            )
        within = (1 - shrinkage) * within[np.ix_(live, live)] + shrinkage * variance * np.eye(live.sum())
        whitening = np.linalg.inv(np.linalg.cholesky(within))
        spread = centres[:, live] @ whitening.T
        b, rotation = np.linalg.eigh(spread.T @ spread / len(people))
        b = np.maximum(b, 0)
        directions, bend = np.zeros((width, width)), np.zeros(width)
        directions[np.ix_(live, live)] = whitening.T @ rotation * np.sqrt(b / (2 * b + 1))
        bend[live] = b / (b + 1) / 2
        constant = np.log1p(b).sum() - np.log1p(2 * b).sum() / 2
        return cls(means, directions, bend, float(constant))

    def prepare(self, side: Side) -> Side:
        """The side in scaled coordinates, with their lengths and the numbers of the rows; every row is read once."""
        mean = self.means[0 if side.name == "probes" else 1]

        def coordinates(rows: np.ndarray) -> np.ndarray:
            unit = unit_rows(rows)
            return np.where(unit.any(axis=1, keepdims=True), (unit - mean) @ self.directions, 0)

        rows = side.rows.then(coordinates, dtype=np.float64)
        parts = [(np.linalg.norm(z, axis=1), -(z * z) @ self.bend) for _, z in rows.pieces(PIECE_ROWS)]
        length, own = (np.concatenate(part) for part in zip(*parts))
        one, own = np.ones_like(own), own + self.constant / 2
        further = (own, one) if side.name == "probes" else (one, own)
        # Rows that are not finite are found, and refused, when they are compared.
        columns = np.nan_to_num(np.stack([length, *further], axis=1)).astype(side.dtype)
        return dataclasses.replace(side, rows=rows, columns=columns)
