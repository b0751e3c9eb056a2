"""How a checkpoint wants its pictures: its preprocessor_config.json."""

import pathlib
from typing import Any

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.base import Preprocessing
from jaxalign.vision.encoders.checkpoint import PREPROCESSOR, read_json
from jaxalign.vision.encoders.load import Specification, first_line

# The slow image processor of transformers that a network is trained with, where the file names none; as in
# transformers' own table.
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
# Those that do nothing but resize, crop, rescale and normalise, in this order.
KNOWN = tuple(sorted({*USUAL.values(), "DeiTImageProcessor"}))
CONVNEXT_WARPS_FROM = 384  # the ConvNext processor does not crop at this size and above


def read_preprocessing(
    directory: str | pathlib.Path,
    *,
    model_type: str | None = None,
    image_size: tuple[int, int] | None = None,
    specification: Specification | None = None,
) -> Preprocessing:
    """How a checkpoint in hub format wants its pictures.

    What the file leaves out has the default of the processor class that it names, as in transformers.

    Args:
      directory: holds preprocessor_config.json.
      model_type: of config.json, which decides the class where the file names none.
      image_size: (height, width) of the network's input, for preprocessors that neither resize nor crop.
      specification: that errors name; the directory where None.

    Raises:
      UserError: the file is missing or describes steps that are not known here.
    """
    specification = specification or Specification(str(directory), "hf", str(directory))
    why = "it says how pictures are resized, cropped and normalised, which is not guessed here: copy it from the hub."
    content = read_json(specification, pathlib.Path(directory), PREPROCESSOR, why)
    named = content.get("image_processor_type") or content.get("feature_extractor_type")
    kind = str(named or USUAL.get(model_type or "", named)).removesuffix("Fast")
    kind = kind.replace("FeatureExtractor", "ImageProcessor")  # the older name
    if kind not in KNOWN:
        specification.refuse(f"{PREPROCESSOR} names the class {kind}; known are {', '.join(KNOWN)}.")
    import transformers

    try:
        processor = getattr(transformers, kind).from_pretrained(directory, local_files_only=True)
        resize, crop = _steps(processor, kind)
        # The last step decides the size, else what the network takes, else the size named but not applied.
        size = crop or resize or image_size or _edges(processor.size)
        return Preprocessing(
            size=(size, size) if isinstance(size, int) else size,
            resize=resize,
            resample=int(processor.resample),
            crop=crop,
            rescale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            mean=_channels(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
            std=_channels(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
        )
    except Exception as error:  # transformers checks no types
        specification.refuse(f"{PREPROCESSOR} is not understood: {first_line(error)}")


def _steps(processor: Any, kind: str) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """``Preprocessing.resize`` and ``Preprocessing.crop``."""
    resize = _edges(processor.size) if processor.do_resize else None
    if kind == "ConvNextImageProcessor":
        if not isinstance(resize, int):
            return resize, None
        if resize >= CONVNEXT_WARPS_FROM:
            return (resize, resize), None
        return int(resize / processor.crop_pct), (resize, resize)
    crops = getattr(processor, "do_center_crop", False)
    return resize, _edges(processor.crop_size) if crops else None


def _edges(size: Any) -> Any:
    """A processor's size: the shorter edge, or height and width."""
    if "shortest_edge" in size and "longest_edge" not in size:
        return int(size["shortest_edge"])
    if "height" not in size or "width" not in size:
        raise UserError(f"expected a size with shortest_edge, or with height and width, got {dict(size)}.")
    return int(size["height"]), int(size["width"])


def _channels(values: Any) -> tuple[float, float, float]:
    """One number stands for all three channels."""
    red, green, blue = values if isinstance(values, (list, tuple)) else [values] * 3
    return float(red), float(green), float(blue)
