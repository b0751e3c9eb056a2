"""What differs between two photographs of one person: pose, expression, light, things in the way, the camera."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from jaxalign.core.pytree import pytree


class Nuisance(NamedTuple):
    """One photograph's circumstances; leaves are scalars or short vectors of float32.

    Attributes:
      yaw, pitch, roll: turn of the head, radians; positive yaw turns to the image's right, positive pitch down.
      scale: size of the head relative to the mean one.
      shift: of the head, shape [2] (x, y), half image widths.
      smile, mouth_open, brow_raise, eye_close: expression; 0 is neutral, 1 is strong.
      gaze: of the eyes, shape [2], in iris radii.
      light: direction it comes from, shape [2]; 0 is from the camera.
      colour: gain of each channel, shape [3].
      hair: colour of the hair on the day, shape [3]; the person's own hair only tints it.
      brow_tone, lip_tone: how much darker than the skin brows and lips are, as a share; negative is paler.
      lip_hue: how much redder than that lips are.
      hair_volume: how far the hair stands off.
      glasses: 1 with glasses, 0 without.
      glasses_tone: grey value of the frame.
      bar: 1 with something across the picture, 0 without.
      bar_place: its angle (radians), offset and half width, shape [3].
      bar_colour: shape [3].
      background: two colours, shape [2, 3].
      waves: two plane waves that mix them, shape [2, 3]: wave vector (x, y) in radians per half width, and phase.
      blur: standard deviation in pixels.
      noise: standard deviation, as a share of white.
      grain: which noise.
    """

    yaw: Float[Array, ""]
    pitch: Float[Array, ""]
    roll: Float[Array, ""]
    scale: Float[Array, ""]
    shift: Float[Array, "2"]
    smile: Float[Array, ""]
    mouth_open: Float[Array, ""]
    brow_raise: Float[Array, ""]
    eye_close: Float[Array, ""]
    gaze: Float[Array, "2"]
    light: Float[Array, "2"]
    colour: Float[Array, "3"]
    hair: Float[Array, "3"]
    brow_tone: Float[Array, ""]
    lip_tone: Float[Array, ""]
    lip_hue: Float[Array, ""]
    hair_volume: Float[Array, ""]
    glasses: Float[Array, ""]
    glasses_tone: Float[Array, ""]
    bar: Float[Array, ""]
    bar_place: Float[Array, "3"]
    bar_colour: Float[Array, "3"]
    background: Float[Array, "2 3"]
    waves: Float[Array, "2 3"]
    blur: Float[Array, ""]
    noise: Float[Array, ""]
    grain: UInt32[Array, ""]


@pytree
class Conditions:
    """How strongly photographs differ; each number scales one nuisance, and 0 turns it off.

    Attributes:
      shift, roll, scale, yaw, pitch: standard deviations, in the units of ``Nuisance``.
      expression: strength of smile, open mouth, raised brows, closed eyes and gaze.
      light: of the direction of light.
      colour: of the channels' gain, hair, brows and lips.
      glasses, bar: probabilities.
      background: 1 for random backgrounds, 0 for grey.
      blur: standard deviation of the blur's width, pixels.
      noise: largest standard deviation of the noise, as a share of white.
    """

    shift: float = 0.04
    roll: float = 0.08
    scale: float = 0.05
    yaw: float = 0.16
    pitch: float = 0.07
    expression: float = 0.50
    light: float = 0.50
    colour: float = 0.45
    glasses: float = 0.10
    bar: float = 0.10
    background: float = 1.0
    blur: float = 0.50
    noise: float = 0.02

    @classmethod
    def none(cls) -> "Conditions":
        """A studio: nothing differs between two photographs of one person."""
        return cls(**{field.name: 0.0 for field in dataclasses.fields(cls)})


def draw(key: PRNGKeyArray, conditions: Conditions) -> Nuisance:
    """One photograph's circumstances under conditions of this strength; every key gives others."""
    keys = jax.random.split(key, 3)
    normal = _Draws(jax.random.truncated_normal(keys[0], -2.0, 2.0, (25,), jnp.float32))
    uniform = _Draws(jax.random.uniform(keys[1], (30,), jnp.float32))
    c = conditions
    return Nuisance(
        yaw=c.yaw * normal.one(),
        pitch=c.pitch * normal.one(),
        roll=c.roll * normal.one(),
        scale=jnp.exp(c.scale * normal.one()),
        shift=c.shift * normal.take(2),
        smile=c.expression * normal.one(),
        mouth_open=c.expression * jnp.maximum(normal.one(), 0.0),
        brow_raise=c.expression * normal.one(),
        eye_close=0.5 * c.expression * normal.one(),
        gaze=c.expression * normal.take(2),
        light=c.light * normal.take(2),
        colour=jnp.exp(c.colour * (0.45 * normal.one() + 0.35 * normal.take(3))),
        hair=0.35 + c.colour * (0.75 * (uniform.one() - 0.5) + 0.5 * (uniform.take(3) - 0.5)),
        brow_tone=0.55 + c.colour * 0.30 * normal.one(),
        lip_tone=0.30 + c.colour * 0.30 * normal.one(),
        lip_hue=0.08 + c.colour * 0.25 * normal.one(),
        hair_volume=0.06 + 0.08 * c.colour * uniform.one(),
        glasses=(uniform.one() < c.glasses).astype(jnp.float32),
        glasses_tone=0.05 + 0.6 * uniform.one(),
        bar=(uniform.one() < c.bar).astype(jnp.float32),
        bar_place=jnp.array([jnp.pi, 1.4, 0.10], jnp.float32) * uniform.take(3)
        + jnp.array([0.0, -0.7, 0.08], jnp.float32),
        bar_colour=uniform.take(3),
        background=0.5 + c.background * (uniform.take(6).reshape(2, 3) - 0.5),
        waves=jnp.array([14.0, 14.0, 6.3], jnp.float32) * (uniform.take(6).reshape(2, 3) - 0.5),
        blur=c.blur * jnp.abs(normal.one()),
        noise=c.noise * uniform.one(),
        grain=jax.random.bits(keys[2], (), jnp.uint32),
    )


class _Draws:
    """Deals a vector of random numbers out in order: one call to the generator instead of thirty."""

    def __init__(self, numbers: Float[Array, " n"]) -> None:
        self._rest = numbers

    def take(self, count: int) -> Float[Array, " count"]:
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def one(self) -> Float[Array, ""]:
        return self.take(1)[0]
