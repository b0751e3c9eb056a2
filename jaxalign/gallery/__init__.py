"""Moving an enrolled gallery from an old encoder to a new one without its photographs."""

from jaxalign.gallery.fingerprint import Fingerprint
from jaxalign.gallery.map_file import GalleryMap, load_map
from jaxalign.gallery.one_map import OneMap, read_one
from jaxalign.gallery.operating import Threshold, native_curve, thresholds_of

__all__ = [
    "Fingerprint",
    "GalleryMap",
    "OneMap",
    "Threshold",
    "load_map",
    "native_curve",
    "read_one",
    "thresholds_of",
]
