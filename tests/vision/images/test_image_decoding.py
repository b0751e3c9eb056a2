"""Every kind of picture becomes upright RGB; oracles are arrays that numpy turns, scales and blends."""

import contextlib
import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import encoded, noise, smooth

from jaxalign.core.errors import UserError
from jaxalign.vision.images import BadImageError, decode

ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def grey_as_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _exif(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_lossless_pictures_come_back_as_they_are(pixels: np.ndarray) -> None:
    for format in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode(encoded(pixels, format)), pixels)
    np.testing.assert_array_equal(decode(encoded(pixels, "WEBP", lossless=True)), pixels)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(orientation: int) -> None:
    upright, turn = noise(7, 11), ORIENTATIONS[orientation]
    arranged = [other(upright) for other in ORIENTATIONS.values()]
    stored = next(one for one in arranged if np.array_equal(turn(one), upright))
    for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        content = encoded(np.ascontiguousarray(stored), format, exif=_exif(orientation), **options)
        np.testing.assert_array_equal(decode(content), upright)


def test_exif_orientation_of_a_jpeg() -> None:
    stored = smooth(40, 60)
    turned = decode(encoded(stored, "JPEG", quality=95, exif=_exif(6)))
    assert turned.shape == (60, 40, 3)
    assert np.abs(turned.astype(int) - np.rot90(stored, -1)).max() < 16


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"", b"Exif\0\0"])
def test_a_damaged_exif_block_costs_no_more_than_the_rotation(exif: bytes) -> None:
    np.testing.assert_array_equal(decode(encoded(noise(), exif=exif)), noise())


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(format: str) -> None:
    values = np.array([[0, 1, 128, 129, 256, 257], [385, 386, 32767, 32896, 65534, 65535]], np.uint16)
    np.testing.assert_array_equal(decode(encoded(values, format)), grey_as_rgb(np.rint(values / 257)))


def _png(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow does not write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_with_colour_and_with_alpha(colour_type: int, channels: int) -> None:
    values = np.random.default_rng(3).integers(0, 65536, (6, 7, channels)).astype(np.float64)
    colour, alpha = (values[..., :-1], values[..., -1:] / 65535) if channels in (2, 4) else (values, 1.0)
    expected = alpha * colour / 257 + (1 - alpha) * 255
    assert np.abs(decode(_png(values, colour_type)) - expected).max() <= 2


def test_sixteen_bit_grey_of_a_big_endian_tiff() -> None:
    values = np.array([[0, 256, 65535, 1028]], ">u2")
    image = PIL.Image.frombytes("I;16B", (4, 1), values.tobytes())
    np.testing.assert_array_equal(decode(encoded(image, "TIFF"))[0, :, 0], [0, 1, 255, 4])


def test_cmyk() -> None:
    inks = np.random.default_rng(1).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    found = decode(encoded(PIL.Image.fromarray(inks, "CMYK"), "TIFF"))
    assert np.abs(found - expected).max() <= 1


def test_cmyk_jpeg_as_adobe_writes_it() -> None:
    inks = np.concatenate([smooth(32, 32), np.full((32, 32, 1), 40, np.uint8)], axis=2)
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    found = decode(encoded(PIL.Image.fromarray(inks, "CMYK"), "JPEG", quality=98))
    assert np.abs(found - expected).mean() < 4


def test_palette() -> None:
    colours = noise(1, 5)[0]
    image = PIL.Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5) % 5, "L")
    image.putpalette(colours.tobytes())
    for format in ("PNG", "GIF", "BMP"):
        expected = colours[np.arange(20).reshape(4, 5) % 5]
        np.testing.assert_array_equal(decode(encoded(image, format)), expected)


def test_one_transparent_palette_colour_is_composited() -> None:
    image = PIL.Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for format in ("PNG", "GIF"):
        content = encoded(image, format, transparency=1)
        expected = [[10, 20, 30], [9, 8, 7], [70, 80, 90]]
        np.testing.assert_array_equal(decode(content, background=(9, 8, 7))[0], expected)


def test_one_transparent_colour_of_an_rgb_picture_is_composited() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    content = encoded(pixels, transparency=(4, 5, 6))
    np.testing.assert_array_equal(decode(content), [[[1, 2, 3], [255, 255, 255]]])


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, (3, 4, 4)), st.tuples(*[st.integers(0, 255)] * 3))
def test_alpha_is_composited(pixels: np.ndarray, background: tuple[int, int, int]) -> None:
    alpha = pixels[..., 3:] / 255.0
    expected = alpha * pixels[..., :3] + (1 - alpha) * np.array(background)
    assert np.abs(decode(encoded(pixels), background) - expected).max() <= 1


