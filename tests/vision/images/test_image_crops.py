"""Crops, sizes and their specifications; oracles are Pillow, float64 numpy and the image processors of transformers."""

import json
import os
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import noise, smooth, write

from jaxalign.core.errors import UserError
from jaxalign.vision.images import RESAMPLING, BadImageError, CenterCrop, Resize, Sample, View, parse_crop
from jaxalign.vision.images.landmarks import ARCFACE_TEMPLATE, five_points, landmark_columns, read_landmarks

TEN = [30.0, 40.0, 60.0, 41.0, 46.0, 60.0, 33.0, 75.0, 58.0, 76.0]
MALFORMED = [
    *("", "center", "center:", "center:0", "center:1.5", "center:-0.5", "center:nan", "center:1e999"),
    *("none:", "none:1", "landmarks:", "middle:0.6", "CENTER:0.6"),
]


def _view(view: View, pixels: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
    return view.apply(PIL.Image.fromarray(pixels), points)


@pytest.mark.parametrize("text", ["none", "center:0.6", "center:1", "center:.5", "landmarks", " none "])
def test_specifications(text: str) -> None:
    crop = parse_crop(text)
    assert parse_crop(str(crop)) == crop
    assert json.loads(json.dumps(View(crop).facts())) == View(crop).facts()


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_specifications(text: str) -> None:
    with pytest.raises(UserError, match=r"a crop is none, center|fraction"):
        parse_crop(text)


def test_lfw_central_crop() -> None:
    pixels = noise(250, 250)
    np.testing.assert_array_equal(_view(View(parse_crop("center:0.6")), pixels), pixels[50:200, 50:200])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.001, 1))
def test_a_central_crop_is_central(width: int, height: int, fraction: float) -> None:
    left, upper, right, lower = CenterCrop(fraction).box(width, height)
    for start, stop, side in ((left, right, width), (upper, lower, height)):
        assert 0 <= start < stop <= side
        assert abs((stop - start) - fraction * side) <= 0.5 or stop - start == 1
        assert 0 <= (side - stop) - start <= 1


@pytest.mark.parametrize("name, number", [("nearest", 0), ("lanczos", 1), ("bilinear", 2), ("bicubic", 3)])
@pytest.mark.parametrize("size", [(20, 30), (150, 90)])
def test_resize_is_pillow_by_name_and_by_number(name: str, number: int, size: tuple[int, int]) -> None:
    pixels = noise(60, 50)
    expected = np.asarray(PIL.Image.fromarray(pixels).resize(size[::-1], PIL.Image.Resampling(number)))  # pyright: ignore[reportArgumentType]
    assert RESAMPLING[name] == number
    assert Resize(*size, resample=number) == Resize(*size, resample=name)
    np.testing.assert_array_equal(_view(View(resize=Resize(*size, resample=name)), pixels), expected)


def test_bilinear_shrinking_averages() -> None:
    """A triangle as wide as the pixels that fall together, in float64 numpy."""
    pixels = noise(40, 40)
    places, centres = np.arange(40) + 0.5, (np.arange(10) + 0.5) * 4
    weights = np.maximum(0, 1 - np.abs(places[None] - centres[:, None]) / 4)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = np.einsum("ih,hwc,jw->ijc", weights, pixels.astype(float), weights)
    found = _view(View(resize=Resize(10, 10)), pixels)
    assert np.abs(found - expected).max() <= 1


