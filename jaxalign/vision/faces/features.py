"""The parts of a face, each painted onto the picture in the face's own coordinates.

``u`` runs to the image's right from the face's midline, ``v`` down from its centre, both in half image widths. Parts
that come in pairs are drawn once in ``|u|``; ``side`` is −1 or 1 there.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.vision.faces.nuisance import Nuisance
from jaxalign.vision.faces.shapes import (
    Number,
    Picture,
    Plane,
    between,
    darken,
    ellipse,
    paint,
    rotated,
    soft,
)

Traits = Mapping[str, Float[Array, ""]]


class Face(NamedTuple):
    """A person under a photograph's circumstances, and where each pixel lies on the face.

    Attributes:
      traits: of the person, see ``identity.TRAITS``.
      now: the circumstances.
      x, y: coordinates in the plane of the head's outline.
      u, v: coordinates on the face's surface.
      side: −1 left of the midline, 1 right of it.
      skin: colour of the skin, shape [3].
    """

    traits: Traits
    now: Nuisance
    x: Plane
    y: Plane
    u: Plane
    v: Plane
    side: Plane
    skin: Float[Array, "3"]

    def eye(self) -> tuple[Plane, Plane]:
        """Coordinates around the nearer eye's centre: outward and down, along its tilt."""
        t = self.traits
        across = jnp.abs(self.u) - t["eye_distance"]
        down = self.v - t["eye_height"] - self.side * t["eye_asymmetry"]
        return rotated(across, down, -t["eye_tilt"])


def head_outline(face: Face) -> Plane:
    """Distance to the head's outline: an ellipse whose lower half narrows to the chin, squared off."""
    t = face.traits
    down = jnp.clip(face.y / t["head_height"], 0.0, 1.0)
    width = t["head_width"] * (1.0 + t["jaw_width"] * down - t["chin_taper"] * down**3)
    across, along = (face.x / width) ** 2, (face.y / t["head_height"]) ** 2
    round_, square = across + along, jnp.sqrt(across**2 + along**2 + 1e-9)
    level = jnp.sqrt(round_ + t["squareness"] * (square - round_) + 1e-9)
    return (level - 1.0) * t["head_width"]


def hair_behind(picture: Picture, face: Face, colour: Float[Array, "3"]) -> Picture:
    """The hair around the skull, behind the face."""
    t, off = face.traits, face.now.hair_volume
    outline = ellipse(face.x, face.y + 0.12, t["head_width"] + off, t["head_height"] - 0.06 + off)
    return paint(picture, colour, soft(jnp.maximum(outline, face.y - 0.35)))


def ears(picture: Picture, face: Face) -> Picture:
    """The ears; turning the head hides one and shows more of the other."""
    t = face.traits
    size = t["ear_size"] * jnp.clip(1.0 - 1.2 * face.side * jnp.sin(face.now.yaw), 0.3, 1.5)
    across = jnp.abs(face.x) - t["head_width"] * 0.98
    down = face.y - t["ear_height"] + 0.5 * face.now.pitch
    shape = ellipse(across, down, 0.55 * size, t["ear_size"])
    picture = paint(picture, face.skin * 0.92, soft(shape))
    return darken(picture, 0.35 * soft(shape + 0.045))


def fringe(face: Face) -> Plane:
    """Mask of the hair on the forehead, above the hairline."""
    t = face.traits
    line = t["hairline"] + t["hairline_curve"] * face.u**2 - 0.5 * face.now.pitch
    return soft(face.v - line, 0.06)


def eyes(picture: Picture, face: Face, shade: Plane) -> Picture:
    """Almond-shaped eyes with iris and pupil, and the line of the upper lid."""
    t, now = face.traits, face.now
    across, down = face.eye()
    arc = 1.0 - (across / t["eye_width"]) ** 2
    open_ = t["eye_openness"] * jnp.clip(1.0 - now.eye_close, 0.15, 1.6)
    upper, lower = -1.1 * open_ * arc, 0.9 * open_ * arc
    slit = soft(between(down, upper, lower))
    picture = paint(picture, jnp.array([0.92, 0.92, 0.9], jnp.float32)[:, None, None] * shade, slit)
    gaze = 0.6 * t["iris_size"] * now.gaze
    distance = jnp.sqrt((across - face.side * gaze[0]) ** 2 + (down - gaze[1]) ** 2 + 1e-9)
    picture = darken(picture, slit * 0.72 * soft(distance - t["iris_size"]))
    picture = darken(picture, slit * 0.8 * soft(distance - 0.45 * t["iris_size"]))
    lid = between(down, upper - t["lid_weight"], upper)
    return darken(picture, 0.62 * soft(jnp.maximum(lid, jnp.abs(across) - t["eye_width"])))


