"""How the FPIR grows with the gallery, and what the tail of the scores says of galleries that nobody has enrolled."""

import dataclasses
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.biometrics.open_set import OpenSet
from jaxalign.core.checks import is_whole
from jaxalign.core.errors import UserError

LEAST_EXCESSES = 30  # that a tail is fitted on
SHARE = 0.1  # of all comparisons that may count as the tail


class Growth(NamedTuple):
    """FPIR of galleries of other sizes at one threshold, and which of them are extrapolated; see ``fpir_growth``."""

    independent: np.ndarray
    by_probe: np.ndarray
    extrapolated: np.ndarray


def fpir_growth(false_matches: ArrayLike, sizes: ArrayLike, counted_in: int) -> Growth:
    """The FPIR of galleries of N people, from how often each non-mated probe matches one other person.

    With f_x the share of people whom probe x matches falsely: ``independent`` is 1 − (1 − mean f)^N, as if all probes
    were alike, ``by_probe`` the mean over probes of 1 − (1 − f_x)^N. The first is many times the second where a few
    probes cause the false positives.

    Args:
      false_matches: f_x, shape [probes]; of a search, ``result.above[:, k] / result.plan.gallery``.
      sizes: N, shape [sizes].
      counted_in: the size of the gallery that f_x was counted in; the FPIR of larger ones is extrapolated.

    Returns:
      Both, and whether they are extrapolated, shape [sizes].
    """
    rates, people = np.asarray(false_matches, np.float64), np.asarray(sizes, np.float64)
    if rates.ndim != 1 or not len(rates) or not ((rates >= 0) & (rates <= 1)).all():
        raise UserError("false_matches: expected shares from 0 to 1, one for each non-mated probe")
    if people.ndim != 1 or not ((people >= 1) & np.isfinite(people)).all():
        raise UserError(f"sizes: expected numbers of people of at least 1, got {sizes!r}")
    with np.errstate(divide="ignore"):
        none = people * np.log1p(-rates.mean()), people * np.log1p(-rates)[:, None]
    return Growth(-np.expm1(none[0]), -np.expm1(none[1]).mean(axis=0), people > counted_in)


@dataclasses.dataclass(frozen=True)
class ParetoTail:
    """A generalised Pareto tail of the scores of strangers, from which larger galleries are extrapolated.

    Above ``start``, P(score ≥ t) = share (1 + shape (t − start) / scale)^(−1 / shape). What it says of galleries larger
    than ``gallery`` is extrapolated, and is to be reported as that, with ``gallery`` and ``comparisons``.

    Attributes:
      start, share: where the tail begins, and the share of comparisons in it.
      shape, scale: of the distribution; a shape of 0 is an exponential tail.
      comparisons, excesses: all comparisons it was fitted on, and those in the tail.
      gallery: the size of the gallery they are from; None where unknown.
    """

    start: float
    share: float
    shape: float
    scale: float
    comparisons: int
    excesses: int
    gallery: int | None = None

    @classmethod
    def of(cls, highest: ArrayLike, comparisons: int, start: float, gallery: int | None = None) -> Self:
        """Fits the tail by L-moments.

        Args:
          highest: scores of strangers, among them all that exceed ``start``.
          comparisons: how many comparisons of strangers there are in all.
          start, gallery: see the class.

        Equivalent: ``scipy.stats.genpareto.fit(excesses, floc=0)``, which maximises the likelihood. Reference: Hosking
        and Wallis, Technometrics 1987.
        """
        scores = np.asarray(highest, np.float64).ravel()
        excess = np.sort(scores[scores > start]) - start
        count = len(excess)
        if not is_whole(comparisons, max(count, 1)) or count < LEAST_EXCESSES:
            raise UserError(
                f"tail: expected at least {LEAST_EXCESSES} scores above its start among all comparisons, got "
                f"{count:,} of {comparisons!r}"
            )
        mean = excess.mean()
        spread = 2 * np.mean(excess * np.arange(count)) / (count - 1) - mean
        ratio = mean / spread
        return cls(
            float(start),
            count / comparisons,
            float(2 - ratio),
            float(mean * (ratio - 1)),
            comparisons,
            count,
            gallery,
        )

    @classmethod
    def of_search(cls, result: OpenSet) -> Self:
        """The tail of the non-mated probes' scores: at most a tenth, and no more than their lists have completely."""
        enrolled, scores = result.plan.gallery, result.strangers
        comparisons = scores.shape[0] * enrolled
        complete = -np.inf if enrolled < result.candidates else scores[:, -1].max()
        falling = np.sort(scores[np.isfinite(scores)])[::-1]
        tenth = falling[min(int(SHARE * comparisons), len(falling) - 1)]
        return cls.of(falling, comparisons, max(complete, tenth), enrolled)

    def reached(self, threshold: ArrayLike) -> np.ndarray:
        """The share of comparisons of strangers at or above a threshold, which is not below ``start``."""
        far = (np.asarray(threshold, np.float64) - self.start) / self.scale
        if self.shape == 0:
            return self.share * np.exp(-far)
        return self.share * np.maximum(1 + self.shape * far, 0) ** (-1 / self.shape)

    def fpir(self, size: ArrayLike, threshold: ArrayLike) -> np.ndarray:
        """The FPIR of a gallery of so many people at a threshold, by the independent formula."""
        return -np.expm1(np.asarray(size, np.float64) * np.log1p(-self.reached(threshold)))

    def threshold(self, size: ArrayLike, fpir: ArrayLike) -> np.ndarray:
        """The threshold of an FPIR in a gallery of so many people, by the independent formula; NaN below ``start``."""
        share = -np.expm1(np.log1p(-np.asarray(fpir, np.float64)) / np.asarray(size, np.float64)) / self.share
        far = -np.log(share) if self.shape == 0 else np.expm1(-self.shape * np.log(share)) / self.shape
        return np.where(share <= 1, self.start + self.scale * far, np.nan)
