"""Frozen encoders: from photographs to embeddings, through Flax, onnxruntime or a callable of the user's."""

from jaxalign.vision.encoders.aliases import ALIASES
from jaxalign.vision.encoders.base import Encoder
from jaxalign.vision.encoders.jax_encoder import JaxEncoder
from jaxalign.vision.encoders.load import FORMS, load_encoder, parse_specification
from jaxalign.vision.encoders.preprocessing import Preprocessing
from jaxalign.vision.encoders.processors import read_preprocessing
from jaxalign.vision.encoders.specification import Settings, Specification

__all__ = [
    "ALIASES",
    "FORMS",
    "Encoder",
    "JaxEncoder",
    "Preprocessing",
    "Settings",
    "Specification",
    "load_encoder",
    "parse_specification",
    "read_preprocessing",
]
