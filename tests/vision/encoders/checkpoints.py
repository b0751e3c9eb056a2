"""Small randomly initialised PyTorch checkpoints, written to disk as the hub has them, and their answers."""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

TORCH = "torch"  # where a rewritten checkpoint is as transformers writes it
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

    The first pooling is the default; ``mean&layer=1`` is a pooling at a layer. ``rewrite`` turns what transformers
    writes into another published format: (file's tensors, config.json) to the same.
    """

    name: str
    make: Callable[[Any], Any]
    preprocessor: dict[str, Any]
    poolings: dict[str, Callable[[Any], Any]]
    rewrite: (
        Callable[[dict[str, np.ndarray], dict[str, Any]], tuple[dict[str, np.ndarray], dict[str, Any]]] | None
    ) = None

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
        model.save_pretrained(directory / TORCH if self.rewrite else directory)
        if self.rewrite is not None:
            config = json.loads((directory / TORCH / "config.json").read_text())
            arrays, config = self.rewrite(load_file(directory / TORCH / "model.safetensors"), config)
            save_file(arrays, directory / "model.safetensors", {"format": "pt"})
            (directory / "config.json").write_text(json.dumps(config))
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

    where = directory / TORCH if case.rewrite else directory
    return type(case.make(transformers)).from_pretrained(where).eval()


WRAPPERS = (
    "AlignModel",
    "CLIPModel",
    "SiglipModel",
    "Blip2Model",
    "Kosmos2Model",
    "VisionTextDualEncoderModel",
    "VisionEncoderDecoderModel",
    "InternVLModel",
)


class _Bound:
    """A model's outputs on some pixels, and the model."""

    def __init__(self, model: Any, pixels: Any) -> None:
        self.model, self.pixels = model, pixels

    def __getattr__(self, name: str) -> Any:
        model = self.model
        if type(model).__name__ in WRAPPERS:  # a ViT's own encoder takes no pixels
            names = ("vision_model", "vision_tower", "encoder")
            model = next(getattr(model, name) for name in names if hasattr(model, name))
        for inside in ("vit", "beit", "resnet", "regnet", "dinov2"):
            model = getattr(model, inside, model)
        return getattr(model(self.pixels), name)  # pyright: ignore[reportOptionalCall]


def projected(output: Any) -> Any:
    found = output.model.get_image_features(output.pixels)
    return getattr(found, "pooler_output", found)  # transformers 5 gives all outputs


def _vision(output: Any) -> Any:
    return output.model.vision_model(output.pixels).last_hidden_state


TOKENS = {"cls": cls, "mean": tokens_mean}
MAPS = {"pooler": pooler, "mean": lambda output: output.last_hidden_state.mean((2, 3))}
LLAVA = "model.vision_tower"
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


def _hidden(number: int, first: int | None = 1, inside: str = "") -> Callable[[Any], Any]:
    """The mean over the patches of one hidden state; the class token's alone where ``first`` is None."""

    def pool(output: Any) -> Any:
        model = output.model
        for name in inside.split(".") if inside else ():
            model = getattr(model, name)
        states = model(output.pixels, output_hidden_states=True).hidden_states[number]
        return states[:, 0] if first is None else states[:, first:].mean(1)

    return pool


def _mean_from(first: int) -> Callable[[Any], Any]:
    return lambda output: output.last_hidden_state[:, first:].mean(1)


def _dinov2_registers(t: Any) -> Any:
    config = t.Dinov2WithRegistersConfig(**SMALL | {"image_size": 40}, num_register_tokens=3)
    return t.Dinov2WithRegistersModel(config)


def _dinov3(t: Any) -> Any:
    return t.DINOv3ViTModel(t.DINOv3ViTConfig(**VISION, num_register_tokens=2))


def _dinov3_gated(t: Any) -> Any:
    further = dict(use_gated_mlp=True, hidden_act="silu", rope_theta=50.0, mlp_bias=False, key_bias=True)
    return t.DINOv3ViTModel(t.DINOv3ViTConfig(**VISION | {"patch_size": 6, "image_size": 48}, **further))


def _siglip(t: Any) -> Any:
    return t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=VISION | {"patch_size": 5}))


def _internvl(t: Any) -> Any:
    return t.InternVLVisionModel(t.InternVLVisionConfig(**VISION, use_qk_norm=True))


def _internvl_resampled(t: Any) -> Any:
    vision = VISION | {"image_size": [40, 40], "patch_size": [8, 8]}
    further = dict(norm_type="rms_norm", layer_norm_eps=0.1, use_qk_norm=True, use_mean_pooling=False)
    vision = t.InternVLVisionConfig(**vision, attention_bias=True, **further)
    return t.InternVLModel(t.InternVLConfig(vision_config=vision, text_config=t.LlamaConfig(**TEXT)))


