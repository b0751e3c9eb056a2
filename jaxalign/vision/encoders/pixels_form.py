"""``pixels:``: the picture itself, as a control: what a network adds shows beside it."""

from jaxtyping import Array, Float

from jaxalign.vision.encoders.jax_encoder import JaxEncoder
from jaxalign.vision.encoders.preprocessing import Preprocessing
from jaxalign.vision.encoders.specification import Settings, Specification

LARGEST = 64  # pixels along an edge: 12,288 numbers a picture
DEFAULT_BATCH = 256


def load_pixels(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``pixels:<edge>?dtype=&name=&batch=``: the picture at edge × edge pixels, 3 · edge² numbers from 0 to 1.

    Raises:
      UserError: the edge is no whole number from 1 to ``LARGEST``.
    """
    specification.only("dtype", "name", "batch")
    text = specification.target
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        specification.refuse(f"pixels: takes an edge of 1 to {LARGEST} pixels, such as pixels:16.")
    size = int(text), int(text)
    return JaxEncoder(
        specification.name("pixels"),
        _flat,
        {},
        Preprocessing(size=size, resize=size, rescale=1 / 255),
        batch_size=specification.batch_size(settings, DEFAULT_BATCH),
        dtype=specification.dtype(settings),
        devices=settings.devices,
        facts=lambda: {"form": "pixels"},
    )


def _flat(_: dict, pixels: Float[Array, "n height width 3"]) -> Float[Array, "n dim"]:
    return pixels.reshape(len(pixels), -1)
