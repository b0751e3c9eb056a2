"""A checkpoint's own preprocessor_config.json, read into a ``Preprocessing``."""

import pathlib
from typing import Any

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.hub import PREPROCESSOR, read_json
from jaxalign.vision.encoders.preprocessing import Preprocessing
from jaxalign.vision.encoders.specification import Specification, first_line

# Slow image processors of transformers that do nothing but resize, crop, rescale and normalise, in this order.
KNOWN = (
    "BeitImageProcessor",
    "BitImageProcessor",
    "CLIPImageProcessor",
    "ConvNextImageProcessor",
    "DeiTImageProcessor",
    "SiglipImageProcessor",
    "ViTImageProcessor",
)
# Which of them a network is trained with, where the file does not say; as in transformers' own table.
USUAL = {
    "beit": "BeitImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "dinov2": "BitImageProcessor",
    "regnet": "ConvNextImageProcessor",
    "resnet": "ConvNextImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "vit": "ViTImageProcessor",
}
CONVNEXT_WARPS_FROM = 384  # the ConvNext processor does not crop at this size and above


def read_preprocessing(
    directory: str | pathlib.Path, *, model_type: str | None = None, image_size: tuple[int, int] | None = None
) -> Preprocessing:
    """How a checkpoint in hub format wants its pictures.

    What the file leaves out has the default of the processor class that it names, as in transformers.

    Args:
      directory: holds preprocessor_config.json.
      model_type: of config.json, which decides the class where the file names none.
      image_size: (height, width) of the network's input, for preprocessors that neither resize nor crop.

    Raises:
      UserError: the file is missing or describes steps that are not known here.
    """
    specification = Specification(str(directory), "hf", str(directory))
    return preprocessing_of(specification, pathlib.Path(directory), model_type, image_size)


def preprocessing_of(
    specification: Specification,
    directory: pathlib.Path,
    model_type: str | None,
    image_size: tuple[int, int] | None,
) -> Preprocessing:
    """See ``read_preprocessing``; errors name the specification."""
    content = read_json(
        specification,
        directory,
        PREPROCESSOR,
        "it says how pictures are resized, cropped and normalised, which is not guessed here: copy it from the "
        "checkpoint's repository.",
    )
    named = content.get("image_processor_type") or content.get("feature_extractor_type")
    kind = str(named or USUAL.get(model_type or "", named)).removesuffix("Fast")
    kind = kind.replace("FeatureExtractor", "ImageProcessor")  # the older name
    if kind not in KNOWN:
        specification.refuse(f"{PREPROCESSOR} names the class {kind}; known are {', '.join(KNOWN)}.")
    import transformers

    try:
        processor = getattr(transformers, kind).from_pretrained(directory, local_files_only=True)
        resize, crop = _steps(processor, kind)
        size = _final_size(processor, resize, crop, image_size)
        return Preprocessing(
            size=size,
            resize=resize,
            resample=int(processor.resample),
            crop=crop,
            rescale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            mean=_channels(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
            std=_channels(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
        )
    except (ValueError, OSError, TypeError, KeyError, AttributeError) as error:
        specification.refuse(f"{PREPROCESSOR} is not understood: {first_line(error)}")


def _steps(processor: Any, kind: str) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """Resize and crop."""
    resize = _resize(processor.size) if processor.do_resize else None
    if kind == "ConvNextImageProcessor":
        if not isinstance(resize, int):
            return resize, None
        if resize >= CONVNEXT_WARPS_FROM:
            return (resize, resize), None
        return int(resize / processor.crop_pct), (resize, resize)
    if not getattr(processor, "do_center_crop", False):
        return resize, None
    return resize, _height_width(processor.crop_size)


def _final_size(
    processor: Any,
    resize: int | tuple[int, int] | None,
    crop: tuple[int, int] | None,
    image_size: tuple[int, int] | None,
) -> tuple[int, int]:
    """What comes out: decided by the last step, else what the network takes, else the size named but not applied."""
    if crop is not None:
        return crop
    steps = resize if resize is not None else image_size or _resize(processor.size)
    return (steps, steps) if isinstance(steps, int) else steps


def _resize(size: Any) -> int | tuple[int, int]:
    """A processor's ``size``: the shorter edge, or height and width."""
    if "shortest_edge" in size and "longest_edge" not in size:
        return int(size["shortest_edge"])
    return _height_width(size)


def _height_width(size: Any) -> tuple[int, int]:
    if "height" not in size or "width" not in size:
        raise UserError(f"expected a size with shortest_edge, or with height and width, got {dict(size)}.")
    return int(size["height"]), int(size["width"])


def _channels(values: Any) -> tuple[float, float, float]:
    """One number stands for all three channels."""
    red, green, blue = values if isinstance(values, (list, tuple)) else [values] * 3
    return float(red), float(green), float(blue)
