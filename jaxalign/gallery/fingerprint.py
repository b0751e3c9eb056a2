"""What the rows of one encoder look like, by their moments, so that rows of another are noticed.

A map gives numbers for any rows of its width: those of the other side, of another network, or scaled in another way. A
fingerprint is kept with the map to tell such rows from rows of the encoder that it was fitted on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.people import identity_folds, limit_per_person
from jaxalign.core.rows import LazyRows, unit_rows

FALSE_ALARMS = (0.05, 0.01, 0.001)  # shares of the encoder's own rows beyond each limit
FOLDS = 5
LEAST_SHRINKAGE = 1e-6
MOST_PER_PERSON = 20  # rows that one person has a share in the moments by
MOST_ROWS = 20_000  # that moments are taken of
CHECKED_ROWS = 4096  # of a larger array that ``problem`` looks at
UNIT = 1e-3  # a row is of length 1 if it is by no more than this off; float16 rounds by less


@dataclasses.dataclass(frozen=True, eq=False)
class Fingerprint:
    """Mean, covariance and lengths of an encoder's rows, and how far from them rows of other people lie.

    Attributes:
      encoder: its name.
      normalize: "l2" if rows are scaled to length 1 before all else, or "none".
      mean: of the rows, shape [d], float32.
      whitening: rows less their mean times this have the identity as covariance, shape [d, d], float32, upper
        triangular; of Ledoit and Wolf's shrunk covariance, so that fewer rows than columns will do.
      limits: squared Mahalanobis distances over d that shares ``FALSE_ALARMS`` of rows of *held-out* people exceed.
      lengths: which half of ``FALSE_ALARMS[-1]`` of the rows fall short of, and exceed, before they are scaled.
      unit: share of the rows whose length is 1 before they are scaled.
      rows, people: how many the moments are of.

    Reference: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
    Multivariate Analysis 2004.
    """

    encoder: str
    normalize: str
    mean: Float[np.ndarray, " d"]
    whitening: Float[np.ndarray, "d d"]
    limits: Mapping[float, float]
    lengths: tuple[float, float]
    unit: float
    rows: int
    people: int

    @classmethod
    def of(
        cls, rows: ArrayLike | LazyRows, identities: ArrayLike, *, encoder: str, normalize: str, seed: int = 0
    ) -> Self:
        """Takes the fingerprint of rows; the limits are found with people in turn left out of the moments.

        Args:
          rows: of the encoder as it gives them, shape [n, d]; of more than ``MOST_ROWS`` rows so many are drawn.
          identities: of the rows, shape [n]; five people or more.
          encoder: its name.
          normalize: "l2" or "none".
          seed: of the draw and of the folds of people.

        Raises:
          UserError: rows that are not finite, do not differ or (for "l2") are zero, fewer than ``FOLDS`` people, or a
            ``normalize`` that is neither.
        """
        if normalize not in ("l2", "none"):
            raise UserError(f"normalize: expected l2 or none, got {normalize!r}")
        given = LazyRows.of(checks.embedding_rows(rows, f"rows of {encoder}"))
        names = checks.identities(identities, len(given))
        kept = limit_per_person(np.arange(len(given)), names, MOST_PER_PERSON, seed)
        if len(kept) > MOST_ROWS:
            kept = np.sort(np.random.default_rng(seed).choice(kept, MOST_ROWS, replace=False))
        names = names[kept]
        people = len(np.unique(names))
        if people < FOLDS:
            raise UserError(
                f"rows of {encoder}: a fingerprint needs {FOLDS} people or more, there are {people}"
            )
        plain = np.asarray(given.select(kept), np.float64)
        lengths = _lengths(plain, encoder)
        if normalize == "l2" and not lengths.all():
            raise UserError(f"rows of {encoder}: {np.sum(lengths == 0):,} are zero, which nobody can scale")
        scaled = unit_rows(plain) if normalize == "l2" else plain
        fold, distances = identity_folds(names, FOLDS, seed), np.empty(len(kept))
        for number in range(FOLDS):
            held = fold == number
            distances[held] = _distances(scaled[held], *_moments(scaled[~held], encoder))
        mean, whitening = _moments(scaled, encoder)
        range_ = np.quantile(lengths, [FALSE_ALARMS[-1] / 2, 1 - FALSE_ALARMS[-1] / 2])
        return cls(
            encoder,
            normalize,
            mean.astype(np.float32),
            whitening.astype(np.float32),
            _limits(distances),
            (float(range_[0]), float(range_[1])),
            float(np.mean(np.abs(lengths - 1) <= UNIT)),
            len(kept),
            people,
        )

    @property
    def width(self) -> int:
        """Of the rows, d."""
        return len(self.mean)

    def distances(self, rows: ArrayLike | LazyRows) -> Float[np.ndarray, " n"]:
        """Squared Mahalanobis distance of each row from the mean, over d; about 1, or more with few rows of the fit.

        A row of zeros, if rows are scaled, has no direction and lies infinitely far off.

        Args:
          rows: shape [n, d], any floating format; scaled here as ``normalize`` says.

        Raises:
          UserError: another width, or rows that are not finite.
        """
        given = LazyRows.of(checks.embedding_rows(rows, f"rows of {self.encoder}"))
        if given.width != self.width:
            expected = f"expected width {self.width}, got an array of shape {given.shape}"
            raise UserError(f"rows of {self.encoder}: {expected}")
        found = np.empty(len(given))
        for start, part in given.pieces(CHECKED_ROWS):
            plain = np.asarray(part, np.float64)
            lengths, here = _lengths(plain, self.encoder), slice(start, start + len(part))
            scaled = unit_rows(plain) if self.normalize == "l2" else plain
            found[here] = _distances(scaled, self.mean, self.whitening)
            if self.normalize == "l2":
                found[here][lengths == 0] = np.inf
        return found

    def unlike(self, rows: ArrayLike | LazyRows, false_alarm: float = 0.01) -> Bool[np.ndarray, " n"]:
        """Which rows lie further off than all but the share ``false_alarm`` of rows of other people did.

        Raises:
          UserError: see ``distances``; or a false-alarm rate that the fingerprint has no limit for.
        """
        if false_alarm not in self.limits:
            known = ", ".join(f"{rate:g}" for rate in self.limits)
            raise UserError(f"false_alarm: expected one of {known}, got {false_alarm!r}")
        return self.distances(rows) > self.limits[false_alarm]

    def likelihoods(self, rows: ArrayLike | LazyRows) -> Float[np.ndarray, " n"]:
        """Logarithm of the normal density of each row, less ½ d log 2π: compares fingerprints of one width."""
        return self.likelihoods_at(self.distances(rows))

    def likelihoods_at(self, distances: np.ndarray) -> np.ndarray:
        """``likelihoods`` of rows whose distances are known."""
        volume = np.log(np.abs(np.diag(self.whitening).astype(np.float64))).sum()
        return volume - self.width / 2 * distances

    def problem(self, rows: ArrayLike | LazyRows, other: Fingerprint | None = None) -> str | None:
        """Why these are no rows of the encoder, in a sentence without its full stop; None where they may be.

        Half of the rows must lie beyond the strictest limit, so that single odd photographs stop nothing. A laxer limit
        for more rows would refuse several photographs of one odd-looking person, and people unlike those of the fit.
        Of a large array, rows at even distances are looked at.

        Args:
          rows: shape [n, d], as the encoder gives them.
          other: of the encoder that they may have been confused with.

        Raises:
          UserError: ``rows`` are no floating array [n, d], or are not finite.
        """
        given = LazyRows.of(checks.embedding_rows(rows, "rows"))
        if given.width != self.width:
            whose = f", as {other.encoder} gives" if other is not None and other.width == given.width else ""
            return f"{self.encoder} gives rows of width {self.width}, these are of width {given.width}{whose}"
        if len(given) > CHECKED_ROWS:
            given = given.select(np.linspace(0, len(given) - 1, CHECKED_ROWS).astype(np.int64))
        plain = np.asarray(given, np.float64)
        lengths = _lengths(plain, self.encoder)
        if self.normalize == "l2":
            plain = plain[lengths > 0]
        if not len(plain):
            return "these rows are zero and have no direction"
        if self.normalize == "none" and (found := self._problem_of_lengths(lengths)):
            return found
        distances, rate = self.distances(plain), FALSE_ALARMS[-1]
        if other is not None and other.width == self.width:
            ratios = other.likelihoods(plain) - self.likelihoods_at(distances)
            # Under any density, ratios of another to it exceed 1 / a in at most the share a.
            if np.median(ratios) > -np.log(rate):
                return f"these look like rows of {other.encoder}, not of {self.encoder}"
        distance = np.median(distances)
        if distance > self.limits[rate]:
            return (
                f"these do not look like rows of {self.encoder}: their distance from its mean is {distance:.3g} "
                f"(median of {len(plain):,}); {1 - rate:.1%} of its own rows lie within {self.limits[rate]:.3g}"
            )
        return None

    def _problem_of_lengths(self, lengths: np.ndarray) -> str | None:
        """Whether rows that keep their own lengths were scaled, or were not though those of the fit were."""
        unit = np.abs(lengths - 1) <= UNIT
        if unit.all() and self.unit ** len(unit) < FALSE_ALARMS[-1]:
            usual = f"from {self.lengths[0]:.3g} to {self.lengths[1]:.3g}"
            return f"these rows are of length 1, the map was fitted on {self.encoder}'s with their own lengths, {usual}"
        middle = float(np.median(lengths))
        if self.unit == 1 and not unit.any():
            return (
                f"the map was fitted on rows of length 1, these are of length {middle:.3g}; scale them first"
            )
        if not self.lengths[0] / 2 <= middle <= self.lengths[1] * 2:
            usual = f"{self.lengths[0]:.3g} to {self.lengths[1]:.3g}"
            return f"these rows are of length {middle:.3g}, those of {self.encoder} of length {usual}"
        return None

    def tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays, and all else as JSON can hold it, for ``of_tensors``."""
        arrays = {"mean": self.mean, "whitening": self.whitening}
        texts = {name: value for name, value in vars(self).items() if name not in arrays}
        return arrays, {**texts, "limits": [[rate, limit] for rate, limit in self.limits.items()]}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, np.ndarray], texts: Mapping[str, Any]) -> Self:
        """What ``tensors`` gave. Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what it cannot have given."""
        mean, whitening = (np.asarray(tensors[name]) for name in ("mean", "whitening"))
        limits = {float(rate): float(limit) for rate, limit in texts["limits"]}
        low, high = (float(value) for value in texts["lengths"])
        numbers = [*limits.values(), low, high, float(texts["unit"])]
        right = (
            set(tensors) == {"mean", "whitening"}
            and mean.dtype == whitening.dtype == np.float32
            and whitening.shape == (mean.size, mean.size)
            and mean.shape == (mean.size,)
            and mean.size > 0
            and all(np.isfinite(array).all() for array in (mean, whitening, numbers))
            and np.diag(whitening).all()
            and tuple(limits) == FALSE_ALARMS
            and min(numbers) >= 0
            and low <= high
            and numbers[-1] <= 1
            and texts["normalize"] in ("l2", "none")
            and isinstance(texts["encoder"], str)
            and all(checks.is_whole(texts[name], 1) for name in ("rows", "people"))
        )
        if not right:
            raise ValueError(f"the fingerprint of {texts['encoder']!r} is damaged")
        counts = (int(texts["rows"]), int(texts["people"]))
        return cls(
            texts["encoder"], texts["normalize"], mean, whitening, limits, (low, high), numbers[-1], *counts
        )