def brows(picture: Picture, face: Face) -> Picture:
    """Brows: arcs above the eyes, thinner outwards, darker or paler than the skin as the day has it."""
    t, now = face.traits, face.now
    height = t["eye_height"] - t["brow_gap"] - 0.045 * now.brow_raise + face.side * t["brow_asymmetry"]
    along = (jnp.abs(face.u) - t["eye_distance"] - t["brow_offset"]) / t["brow_length"]
    middle = height - t["brow_tilt"] * along * t["brow_length"] - t["brow_arch"] * (1.0 - along**2)
    thickness = t["brow_thickness"] * (1.0 - 0.35 * along)
    shape = jnp.maximum(jnp.abs(face.v - middle) - thickness, (jnp.abs(along) - 1.0) * t["brow_length"])
    return darken(picture, jnp.clip(now.brow_tone, -0.45, 0.85) * soft(shape))


def nose(picture: Picture, face: Face) -> Picture:
    """A ridge lit from the side the light comes from, the wings and the nostrils."""
    t, now = face.traits, face.now
    top, bottom = t["eye_height"], t["eye_height"] + t["nose_length"]
    down = jnp.clip((face.v - top) / t["nose_length"], 0.0, 1.2)
    # The tip stands out of the face and moves further than the skin around it.
    across = face.u - 0.14 * down * jnp.sin(now.yaw) - 0.5 * t["mouth_asymmetry"]
    width = t["bridge_width"] + (t["nose_width"] - t["bridge_width"]) * down**2
    ridge = jnp.maximum(jnp.abs(across) - width, between(face.v, top, bottom))
    mask = soft(ridge, 0.05)
    picture = darken(picture, mask * (0.10 - 0.28 * now.light[0] * jnp.clip(across / width, -1.0, 1.0)))
    wing = ellipse(jnp.abs(across) - 0.75 * t["nose_width"], face.v - bottom, 0.35 * t["nose_width"], 0.045)
    picture = darken(picture, 0.18 * soft(jnp.abs(wing) - 0.012))
    size = t["nostril_size"]
    hole = ellipse(jnp.abs(across) - 0.5 * t["nose_width"], face.v - bottom - 0.015, 1.3 * size, size)
    return darken(picture, 0.6 * soft(hole))


def mouth(picture: Picture, face: Face) -> Picture:
    """Two lips along a curve, and the dark between them when the mouth is open."""
    t, now = face.traits, face.now
    height = t["eye_height"] + t["nose_length"] + t["mouth_gap"]
    half = t["mouth_width"] * (1.0 + 0.12 * now.smile)
    across = (face.u - t["mouth_asymmetry"]) / half
    arc = 1.0 - across**2
    middle = height + (t["mouth_curve"] + 0.05 * now.smile) * (arc - 0.5)
    gap = 0.045 * now.mouth_open * arc
    upper = between(face.v, middle - gap - t["upper_lip"] * arc, middle - gap)
    lower = between(face.v, middle + gap, middle + gap + t["lower_lip"] * arc)
    lips = soft(jnp.minimum(upper, lower))
    tone = jnp.clip(now.lip_tone, -0.35, 0.7)
    picture = darken(picture, lips * tone)
    red = jnp.array([1.0, -1.0, -0.6], jnp.float32)[:, None, None] * now.lip_hue
    picture = picture * (1.0 + lips * red)
    line = between(face.v, middle - gap - 0.010, middle + gap + 0.010)
    return darken(picture, 0.65 * soft(jnp.maximum(line, (jnp.abs(across) - 1.0) * half)))


def mark(picture: Picture, face: Face) -> Picture:
    """A birthmark, on about three faces of four."""
    t = face.traits
    size = jnp.maximum(t["mark_size"], 0.0)
    distance = jnp.sqrt((face.u - t["mark_x"]) ** 2 + (face.v - t["mark_y"]) ** 2 + 1e-9)
    return darken(picture, 0.5 * soft(distance - size) * jnp.clip(size / 0.01, 0.0, 1.0))


def glasses(picture: Picture, face: Face) -> Picture:
    """Round frames and a bridge."""
    t, now = face.traits, face.now
    across, down = jnp.abs(face.u) - t["eye_distance"], face.v - t["eye_height"]
    frame = jnp.abs(ellipse(across, down, 0.19, 0.15)) - 0.016
    bridge = jnp.maximum(across + 0.18, jnp.abs(down) - 0.016)
    mask = now.glasses * soft(jnp.minimum(frame, bridge))
    return paint(picture, jnp.full(3, now.glasses_tone), mask)


def bar(picture: Picture, now: Nuisance, x: Plane, y: Plane) -> Picture:
    """Something straight across the picture, in front of everything."""
    angle, offset, half_width = now.bar_place
    _, across = rotated(x, y, angle)
    return paint(picture, now.bar_colour, now.bar * soft(jnp.abs(across - offset) - half_width))


def background(now: Nuisance, x: Plane, y: Plane) -> Picture:
    """Two colours mixed by two plane waves."""

    def wave(index: int) -> Plane:
        return jnp.sin(now.waves[index, 0] * x + now.waves[index, 1] * y + now.waves[index, 2])

    mix: Plane | Number = 0.5 + 0.25 * (wave(0) + wave(1))
    first, second = now.background[:, :, None, None]
    return first + mix * (second - first)
