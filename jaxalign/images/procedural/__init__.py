"""Procedural faces: people without end who do not exist, 64 × 64 pixels, reproducible from a seed."""

from jaxalign.images.procedural.identity import TRAITS, Trait
from jaxalign.images.procedural.nuisance import Conditions, Nuisance
from jaxalign.images.procedural.people import (
    CHOOSING_PEOPLE,
    DEFAULT_PEOPLE,
    HELD_OUT_PEOPLE,
    SEED,
    TRAINING_PEOPLE,
    Photographs,
    identities,
    photographs,
    stream,
)
from jaxalign.images.procedural.renderer import render

__all__ = [
    "CHOOSING_PEOPLE",
    "DEFAULT_PEOPLE",
    "HELD_OUT_PEOPLE",
    "SEED",
    "TRAINING_PEOPLE",
    "TRAITS",
    "Conditions",
    "Nuisance",
    "Photographs",
    "Trait",
    "identities",
    "photographs",
    "render",
    "stream",
]
