"""Signed distances, soft masks and paint: the vocabulary that faces are drawn with.

Distances are negative inside a shape and in half image widths; a plane is one number per pixel, shape [64, 64], and a
picture three planes, shape [3, 64, 64].
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

SIZE = 64
EDGE = 2.6 / SIZE  # a mask goes from 0 to 1 within 1.3 pixels: shapes move by less than a pixel visibly

Plane = Float[Array, "64 64"]
Picture = Float[Array, "3 64 64"]
Number = Float[Array, ""] | float


def soft(distance: Plane, edge: Number = EDGE) -> Plane:
    """1 inside, 0 outside, linear in between."""
    return jnp.clip(0.5 - distance / edge, 0.0, 1.0)


def ellipse(x: Plane, y: Plane, half_width: Number | Plane, half_height: Number) -> Plane:
    """Distance to an ellipse around the origin, exact on its outline to first order.

    With k = ‖(x/a, y/b)‖ and g = ‖(x/a², y/b²)‖ it is k (k − 1) / g (Quílez, "ellipsoid bound", 2008).
    """
    across, down = x / half_width, y / half_height
    level = jnp.sqrt(across**2 + down**2 + 1e-9)
    slope = jnp.sqrt((across / half_width) ** 2 + (down / half_height) ** 2 + 1e-9)
    return level * (level - 1.0) / slope


def between(value: Plane, low: Plane | Number, high: Plane | Number) -> Plane:
    """Distance to the band low ≤ value ≤ high; positive everywhere where the band is empty."""
    return jnp.maximum(low - value, value - high)


def rotated(x: Plane, y: Plane, angle: Number) -> tuple[Plane, Plane]:
    """The coordinates in a frame rotated by ``angle`` radians."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def paint(picture: Picture, colour: Float[Array, "3"] | Picture, mask: Plane) -> Picture:
    """Lays a colour over a picture where the mask is."""
    colour = colour if colour.ndim == 3 else colour[:, None, None]
    return picture + mask * (colour - picture)


def darken(picture: Picture, share: Plane) -> Picture:
    """Takes a share of the light away; a negative share adds some."""
    return picture * (1.0 - share)
