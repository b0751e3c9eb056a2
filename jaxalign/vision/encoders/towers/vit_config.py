"""What differs between the plain vision transformers, by model_type, read from a checkpoint's config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container
from typing import Any

import jax
from jaxtyping import Array

from jaxalign.vision.encoders.checkpoint_config import Config, key
from jaxalign.vision.encoders.towers.parts import activation, require_patches


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What differs between the networks of this family; the defaults are those of the first ViT in transformers."""

    width: int = key("hidden_size", 768)
    layers: int = key("num_hidden_layers", 12)
    heads: int = key("num_attention_heads", 12)
    hidden: int = key("intermediate_size", 3072)  # width inside the feed-forward part
    size: tuple[int, int] = key("image_size", 224, Config.edges)  # (height, width) in training, in pixels
    patch: tuple[int, int] = key("patch_size", 16, Config.edges)
    activation: Callable[[Array], Array] = key("hidden_act", "gelu", activation)
    epsilon: float = key("layer_norm_eps", 1e-12)
    token: bool = True  # whether it has a class token
    registers: int = 0  # further tokens without a place
    positions: str = "class"  # of the class token and the patches; "patches": of the patches alone; "": none
    resampled: str = ""  # how positions are brought to another size of picture; "" where they are not
    antialias: bool = False  # whether that widens the kernel
    patch_bias: bool = True  # of the patches' layer
    qkv_bias: tuple[bool, ...] = (True, True, True)  # of query, key and value
    out_bias: bool = True  # of the layer behind attention
    mlp_bias: bool = True  # of the feed-forward part
    qk_norm: float | None = None  # epsilon of the RMS norms of query and key; None without them
    norm: str = "layer_norm"  # or "rms_norm", of the blocks
    scaled: bool = False  # whether the blocks' branches are scaled channel by channel
    gate: str = ""  # "joint" or "separate" for a gated feed-forward part, by how its weights are stored
    rope: float | None = None  # base of the rotary positions; None without them
    bias: str = ""  # "shared" or "own" for BEiT's relative positions in attention
    first_norm: bool = False  # whether tokens are normalised before the first block
    last_norm: bool = True  # and behind the last
    # "token" for the class token, "norm" for that normalised (again), "mean" for the normalised mean of the patches,
    # "dense" for a layer and tanh, "attention" for a learned query's, "" for no summary.
    pooler: str = ""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in training."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    @property
    def poolings(self) -> tuple[str, ...]:
        """What can be taken as the embedding."""
        return ("cls",) * self.token + ("mean",) + ("pooler",) * bool(self.pooler)


def read(kind: str, config: Config, names: Container[str]) -> ViTConfig:
    """What a configuration of this model_type asks for, without a summary whose tensors are not among the names."""
    defaults, further = KINDS[kind]
    full = require_patches(config, config.fill(ViTConfig, defaults, **further(config)))
    needed = {
        "dense": "pooler.weight",
        "mean": "pooler.weight",
        "attention": "head.probe",
        "norm": "last_norm.weight",
    }
    if full.pooler in needed and needed[full.pooler] not in names:
        return dataclasses.replace(full, pooler="")
    return full


def _vit(config: Config) -> dict[str, Any]:
    config.choice("pooler_act", ["tanh"])
    return {"qkv_bias": (config.get("qkv_bias", True),) * 3, "pooler": "dense"}


def _clip(config: Config) -> dict[str, Any]:
    return {"patch_bias": False, "first_norm": True, "last_norm": False, "pooler": "norm"}


