"""Aligns the embedding spaces of frozen encoders with affine maps, for all pairs of encoders at once."""

from jaxalign.align.affine import AffineMap
from jaxalign.align.all_pairs import PairwiseMaps
from jaxalign.align.fit import fit_affine, fit_joint_space, fit_low_rank, fit_pair, fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.align.solvers import Fit, SharedSpace, fit_shared_space
from jaxalign.biometrics import evaluate
from jaxalign.core.devices import device_mesh
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.gallery import GalleryMap, load_map
from jaxalign.moments.moments import FoldMoments, Moments
from jaxalign.version import __version__

__all__ = [
    "SOLVERS",
    "AffineMap",
    "EmbeddingStore",
    "Fit",
    "FoldMoments",
    "GalleryMap",
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
    "load_map",
]
