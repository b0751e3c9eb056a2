"""``pixels:``, the control."""

import numpy as np
import pytest
from PIL import Image

from jaxalign import UserError
from jaxalign.vision.encoders import load_encoder


def test_rows_are_the_resized_picture():
    encoder = load_encoder("pixels:8")
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (30, 20, 3), np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BILINEAR), np.float64)
    rows = encoder.encode(encoder.prepare(picture)[None])
    assert (encoder.name, encoder.dim) == ("pixels", 192)
    np.testing.assert_allclose(rows, expected.reshape(1, -1) / 255, atol=1e-6)


@pytest.mark.parametrize("text", ["pixels:0", "pixels:65", "pixels:x"])
def test_an_edge_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="1 to 64 pixels"):
        load_encoder(text)