def _dinov2(config: Config) -> dict[str, Any]:
    hidden = int(config.get("hidden_size", 768) * config.get("mlp_ratio", 4.0))
    found = {
        "qkv_bias": (config.get("qkv_bias", True),) * 3,
        "resampled": "bicubic",
        "scaled": True,
        "hidden": hidden,
        "pooler": "token",
    }
    if config.get("use_swiglu_ffn", False):
        found |= {"gate": "joint", "hidden": (int(hidden * 2 / 3) + 7) // 8 * 8, "activation": jax.nn.silu}
    return found


def _dinov2_with_registers(config: Config) -> dict[str, Any]:
    return {**_dinov2(config), "registers": config.get("num_register_tokens", 4, 0), "antialias": True}


def _dinov3(config: Config) -> dict[str, Any]:
    return {
        "registers": config.get("num_register_tokens", 0, 0),
        "positions": "",
        "resampled": "rotary",
        "rope": config.get("rope_theta", 100.0),
        "qkv_bias": tuple(config.get(f"{name}_bias", name != "key") for name in ("query", "key", "value")),
        "out_bias": config.get("proj_bias", True),
        "mlp_bias": config.get("mlp_bias", True),
        "gate": "separate" if config.get("use_gated_mlp", False) else "",
        "scaled": True,
        "pooler": "token",
    }


def _beit(config: Config) -> dict[str, Any]:
    shared = config.get("use_shared_relative_position_bias", False)
    own = config.get("use_relative_position_bias", False)
    mean = config.get("use_mean_pooling", True)
    return {
        "positions": "class" if config.get("use_absolute_position_embeddings", False) else "",
        "qkv_bias": (True, False, True),
        "bias": "shared" if shared else "own" if own else "",
        "scaled": config.get("layer_scale_init_value", 0.1) > 0,
        "last_norm": not mean,
        "pooler": "mean" if mean else "token",
    }


def _siglip(config: Config) -> dict[str, Any]:
    head = config.get("vision_use_head", True)
    return {"token": False, "positions": "patches", "pooler": "attention" if head else ""}


def _siglip2(config: Config) -> dict[str, Any]:
    """Its positions are resampled to each picture; here all pictures have the shape of the grid of positions."""
    edge = math.isqrt(config.get("num_patches", 256)) * config.get("patch_size", 16)
    return {**_siglip(config), "size": (edge, edge), "resampled": "bilinear", "antialias": True}


def _internvl(config: Config) -> dict[str, Any]:
    original = "qk_normalization" in config.values or "qkv_bias" in config.values
    # OpenGVLab's code gives these norms the epsilon of the others, transformers' class has its own.
    qk_norm = config.get("layer_norm_eps", 1e-6) if original else 1e-6
    return {
        "positions": "class" if config.get("use_absolute_position_embeddings", True) else "",
        "resampled": "bicubic",
        "qkv_bias": (config.get("qkv_bias" if original else "attention_bias", original),) * 3,
        "qk_norm": qk_norm if config.get("qk_normalization" if original else "use_qk_norm", False) else None,
        "norm": config.choice("norm_type", ["layer_norm", "rms_norm"]),
        "scaled": True,
        "last_norm": not original and not config.get("use_mean_pooling", True),
        "pooler": "token",
    }


def _blip2(config: Config) -> dict[str, Any]:
    return {"qkv_bias": (config.get("qkv_bias", True),) * 3, "pooler": "norm"}


_TANH = {"activation": "gelu_pytorch_tanh", "epsilon": 1e-6}
_LARGE = dict(width=1024, layers=24, heads=16, hidden=4096, size=448, patch=14, epsilon=1e-6)
_6B = dict(width=3200, layers=48, heads=25, hidden=12800, size=448, patch=14, epsilon=1e-6)
_EVA = dict(width=1408, layers=39, heads=16, hidden=6144, patch=14, epsilon=1e-6)
# Of each model_type: the defaults of transformers 4.57 where they differ from ViT's, and what else it asks for.
KINDS: dict[str, tuple[dict[str, Any], Callable[[Config], dict[str, Any]]]] = {
    "vit": ({}, _vit),
    "clip_vision_model": ({"activation": "quick_gelu", "epsilon": 1e-5, "patch": 32}, _clip),
    "dinov2": ({"epsilon": 1e-6, "patch": 14}, _dinov2),
    "dinov2_with_registers": ({"epsilon": 1e-6}, _dinov2_with_registers),
    "dinov3_vit": ({"width": 384, "heads": 6, "hidden": 1536, "epsilon": 1e-5}, _dinov3),
    "beit": ({}, _beit),
    "siglip_vision_model": (_TANH, _siglip),
    "siglip2_vision_model": (_TANH, _siglip2),
    "internvl_vision": (_LARGE, _internvl),
    "intern_vit_6b": (_6B, _internvl),
    "blip_2_vision_model": (_EVA, _blip2),
}
