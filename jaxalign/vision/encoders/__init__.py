"""Frozen encoders: from photographs to embeddings, through Flax, onnxruntime or a callable of the user's."""

from jaxalign.vision.encoders.base import Encoder, Preprocessing
from jaxalign.vision.encoders.huggingface import read_preprocessing
from jaxalign.vision.encoders.jax_encoder import JaxEncoder
from jaxalign.vision.encoders.load import (
    ALIASES,
    FORMS,
    Settings,
    Specification,
    load_encoder,
    parse_specification,
)

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
