"""Geometry of embedding spaces: similarity of two encoders' spaces, measures of one, clustering of encoders."""

from jaxalign.analysis.geometry.clustering import Dendrogram as Dendrogram
from jaxalign.analysis.geometry.clustering import PermutationTest as PermutationTest
from jaxalign.analysis.geometry.clustering import dendrogram as dendrogram
from jaxalign.analysis.geometry.clustering import family_test as family_test
from jaxalign.analysis.geometry.clustering import rate_distances as rate_distances
from jaxalign.analysis.geometry.neighbours import hubness_skewness as hubness_skewness
from jaxalign.analysis.geometry.neighbours import intrinsic_dimension_mle as intrinsic_dimension_mle
from jaxalign.analysis.geometry.neighbours import intrinsic_dimension_twonn as intrinsic_dimension_twonn
from jaxalign.analysis.geometry.neighbours import mutual_neighbours as mutual_neighbours
from jaxalign.analysis.geometry.neighbours import nearest_neighbours as nearest_neighbours
from jaxalign.analysis.geometry.neighbours import rsa_spearman as rsa_spearman
from jaxalign.analysis.geometry.person_scatter import identity_subspace as identity_subspace
from jaxalign.analysis.geometry.person_scatter import person_scatter as person_scatter
from jaxalign.analysis.geometry.person_scatter import principal_cosines as principal_cosines
from jaxalign.analysis.geometry.prediction import Prediction as Prediction
from jaxalign.analysis.geometry.prediction import predict as predict
from jaxalign.analysis.geometry.sample import SIMILARITIES as SIMILARITIES
from jaxalign.analysis.geometry.sample import Calibrated as Calibrated
from jaxalign.analysis.geometry.sample import GeometrySample as GeometrySample
from jaxalign.analysis.geometry.sample import GeometrySettings as GeometrySettings
from jaxalign.analysis.geometry.spectral import anisotropy as anisotropy
from jaxalign.analysis.geometry.spectral import moment_similarities as moment_similarities
from jaxalign.analysis.geometry.spectral import participation_ratio as participation_ratio
