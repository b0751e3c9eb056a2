"""Geometry of embedding spaces: how alike two encoders' spaces are, how one lies, which encoders are kin."""

from jaxalign.geometry.calibration import Calibrated as Calibrated
from jaxalign.geometry.distances import rsa_spearman as rsa_spearman
from jaxalign.geometry.families import Dendrogram as Dendrogram
from jaxalign.geometry.families import dendrogram as dendrogram
from jaxalign.geometry.families import family_test as family_test
from jaxalign.geometry.families import rate_distances as rate_distances
from jaxalign.geometry.neighbours import hubness_skewness as hubness_skewness
from jaxalign.geometry.neighbours import intrinsic_dimension_mle as intrinsic_dimension_mle
from jaxalign.geometry.neighbours import intrinsic_dimension_twonn as intrinsic_dimension_twonn
from jaxalign.geometry.neighbours import mutual_neighbours as mutual_neighbours
from jaxalign.geometry.neighbours import nearest_neighbours as nearest_neighbours
from jaxalign.geometry.prediction import Prediction as Prediction
from jaxalign.geometry.prediction import predict as predict
from jaxalign.geometry.relabelling import PermutationTest as PermutationTest
from jaxalign.geometry.sample import SIMILARITIES as SIMILARITIES
from jaxalign.geometry.sample import GeometrySample as GeometrySample
from jaxalign.geometry.sample import GeometrySettings as GeometrySettings
from jaxalign.geometry.spectral import moment_similarities as moment_similarities
from jaxalign.geometry.spread import anisotropy as anisotropy
from jaxalign.geometry.spread import participation_ratio as participation_ratio
from jaxalign.geometry.spread import person_scatter as person_scatter
from jaxalign.geometry.subspaces import identity_subspace as identity_subspace
from jaxalign.geometry.subspaces import principal_cosines as principal_cosines
