"""From a method's name and options to solver configurations, with the penalty and the rank chosen where asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxalign.align.methods import SOLVERS
from jaxalign.align.options import require_known
from jaxalign.align.programs import EncoderStates
from jaxalign.align.selection import Scores, penalty_grid, penalty_scores, rank_scores
from jaxalign.align.solvers import Fit, Method, Pair, Solver
from jaxalign.align.solvers.base import AllPairsMethod, require_rank_fits
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.moments.moments import FoldMoments

Penalty = str | float | Sequence[float]
Rank = int | str | Sequence[int] | None
PenaltyPer = Literal["pair", "source", "column"]


@dataclasses.dataclass(frozen=True)
class ChosenSettings:
    """What was settled for each ordered pair."""

    solvers: Mapping[Pair, Solver]  # all share their static fields
    ranks: Mapping[Pair, int]  # if chosen: the pairs are solved at full rank together and cut afterwards
    spectra: EncoderStates | None = None  # of the sources whose penalties were found from them

    def settings(self, pair: Pair) -> dict[str, Any]:
        """The pair's settings by name."""
        return {**vars(self.solvers[pair]), **({"rank": self.ranks[pair]} if pair in self.ranks else {})}

    def cut(self, pair: Pair, fit: Fit) -> Fit:
        """The fit at its chosen rank."""
        return fit.at_rank(self.ranks[pair]) if pair in self.ranks else fit


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """A method with its options; what is to be chosen from the data is chosen by ``choose``."""

    solver: Method  # with every fixed setting
    l2: Penalty | None  # a number; a grid or "cv" for cross-validation; "gcv" for the generalised one
    rank: Rank  # a number, None for full rank, or a grid or "cv" for cross-validation (reduced_rank)
    penalty_per: PenaltyPer = "pair"  # what has a penalty of its own
    one_standard_error: bool = False  # choose the simplest setting within one standard error of the best

    @classmethod
    def of(
        cls,
        method: str | Method,
        *,
        l2: Penalty | None = "cv",
        rank: Rank = None,
        seed: int = 0,
        penalty_per: PenaltyPer = "pair",
        one_standard_error: bool = False,
        **options: Any,
    ) -> FitSettings:
        """Checks every option; raises ``UserError`` for one that the method does not take or that is out of range."""
        if not isinstance(method, str):
            if not isinstance(method, (AllPairsMethod, Solver)):
                raise UserError(f"method: expected one of {', '.join(SOLVERS)}, or a solver, got {method!r}")
            if options:
                raise UserError(f"options {', '.join(options)} go with a method's name, not with a solver")
            method.validate()
            return cls(method, None, None)
        if method not in SOLVERS:
            raise UserError(f"unknown method {method!r}; there are {', '.join(SOLVERS)}")
        if penalty_per not in ("pair", "source", "column"):
            raise UserError(f"penalty_per: expected pair, source or column, got {penalty_per!r}")
        if penalty_per == "column" and method != "ridge":
            raise UserError(f"penalty_per='column' is for method 'ridge', got method {method!r}")
        fields = SOLVERS[method].options()
        require_known(f"method {method!r}", options, fields)
        for name, value, default in (("l2", l2, "cv"), ("rank", rank, None)):
            if name not in fields and value is not None and not (isinstance(value, str) and value == default):
                raise UserError(f"method {method!r} takes no {name}, got {name}={value!r}")
        together = issubclass(SOLVERS[method], AllPairsMethod)  # their ranks are not chosen by folds
        if together and (penalty_per != "pair" or one_standard_error):
            raise UserError(f"method {method!r} takes no penalty_per and no one_standard_error")
        l2 = _checked_penalty(method, l2) if "l2" in fields else None
        rank = rank if together else _checked_rank(method, rank)
        fixed = {**options, **({"seed": seed} if "seed" in fields else {})}
        if isinstance(l2, float):
            fixed["l2"] = l2
        if isinstance(rank, int) or (together and rank is not None):
            fixed["rank"] = rank
        solver = SOLVERS[method](**fixed)
        solver.validate()
        return cls(solver, l2, None if together else rank, penalty_per, one_standard_error)

    @property
    def needs_folds(self) -> bool:
        """Whether anything is chosen by cross-validation over folds."""
        return (_is_chosen(self.l2) and self.l2 != "gcv") or _is_chosen(self.rank)

    def choose(self, moments: FoldMoments, pairs: Sequence[Pair]) -> ChosenSettings:
        """A solver for each ordered pair, with its penalty, and the rank to cut it to if that was chosen."""
        if isinstance(self.rank, int):
            for pair in pairs:
                require_rank_fits(self.rank, moments.total, pair)
        solvers: dict[Pair, Any] = dict.fromkeys(pairs, self.solver)
        spectra = None
        if _is_chosen(self.l2):
            penalties, spectra = self._penalties(moments, pairs)
            solvers = {
                pair: dataclasses.replace(solver, l2=penalties[pair]) for pair, solver in solvers.items()
            }
        if not _is_chosen(self.rank):
            return ChosenSettings(solvers, {}, spectra)
        every = rank_scores(moments, {pair: float(solver.l2) for pair, solver in solvers.items()})
        return ChosenSettings(
            solvers, {pair: self._chosen_rank(moments, pair, every[pair]) for pair in pairs}
        )

    def _penalties(
        self, moments: FoldMoments, pairs: Sequence[Pair]
    ) -> tuple[dict[Pair, Any], EncoderStates | None]:
        assert self.l2 is not None
        total, chosen, power = moments.total, {}, moments.total.power()
        targets: dict[str, list[str]] = {}
        for source, target in pairs:
            targets.setdefault(source, []).append(target)
        grids = {source: penalty_grid(moments, source, self.l2) for source in targets}
        per_column, generalised = self.penalty_per == "column", self.l2 == "gcv"
        every = penalty_scores(moments, grids, targets, per_column=per_column, generalised=generalised)
        cautious = self.one_standard_error and not generalised
        for source, scores in every.items():
            if self.penalty_per == "source":
                # Relative to each target's variance, so that the one with the longest vectors does not decide alone.
                variance = np.array([power[total.span(target)].sum() for target in targets[source]])
                error = scores.error / np.maximum(variance, np.finfo(float).tiny)
                scores = dataclasses.replace(scores, error=error.sum(-1, keepdims=True))
            best = grids[source][scores.choose(one_standard_error=cautious)]
            ends = np.cumsum([total.width(target) for target in targets[source]])[:-1]
            each = np.split(best, ends) if per_column else np.broadcast_to(best, len(targets[source]))
            chosen.update({(source, target): part for target, part in zip(targets[source], each)})
        return chosen, next(iter(every.values())).spectra

    def _chosen_rank(self, moments: FoldMoments, pair: Pair, scores: Scores) -> int:
        if not isinstance(self.rank, str):
            ranks = sorted(set(self.rank))  # type: ignore[arg-type]
            for rank in ranks:
                require_rank_fits(rank, moments.total, pair)
            error = scores.error[:, np.array(ranks) - 1]
            scores = dataclasses.replace(scores, candidates=np.array(ranks), error=error)
        best = scores.choose(one_standard_error=self.one_standard_error, largest=False)
        return int(scores.candidates[best[0]])