def shrinkage(centred: Float[np.ndarray, "n d"], scatter: Float[np.ndarray, "d d"]) -> float:
    """Ledoit and Wolf's share of the mean variance in a covariance, 0 to 1; ``scatter`` is XᵀX / n of centred rows.

    Equivalent: ``sklearn.covariance.ledoit_wolf_shrinkage(centred, assume_centered=True)``.
    """
    rows, width = centred.shape
    squares, variance = np.sum(scatter**2), np.trace(scatter) / width
    noise = np.mean(np.einsum("nd,nd->n", centred, centred) ** 2) - squares
    spread = squares - width * variance**2
    return float(min(noise / rows, spread) / spread) if spread > 0 else 1.0


def _moments(rows: np.ndarray, encoder: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening of rows [n, d], float64."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    scatter = centred.T @ centred / len(rows)
    variance = np.trace(scatter) / len(mean)
    if not variance > 0:
        raise UserError(f"rows of {encoder}: expected rows that differ, all of some {len(rows):,} are equal")
    # Of collinear columns the formula may shrink next to nothing; float32 must hold what is left.
    share = max(shrinkage(centred, scatter), LEAST_SHRINKAGE)
    covariance = (1 - share) * scatter + share * variance * np.eye(len(mean))
    return mean, np.linalg.inv(np.linalg.cholesky(covariance)).T


def _distances(rows: np.ndarray, mean: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    white = (rows - mean) @ whitening.astype(np.float64)
    return np.einsum("nd,nd->n", white, white) / len(mean)


def _limits(distances: np.ndarray) -> dict[float, float]:
    """Quantiles of held-out distances, or of a log-normal law where that gives more: few rows have no far quantile."""
    logarithms = np.log(np.maximum(distances, np.finfo(np.float64).tiny))
    normal = [NormalDist().inv_cdf(1 - rate) for rate in FALSE_ALARMS]
    law = np.exp(logarithms.mean() + logarithms.std() * np.array(normal))
    found = np.maximum(np.quantile(distances, 1 - np.array(FALSE_ALARMS)), law)
    return dict(zip(FALSE_ALARMS, found.tolist()))


def _lengths(rows: np.ndarray, encoder: str) -> np.ndarray:
    """Lengths of rows [n, d]; refuses those that have none."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
    bad = ~np.isfinite(lengths)
    if bad.any():
        raise UserError(
            f"rows of {encoder}: {bad.sum():,} of {len(rows):,} hold NaN, infinite or too large values"
        )
    return lengths
