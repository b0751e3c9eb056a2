"""One program for all batches, the same numbers on one device and on many, and what may go in."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import Encoder, JaxEncoder, Preprocessing

SIZE = (4, 6)
PREPROCESSING = Preprocessing(SIZE, SIZE, rescale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
WEIGHTS = np.random.default_rng(1).normal(size=(72, 5)).astype(np.float32)
IMAGES = np.random.default_rng(2).integers(0, 256, (37, *SIZE, 3), dtype=np.uint8)


def linear(params, pixels):
    return pixels.reshape(len(pixels), -1) @ params["kernel"]


def make(preprocessing=PREPROCESSING, **options):
    return JaxEncoder("linear", linear, {"kernel": WEIGHTS}, preprocessing, **options)


def expected(images, preprocessing=PREPROCESSING):
    pixels = images[..., ::-1] if preprocessing.color == "BGR" else images
    pixels = (pixels.astype(float) * preprocessing.rescale - preprocessing.mean) / preprocessing.std
    return pixels.reshape(len(images), 72) @ WEIGHTS.astype(float)


@pytest.fixture
def compilations():
    """Grows by one with every program that is compiled."""
    seen: list[str] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


def test_one_program_serves_all_batches(compilations):
    encoder = make(batch_size=8)
    compilations.clear()
    for count in (37, 1, 8, 9, 16, 0):
        np.testing.assert_allclose(encoder.encode(IMAGES[:count]), expected(IMAGES[:count]), atol=1e-4)
    assert len(compilations) == 1


def test_putting_weights_on_devices_compiles_nothing(compilations):
    make(dtype="bfloat16", batch_size=24)
    assert not compilations


def test_many_devices_give_the_numbers_of_one():
    many, one = make(batch_size=16), make(batch_size=16, devices=jax.local_devices()[:1])
    assert len(jax.local_devices()) == 8
    np.testing.assert_allclose(many.encode(IMAGES), one.encode(IMAGES), rtol=1e-6, atol=1e-6)


def test_each_device_computes_its_share():
    encoder = make(batch_size=9)
    assert encoder.batch_size == 16  # the next multiple of the devices
    shards = encoder._dispatch(IMAGES[:16]).addressable_shards
    assert {shard.data.shape for shard in shards} == {(2, 5)} and len({shard.device for shard in shards}) == 8


def test_colour_order_is_the_networks():
    bgr = dataclasses.replace(PREPROCESSING, color="BGR")
    np.testing.assert_allclose(make(bgr).encode(IMAGES), expected(IMAGES, bgr), atol=1e-4)


def test_callers_matmul_precision_does_not_matter():
    rows = make().encode(IMAGES)
    with jax.default_matmul_precision("bfloat16"):
        assert np.array_equal(make().encode(IMAGES), rows)


def test_it_is_an_encoder_and_describes_itself():
    encoder = make(dtype="bfloat16", facts=lambda: {"form": "test"})
    assert isinstance(encoder, Encoder) and encoder.dim == 5
    assert encoder.describe()["form"] == "test" and encoder.describe()["preprocessing"]["size"] == [4, 6]


@pytest.mark.parametrize(
    "images",
    [IMAGES.astype(np.float32), IMAGES[0], IMAGES[:, :3], IMAGES[..., :1], IMAGES.tolist()],
    ids=["float", "one picture", "another size", "grey", "list"],
)
def test_other_input_is_refused(images):
    with pytest.raises(UserError, match=r"'linear': expected uint8 RGB pictures of shape \[n, 4, 6, 3\]"):
        make().encode(images)


def test_a_function_without_one_row_for_each_picture_is_refused():
    with pytest.raises(UserError, match=r"expected \[n, width\] from n pictures"):
        JaxEncoder("maps", lambda params, pixels: pixels, {}, PREPROCESSING)


def test_what_is_no_floating_number_is_not_cast():
    def shifted(params, pixels):
        assert params["shift"].dtype == jnp.int32 and params["batch_stats"]["mean"].dtype == jnp.float32
        assert params["scale"].dtype == pixels.dtype == jnp.bfloat16
        return pixels.mean((1, 2)) * params["scale"] + params["shift"]

    params = {"shift": np.int32(3), "batch_stats": {"mean": np.float32(0)}, "scale": np.float32(2)}
    encoder = JaxEncoder("shifted", shifted, params, PREPROCESSING, dtype="bfloat16")
    assert encoder.encode(IMAGES).shape == (37, 3)
