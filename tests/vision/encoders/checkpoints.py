"""Small randomly initialised PyTorch checkpoints, written to disk as the hub has them, and their answers."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 24
STATISTICS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
SQUARE = {"height": SIZE, "width": SIZE}
PLAIN = {"image_processor_type": "ViTImageProcessor", "size": SQUARE, **STATISTICS}
CROP = dict(size={"shortest_edge": 28}, crop_size=SQUARE, do_center_crop=True, resample=3, **STATISTICS)
BIT = {"image_processor_type": "BitImageProcessor", **CROP}
CLIP = {"feature_extractor_type": "CLIPFeatureExtractor", **CROP, "size": 28, "crop_size": SIZE}
CONVNEXT = dict(feature_extractor_type="ConvNextFeatureExtractor", crop_pct=0.875, size=SIZE, resample=3)
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=8)
VISION = dict(SMALL, intermediate_size=48)
CNN = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])


def tokens_mean(output: Any) -> Any:
    return output.last_hidden_state[:, 1:].mean(1)


def pooler(output: Any) -> Any:
    return output.pooler_output.flatten(1)


def cls(output: Any) -> Any:
    return output.last_hidden_state[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A checkpoint: PyTorch's class, its configuration, its preprocessor, and what each pooling means in PyTorch.

    The first pooling is the default.
    """

    name: str
    make: Callable[[Any], Any]
    preprocessor: dict[str, Any]
    poolings: dict[str, Callable[[Any], Any]]

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the checkpoint; batch statistics and zero-initialised parameters are made to matter."""
        import torch
        import transformers

        torch.manual_seed(0)
        model = self.make(transformers).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "running_var" in name:
                    tensor.copy_(0.5 + torch.rand_like(tensor))
                elif tensor.is_floating_point():
                    spread = 0.1 * torch.randn_like(tensor)
                    tensor.copy_(spread if "running" in name else tensor + spread)
        directory = folder / self.name
        model.save_pretrained(directory, safe_serialization=True)
        (directory / "preprocessor_config.json").write_text(json.dumps(self.preprocessor))
        return directory

    def expected(self, directory: pathlib.Path, pixels: np.ndarray, pooling: str) -> np.ndarray:
        """PyTorch's answer, float32."""
        import torch

        model = _loaded(self, directory)
        with torch.no_grad():
            return self.poolings[pooling](_Bound(model, torch.from_numpy(pixels))).numpy()


@functools.lru_cache(maxsize=1)
def _loaded(case: Case, directory: pathlib.Path) -> Any:
    """Read back from disk, so that both sides see the same file."""
    import transformers

    return type(case.make(transformers)).from_pretrained(directory).eval()


WRAPPERS = ("CLIPModel", "VisionTextDualEncoderModel", "VisionEncoderDecoderModel")


class _Bound:
    """A model's outputs on some pixels, and the model."""

    def __init__(self, model: Any, pixels: Any) -> None:
        self.model, self.pixels = model, pixels

    def __getattr__(self, name: str) -> Any:
        model = self.model
        if type(model).__name__ in WRAPPERS:  # a ViT's own encoder takes no pixels
            model = getattr(model, "vision_model", getattr(model, "encoder", None))
        for inside in ("vit", "beit", "resnet", "dinov2"):
            model = getattr(model, inside, model)
        return getattr(model(self.pixels), name)  # pyright: ignore[reportOptionalCall]


def projected(output: Any) -> Any:
    return output.model.get_image_features(output.pixels)


TOKENS = {"cls": cls, "mean": tokens_mean}
MAPS = {"pooler": pooler, "mean": lambda output: output.last_hidden_state.mean((2, 3))}
TEXT = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)


def _clip(t: Any) -> Any:
    vision = dict(VISION, hidden_act="quick_gelu")
    return t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=20))


def _dual(t: Any) -> Any:
    made = t.VisionTextDualEncoderConfig.from_vision_text_configs
    return t.VisionTextDualEncoderModel(made(t.ViTConfig(**VISION), t.BertConfig(**TEXT), projection_dim=20))


def _encoder_decoder(t: Any) -> Any:
    decoder = t.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(t.ViTConfig(**VISION), decoder)
    return t.VisionEncoderDecoderModel(config)


def _clip_projection(t: Any) -> Any:
    return t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**VISION, projection_dim=20))


def _dinov2_resampled(t: Any) -> Any:
    return t.Dinov2Model(t.Dinov2Config(**SMALL | {"image_size": 56}, use_swiglu_ffn=True))


def _beit(t: Any) -> Any:
    return t.BeitModel(t.BeitConfig(**VISION, vocab_size=20, use_relative_position_bias=True))


def _beit_classifier(t: Any) -> Any:
    config = t.BeitConfig(**VISION, vocab_size=20, use_shared_relative_position_bias=True)
    return t.BeitForImageClassification(config)


def _resnet_basic_classifier(t: Any) -> Any:
    return t.ResNetForImageClassification(t.ResNetConfig(**CNN, layer_type="basic"))


def _regnet(t: Any) -> Any:
    return t.RegNetModel(t.RegNetConfig(**CNN, groups_width=8, layer_type="y"))


CASES = [
    Case("clip", _clip, CLIP, {"projected": projected, "pooler": pooler, **TOKENS}),
    Case("clip_vision", lambda t: t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)), CROP, {"pooler": pooler}),
    Case("clip_projection", _clip_projection, CROP, {"projected": lambda output: output.image_embeds}),
    Case("dinov2", lambda t: t.Dinov2Model(t.Dinov2Config(**SMALL)), BIT, {**TOKENS, "pooler": pooler}),
    Case("dinov2_resampled", _dinov2_resampled, BIT, {"cls": cls}),
    Case("vit", lambda t: t.ViTModel(t.ViTConfig(**VISION)), PLAIN, {**TOKENS, "pooler": pooler}),
    Case("vit_classifier", lambda t: t.ViTForImageClassification(t.ViTConfig(**VISION)), PLAIN, {"cls": cls}),
    Case("beit", _beit, PLAIN, {"pooler": pooler, **TOKENS}),
    Case("beit_classifier", _beit_classifier, PLAIN, {"pooler": pooler}),
    Case("resnet", lambda t: t.ResNetModel(t.ResNetConfig(**CNN)), CONVNEXT, MAPS),
    Case("resnet_basic_classifier", _resnet_basic_classifier, CONVNEXT, {"pooler": pooler}),
    Case("regnet", _regnet, CONVNEXT, MAPS),
    Case("dual_encoder", _dual, PLAIN, {"projected": projected}),
    Case("encoder_decoder", _encoder_decoder, PLAIN, {"cls": cls}),
]
