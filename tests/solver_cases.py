"""The one table of cases: a new solver adds a row and inherits every test."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import clouds
import numpy as np
import oracles

from jaxalign.align.methods import SOLVERS


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with its options, its oracle, and what holds for it.

    Attributes:
      name: of the case; the method's own name for the one with its usual options.
      oracle: ``oracle(x, y, weights)`` gives both sides.
      method: in ``SOLVERS``.
      options: for ``fit_pair``.
      two_sided: signs and rotations are arbitrary: only inner products between the sides are compared.
      rotates: the map is a rotation (with a scale, perhaps), unique only if the cross moment has full rank.
      invariant_to: changes of x that change no cosine between the sides: "rotation", "shift", "scale", "affine".
      recovers: kinds of planted maps that it finds exactly.
    """

    name: str
    oracle: Callable[..., oracles.Sides]
    method: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    two_sided: bool = False
    rotates: bool = False
    invariant_to: tuple[str, ...] = ()
    recovers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def arguments(self) -> dict[str, Any]:
        """The method's name and its options, as ``fit_pair`` takes them."""
        return {"method": self.method, **self.options}

    def solver(self) -> Any:
        """The solver itself."""
        return SOLVERS[self.method](**self.options)


def case(
    name: str,
    oracle: Callable[..., oracles.Sides],
    method: str | None = None,
    *,
    rotates: bool = False,
    invariant_to: tuple[str, ...] = (),
    recovers: tuple[str, ...] = (),
    **options: Any,
) -> Case:
    two_sided, oracle = oracle is oracles.canonical, functools.partial(oracle, **options)
    return Case(name, oracle, method or name, options, two_sided, rotates, invariant_to, recovers)


EVERYTHING = clouds.PLANTED
TURNS = ("rotation", "shift")
MOST = (*TURNS, "scale")
RIGID = ("shift", "rotation", "semi_rotation")
PROCRUSTES = {"whitening": 0.0, "weighting": 0.0, "invariant_to": MOST, "recovers": TURNS}
CUT = {"whitening": 0.75, "weighting": 0.5, "shrinkage": 0.1, "rank": 4}

CASES = [
    case("identity", oracles.identity, invariant_to=("scale",)),
    case("translation", oracles.translation, invariant_to=("shift", "scale"), recovers=("shift",)),
    case("orthogonal", oracles.orthogonal, rotates=True, invariant_to=MOST, recovers=RIGID),
    case("similarity", oracles.similarity, rotates=True, invariant_to=MOST, recovers=(*RIGID, "similarity")),
    case("linear", oracles.linear, invariant_to=(*MOST, "affine"), recovers=EVERYTHING),
    case("ridge", oracles.ridge, l2=0.1, invariant_to=TURNS),
    case("ridge, strong", oracles.ridge, "ridge", l2=30.0, invariant_to=TURNS),
    case("ridge, nearly none", oracles.ridge, "ridge", l2=1e-7, recovers=EVERYTHING),
    case("reduced_rank", oracles.reduced_rank, l2=0.1, invariant_to=TURNS),
    case("reduced_rank, 3", oracles.reduced_rank, "reduced_rank", l2=2.0, rank=3, invariant_to=TURNS),
    case("reduced_rank, 3, no penalty", oracles.reduced_rank, "reduced_rank", l2=0.0, rank=3,
         invariant_to=(*MOST, "affine"), recovers=("low_rank",)),
    case("canonical", oracles.canonical, invariant_to=MOST, recovers=TURNS),
    case("canonical, 4", oracles.canonical, "canonical", **CUT, invariant_to=MOST),
    case("canonical, Procrustes", oracles.canonical, "canonical", **PROCRUSTES),
]  # fmt: skip

ONE_EACH = list({one.method: one for one in reversed(CASES)}.values())[::-1]
"""The first case of every method, for what does not depend on the options."""


def numerical_rank(matrix: np.ndarray) -> int:
    """The number of singular values that are not zero to rounding of centred rows."""
    return int(np.linalg.matrix_rank(matrix, tol=1e-9 * float(np.linalg.norm(matrix, 2))))