def _original_internvl(arrays: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[dict, dict]:
    """As OpenGVLab's repositories have it: fused query, key and value, other names and keys."""
    renames = (
        (r"embeddings\.cls_token", "embeddings.class_embedding"),
        (r"embeddings\.position_embeddings", "embeddings.position_embedding"),
        (r"embeddings\.patch_embeddings\.projection", "embeddings.patch_embedding"),
        (r"encoder\.layer\.", "encoder.layers."),
        (r"\.attention\.projection_layer", ".attn.proj"),
        (r"\.attention\.", ".attn."),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"lambda_", "ls"),
    )
    found = {}
    for name, array in arrays.items():
        for pattern, new in renames:
            name = re.sub(pattern, new, name)
        found[f"vision_model.{name}"] = array
    for query in [name for name in found if ".q_proj." in name]:
        parts = [found.pop(query.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        found[query.replace("q_proj", "qkv")] = np.concatenate(parts)
    found["language_model.lm_head.weight"] = np.zeros((3, 4), np.float32)
    keys = "hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
    vision = {key: config[key] for key in keys}
    vision |= {"model_type": "intern_vit_6b", "image_size": 24, "patch_size": 8}
    vision |= {"qkv_bias": config["attention_bias"], "qk_normalization": config["use_qk_norm"]}
    return found, {"model_type": "internvl_chat", "vision_config": vision}


def _blip2(t: Any) -> Any:
    return t.Blip2VisionModel(t.Blip2VisionConfig(**VISION))


def _blip2_whole(t: Any) -> Any:
    """No bias of query, key and value, and 30 pixels in patches of 7: the last rows are not looked at."""
    vision = VISION | {"image_size": 30, "patch_size": 7}
    text = t.OPTConfig(**TEXT, ffn_dim=16, max_position_embeddings=16, word_embed_proj_dim=16)
    vision = t.Blip2VisionConfig(**vision, qkv_bias=False)
    query = t.Blip2QFormerConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config = t.Blip2Config(
        vision_config=vision.to_dict(), qformer_config=query.to_dict(), text_config=text.to_dict()
    )
    return t.Blip2Model(config)


def _kosmos2(t: Any) -> Any:
    text = dict(embed_dim=16, ffn_dim=16, layers=1, attention_heads=2, vocab_size=50)
    return t.Kosmos2Model(t.Kosmos2Config(vision_config=VISION, text_config=text, latent_query_num=2))


def _llava(t: Any) -> Any:
    text = t.LlamaConfig(**TEXT)
    return t.LlavaForConditionalGeneration(
        t.LlavaConfig(vision_config=t.CLIPVisionConfig(**VISION), text_config=text)
    )


def _siglip2(t: Any) -> Any:
    vision = VISION | {"num_patches": 16}
    return t.Siglip2Model(t.Siglip2Config(text_config=TEXT, vision_config=vision))


def _in_patches(output: Any) -> Any:
    """Siglip2 takes patches in rows: [n, patches, rows · columns · channels]."""
    import torch

    pixels, patch = output.pixels, 8
    count, _, height, width = pixels.shape
    parts = pixels.reshape(count, 3, height // patch, patch, width // patch, patch)
    rows = parts.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, 3 * patch * patch)
    shapes = torch.tensor([[height // patch, width // patch]] * count)
    mask = torch.ones(rows.shape[:2], dtype=torch.int32)
    return output.model.vision_model(rows, mask, shapes)


def _sam(t: Any) -> Any:
    """A grid of 6 × 6 patches, which windows of 4 × 4 do not divide."""
    further = dict(output_channels=12, window_size=4, global_attn_indexes=[1], num_hidden_layers=3)
    return t.SamVisionModel(t.SamVisionConfig(**SMALL | {"patch_size": 4} | further))


def _sam_whole(t: Any) -> Any:
    """No positions at all, no windows, and 30 pixels in patches of 7."""
    further = dict(use_abs_pos=False, use_rel_pos=False, qkv_bias=False, window_size=0, mlp_ratio=1.5)
    vision = SMALL | {"image_size": 30, "patch_size": 7, "hidden_act": "quick_gelu"} | further
    part = dict(hidden_size=256, num_hidden_layers=1, num_attention_heads=2)
    return t.SamModel(t.SamConfig(vision_config=vision, mask_decoder_config=part | {"mlp_dim": 16}))


def _sam_hidden(number: int) -> Callable[[Any], Any]:
    return lambda output: (
        output.model(output.pixels, output_hidden_states=True).hidden_states[number].mean((1, 2))
    )


DAVIT = dict(depths=[1, 2], embed_dim=[8, 16], num_heads=[2, 4], num_groups=[4, 2], window_size=4)


def _davit(t: Any) -> Any:
    """Maps of 6 × 6 and 3 × 3 positions, which windows of 4 × 4 do not divide."""
    return t.Florence2VisionBackbone(t.Florence2VisionConfig(**DAVIT))


def _florence2(t: Any) -> Any:
    text = t.BartConfig(
        d_model=16, vocab_size=50, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16
    )
    vision = t.Florence2VisionConfig(**DAVIT, projection_dim=16)
    return t.Florence2ForConditionalGeneration(
        t.Florence2Config(vision_config=vision.to_dict(), text_config=text.to_dict())
    )


def _davit_other(t: Any) -> Any:
    further = dict(qkv_bias=False, mlp_ratio=2.5, activation_function="gelu_new", patch_prenorm=[True, False])
    shapes = dict(patch_size=[5, 2], patch_stride=[3, 1], patch_padding=[1, 0], depths=[1, 1])
    return t.Florence2VisionBackbone(t.Florence2VisionConfig(**DAVIT | shapes, **further))


def _original_florence2(arrays: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[dict, dict]:
    """As Microsoft's repositories have it: other names and keys, and what is in a block stands below "fn"."""
    renames = (
        (r"^model\.", ""),
        (r"(convs\.\d\.)conv\.", r"\1proj."),
        (r"\.(conv\d)\.", r".\1.fn.dw."),
        (r"\.((window|channel)_attn)\.", r".\1.fn."),
        (r"spatial_block\.norm1", "spatial_block.window_attn.norm"),
        (r"channel_block\.norm1", "channel_block.channel_attn.norm"),
        (r"\.norm2\.", ".ffn.norm."),
        (r"\.ffn\.fc", ".ffn.fn.net.fc"),
    )
    found = {}
    for name, array in arrays.items():
        for pattern, new in renames:
            name = re.sub(pattern, new, name)
        found[name] = array
    vision = {key: value for key, value in config["vision_config"].items() if key in DAVIT}
    vision |= {"model_type": "davit", "dim_embed": vision.pop("embed_dim")}
    return found, {"model_type": "florence2", "vision_config": vision}


def _stages(number: int | None = None) -> Callable[[Any], Any]:
    """The mean over the positions behind this many of DaViT's stages, all where None."""

    def pool(output: Any) -> Any:
        tower = getattr(output.model, "model", output.model)
        tower = getattr(tower, "vision_tower", tower)
        if number is None:
            values = tower(output.pixels)
            return getattr(values, "last_hidden_state", values).mean((2, 3))  # a tensor in transformers 4
        values = output.pixels if number else tower.convs[0](output.pixels)
        for conv, blocks in list(zip(tower.convs, tower.blocks, strict=True))[:number]:
            values = conv(values)
            for block in blocks:
                values = block(values)
        return values.mean((2, 3))

    return pool


def _map_mean(number: int) -> Callable[[Any], Any]:
    """The mean over the positions of one hidden state of a convolutional network."""
    return lambda output: (
        output.model(output.pixels, output_hidden_states=True).hidden_states[number].mean((2, 3))
    )


def _resnet_early(t: Any) -> Any:
    three = dict(embedding_size=8, hidden_sizes=[8, 24, 16], depths=[2, 1, 2], hidden_act="silu")
    further = dict(downsample_in_first_stage=True, downsample_in_bottleneck=True)
    return t.ResNetModel(t.ResNetConfig(**three, **further))


def _resnet_basic(t: Any) -> Any:
    return t.ResNetModel(t.ResNetConfig(**CNN | {"depths": [2, 2]}, layer_type="basic", hidden_act="gelu"))


def _regnet_x(t: Any) -> Any:
    config = t.RegNetConfig(**CNN | {"depths": [1, 3]}, groups_width=4, layer_type="x", hidden_act="silu")
    return t.RegNetForImageClassification(config)


ALIGN = dict(
    width_coefficient=0.4,
    depth_coefficient=1.4,
    depth_divisor=4,
    kernel_sizes=[3, 5, 3],
    in_channels=[32, 16, 24],
    out_channels=[16, 24, 40],
    strides=[1, 2, 2],
    num_block_repeats=[1, 2, 1],
    expand_ratios=[1, 6, 4],
    hidden_dim=64,
    initializer_range=0.3,  # with the usual 0.02 rows do not depend on the picture
)


def _align(t: Any) -> Any:
    return t.AlignModel(t.AlignConfig(text_config=TEXT, vision_config=ALIGN, projection_dim=16))


def _align_vision(t: Any) -> Any:
    """Maps that are halved get one more row and column in front, and a kernel of 4 is not symmetric."""
    further = dict(depthwise_padding=[2, 5], kernel_sizes=[4, 5, 3], pooling_type="max", batch_norm_eps=0.01)
    return t.AlignVisionModel(t.AlignVisionConfig(**ALIGN | further, hidden_act="gelu"))


ALIGN_PICTURES = dict(
    image_processor_type="EfficientNetImageProcessor",
    size={"height": 28, "width": 28},
    crop_size=SQUARE,
    do_center_crop=True,
    do_normalize=False,
    include_top=False,
    rescale_factor=1 / 127.5,
    rescale_offset=True,
    resample=2,
)
ODD = {"image_processor_type": "ViTImageProcessor", "size": {"height": 37, "width": 45}, **STATISTICS}
LARGE = {"image_processor_type": "ViTImageProcessor", "size": {"height": 40, "width": 48}, **STATISTICS}
WIDE = {"image_processor_type": "ViTImageProcessor", "size": {"height": 30, "width": 30}, **STATISTICS}
SAM = {"image_processor_type": "SamImageProcessor", "size": {"longest_edge": SIZE}, "pad_size": SQUARE}
FLORENCE = {**BIT, "image_processor_type": "CLIPImageProcessor", "size": SQUARE, "do_center_crop": False}
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
    Case(
        "dinov2_registers",
        _dinov2_registers,
        BIT,
        {"cls": cls, "mean": _mean_from(4), "mean&layer=1": _hidden(1, 4), "cls&layer=-3": _hidden(0, None)},
    ),
    Case("dinov3", _dinov3, PLAIN, {"cls": cls, "mean": _mean_from(3), "pooler": pooler}),
    Case("dinov3_gated", _dinov3_gated, PLAIN, {"cls": cls, "mean": _mean_from(1)}),
    Case("siglip", _siglip, PLAIN, {"pooler": projected, "mean": lambda output: _vision(output).mean(1)}),
    Case("siglip2", _siglip2, PLAIN, {"pooler": lambda output: _in_patches(output).pooler_output}),
    Case(
        "siglip2_larger",
        _siglip2,
        LARGE,
        {"pooler": lambda output: _in_patches(output).pooler_output},
    ),
    Case("internvl", _internvl, PLAIN, {"mean": tokens_mean, "cls": cls}),
    Case("internvl_resampled", _internvl_resampled, PLAIN, {"mean": tokens_mean, "cls": cls}),
    Case("internvl_original", _internvl, PLAIN, {"mean": tokens_mean, "cls": cls}, _original_internvl),
    Case("blip2", _blip2, PLAIN, {"pooler": pooler, "mean": tokens_mean}),
    Case("blip2_whole", _blip2_whole, WIDE, {"pooler": pooler, "cls": cls}),
    Case("kosmos2", _kosmos2, CLIP, {"pooler": pooler, "mean": tokens_mean}),
    Case(
        "llava",
        _llava,
        CLIP,
        {
            "mean": _hidden(-2, 1, LLAVA),
            "cls&layer=1": _hidden(1, None, LLAVA),
            "pooler": lambda output: output.model.model.vision_tower(output.pixels).pooler_output,
        },
    ),
    Case(
        "sam",
        _sam,
        SAM,
        {"mean": MAPS["mean"], "mean&layer=2": _sam_hidden(2), "mean&layer=-4": _sam_hidden(0)},
    ),
    Case(
        "sam_whole",
        _sam_whole,
        WIDE,
        {"mean": lambda output: output.model.get_image_embeddings(output.pixels).mean((2, 3))},
    ),
    Case("davit", _davit, PLAIN, {"mean": _stages(), "mean&layer=1": _stages(1), "mean&layer=0": _stages(0)}),
    Case("davit_other", _davit_other, WIDE, {"mean": _stages(), "mean&layer=-2": _stages(1)}),
    Case("florence2", _florence2, FLORENCE, {"mean": _stages()}),
    Case(
        "florence2_original",
        _florence2,
        FLORENCE,
        {"mean": _stages(), "mean&layer=2": _stages(2)},
        _original_florence2,
    ),
    Case(
        "resnet_early",
        _resnet_early,
        ODD,
        {**MAPS, "mean&layer=1": _map_mean(1), "mean&layer=0": _map_mean(0)},
    ),
    Case("resnet_basic", _resnet_basic, ODD, MAPS),
    Case("regnet_x_classifier", _regnet_x, ODD, {**MAPS, "mean&layer=-2": _map_mean(-2)}),
    Case("align", _align, ALIGN_PICTURES, {"pooler": projected, "mean": MAPS["mean"]}),
    Case(
        "align_vision",
        _align_vision,
        ODD,
        {**MAPS, "mean&layer=4": _map_mean(4), "mean&layer=0": _map_mean(0)},
    ),
]