def test_grey_with_alpha_is_composited_on_white() -> None:
    image = PIL.Image.fromarray(np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8), "LA")
    found = decode(encoded(image))
    assert np.abs(found[0].astype(int) - np.array([[100], [255], [224]])).max() <= 1


def test_one_bit() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (9, 10)).astype(bool)
    for format in ("PNG", "TIFF", "PPM"):
        found = decode(encoded(PIL.Image.fromarray(bits), format))
        np.testing.assert_array_equal(found, grey_as_rgb(bits * 255))


def test_grey() -> None:
    grey = noise()[..., 0]
    for found in (decode(encoded(grey)), decode(grey)):
        np.testing.assert_array_equal(found, grey_as_rgb(grey))


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF"])
def test_of_an_animation_the_first_picture(format: str) -> None:
    frames = [np.full((4, 5, 3), value, np.uint8) for value in (50, 100, 200)]
    first, *rest = map(PIL.Image.fromarray, frames)
    lossless = {"lossless": True} if format == "WEBP" else {}
    content = encoded(first, format, save_all=True, append_images=rest, **lossless)
    with PIL.Image.open(io.BytesIO(content)) as image:
        assert getattr(image, "n_frames", 1) == 3
    np.testing.assert_array_equal(decode(content), frames[0])


def test_of_a_stereo_jpeg_the_first_picture() -> None:
    first, second = (PIL.Image.new("RGB", (16, 16), (value,) * 3) for value in (60, 200))
    found = decode(encoded(first, "MPO", save_all=True, append_images=[second]))
    assert np.abs(found.astype(int) - 60).max() <= 2


def test_ycbcr_and_jpeg_2000() -> None:
    pixels = smooth(32, 32)
    image = PIL.Image.fromarray(pixels)
    for content in (encoded(image, "JPEG2000"), encoded(image.convert("YCbCr"), "TIFF")):
        assert np.abs(decode(content).astype(int) - pixels).max() <= 4


JPEG = encoded(smooth(64, 64), "JPEG")
DAMAGED = {
    "empty": (b"", "empty"),
    "text": (b"<html>not found</html>", "not an image"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], "damaged"),
    "cut PNG": (encoded(noise(50, 50))[:3000], "damaged"),
    "cut TIFF": (encoded(noise(50, 50), "TIFF")[:3000], "damaged|not an image"),
    "header only": (JPEG[:20], "damaged|not an image"),
    "floats": (encoded(np.ones((3, 3), np.float32), "TIFF"), "range is unknown"),
    "32 bits": (encoded(np.ones((3, 3), np.int32), "TIFF"), "range is unknown"),
    "PostScript": (encoded(noise(), "EPS"), "not an image"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_sentence(name: str) -> None:
    content, expected = DAMAGED[name]
    with pytest.raises(BadImageError, match=expected) as caught:
        decode(content)
    assert "\n" not in str(caught.value)


def test_damaged_png_data_is_noticed() -> None:
    content = bytearray(encoded(noise(50, 50)))
    place = content.index(b"IDAT") + 200
    content[place : place + 40] = bytes(40)
    with pytest.raises(BadImageError, match="damaged"):
        decode(bytes(content))


def test_a_picture_that_would_fill_the_memory_is_bad() -> None:
    content = bytearray(encoded(noise()))
    place = content.index(b"IHDR") + 4
    content[place : place + 8] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(BadImageError):
        decode(bytes(content))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=30))
def test_whatever_the_damage_it_is_a_picture_or_a_sentence(place: int, noise_bytes: bytes) -> None:
    content = JPEG[:place] + noise_bytes + JPEG[place + len(noise_bytes) :]
    with contextlib.suppress(BadImageError):
        assert decode(content).dtype == np.uint8


@pytest.mark.parametrize(
    "pixels", [np.zeros((3, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)], ids=str
)
def test_pixels_of_the_wrong_kind(pixels: np.ndarray) -> None:
    with pytest.raises(BadImageError, match="uint8") as refused:
        decode(pixels)
    assert isinstance(refused.value, UserError)
