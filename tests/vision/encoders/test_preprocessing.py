"""``prepare`` and the reading of preprocessor_config.json, against the image processors of transformers.

The oracle is the class that resizes with Pillow: the slow one of transformers 4.57, in transformers 5 the one whose
name ends in Pil. Some of the latter have other defaults, so they are given those of 4.57.
"""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import transformers

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import JaxEncoder, Preprocessing, read_preprocessing
from jaxalign.vision.encoders.preprocessor import PROCESSORS
from jaxalign.vision.images.source import BadImageError

CLIP_2021 = {"crop_size": 24, "do_center_crop": True, "do_resize": True, "resample": 3, "size": 24}
EDGE = {"shortest_edge": 16}
ALIGN = {"do_center_crop": True, "do_normalize": False, "include_top": False, "resample": 2}
ALIGN |= {"rescale_factor": 1 / 127.5, "rescale_offset": True}
CASES = {
    "clip": ("CLIPImageProcessor", CLIP_2021),
    "clip, larger edge than crop": ("CLIPImageProcessor", {"size": {"shortest_edge": 31}, "crop_size": 24}),
    "clip, crop pads": ("CLIPImageProcessor", {"size": {"shortest_edge": 15}, "crop_size": 24}),
    "clip, odd padding": ("CLIPImageProcessor", {"size": EDGE, "crop_size": {"height": 23, "width": 30}}),
    "clip, no resize": ("CLIPImageProcessor", {"do_resize": False, "crop_size": 24}),
    "clip, both edges": ("CLIPImageProcessor", {"size": {"height": 30, "width": 26}, "crop_size": 24}),
    "llava": (
        "LlavaImageProcessor",
        {"size": {"shortest_edge": 26}, "crop_size": {"height": 24, "width": 24}},
    ),
    "florence": ("CLIPImageProcessor", {"size": {"height": 24, "width": 24}, "do_center_crop": False}),
    "kosmos-2": ("CLIPImageProcessor", {"size": {"shortest_edge": 224}, "use_square_size": True}),
    "internvl 2024": (
        "CLIPImageProcessor",
        {"size": 30, "crop_size": 30, "image_mean": 0.4, "image_std": 0.3},
    ),
    "dinov2": ("BitImageProcessor", {"size": EDGE, "crop_size": {"height": 14, "width": 14}}),
    "vit": ("ViTImageProcessor", {"size": 24}),
    "vit, list": ("ViTImageProcessor", {"size": [24, 30]}),
    "vit, Lanczos, not square": ("ViTImageProcessor", {"size": {"height": 24, "width": 30}, "resample": 1}),
    "vit, nearest, bytes": ("ViTImageProcessor", {"size": 24, "resample": 0, "do_rescale": False}),
    "vit, not normalised": ("ViTImageProcessor", {"size": 24, "do_normalize": False}),
    "vit, other scale": ("ViTImageProcessor", {"size": 24, "rescale_factor": 1 / 127.5}),
    "beit": ("BeitImageProcessor", {"size": 24, "do_center_crop": False, "do_reduce_labels": True}),
    "beit, crop": ("BeitImageProcessor", {"size": 32, "crop_size": 24}),
    "deit": ("DeiTImageProcessor", {"size": 32, "crop_size": 24}),
    "resnet": ("ConvNextImageProcessor", {"size": 24, "crop_pct": 0.875, "resample": 3}),
    "resnet, default crop": ("ConvNextImageProcessor", {"size": {"shortest_edge": 30}}),
    "resnet, warped": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.9}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 24, "width": 24}}),
    "align": ("EfficientNetImageProcessor", {"size": 30, "crop_size": 24, **ALIGN}),
    "align, full size": ("EfficientNetImageProcessor", ALIGN),
    "efficientnet, divided twice": ("EfficientNetImageProcessor", {"size": 24, "image_std": [0.2, 0.3, 0.4]}),
    "efficientnet, divided once": ("EfficientNetImageProcessor", {"size": 24, "do_normalize": False}),
    "efficientnet, offset": (
        "EfficientNetImageProcessor",
        {"size": 24, "rescale_offset": True, "image_mean": 0.3},
    ),
    "efficientnet, bytes": (
        "EfficientNetImageProcessor",
        {"size": 24, "do_rescale": False, "rescale_offset": True},
    ),
    "sam": ("SamImageProcessor", {"size": {"longest_edge": 32}, "pad_size": {"height": 32, "width": 32}}),
    "sam, wider": (
        "SamImageProcessor",
        {"size": {"longest_edge": 29}, "pad_size": 35, "image_mean": [0.1, 0.9, 0.5]},
    ),
    "sam, bytes": ("SamImageProcessor", {"size": {"longest_edge": 32}, "pad_size": 32, "do_rescale": False}),
    "sam, not normalised": (
        "SamImageProcessor",
        {"size": {"longest_edge": 9}, "pad_size": 9, "do_normalize": False},
    ),
    "blip-2": ("BlipImageProcessor", {"size": {"height": 24, "width": 24}}),
    "internvl": ("GotOcr2ImageProcessor", {"size": {"height": 28, "width": 28}, "crop_to_patches": False}),
}
# What classes of transformers 5 have other defaults for.
DEFAULTS_OF_4 = {
    "BeitImageProcessor": {"size": {"height": 256, "width": 256}, "do_center_crop": True},
    "ConvNextImageProcessor": {"resample": 2},
    "EfficientNetImageProcessor": {"resample": 0},
}
OF_OTHER_FORMS = (
    "DINOv3ViTImageProcessor",
    "Siglip2ImageProcessor",
)  # a floating-point resize; rows of patches
WITH_PILLOW = [kind for kind in PROCESSORS if kind not in OF_OTHER_FORMS]
PHOTOGRAPHS = [(40, 55), (55, 40), (24, 24), (77, 31), (10, 13)]