def _is_chosen(setting: object) -> bool:
    return isinstance(setting, (str, tuple))


def _checked_penalty(method: str, l2: Penalty | None) -> Penalty:
    if l2 is None or (isinstance(l2, str) and l2 not in ("cv", "gcv")):
        raise UserError(f"l2: expected a penalty, a grid of penalties, 'cv' or 'gcv', got {l2!r}")
    if isinstance(l2, str):
        return l2
    checks.penalty(l2, zero_allowed=method == "reduced_rank" and np.ndim(l2) == 0)
    if np.ndim(l2) == 0:
        return float(l2)  # type: ignore[arg-type]
    if not np.size(l2):
        raise UserError("l2: expected a grid of at least one penalty, got none")
    return tuple(float(value) for value in np.ravel(l2))


def _checked_rank(method: str, rank: Rank) -> Rank:
    if rank is None or (not isinstance(rank, str) and np.ndim(rank) == 0):
        return checks.positive(rank, "rank")
    if method != "reduced_rank":
        raise UserError(f"rank={rank!r}: ranks are cross-validated for method 'reduced_rank', got {method!r}")
    if isinstance(rank, str):
        if rank != "cv":
            raise UserError(f"rank: expected an integer, a list of them, 'cv' or None, got {rank!r}")
        return rank
    if not np.size(rank):
        raise UserError("rank: expected a list of at least one rank, got none")
    return tuple(checks.positive(value, "rank") for value in rank)  # type: ignore[union-attr]
