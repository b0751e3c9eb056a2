"""Who somebody is: a vector of standard normal numbers, one for each trait of the face."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class Trait(NamedTuple):
    """How a trait is spread over people; lengths in half image widths, angles in radians."""

    mean: float
    spread: float


# Skin and hair say little of who it is, inner-face geometry nearly all: colour would let raw pixels recognise people.
TRAITS: dict[str, Trait] = {
    "head_width": Trait(0.60, 0.030),
    "head_height": Trait(0.78, 0.030),
    "jaw_width": Trait(0.0, 0.10),
    "chin_taper": Trait(0.30, 0.09),
    "squareness": Trait(0.35, 0.15),
    "hairline": Trait(-0.53, 0.050),
    "hairline_curve": Trait(0.50, 0.25),
    "eye_distance": Trait(0.250, 0.0504),
    "eye_height": Trait(-0.08, 0.0633),
    "eye_width": Trait(0.120, 0.0299),
    "eye_openness": Trait(0.066, 0.024),
    "eye_tilt": Trait(0.0, 0.26),
    "iris_size": Trait(0.055, 0.0138),
    "lid_weight": Trait(0.026, 0.010),
    "brow_gap": Trait(0.155, 0.0414),
    "brow_offset": Trait(0.0, 0.0385),
    "brow_length": Trait(0.145, 0.04),
    "brow_thickness": Trait(0.034, 0.0149),
    "brow_tilt": Trait(0.0, 0.286),
    "brow_arch": Trait(0.035, 0.0455),
    "nose_length": Trait(0.29, 0.0638),
    "nose_width": Trait(0.105, 0.0333),
    "bridge_width": Trait(0.045, 0.015),
    "nostril_size": Trait(0.028, 0.009),
    "mouth_gap": Trait(0.170, 0.0418),
    "mouth_width": Trait(0.195, 0.0552),
    "upper_lip": Trait(0.040, 0.0176),
    "lower_lip": Trait(0.050, 0.0216),
    "mouth_curve": Trait(0.0, 0.049),
    "ear_size": Trait(0.130, 0.028),
    "ear_height": Trait(0.0, 0.055),
    "skin_tone": Trait(0.62, 0.020),
    "skin_hue": Trait(0.0, 0.015),
    "hair_tone": Trait(0.0, 0.04),
    "mark_x": Trait(0.0, 0.20),
    "mark_y": Trait(0.12, 0.22),
    "mark_size": Trait(0.014, 0.022),
    "eye_asymmetry": Trait(0.0, 0.018),
    "brow_asymmetry": Trait(0.0, 0.025),
    "mouth_asymmetry": Trait(0.0, 0.025),
}
WIDTH = len(TRAITS)
LIMIT = 2.2  # no trait is further from its mean, in spreads: beyond, shapes would cross each other


def draw(key: PRNGKeyArray) -> Float[Array, " traits"]:
    """A new person: shape [40], standard normal numbers cut at ±2.2, in the order of ``TRAITS``."""
    return jax.random.truncated_normal(key, -LIMIT, LIMIT, (WIDTH,), jnp.float32)


def traits_of(identity: Float[Array, " traits"]) -> Mapping[str, Float[Array, ""]]:
    """The traits in units of the image, mean + spread · number, of a person of shape [40]."""
    return {
        name: trait.mean + trait.spread * identity[index]
        for index, (name, trait) in enumerate(TRAITS.items())
    }