def photograph(height, width):
    ramp = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
    return (ramp + np.random.default_rng(height).integers(0, 56, ramp.shape)).astype(np.uint8)


def written(folder, content):
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def oracle(kind, **options):
    """transformers' processor that resizes with Pillow."""
    if transformers.__version__.startswith("4."):
        return getattr(transformers, kind)(**options)
    if not hasattr(transformers, f"{kind}Pil"):
        pytest.skip(f"transformers {transformers.__version__} has no {kind} that resizes with Pillow")
    return getattr(transformers, f"{kind}Pil")(**{**DEFAULTS_OF_4.get(kind, {}), **options})


def normalised(given, prepared):
    pixels = (prepared * given.rescale - np.asarray(given.mean)) / np.asarray(given.std)
    return pixels if given.longest_edge is None else pixels * given.inside(prepared[None])[0, :, :, None]


def expect_same(ours, theirs, photographs=PHOTOGRAPHS):
    for size in photographs:
        image = photograph(*size)
        prepared = ours.prepare(image)
        assert prepared.dtype == np.uint8 and prepared.shape == (*ours.size, 3)
        expected = theirs(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        np.testing.assert_allclose(
            normalised(ours, prepared).transpose(2, 0, 1), expected, rtol=1e-6, atol=1e-5
        )


@pytest.mark.parametrize("case", CASES)
def test_prepared_and_normalised_pictures_are_transformers(case, tmp_path):
    kind, options = CASES[case]
    theirs = oracle(kind, **options)
    expect_same(read_preprocessing(written(tmp_path, {"image_processor_type": kind, **options})), theirs)
    theirs.save_pretrained(tmp_path)  # now the file names everything
    assert len(json.loads((tmp_path / "preprocessor_config.json").read_text())) >= 8
    expect_same(read_preprocessing(tmp_path), theirs)


@pytest.mark.parametrize("kind", WITH_PILLOW)
def test_a_file_of_the_class_alone_has_its_defaults(kind, tmp_path):
    ours = read_preprocessing(written(tmp_path, {"image_processor_type": kind}))
    expect_same(ours, oracle(kind), [(241, 173), (173, 241), (400, 400), (301, 1200)])


@pytest.mark.parametrize("size", [(61, 80), (80, 61), (20, 31), (32, 32)])
def test_dinov3_is_within_one_step_of_a_resize_of_floats(size, tmp_path):
    torch = pytest.importorskip("torch")
    content = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 32, "width": 32}}
    content |= {"do_center_crop": None, "crop_size": None, "default_to_square": True, "device": None}
    ours = read_preprocessing(written(tmp_path, content))
    image = photograph(*size)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    resized = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)[0]
    expected = resized.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours.prepare(image), expected, atol=1)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalised(ours, expected), (expected / 255 - mean) / std, atol=1e-6)


