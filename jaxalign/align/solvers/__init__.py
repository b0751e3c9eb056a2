"""Closed-form solvers, one file for each family. ``SOLVERS`` is the one table of them."""

from jaxalign.align.solvers.base import ColumnwiseSolver, Fit, Solver, SymmetricSolver
from jaxalign.align.solvers.baseline import Identity, Translation
from jaxalign.align.solvers.canonical import Canonical
from jaxalign.align.solvers.least_squares import Linear, Ridge
from jaxalign.align.solvers.procrustes import Orthogonal, Similarity
from jaxalign.align.solvers.reduced_rank import ReducedRank
from jaxalign.align.solvers.shared import SharedSpace, fit_shared_space
from jaxalign.moments.blocks import CrossMoments, OwnMoments

SOLVERS: dict[str, type[Solver]] = {
    "identity": Identity,
    "translation": Translation,
    "orthogonal": Orthogonal,
    "similarity": Similarity,
    "linear": Linear,
    "ridge": Ridge,
    "reduced_rank": ReducedRank,
    "canonical": Canonical,
}

__all__ = [
    "SOLVERS", "Canonical", "ColumnwiseSolver", "CrossMoments", "Fit", "Identity", "Linear", "Orthogonal", "OwnMoments",
    "ReducedRank", "Ridge", "SharedSpace", "Similarity", "Solver", "SymmetricSolver", "Translation", "fit_shared_space",
]  # fmt: skip
