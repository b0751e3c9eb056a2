"""Aligns the embedding spaces of frozen encoders with affine maps, for all pairs of encoders at once."""

from jaxalign.affine import AffineMap
from jaxalign.biometrics import evaluate
from jaxalign.embeddings import EmbeddingStore
from jaxalign.errors import UserError
from jaxalign.fit import fit_affine, fit_pair
from jaxalign.low_rank import fit_joint_space, fit_low_rank
from jaxalign.mesh import device_mesh
from jaxalign.moments import FoldMoments, Moments
from jaxalign.pairwise import PairwiseMaps, fit_pairs
from jaxalign.solvers import SOLVERS, Fit, SharedSpace, fit_shared_space
from jaxalign.version import __version__

__all__ = [
    "SOLVERS",
    "AffineMap",
    "EmbeddingStore",
    "Fit",
    "FoldMoments",
    "Moments",
    "PairwiseMaps",
    "SharedSpace",
    "UserError",
    "__version__",
    "device_mesh",
    "evaluate",
    "fit_affine",
    "fit_joint_space",
    "fit_low_rank",
    "fit_pair",
    "fit_pairs",
    "fit_shared_space",
]
