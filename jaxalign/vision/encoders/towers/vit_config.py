"""What differs between the plain vision transformers, by model_type, read from a checkpoint's config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container

import jax
from jaxtyping import Array

from jaxalign.vision.encoders.config import Config
from jaxalign.vision.encoders.towers.parts import activation


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What differs between the networks of this family; the defaults are those of the first ViT.

    Attributes:
      width, layers, heads, hidden: of the transformer; ``hidden`` is the width inside the feed-forward part.
      size, patch: (height, width) of the picture it was trained on, and of a patch, in pixels.
      activation, epsilon: of the feed-forward part, and of the norms.
      token: whether it has a class token.
      registers: further tokens without a place.
      positions: "class" for positions of class token and patches, "patches" for patches alone, "" for none.
      resampled: how positions are brought to another size of picture; "" where they are not.
      antialias: whether that widens the kernel.
      patch_bias: whether the patches' layer has a bias.
      qkv_bias: whether query, key and value have one.
      out_bias, mlp_bias: whether the layers behind attention, and of the feed-forward part, have one.
      qk_norm: epsilon of the RMS norms of query and key; None without them.
      norm: "rms" or "layer" for the norms of the blocks.
      scaled: whether the blocks' branches are scaled channel by channel.
      gate: "" for a plain feed-forward part, "joint" or "separate" for a gated one, by how its weights are stored.
      rope: base of the rotary positions; None without them.
      bias: "shared" or "own" for BEiT's relative positions in attention, "" without.
      first_norm, last_norm: whether tokens are normalised before the first block and behind the last.
      pooler: "" for none; "token" for the class token, "norm" for that normalised (again), "mean" for the normalised
        mean of the patches, "dense" for a layer and tanh, "attention" for a learned query's.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    size: tuple[int, int]
    patch: tuple[int, int]
    activation: Callable[[Array], Array]
    epsilon: float
    token: bool = True
    registers: int = 0
    positions: str = "class"
    resampled: str = ""
    antialias: bool = False
    patch_bias: bool = True
    qkv_bias: tuple[bool, bool, bool] = (True, True, True)
    out_bias: bool = True
    mlp_bias: bool = True
    qk_norm: float | None = None
    norm: str = "layer"
    scaled: bool = False
    gate: str = ""
    rope: float | None = None
    bias: str = ""
    first_norm: bool = False
    last_norm: bool = True
    pooler: str = ""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in training."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    @property
    def poolings(self) -> tuple[str, ...]:
        """What can be taken as the embedding."""
        return ("cls",) * self.token + ("mean",) + ("pooler",) * bool(self.pooler)


# Defaults of transformers 4.57 where they differ from ViT's: width, layers, heads, activation, epsilon, patch.
_DEFAULTS = {
    "vit": (768, 12, 12, "gelu", 1e-12, 16),
    "clip_vision_model": (768, 12, 12, "quick_gelu", 1e-5, 32),
    "dinov2": (768, 12, 12, "gelu", 1e-6, 14),
    "dinov2_with_registers": (768, 12, 12, "gelu", 1e-6, 16),
    "dinov3_vit": (384, 12, 6, "gelu", 1e-5, 16),
    "beit": (768, 12, 12, "gelu", 1e-12, 16),
    "siglip_vision_model": (768, 12, 12, "gelu_pytorch_tanh", 1e-6, 16),
    "siglip2_vision_model": (768, 12, 12, "gelu_pytorch_tanh", 1e-6, 16),
    "internvl_vision": (1024, 24, 16, "gelu", 1e-6, 14),
    "intern_vit_6b": (3200, 48, 25, "gelu", 1e-6, 14),
    "blip_2_vision_model": (1408, 39, 16, "gelu", 1e-6, 14),
}
_HIDDEN = {"intern_vit_6b": 12800, "blip_2_vision_model": 6144}


def read(kind: str, config: Config, names: Container[str]) -> ViTConfig:
    """What a configuration of this model_type asks for, without a summary whose tensors are not among the names."""
    width, layers, heads, act, epsilon, patch = _DEFAULTS[kind]
    width, heads = config.count("hidden_size", width), config.count("num_attention_heads", heads)
    if width % heads:
        config.refuse(f"hidden_size {width} is no multiple of num_attention_heads {heads}.")
    common = ViTConfig(
        width=width,
        layers=config.count("num_hidden_layers", layers),
        heads=heads,
        hidden=config.count("intermediate_size", _HIDDEN.get(kind, 4 * _DEFAULTS[kind][0])),
        size=config.edges("image_size", 448 if "intern" in kind else 224),
        patch=config.edges("patch_size", patch),
        activation=activation(config, "hidden_act", act),
        epsilon=config.number("layer_norm_eps", epsilon),
    )
    if min(common.grid) < 1:
        config.refuse(f"image_size {common.size} is smaller than patch_size {common.patch}.")
    full = dataclasses.replace(common, **_FURTHER[kind](config))
    needed = {
        "dense": "pooler.weight",
        "mean": "pooler.weight",
        "attention": "head.probe",
        "norm": "last_norm.weight",
    }
    absent = full.pooler in needed and needed[full.pooler] not in names
    return dataclasses.replace(full, pooler="") if absent else full


def _vit(config: Config) -> dict:
    if (pooler := config.text("pooler_act", "tanh")) != "tanh":
        config.refuse(f"pooler_act is {pooler!r}, expected tanh.")
    return {"qkv_bias": (config.flag("qkv_bias", True),) * 3, "pooler": "dense"}


def _clip(config: Config) -> dict:
    return {"patch_bias": False, "first_norm": True, "last_norm": False, "pooler": "norm"}


def _dinov2(config: Config) -> dict:
    ratio, width = config.number("mlp_ratio", 4), config.count("hidden_size", 768)
    gated = config.flag("use_swiglu_ffn", False)
    hidden = int(width * ratio)
    return {
        "qkv_bias": (config.flag("qkv_bias", True),) * 3,
        "resampled": "bicubic",
        "scaled": True,
        "hidden": (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden,
        "gate": "joint" if gated else "",
        "pooler": "token",
        **({"activation": jax.nn.silu} if gated else {}),
    }


def _dinov2_with_registers(config: Config) -> dict:
    return {**_dinov2(config), "registers": config.count("num_register_tokens", 4, 0), "antialias": True}


def _dinov3(config: Config) -> dict:
    biases = tuple(config.flag(f"{name}_bias", name != "key") for name in ("query", "key", "value"))
    return {
        "registers": config.count("num_register_tokens", 0, 0),
        "positions": "",
        "resampled": "rotary",
        "rope": config.number("rope_theta", 100.0),
        "qkv_bias": biases,
        "out_bias": config.flag("proj_bias", True),
        "mlp_bias": config.flag("mlp_bias", True),
        "gate": "separate" if config.flag("use_gated_mlp", False) else "",
        "scaled": True,
        "pooler": "token",
    }


def _beit(config: Config) -> dict:
    shared = config.flag("use_shared_relative_position_bias", False)
    own = config.flag("use_relative_position_bias", False)
    mean = config.flag("use_mean_pooling", True)
    return {
        "positions": "class" if config.flag("use_absolute_position_embeddings", False) else "",
        "qkv_bias": (True, False, True),
        "bias": "shared" if shared else "own" if own else "",
        "scaled": config.number("layer_scale_init_value", 0.1) > 0,
        "last_norm": not mean,
        "pooler": "mean" if mean else "token",
    }


def _siglip(config: Config) -> dict:
    head = config.flag("vision_use_head", True)
    return {"token": False, "positions": "patches", "pooler": "attention" if head else ""}


def _siglip2(config: Config) -> dict:
    """Its positions are resampled to each picture; here all pictures have the shape of the grid of positions."""
    edge = math.isqrt(config.count("num_patches", 256)) * config.count("patch_size", 16)
    return {**_siglip(config), "size": (edge, edge), "resampled": "bilinear", "antialias": True}


def _internvl(config: Config) -> dict:
    original = "qk_normalization" in config.values or "qkv_bias" in config.values
    # OpenGVLab's code gives these norms the epsilon of the others, transformers' class has its own.
    qk_norm = config.number("layer_norm_eps", 1e-6) if original else 1e-6
    norm = config.text("norm_type", "layer_norm")
    if norm not in ("layer_norm", "rms_norm"):
        config.refuse(f"norm_type is layer_norm or rms_norm, got {norm!r}.")
    return {
        "positions": "class" if config.flag("use_absolute_position_embeddings", True) else "",
        "resampled": "bicubic",
        "qkv_bias": (config.flag("qkv_bias" if original else "attention_bias", original),) * 3,
        "qk_norm": qk_norm if config.flag("qk_normalization" if original else "use_qk_norm", False) else None,
        "norm": "rms" if norm == "rms_norm" else "layer",
        "scaled": True,
        "last_norm": not original and not config.flag("use_mean_pooling", True),
        "pooler": "token",
    }


def _blip2(config: Config) -> dict:
    return {"qkv_bias": (config.flag("qkv_bias", True),) * 3, "pooler": "norm"}


_FURTHER: dict[str, Callable[[Config], dict]] = {
    "vit": _vit,
    "clip_vision_model": _clip,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
    "dinov3_vit": _dinov3,
    "beit": _beit,
    "siglip_vision_model": _siglip,
    "siglip2_vision_model": _siglip2,
    "internvl_vision": _internvl,
    "intern_vit_6b": _internvl,
    "blip_2_vision_model": _blip2,
}
