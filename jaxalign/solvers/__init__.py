"""Closed-form solvers, one file for each family. ``SOLVERS`` is the one table of them."""

from jaxalign.blocks import CrossMoments, OwnMoments
from jaxalign.solvers.base import ColumnwiseSolver, Fit, Solver, SymmetricSolver
from jaxalign.solvers.baseline import Identity, Translation
from jaxalign.solvers.canonical import Canonical
from jaxalign.solvers.least_squares import Linear, Ridge
from jaxalign.solvers.procrustes import Orthogonal, Similarity
from jaxalign.solvers.reduced_rank import ReducedRank
from jaxalign.solvers.shared import SharedSpace, fit_shared_space

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
