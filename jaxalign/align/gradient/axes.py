"""Principal axes of one encoder, in which gradients see its rows."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxalign.align.gradient.own_moments import OwnMoments

SHRINKAGE = 0.05  # of the mean variance, added to every axis' before whitening


@dataclasses.dataclass(frozen=True)
class Axes:
    """One encoder's principal axes: ``z = ((x − mean) @ vectors) * stretch / scale`` has mean squared length 1.

    Attributes:
      mean: shape [p].
      vectors: orthonormal columns, largest variance first, shape [p, p].
      variance: of z, shape [p].
      scale: shape [].
      stretch: of each axis, shape [p]; 1 unless the axes are whitened.
    """

    mean: np.ndarray
    vectors: np.ndarray
    variance: np.ndarray
    scale: float
    stretch: np.ndarray

    @classmethod
    def of(cls, own: OwnMoments, whitening: float = 0.0) -> Axes:
        """From the moments of the training rows.

        Args:
          own: moments of the encoder.
          whitening: axes are divided by their variance, shrunk, to half this power.
        """
        values, vectors = np.linalg.eigh(own.second)
        values = np.maximum(values[::-1], 0)
        stretch = (values + (SHRINKAGE * values.mean() or 1.0)) ** (-whitening / 2)
        values = values * stretch**2
        scale = float(np.sqrt(values.sum())) or 1.0
        return cls(own.mean, vectors[:, ::-1], values / scale**2, scale, stretch)

    @property
    def rotation(self) -> Float[np.ndarray, "p p"]:
        """What x − mean is multiplied by."""
        return self.vectors * (self.stretch / self.scale)

    def to_coordinates(self, factor: np.ndarray) -> np.ndarray:
        """What a factor [p, s] for x − mean is for z."""
        return (self.scale / self.stretch)[:, None] * (self.vectors.T @ factor)

    def from_coordinates(self, factor: np.ndarray) -> np.ndarray:
        """What a factor [p, s] for z is for x − mean."""
        return self.vectors @ ((self.stretch / self.scale)[:, None] * np.asarray(factor, np.float64))
