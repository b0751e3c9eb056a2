"""What training changes about a photograph before the encoder sees it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

Images = Float[Array, "n 64 64 3"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes, drawn anew for each image.

    Little by default: photographs differ in place and colour already. Shifts of 3 pixels and a gain of 0.15 made
    600 steps of the first encoder end at a rank-1 of 0.54, none at all at 0.73 (200 people of the choosing range).

    Attributes:
      shift: largest shift in pixels; the border repeats.
      gain: standard deviation of the logarithm of each channel's gain.
      grain: standard deviation of added noise, in levels of 255.
      cutout: side of a square that is painted grey, pixels; 0 for none.
      border: width of a frame that is painted over in one random colour, pixels; 0 for none. Two views of a photograph
        would otherwise be told by its background.
      masked: share of the 8 × 8 pixel patches that the encoder does not see (the loss does).
      views: how many differently changed copies of each photograph.
      light: standard deviation of the logarithm of a smooth light field at the picture's edges; 0 for none.
      grey: whether the channels are mixed to one, with random weights.
      warp: standard deviation of the entries of a random linear map about the middle, and of its shift over 10 pixels;
        0 for none.
    """

    shift: int = 1
    gain: float = 0.05
    grain: float = 0.0
    cutout: int = 0
    border: int = 0
    masked: float = 0.0
    views: int = 1
    light: float = 0.0
    grey: bool = False
    warp: float = 0.0

    def __call__(self, key: PRNGKeyArray, images: UInt8[Array, "n 64 64 3"]) -> tuple[Images, Images]:
        """Changes a batch.

        Returns:
          What the encoder sees, and the same before masking; [views · n, 64, 64, 3], values 0 to 255, all first
          views before all second ones.
        """
        copies = jnp.concatenate([images] * self.views)
        keys = jax.random.split(key, len(copies))
        clean = jax.vmap(self._changed)(keys, copies)
        seen = clean
        if self.masked:
            seen = seen * jax.vmap(self._mask)(keys)
        return seen, clean

    def _changed(self, key: PRNGKeyArray, image: UInt8[Array, "64 64 3"]) -> Float[Array, "64 64 3"]:
        shift_key, gain_key, grain_key, cutout_key = jax.random.split(key, 4)
        view = self._viewed(jax.random.fold_in(key, 2), image.astype(jnp.float32))
        room = ((self.shift, self.shift), (self.shift, self.shift), (0, 0))
        down, across = jax.random.randint(shift_key, (2,), 0, 2 * self.shift + 1)
        moved = jax.lax.dynamic_slice(jnp.pad(view, room, mode="edge"), (down, across, 0), (64, 64, 3))
        gain = jnp.exp(self.gain * jax.random.normal(gain_key, (3,), jnp.float32))
        changed = jnp.clip(moved * gain, 0.0, 255.0)
        if self.grain:
            changed = changed + self.grain * jax.random.normal(grain_key, (64, 64, 3), jnp.float32)
        if self.cutout:
            corner = jax.random.randint(cutout_key, (2, 1), 0, 64 - self.cutout)
            place = jnp.arange(64)
            inside = (place >= corner) & (place < corner + self.cutout)
            changed = jnp.where((inside[0][:, None] & inside[1][None, :])[:, :, None], 127.5, changed)
        if self.border:
            place = jnp.arange(64)
            inside = (place >= self.border) & (place < 64 - self.border)
            colour = 255.0 * jax.random.uniform(jax.random.fold_in(gain_key, 1), (3,), jnp.float32)
            changed = jnp.where((inside[:, None] & inside[None, :])[:, :, None], changed, colour)
        return changed

    def _viewed(self, key: PRNGKeyArray, image: Float[Array, "64 64 3"]) -> Float[Array, "64 64 3"]:
        """Takes away what two views of a photograph share, two photographs of a person not: colour, pose, light."""
        grey_key, warp_key, light_key = jax.random.split(key, 3)
        if self.grey:
            weights = jax.random.dirichlet(grey_key, jnp.ones(3, jnp.float32))
            image = jnp.broadcast_to((image * weights).sum(2, keepdims=True), image.shape)
        if self.warp:
            image = _warped(image, self.warp * jax.random.normal(warp_key, (2, 3), jnp.float32))
        if self.light:
            image = image * jnp.exp(_field(self.light * jax.random.normal(light_key, (5,), jnp.float32)))
        return jnp.clip(image, 0.0, 255.0) if self.light else image

    def _mask(self, key: PRNGKeyArray) -> Float[Array, "64 64 1"]:
        kept = jax.random.uniform(jax.random.fold_in(key, 1), (8, 8)) >= self.masked
        return jnp.repeat(jnp.repeat(kept.astype(jnp.float32), 8, 0), 8, 1)[:, :, None]


def _warped(image: Float[Array, "64 64 3"], change: Float[Array, "2 3"]) -> Float[Array, "64 64 3"]:
    """The picture under x ↦ x + A x + 10 b about the middle, for [A b] = ``change``; bilinear, the border repeats."""
    place = jnp.stack(jnp.meshgrid(*[jnp.arange(64.0) - 31.5] * 2, indexing="ij"))
    place = place + jnp.tensordot(change[:, :2], place, 1) + 10.0 * change[:, 2, None, None] + 31.5
    sample = jax.vmap(
        lambda channel: jax.scipy.ndimage.map_coordinates(channel, list(place), order=1, mode="nearest"),
        in_axes=2,
        out_axes=2,
    )
    return sample(image)


def _field(slopes: Float[Array, " 5"]) -> Float[Array, "64 64 1"]:
    """A quadratic of the place in the picture, which runs from −1 to 1; its square terms at half strength."""
    across = jnp.linspace(-1.0, 1.0, 64)
    x, y = across[None, :], across[:, None]
    terms = jnp.stack(jnp.broadcast_arrays(x, y, x * y / 2, x**2 / 2, y**2 / 2))
    return jnp.tensordot(slopes, terms, 1)[:, :, None]
