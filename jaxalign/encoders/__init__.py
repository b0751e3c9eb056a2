"""Frozen encoders: from photographs to embeddings, through Flax, onnxruntime or a callable of the user's."""

from jaxalign.encoders.aliases import ALIASES
from jaxalign.encoders.base import Encoder
from jaxalign.encoders.jax_encoder import JaxEncoder
from jaxalign.encoders.load import FORMS, load_encoder, parse_specification
from jaxalign.encoders.preprocessing import Preprocessing
from jaxalign.encoders.processors import read_preprocessing
from jaxalign.encoders.specification import Settings, Specification

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
