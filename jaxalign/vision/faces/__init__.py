"""Procedural faces: people without end who do not exist, 64 × 64 pixels, reproducible from a seed."""

from jaxalign.vision.faces.identity import TRAITS as TRAITS
from jaxalign.vision.faces.identity import Trait as Trait
from jaxalign.vision.faces.nuisance import Conditions as Conditions
from jaxalign.vision.faces.nuisance import Nuisance as Nuisance
from jaxalign.vision.faces.renderer import render as render
from jaxalign.vision.faces.synthetic_people import CHOOSING_PEOPLE as CHOOSING_PEOPLE
from jaxalign.vision.faces.synthetic_people import DEFAULT_PEOPLE as DEFAULT_PEOPLE
from jaxalign.vision.faces.synthetic_people import HELD_OUT_PEOPLE as HELD_OUT_PEOPLE
from jaxalign.vision.faces.synthetic_people import SEED as SEED
from jaxalign.vision.faces.synthetic_people import TRAINING_PEOPLE as TRAINING_PEOPLE
from jaxalign.vision.faces.synthetic_people import Photographs as Photographs
from jaxalign.vision.faces.synthetic_people import identities as identities
from jaxalign.vision.faces.synthetic_people import photographs as photographs
from jaxalign.vision.faces.synthetic_people import stream as stream
