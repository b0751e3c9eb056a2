"""Maps with more capacity than an affine one: ridge on quadratic features, and a small network."""

from jaxalign.analysis.capacity.features import KINDS, Features, features_of
from jaxalign.analysis.capacity.network import Network, fit_network

__all__ = ["KINDS", "Features", "Network", "features_of", "fit_network"]
