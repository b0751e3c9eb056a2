"""A photograph of a person: the parts of the face put together, lit, blurred and grained."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8, UInt32

from jaxalign.core.precision import multiply
from jaxalign.vision.faces import features
from jaxalign.vision.faces.identity import traits_of
from jaxalign.vision.faces.nuisance import Nuisance
from jaxalign.vision.faces.shapes import SIZE, Picture, Plane, paint, rotated, soft

DEPTH = 0.55  # how far the face stands out of the plane of its outline, half image widths


def render(identity: Float[Array, " traits"], nuisance: Nuisance) -> UInt8[Array, "64 64 3"]:
    """Draws one photograph; pure, so that ``jit`` and ``vmap`` apply.

    Args:
      identity: shape [40], standard normal numbers in the order of ``identity.TRAITS``.
      nuisance: the photograph's circumstances.

    Returns:
      The image, shape [64, 64, 3], uint8, red first.
    """
    picture = _camera(_scene(identity, nuisance), nuisance)
    levels = jnp.round(255.0 * jnp.clip(picture, 0.0, 1.0)).astype(jnp.uint8)
    return jnp.transpose(levels, (1, 2, 0))


def _scene(identity: Float[Array, " traits"], now: Nuisance) -> Picture:
    """What is in front of the camera, as light arriving at each pixel."""
    line = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2.0 / SIZE) - 1.0
    across, down = jnp.asarray(line)[None, :] + jnp.zeros((SIZE, 1), jnp.float32), jnp.asarray(line)[:, None]
    face, surface = _pose(identity, now, across, down + jnp.zeros((1, SIZE), jnp.float32))
    shade = _shade(face, now, surface)
    hair = jnp.clip(now.hair + face.traits["hair_tone"], 0.03, 0.9)

    picture = features.background(now, across, down)
    picture = features.hair_behind(picture, face, hair * 0.85)
    picture = features.ears(picture, face)
    skin = face.skin[:, None, None] * shade
    skin = features.mouth(features.nose(skin, face), face)
    skin = features.brows(features.mark(skin, face), face)
    skin = features.eyes(skin, face, shade)
    skin = features.glasses(skin, face)
    skin = paint(skin, hair[:, None, None] * shade, features.fringe(face))
    picture = paint(picture, skin, soft(features.head_outline(face)))
    return features.bar(picture, now, across, down)


def _pose(
    identity: Float[Array, " traits"], now: Nuisance, across: Plane, down: Plane
) -> tuple[features.Face, Plane]:
    """Where each pixel lies on the head, and how far the surface stands out there, from 0 to 1."""
    traits = traits_of(identity)
    x, y = rotated((across - now.shift[0]) / now.scale, (down - now.shift[1]) / now.scale, now.roll)
    round_ = (x / traits["head_width"]) ** 2 + (y / traits["head_height"]) ** 2
    surface = jnp.sqrt(jnp.maximum(1.0 - round_, 0.0) + 1e-6)
    u = x * jnp.cos(now.yaw) - DEPTH * surface * jnp.sin(now.yaw)
    v = y * jnp.cos(now.pitch) - DEPTH * surface * jnp.sin(now.pitch)
    tone, hue = traits["skin_tone"], traits["skin_hue"]
    skin = tone * jnp.stack([1.14 + hue, jnp.ones_like(hue), 0.86 - hue])
    return features.Face(traits, now, x, y, u, v, jnp.sign(u), skin), surface


def _shade(face: features.Face, now: Nuisance, surface: Plane) -> Plane:
    """Light on the head: an even part and one that falls off with the angle to the light (Lambert)."""
    facing = 1.0 / jnp.sqrt(1.0 + now.light[0] ** 2 + now.light[1] ** 2)
    across, down = face.x / face.traits["head_width"], face.y / face.traits["head_height"]
    lit = (now.light[0] * across + now.light[1] * down + surface) * facing
    return 0.40 + 0.75 * jnp.maximum(lit, 0.0)


def _camera(picture: Picture, now: Nuisance) -> Picture:
    """Colour of the light, the lens and the sensor."""
    picture = picture * now.colour[:, None, None]
    picture = jnp.minimum(picture, 1.0)
    picture = _blurred(picture, now.blur)
    return picture + now.noise * _grain(now.grain)


def _blurred(picture: Picture, width: Float[Array, ""]) -> Picture:
    """A Gaussian of ``width`` pixels in both directions; weights at the border are scaled to sum to 1.

    As products with a 64 × 64 matrix: XLA evaluates a product's operand once, but draws the whole face again for every
    tap of a sum of shifted pictures (20 times slower on CPU).
    """
    pixel = np.arange(SIZE, dtype=np.float32)
    weights = jnp.exp(-0.5 * (pixel[:, None] - pixel) ** 2 / (width**2 + 1e-4))
    weights = weights / weights.sum(1, keepdims=True)
    return multiply(weights, multiply(picture, weights.T))


def _grain(which: UInt32[Array, ""]) -> Picture:
    """Noise of standard deviation 1 in every pixel and channel.

    A hash of the pixel's number (Wellons' ``lowbias32``), whose four bytes are summed: near enough to normal, and a
    tenth of the cost of a counter-based generator, which would take longer than the whole face.
    """
    number = jax.lax.iota(jnp.uint32, 3 * SIZE * SIZE).reshape(3, SIZE, SIZE)
    bits = number * np.uint32(0x9E3779B9) + which
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    bits = bits ^ (bits >> np.uint32(16))
    byte = np.uint32(255)
    total = sum((bits >> np.uint32(shift)) & byte for shift in (0, 8, 16, 24))
    return (jnp.asarray(total).astype(jnp.float32) - 510.0) / np.float32(np.sqrt((256.0**2 - 1.0) / 3.0))
