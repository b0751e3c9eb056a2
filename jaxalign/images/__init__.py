"""Photographs for encoders: sources, decoding, crops and sizes. Pillow and datasets are imported when first used."""

from jaxalign.images.crops import CenterCrop as CenterCrop
from jaxalign.images.crops import Crop as Crop
from jaxalign.images.crops import LandmarkCrop as LandmarkCrop
from jaxalign.images.crops import NoCrop as NoCrop
from jaxalign.images.crops import parse_crop as parse_crop
from jaxalign.images.decode import decode as decode
from jaxalign.images.loading import BAD_IMAGES as BAD_IMAGES
from jaxalign.images.loading import BadImage as BadImage
from jaxalign.images.loading import Batch as Batch
from jaxalign.images.loading import load_batches as load_batches
from jaxalign.images.opening import SOURCES as SOURCES
from jaxalign.images.opening import open_images as open_images
from jaxalign.images.resize import RESAMPLING as RESAMPLING
from jaxalign.images.resize import Resize as Resize
from jaxalign.images.source import BadImageError as BadImageError
from jaxalign.images.source import ImageSource as ImageSource
from jaxalign.images.source import Picture as Picture
from jaxalign.images.source import Sample as Sample
from jaxalign.images.source import SourceOptions as SourceOptions
from jaxalign.images.views import View as View