def test_the_padding_of_a_batch_is_zero_where_the_network_runs(tmp_path):
    options = {"size": {"longest_edge": 32}, "pad_size": {"height": 32, "width": 32}}
    given = read_preprocessing(written(tmp_path, {"image_processor_type": "SamImageProcessor", **options}))
    encoder = JaxEncoder("pixels", lambda _, pixels: pixels.reshape(len(pixels), -1), {}, given, batch_size=4)
    images = [photograph(*size) for size in PHOTOGRAPHS]
    rows = encoder.encode(np.stack([given.prepare(image) for image in images])).reshape(-1, 32, 32, 3)
    theirs = oracle("SamImageProcessor", **options)
    expected = np.stack([theirs(image, return_tensors="np")["pixel_values"][0] for image in images])
    np.testing.assert_allclose(rows, expected.transpose(0, 2, 3, 1), atol=1e-5)
    assert (rows[0, 23:] == 0).all() and (rows[1, :, 23:] == 0).all() and (rows[2] != 0).all()


def test_threads_of_pixels_are_bad_photographs():
    with pytest.raises(BadImageError, match="far too narrow"):
        Preprocessing((32, 32), longest_edge=32).prepare(photograph(1, 100))


def test_padding_is_in_the_order_of_the_means():
    given = Preprocessing((4, 4), longest_edge=4, rescale=1 / 255, mean=(0.1, 0.5, 0.9), color="BGR")
    assert given.padding == (230, 128, 26) and given.describe()["longest_edge"] == 4
    assert "longest_edge" not in Preprocessing((4, 4)).describe()  # stores of before say nothing of it


def test_without_its_own_file_the_image_processor_is_read_from_the_processors(tmp_path):
    inside = {"image_processor_type": "CLIPImageProcessor", **CLIP_2021}
    file = tmp_path / "processor_config.json"
    file.write_text(
        json.dumps({"processor_class": "LlavaProcessor", "patch_size": 14, "image_processor": inside})
    )
    assert read_preprocessing(tmp_path) == read_preprocessing(written(tmp_path, inside))
    written(tmp_path, {**inside, "size": 30})  # a file of its own goes before
    assert read_preprocessing(tmp_path).resize == 30
    (tmp_path / "preprocessor_config.json").unlink()
    file.write_text(json.dumps({"image_processor": {**inside, "do_pad": True}}))
    with pytest.raises(UserError, match=r"processor_config\.json switches on do_pad"):
        read_preprocessing(tmp_path)
    file.write_text(json.dumps({"processor_class": "LlavaProcessor"}))
    with pytest.raises(UserError, match="preprocessor_config.json is missing"):
        read_preprocessing(tmp_path)


def test_transformers_is_not_imported(tmp_path):
    written(tmp_path, {"image_processor_type": "CLIPImageProcessor"})
    read = f"from jaxalign.vision.encoders import read_preprocessing; read_preprocessing({str(tmp_path)!r})"
    check = "import sys; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{read}; {check}"], check=True)


