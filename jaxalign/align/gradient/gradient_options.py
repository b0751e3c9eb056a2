"""How maps are fitted by gradient: options that ``low_rank`` and ``joint`` share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Self

from jaxalign.align.gradient.losses import COSINE_BASED, LOSSES
from jaxalign.align.solvers.base import AllPairsMethod
from jaxalign.core import checks
from jaxalign.core.errors import UserError

STARTS = {True: ("canonical", "random"), False: ("reduced_rank", "random")}


@dataclasses.dataclass(frozen=True)
class GradientOptions(AllPairsMethod):
    """Options of ``low_rank`` and ``joint``.

    Attributes:
      loss: a name in ``LOSSES``.
      rank: see ``LowRank`` and ``Joint``.
      two_sided: both sides move into a space of ``rank`` dimensions; else x ↦ (x A) B + b into the target's
        coordinates. None: two-sided where the loss compares cosines.
      start: "canonical" (two-sided), "reduced_rank" (one-sided), or "random"; None for the closed form.
      steps: of Adam.
      learning_rate: its largest, at the first step; it falls to zero along a cosine.
      whitening: two-sided: the power of 1 / standard deviation that scales the principal axes before Adam sees them;
        the maps that can be reached are the same, equal steps mean something else.
      people: in a batch, two photographs of each (the same twice where a person has one).
      temperature: cosines are divided by it in "contrastive" and "margin".
      learn_temperature: whether it is fitted too.
      margin: of "margin", in radians.
      delta: of "huber", relative to the root mean square of the target's coordinates.
      orthogonality: weight of ‖FᵀF − I‖² / rank for every learned factor F.
      orthogonal: keep each side's factor exactly orthonormal: after each step it is replaced by its polar factor.
      held_out: share of the people held out: the weights with the lowest loss on them are returned, and a pair stops
        after ``patience`` checks without a lower one. 0: no one is held out, every pair makes all steps.
      patience: see ``held_out``.
      checks: how often, in equal distances, weights are looked at.
      seed: of the batches, the people held out and random starts.
    """

    needs_rows: ClassVar[bool] = True

    loss: str = "contrastive"
    rank: int | str | None = None
    two_sided: bool | None = None
    start: str | None = None
    steps: int = 400
    learning_rate: float = 3e-4
    whitening: float = 0.0
    people: int = 512
    temperature: float = 0.05
    learn_temperature: bool = True
    margin: float = 0.3
    delta: float = 1.0
    orthogonality: float = 0.0
    orthogonal: bool = False
    held_out: float = 0.0
    patience: int = 3
    checks: int = 20
    seed: int = 0

    def validate(self) -> None:
        """Raises ``UserError`` for an option out of its range, or options that do not go together."""
        self.settled()

    def settled(self) -> Self:
        """Checks every option (see ``validate``) and fills in what depends on others."""
        if self.loss not in LOSSES:
            raise UserError(f"loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.rank != "full":
            checks.rank(self.rank)  # pyright: ignore[reportArgumentType]
        checks.seed(self.seed)
        for name, least in (("steps", 1), ("people", 2), ("patience", 1), ("checks", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        cosines = self.loss in COSINE_BASED
        both = (cosines or self.orthogonal) if self.two_sided is None else self.two_sided
        if both and not cosines and not self.orthogonal:
            raise UserError(
                f"loss {self.loss!r} with two_sided=True is smallest where both maps are zero; "
                f"use two_sided=False, orthogonal=True or one of {', '.join(COSINE_BASED)}"
            )
        if self.orthogonal and not both:
            raise UserError(
                "orthogonal=True keeps a factor on each side orthonormal: it needs two_sided=True"
            )
        if self.whitening and (self.orthogonal or not both):
            raise UserError("whitening: of use for two-sided maps that need not be orthogonal; leave it at 0")
        start = STARTS[both][0] if self.start is None else self.start
        if start not in STARTS[both]:
            sides = "two-sided" if both else "one-sided"
            raise UserError(f"start: {sides} maps start from {' or '.join(STARTS[both])}, got {start!r}")
        most = {"margin": math.pi / 2, "orthogonality": math.inf, "whitening": 1.0, "held_out": 0.5}
        for name in ("learning_rate", "temperature", "delta", *most):
            _check_number(name, getattr(self, name), most.get(name))
        return dataclasses.replace(self, two_sided=both, start=start)


def _check_number(name: str, value: Any, most: float | None) -> None:
    """Requires a finite number above 0, or from 0 to ``most``."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (value <= 0 if most is None else not 0 <= value <= most):
        below = "" if most in (None, math.inf) else f" and at most {most:g}"
        raise UserError(
            f"{name}: expected a number {'above 0' if most is None else 'of at least 0'}{below}, got {value!r}"
        )
