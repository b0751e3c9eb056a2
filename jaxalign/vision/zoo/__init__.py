"""The bundled miniature zoo: small encoders of different families for 64 × 64 images of procedural faces."""

from jaxalign.vision.zoo.specification import ZOO, Specification
from jaxalign.vision.zoo.training import Pool, train
from jaxalign.vision.zoo.weights import (
    FOLDER,
    Encoder,
    card,
    card_path,
    count,
    describe,
    load,
    pack,
    shipped,
    weights_path,
)

__all__ = [
    "FOLDER",
    "ZOO",
    "Encoder",
    "Pool",
    "Specification",
    "card",
    "card_path",
    "count",
    "describe",
    "load",
    "pack",
    "shipped",
    "train",
    "weights_path",
]