@pytest.mark.parametrize("named", ["CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessor"])
def test_older_and_faster_names_mean_the_same(named, tmp_path):
    key = "feature_extractor_type" if "Extractor" in named else "image_processor_type"
    given = read_preprocessing(written(tmp_path, {key: named, **CLIP_2021}))
    assert (given.resize, given.crop, given.resample, given.size) == (24, (24, 24), 3, (24, 24))
    assert given.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


@pytest.mark.parametrize("options", [{}, {"patch_size": 8, "max_num_patches": 30}])
def test_square_pictures_in_rows_of_patches(options, tmp_path):
    """SigLIP 2's processor cuts squares into as many patches as its positions are."""
    given = {"image_processor_type": "Siglip2ImageProcessor", **options}
    ours, image = read_preprocessing(written(tmp_path, given)), photograph(61, 61)
    found = oracle("Siglip2ImageProcessor", **options)(image, return_tensors="np")
    rows, columns = found["spatial_shapes"][0]
    patches = found["pixel_values"][0][: rows * columns].reshape(rows, columns, -1)
    edge = round((patches.shape[-1] / 3) ** 0.5)
    pixels = (
        normalised(ours, ours.prepare(image)).reshape(rows, edge, columns, edge, 3).transpose(0, 2, 1, 3, 4)
    )
    np.testing.assert_allclose(pixels.reshape(rows, columns, -1), patches, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "content, model_type, message",
    [
        (
            {"image_processor_type": "Idefics3ImageProcessor"},
            "vit",
            "the class Idefics3ImageProcessor; known are Beit",
        ),
        ({"size": 24}, None, "names the class None; known are"),
        ({"size": {"longest_edge": 24}}, "vit", "not understood"),
        ({"size": "large"}, "vit", "not understood"),
        ({"size": [[1]]}, "vit", "not understood"),
        ({"size": {"shortest_edge": 24}}, "vit", "height and width"),
        ({"size": {"height": 24, "width": 24}}, "resnet", "shortest_edge"),
        ({"size": {"shortest_edge": 24, "longest_edge": 30}}, "clip", "shortest_edge, or height and width"),
        ({"size": 24}, "siglip", "height and width"),
        ({"size": 0}, "vit", "whole pixels, got 0"),
        ({"size": 2.5}, "vit", "whole pixels, got 2.5"),
        ({"crop_size": {"shortest_edge": 24}}, "clip", "crop_size"),
        ({"do_resize": "no"}, "vit", "do_resize is true or false, got 'no'"),
        (
            {"do_center_crop": True, "crop_size": 24},
            "vit",
            "switches on do_center_crop; .* ViTImageProcessor are do_res",
        ),
        ({"do_pad": True}, "llava", "switches on do_pad"),
        (
            {"crop_to_patches": True, "image_processor_type": "GotOcr2ImageProcessorFast"},
            None,
            "crop_to_patches",
        ),
        ({"do_image_splitting": True}, "clip", "switches on do_image_splitting"),
        ({"rescale_offset": True}, "clip", "switches on rescale_offset"),
        ({"do_pad": False}, "sam", "do_resize and do_pad are true"),
        ({"do_resize": False}, "sam", "do_resize and do_pad are true"),
        ({"pad_size": 512}, "sam", "longest_edge=1024, size=.512, 512"),
        ({"rescale_factor": 0}, "vit", "rescale_factor is a positive number, got 0"),
        ({"rescale_factor": "1/255"}, "vit", "rescale_factor is a positive number"),
        ({"crop_pct": 0, "size": 24}, "resnet", "crop_pct is a positive number"),
        ({"image_mean": "grey"}, "vit", "image_mean is one number or three"),
        ({"resample": "bicubic"}, "vit", "one of Pillow's filters"),
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
    "rescale": 0,
    "longest_edge": 5,
}


@pytest.mark.parametrize("field, value", BAD.items())
def test_fields_that_cannot_be_are_refused(field, value):
    with pytest.raises(UserError, match="preprocessing: "):
        dataclasses.replace(Preprocessing((4, 4)), **{field: value})
