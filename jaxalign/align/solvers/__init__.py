"""Closed-form solvers, one file for each family. ``jaxalign.align.methods`` has the table of all methods."""

from jaxalign.align.solvers.base import ColumnwiseSolver, Fit, Method, Pair, Solver, SymmetricSolver
from jaxalign.align.solvers.baseline import Identity, Translation
from jaxalign.align.solvers.canonical import Canonical
from jaxalign.align.solvers.least_squares import Linear, Ridge
from jaxalign.align.solvers.procrustes import Orthogonal, Similarity
from jaxalign.align.solvers.reduced_rank import ReducedRank
from jaxalign.align.solvers.shared import Shared, SharedSpace, fit_shared_space
from jaxalign.moments.blocks import CrossMoments, OwnMoments

__all__ = [
    "Canonical", "ColumnwiseSolver", "CrossMoments", "Fit", "Identity", "Linear", "Method", "Orthogonal", "OwnMoments",
    "Pair", "ReducedRank", "Ridge", "Shared", "SharedSpace", "Similarity", "Solver", "SymmetricSolver", "Translation",
    "fit_shared_space",
]  # fmt: skip
