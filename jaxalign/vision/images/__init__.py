"""Photographs for encoders: sources, decoding, crops and sizes. Pillow and datasets are imported when first used."""

from jaxalign.vision.images.loading import BAD_IMAGES as BAD_IMAGES
from jaxalign.vision.images.loading import BadImage as BadImage
from jaxalign.vision.images.loading import Batch as Batch
from jaxalign.vision.images.loading import content_digest as content_digest
from jaxalign.vision.images.loading import described as described
from jaxalign.vision.images.loading import load_batches as load_batches
from jaxalign.vision.images.loading import read_contents as read_contents
from jaxalign.vision.images.open import SOURCES as SOURCES
from jaxalign.vision.images.open import SyntheticFaces as SyntheticFaces
from jaxalign.vision.images.open import open_images as open_images
from jaxalign.vision.images.pictures import RESAMPLING as RESAMPLING
from jaxalign.vision.images.pictures import CenterCrop as CenterCrop
from jaxalign.vision.images.pictures import Crop as Crop
from jaxalign.vision.images.pictures import LandmarkCrop as LandmarkCrop
from jaxalign.vision.images.pictures import NoCrop as NoCrop
from jaxalign.vision.images.pictures import Resize as Resize
from jaxalign.vision.images.pictures import View as View
from jaxalign.vision.images.pictures import decode as decode
from jaxalign.vision.images.pictures import parse_crop as parse_crop
from jaxalign.vision.images.source import BadImageError as BadImageError
from jaxalign.vision.images.source import ImageSource as ImageSource
from jaxalign.vision.images.source import Picture as Picture
from jaxalign.vision.images.source import Sample as Sample
from jaxalign.vision.images.source import SourceOptions as SourceOptions
