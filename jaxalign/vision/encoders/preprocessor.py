"""How a checkpoint wants its pictures: its preprocessor_config.json, read without transformers."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.checkpoint import PREPROCESSOR, PROCESSOR, read_json
from jaxalign.vision.encoders.encoder import Preprocessing
from jaxalign.vision.encoders.load import Specification

NEAREST, BILINEAR, BICUBIC = 0, 2, 3  # Pillow's numbers
EDGES, SHORTEST, LONGEST = ("height", "width"), ("shortest_edge",), ("longest_edge",)  # the forms of a size
CONVNEXT_WARPS_FROM = 384  # the ConvNext processor does not crop at this size and above


class Processor(NamedTuple):
    """One class of image processors.

    Attributes:
      defaults: the values of the keys that a file leaves out, beside those in ``COMMON``. A switch that is in neither
        is not known for this class.
      forms: of ``size`` that the class takes.
      bare: the form that a bare number has.
    """

    defaults: dict[str, Any]
    forms: tuple[tuple[str, ...], ...] = (EDGES,)
    bare: tuple[str, ...] = EDGES


COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_STANDARD = {"image_mean": 0.5, "image_std": 0.5}
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_OPENAI = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_CROPS_224 = {"do_center_crop": True, "crop_size": 224}
_CLIP = {"size": 224, "resample": BICUBIC, **_CROPS_224, **_OPENAI}

# The defaults of the slow classes of transformers 4.57 (models/*/image_processing_*.py); DINOv3 has a fast one only.
# Some classes of transformers 5 have other defaults, but the files that it writes leave no key out.
PROCESSORS = {
    "BeitImageProcessor": Processor({"size": 256, "resample": BICUBIC, **_CROPS_224, **_STANDARD}),
    "BitImageProcessor": Processor(_CLIP, (SHORTEST, EDGES), SHORTEST),
    "BlipImageProcessor": Processor({"size": 384, "resample": BICUBIC, **_OPENAI}),
    "CLIPImageProcessor": Processor({**_CLIP, "use_square_size": False}, (SHORTEST, EDGES), SHORTEST),
    "ConvNextImageProcessor": Processor(
        {"size": 384, "resample": BILINEAR, "crop_pct": 224 / 256, **_STANDARD}, (SHORTEST,), SHORTEST
    ),
    "DINOv3ViTImageProcessor": Processor({"size": 224, "resample": BILINEAR, **_IMAGENET}),
    "DeiTImageProcessor": Processor({"size": 256, "resample": BICUBIC, **_CROPS_224, **_STANDARD}),
    "EfficientNetImageProcessor": Processor(
        {
            "size": 346,
            "resample": NEAREST,
            "do_center_crop": False,
            "crop_size": 289,
            "rescale_offset": False,
            "include_top": True,
            **_STANDARD,
        }
    ),
    "GotOcr2ImageProcessor": Processor({"size": 384, "resample": BICUBIC, **_OPENAI}),
    "LlavaImageProcessor": Processor(_CLIP, (SHORTEST, EDGES), SHORTEST),
    "SamImageProcessor": Processor(
        {"size": 1024, "resample": BILINEAR, "do_pad": True, "pad_size": 1024, **_IMAGENET},
        (LONGEST,),
        LONGEST,
    ),
    # A bare number is a shorter edge for this class, which it then does not take.
    "SiglipImageProcessor": Processor(
        {"size": {"height": 224, "width": 224}, "resample": BICUBIC, **_STANDARD}, bare=SHORTEST
    ),
    # Keeps the shape of a picture in a number of patches; here every picture becomes a square of as many.
    "Siglip2ImageProcessor": Processor(
        {"size": 224, "resample": BILINEAR, "patch_size": 16, "max_num_patches": 256, **_STANDARD}
    ),
    "ViTImageProcessor": Processor({"size": 224, "resample": BILINEAR, **_STANDARD}),
}
# The class that a network is trained with, where the file names none; as in transformers' own table.
USUAL = {
    "align": "EfficientNetImageProcessor",
    "align_vision_model": "EfficientNetImageProcessor",
    "beit": "BeitImageProcessor",
    "blip-2": "BlipImageProcessor",
    "blip_2_vision_model": "BlipImageProcessor",
    "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "deit": "DeiTImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "florence_vision": "CLIPImageProcessor",
    "kosmos-2": "CLIPImageProcessor",
    "llava": "LlavaImageProcessor",
    "regnet": "ConvNextImageProcessor",
    "resnet": "ConvNextImageProcessor",
    "sam": "SamImageProcessor",
    "sam_vision_model": "SamImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "siglip2_vision_model": "Siglip2ImageProcessor",
    "vit": "ViTImageProcessor",
}
# Switches that change no RGB picture, or only say how the class runs.
HARMLESS = ("default_to_square", "disable_grouping", "do_convert_rgb", "do_reduce_labels", "reduce_labels")


def read_preprocessing(
    directory: str | pathlib.Path,
    *,
    model_type: str | None = None,
    image_size: tuple[int, int] | None = None,
    specification: Specification | None = None,
) -> Preprocessing:
    """How a checkpoint in hub format wants its pictures.

    What the file leaves out, or gives as null, has the default of the processor class that it names in transformers
    4.57. The names with ``Fast`` and the older names with ``FeatureExtractor`` mean the same classes.

    Equivalent: the slow image processor of that name, to the last bit of the prepared picture; for DINOv3, whose
    processor resizes floating-point numbers, to one of 255 steps, and for Siglip2 of square pictures only.

    Args:
      directory: holds preprocessor_config.json, or processor_config.json with the image processor in it.
      model_type: of config.json, which decides the class where the file names none.
      image_size: (height, width) of the network's input, for preprocessors that neither resize nor crop.
      specification: that errors name; the directory where None.

    Raises:
      UserError: the file is missing, or names a class, a step or a value that is not known here.
    """
    specification = specification or Specification(str(directory), "hf", str(directory))
    file, content = _content(specification, pathlib.Path(directory))
    named = content.get("image_processor_type") or content.get("feature_extractor_type")
    kind = str(named or USUAL.get(model_type or "")).removesuffix("Fast")
    kind = kind.replace("FeatureExtractor", "ImageProcessor")
    if kind not in PROCESSORS:
        specification.refuse(f"{file} names the class {kind}; known are {', '.join(PROCESSORS)}.")
    defaults = COMMON | PROCESSORS[kind].defaults
    given = {key: value for key, value in content.items() if value is not None}
    unknown = [key for key, value in given.items() if value is True and key not in (*defaults, *HARMLESS)]
    if unknown:
        there = ", ".join(key for key, value in defaults.items() if isinstance(value, bool))
        specification.refuse(f"{file} switches on {', '.join(unknown)}; known for {kind} are {there}.")
    try:
        return _preprocessing(kind, defaults | given, image_size)
    except UserError as error:
        specification.refuse(f"{file} is not understood: {error}")


def _content(specification: Specification, directory: pathlib.Path) -> tuple[str, dict[str, Any]]:
    """The name of the file and what it says of the image processor."""
    if (directory / PROCESSOR).is_file() and not (directory / PREPROCESSOR).is_file():
        inside = read_json(specification, directory, PROCESSOR, "").get("image_processor")
        if isinstance(inside, dict):  # as transformers 5 writes it
            return PROCESSOR, inside
    why = "it says how pictures are resized, cropped and normalised, which is not guessed here: copy it from the hub."
    return PREPROCESSOR, read_json(specification, directory, PREPROCESSOR, why)


def _preprocessing(kind: str, given: Mapping[str, Any], image_size: tuple[int, int] | None) -> Preprocessing:
    """The preprocessing of a class under the keys of a file, which are all there; raises ``UserError``."""
    for key, value in (COMMON | PROCESSORS[kind].defaults).items():
        if isinstance(value, bool) and not isinstance(given[key], bool):
            raise UserError(f"{key} is true or false, got {given[key]!r}.")
    scale, offset, mean = 1.0, 0.0, (0.0, 0.0, 0.0)
    if given["do_rescale"]:
        scale = _number("rescale_factor", given["rescale_factor"])
        offset = float(given.get("rescale_offset", False))  # EfficientNet: a rescaled picture less 1
    if given["do_normalize"]:
        mean = _channels("image_mean", given["image_mean"])
    red, green, blue = _channels("image_std", given["image_std"])
    # EfficientNet's classifiers divide once more.
    divisions = given["do_normalize"] + given.get("include_top", False)
    return Preprocessing(
        **_steps(kind, given, image_size),
        resample=given["resample"],
        rescale=scale,
        mean=(offset + mean[0], offset + mean[1], offset + mean[2]),
        std=(red**divisions, green**divisions, blue**divisions),
    )


def _steps(kind: str, given: Mapping[str, Any], image_size: tuple[int, int] | None) -> dict[str, Any]:
    """``size``, ``resize``, ``crop`` and ``longest_edge`` of the preprocessing."""
    _, forms, bare = PROCESSORS[kind]
    size = _size("size", given["size"], forms, bare)
    if kind == "Siglip2ImageProcessor":
        patches, edge = (int(_number(key, given[key])) for key in ("max_num_patches", "patch_size"))
        square = (math.isqrt(patches) * edge,) * 2
        return {"size": square, "resize": square}
    if bare is LONGEST:
        if not (given["do_resize"] and given["do_pad"]):
            raise UserError("pictures come out at one size only where do_resize and do_pad are true.")
        return {"size": _size("pad_size", given["pad_size"]), "longest_edge": size}
    if given.get("use_square_size") and isinstance(size, int):  # of Kosmos-2
        size = size, size
    resize = size if given["do_resize"] else None
    crop = _size("crop_size", given["crop_size"]) if given.get("do_center_crop") else None
    if kind == "ConvNextImageProcessor" and isinstance(resize, int):
        square = resize, resize
        if resize < CONVNEXT_WARPS_FROM:
            crop, resize = square, int(resize / _number("crop_pct", given["crop_pct"]))
        else:
            resize = square
    # The last step decides the size, else what the network takes, else the size named but not applied.
    last = crop or resize or image_size or size
    return {"size": (last, last) if isinstance(last, int) else last, "resize": resize, "crop": crop}


def _size(
    key: str, value: Any, forms: tuple[tuple[str, ...], ...] = (EDGES,), bare: tuple[str, ...] = EDGES
) -> Any:
    """The length of one edge, or (height, width), which a list of two is as well."""
    named = value
    if isinstance(value, list) and len(value) == 2:
        named = dict(zip(EDGES, value))
    elif not isinstance(value, dict):
        named = dict.fromkeys(bare, value)
    for form in forms:
        lengths = tuple(named.get(edge) for edge in form)
        if set(named) == set(form) and all(type(length) is int and length > 0 for length in lengths):
            return lengths[0] if len(form) == 1 else lengths
    expected = ", or ".join(" and ".join(form) for form in forms)
    raise UserError(f"{key} is expected to give {expected} in whole pixels, got {value!r}.")


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise UserError(f"{key} is a positive number, got {value!r}.")
    return float(value)


def _channels(key: str, values: Any) -> tuple[float, float, float]:
    """One number stands for all three channels."""
    listed = values if isinstance(values, (list, tuple)) else [values] * 3
    if len(listed) != 3 or not all(type(value) in (int, float) for value in listed):
        raise UserError(f"{key} is one number or three, got {values!r}.")
    red, green, blue = map(float, listed)
    return red, green, blue
