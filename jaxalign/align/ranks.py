"""Rows mapped at every rank of a pair: what the maps of all ranks share is computed once."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxalign.align.affine import AffineMap
from jaxalign.align.solvers import Fit
from jaxalign.core.rows import LazyRows
from jaxalign.moments.blocks import padded_width


@dataclasses.dataclass(frozen=True, eq=False)
class RankedRows:
    """A pair's rows after the first factors of its maps, whose leading columns serve every smaller rank.

    Attributes:
      source, target: float64, shape [n, padded width of the largest rank]; a target that is only shifted as it is.
    """

    source: Any
    target: Any

    @classmethod
    def of(cls, fit: Fit, source: Any, target: Any) -> "RankedRows":
        """Maps rows by what all ranks share.

        Args:
          fit: of the largest rank.
          source, target: rows filled up to ``padded_width``, arrays or ``LazyRows``.
        """
        maps = fit.padded()
        return cls(
            _first(maps.source)(_wide(source)),
            _first(maps.target)(_wide(target)) if fit.two_sided else maps.target(target),
        )

    def at(self, fit: Fit) -> tuple[Any, Any]:
        """Both sides' rows in the space where they are compared.

        Args:
          fit: of the same pair at the same or a smaller rank, its first factors the leading columns of the larger's.

        Equivalent: ``fit.source(rows)`` and ``fit.target(rows)``.
        """
        rank, width = fit.source.factors[0].shape[1], fit.source.out_dim
        if len(fit.source.factors) > 1:
            rest = dataclasses.replace(fit.padded().source, center=None)
            rest = dataclasses.replace(rest, factors=rest.factors[1:])
            return _leading(rest(_leading(self.source, padded_width(rank))), width), _leading(
                self.target, width
            )
        return _leading(self.source, width), _leading(self.target, width)


def _first(map_: AffineMap) -> AffineMap:
    """The map up to its first factor; with its bias where there is no other."""
    bias = map_.bias if len(map_.factors) == 1 else np.zeros(map_.factors[0].shape[1], map_.dtype)
    return AffineMap(map_.factors[:1], bias, map_.center)


def _leading(rows: Any, width: int) -> Any:
    if isinstance(rows, LazyRows):
        return rows.then(lambda piece: piece[:, :width], width=width)
    return np.asarray(rows)[:, :width]


def _wide(rows: Any) -> Float[np.ndarray, "n d"] | LazyRows:
    if isinstance(rows, LazyRows):
        return rows.then(lambda piece: np.asarray(piece, np.float64), dtype=np.float64)
    return np.asarray(rows, np.float64)