def _processed(kind: str, pixels: np.ndarray, **options: Any) -> np.ndarray:
    """What an image processor of transformers makes of a picture, without normalisation."""
    make = getattr(pytest.importorskip("transformers"), kind)
    processor = make(do_normalize=False, do_rescale=False, **options)
    return processor(PIL.Image.fromarray(pixels), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


@pytest.mark.parametrize("shape", [(80, 80), (90, 61), (61, 90), (20, 200), (200, 20), (31, 30), (224, 224)])
@pytest.mark.parametrize(("shortest", "crop"), [(64, 64), (72, 64), (40, 64), (41, 64), (64, 63)])
def test_shortest_edge_agrees_with_transformers(shape: tuple[int, int], shortest: int, crop: int) -> None:
    size = {"shortest_edge": shortest}
    expected = _processed("CLIPImageProcessor", noise(*shape), size=size, crop_size=crop)
    found = _view(View(resize=Resize(crop, crop, "bicubic", shortest_edge=shortest)), noise(*shape))
    np.testing.assert_array_equal(found, expected)


def test_stretching_agrees_with_transformers() -> None:
    expected = _processed("ViTImageProcessor", noise(70, 50), size={"height": 48, "width": 64}, resample=2)
    np.testing.assert_array_equal(_view(View(resize=Resize(48, 64, 2)), noise(70, 50)), expected)


@pytest.mark.parametrize(
    "arguments",
    [(0, 5), (5, -1), (5, 5, "box"), (5, 5, 4), (5, 5, True), (5.5, 5), (5, 5, "bilinear", 0), (99999, 5)],
)
def test_sizes_and_filters_that_are_not(arguments: Any) -> None:
    with pytest.raises(UserError, match=r"pixels|resample"):
        Resize(*arguments)


def test_a_thread_of_pixels_does_not_fill_the_memory() -> None:
    with pytest.raises(BadImageError, match="narrow"):
        _view(View(resize=Resize(224, 224, shortest_edge=224)), np.zeros((1, 5000, 3), np.uint8))


def test_settings_are_recorded_as_plain_values() -> None:
    view = View(parse_crop("center:0.6"), Resize(160, 160, 3))
    assert json.loads(json.dumps(view.facts())) == {
        "crop": {"kind": "center", "fraction": 0.6},
        "resize": {"height": 160, "width": 160, "resample": "bicubic", "shortest_edge": None},
    }


def test_landmark_crop_brings_a_shrunken_face_back() -> None:
    """A picture twice the template's size with the template's points at twice their place: every second pixel."""
    pixels, points = smooth(224, 224), 2 * ARCFACE_TEMPLATE
    np.testing.assert_array_equal(_view(View(parse_crop("landmarks")), pixels, points), pixels[::2, ::2])
    resize = Resize(224, 224, "lanczos", shortest_edge=300)
    np.testing.assert_array_equal(_view(View(parse_crop("landmarks"), resize), pixels, points), pixels)


def test_landmarks_from_a_csv(tmp_path: pathlib.Path) -> None:
    numbers = ",".join(map(str, TEN))
    header = "path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n"
    photograph = write(tmp_path / "faces" / "ann" / "1.png")
    for head in (header, "", "\ufeff" + header):
        (tmp_path / "points.csv").write_text(f"{head}faces/ann/1.png,{numbers}\nbob/2.png, {numbers}\n")
        table = read_landmarks(tmp_path / "points.csv")
        assert len(table.points) == 2
        by_path = Sample("other name", "ann", str(photograph))
        for sample in (Sample("bob/2.png", "bob"), by_path, Sample("faces/ann/1.png", "ann")):
            np.testing.assert_array_equal(table.find(sample), np.array(TEN).reshape(5, 2))
        assert table.find(Sample("ann/1.png", "ann")) is None
    facts = parse_crop(f"landmarks:{tmp_path}/points.csv").facts()
    assert facts["points"].endswith("points.csv") and len(facts["points_sha256"]) == 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no landmarks"),
        ("a,1,2,3\n", "line 1: expected a sample id and 10 numbers"),
        ("id,x\na,1,2,3\n", "line 2: expected"),
        ("a,1,2,3,4,5,6,7,8,9,10\na,1,2,3,4,5,6,7,8,9,10\n", "line 2: 'a' is there a second time"),
        ("a,1,2,3,4,5,6,7,8,9,10\nb,1,2,3,4,5,6,7,8,x,10\n", "line 2: expected 10 finite numbers"),
        ("a,1,2,3,4,5,6,7,8,9,10\nb,1,2,3,4,5,6,7,8,inf,10\n", "line 2: expected 10 finite numbers"),
    ],
)
def test_landmark_files_that_are_not(tmp_path: pathlib.Path, text: str, expected: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UserError, match=expected):
        parse_crop(f"landmarks:{tmp_path}/points.csv")


def test_missing_and_binary_landmark_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="none.csv is missing"):
        parse_crop(f"landmarks:{tmp_path}/none.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="a pipe"):
        parse_crop(f"landmarks:{tmp_path}/pipe.csv")
    (tmp_path / "points.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        parse_crop(f"landmarks:{tmp_path}/points.csv")


def test_landmark_columns() -> None:
    celeba = ["image", "lefteye_x", "lefteye_y", "righteye_x", "righteye_y", "nose_x", "nose_y",
              "leftmouth_x", "leftmouth_y", "rightmouth_x", "rightmouth_y"]  # fmt: skip
    assert landmark_columns(celeba, None, "data") == tuple(celeba[1:])
    assert landmark_columns(["Landmarks", "x1"], None, "data") == ("Landmarks",)
    assert landmark_columns(["x1", "y1"], None, "data") == ()
    with pytest.raises(UserError, match="no column 'points'"):
        landmark_columns(["x1"], "points", "data")


TEXTS, PAIRS = list(map(str, TEN)), np.reshape(TEN, (5, 2)).tolist()


@pytest.mark.parametrize("values", [TEN, PAIRS, [TEN], " ".join(TEXTS), str(TEN), TEXTS])
def test_ten_numbers_in_any_form(values: Any) -> None:
    np.testing.assert_array_equal(five_points(values, "row 1"), np.array(TEN).reshape(5, 2))


@pytest.mark.parametrize(
    "values", ["", [], [[]], TEN[:9], [None] * 10, "1 2 three", [TEN, TEN], "7", [0.5], 3.0, [["x"]]]
)
def test_ten_numbers_that_are_not(values: Any) -> None:
    with pytest.raises(UserError, match="row 1: expected 10 finite numbers"):
        five_points(values, "row 1")
