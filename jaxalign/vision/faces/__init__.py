"""Procedural faces: people without end who do not exist, 64 × 64 pixels, reproducible from a seed."""

from jaxalign.vision.faces.identity import TRAITS, Trait
from jaxalign.vision.faces.nuisance import Conditions, Nuisance
from jaxalign.vision.faces.people import (
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
from jaxalign.vision.faces.renderer import render

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
