"""``prepare`` and the reading of preprocessor_config.json, against transformers' slow image processors."""

import dataclasses
import json

import numpy as np
import pytest
import transformers

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import Preprocessing, read_preprocessing

CLIP_2021 = {"crop_size": 24, "do_center_crop": True, "do_resize": True, "resample": 3, "size": 24}
EDGE = {"shortest_edge": 16}
CASES = {
    "clip": ("CLIPImageProcessor", CLIP_2021),
    "clip, larger edge than crop": ("CLIPImageProcessor", {"size": {"shortest_edge": 31}, "crop_size": 24}),
    "clip, crop pads": ("CLIPImageProcessor", {"size": {"shortest_edge": 15}, "crop_size": 24}),
    "clip, odd padding": ("CLIPImageProcessor", {"size": EDGE, "crop_size": {"height": 23, "width": 30}}),
    "clip, no resize": ("CLIPImageProcessor", {"do_resize": False, "crop_size": 24}),
    "clip, both edges": ("CLIPImageProcessor", {"size": {"height": 30, "width": 26}, "crop_size": 24}),
    "dinov2": ("BitImageProcessor", {"size": EDGE, "crop_size": {"height": 14, "width": 14}}),
    "vit": ("ViTImageProcessor", {"size": 24}),
    "vit, Lanczos, not square": ("ViTImageProcessor", {"size": {"height": 24, "width": 30}, "resample": 1}),
    "vit, nearest, bytes": ("ViTImageProcessor", {"size": 24, "resample": 0, "do_rescale": False}),
    "vit, not normalised": ("ViTImageProcessor", {"size": 24, "do_normalize": False}),
    "vit, other scale": ("ViTImageProcessor", {"size": 24, "rescale_factor": 1 / 127.5}),
    "beit": ("BeitImageProcessor", {"size": 24, "do_center_crop": False}),
    "beit, crop": ("BeitImageProcessor", {"size": 32, "crop_size": 24}),
    "deit": ("DeiTImageProcessor", {"size": 32, "crop_size": 24}),
    "resnet": ("ConvNextImageProcessor", {"size": 24, "crop_pct": 0.875, "resample": 3}),
    "resnet, default crop": ("ConvNextImageProcessor", {"size": {"shortest_edge": 30}}),
    "resnet, warped": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.9}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 24, "width": 24}}),
}
PHOTOGRAPHS = [(40, 55), (55, 40), (24, 24), (77, 31), (10, 13)]


def photograph(height, width):
    ramp = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
    return (ramp + np.random.default_rng(height).integers(0, 56, ramp.shape)).astype(np.uint8)


def written(folder, content):
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_prepared_and_normalised_pictures_are_transformers(case, tmp_path):
    kind, options = CASES[case]
    ours = read_preprocessing(written(tmp_path, {"image_processor_type": kind, **options}))
    theirs = getattr(transformers, kind)(**options)
    for size in PHOTOGRAPHS:
        image = photograph(*size)
        prepared = ours.prepare(image)
        assert prepared.dtype == np.uint8 and prepared.shape == (*ours.size, 3)
        pixels = (prepared * ours.rescale - np.asarray(ours.mean)) / np.asarray(ours.std)
        expected = theirs(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        np.testing.assert_allclose(pixels.transpose(2, 0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("named", ["CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessor"])
def test_older_and_faster_names_mean_the_same(named, tmp_path):
    key = "feature_extractor_type" if "Extractor" in named else "image_processor_type"
    given = read_preprocessing(written(tmp_path, {key: named, **CLIP_2021}))
    assert (given.resize, given.crop, given.resample, given.size) == (24, (24, 24), 3, (24, 24))
    assert given.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


@pytest.mark.parametrize(
    "content, model_type, message",
    [
        ({"image_processor_type": "SamImageProcessor"}, "vit", "the class SamImageProcessor; known are Beit"),
        ({"size": 24}, None, "names the class None; known are"),
        ({"size": {"longest_edge": 24}}, "vit", "not understood"),
        ({"size": "large"}, "vit", "not understood"),
        ({"size": [[1]]}, "vit", "not understood"),
        ({"size": 24, "image_std": [1, 0, 1]}, "vit", "standard deviations other than 0"),
        ({"size": 24, "image_mean": [1, 2]}, "vit", "not understood"),
        ({"size": 24, "resample": 9}, "vit", "one of Pillow's filters 0 to 5, got 9"),
        ([], "vit", "expected to hold a JSON object, got list"),
    ],
)
def test_what_is_not_understood_is_refused(content, model_type, message, tmp_path):
    with pytest.raises(UserError, match=f"preprocessor_config.json.*{message}"):
        read_preprocessing(written(tmp_path, content), model_type=model_type)


def test_a_file_that_is_missing_or_no_json_is_said_so(tmp_path):
    with pytest.raises(UserError, match="preprocessor_config.json is missing in .*not guessed here: copy it"):
        read_preprocessing(tmp_path)
    for content in ("{", "[" * 100_000):
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(UserError, match="preprocessor_config.json is damaged: it is not JSON"):
            read_preprocessing(tmp_path)


def test_pictures_that_nothing_brings_to_size_are_refused(tmp_path):
    content = {"image_processor_type": "ViTImageProcessor", "do_resize": False}
    given = read_preprocessing(written(tmp_path, content), image_size=(24, 24))
    assert given.size == (24, 24) and given.prepare(photograph(24, 24)).shape == (24, 24, 3)
    with pytest.raises(UserError, match="came out at 40 × 55 pixels .* takes 24 × 24"):
        given.prepare(photograph(40, 55))


@pytest.mark.parametrize(
    "image, came",
    [
        (np.zeros((5, 5), np.uint8), r"uint8 of shape \(5, 5\)"),
        (np.zeros((5, 5, 4), np.uint8), r"uint8 of shape \(5, 5, 4\)"),
        (np.zeros((5, 5, 3)), "float64"),
        ("photograph.jpg", "str"),
        (np.zeros((0, 5, 3), np.uint8), "with pixels"),
    ],
)
def test_what_is_no_rgb_picture_is_refused(image, came):
    with pytest.raises(UserError, match=f"prepare: expected .*{came}"):
        Preprocessing((4, 4), (4, 4)).prepare(image)


BAD = {
    "size": (0, 4),
    "crop": (4, -1),
    "color": "rgb",
    "std": (1, 1, 0),
    "mean": (np.nan, 0, 0),
    "resample": 6,
}


@pytest.mark.parametrize("field, value", BAD.items())
def test_fields_that_cannot_be_are_refused(field, value):
    with pytest.raises(UserError, match="preprocessing: "):
        dataclasses.replace(Preprocessing((4, 4)), **{field: value})
