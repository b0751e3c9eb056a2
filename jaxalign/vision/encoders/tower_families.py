"""Which vision tower a model_type has, where it lies in a checkpoint, and what is taken as the embedding."""

from __future__ import annotations

from typing import NamedTuple

POOLINGS = ("cls", "mean", "pooler", "projected")


class Family(NamedTuple):
    """One kind of vision tower."""

    tower: str  # the file in ``towers/``
    prefix: str  # pattern of what may stand before the tower's names in a checkpoint of the tower alone or with a head
    pooling: str  # taken where the user chooses none
    spare: str = ""  # pattern of tensors that a checkpoint may hold besides the tower's
    projection: str = ""  # name of the layer behind the tower's pooled output that makes "projected"


class Wrapper(NamedTuple):
    """A model with a vision tower inside."""

    inside: str  # where config.json has the tower's configuration
    kind: str  # the tower's model_type; "" where that configuration says it
    prefix: str  # pattern of what stands before the tower's names; other tensors belong to other parts
    pooling: str = (
        ""  # taken where the user chooses none; "" for the tower's own, or "projected" where there is one
    )
    layer: int | None = None  # taken where the user chooses none, and no pooling that needs the whole network
    projection: str = ""  # as a family's


_TOKENS = r"embeddings\.mask_token|.*position_ids"
_HEADS = rf"visual_projection\..*|classifier\..*|lm_head\..*|layernorm\..*|decoder\..*|{_TOKENS}"
_NORMED = r"classifier\..*|.*\.num_batches_tracked"  # a count that only training reads

FAMILIES = {
    "align_vision_model": Family("efficientnet", r"(vision_model\.)?", "pooler", _NORMED),
    "beit": Family("vit", r"(beit\.)?", "pooler", _HEADS),
    "blip_2_vision_model": Family("vit", r"(vision_model\.)?", "pooler", _TOKENS),
    "clip_vision_model": Family("vit", r"(vision_model\.)?", "pooler", _HEADS, "visual_projection"),
    "dinov2": Family("vit", r"(dinov2\.)?", "cls", _HEADS),
    "dinov2_with_registers": Family("vit", r"(dinov2_with_registers\.)?", "cls", _HEADS),
    "dinov3_vit": Family("vit", r"(dinov3_vit\.|model\.)?", "cls", _TOKENS),
    "florence_vision": Family("davit", r"(vision_tower\.)?", "mean"),
    "intern_vit_6b": Family("vit", r"(vision_model\.)?", "mean", _TOKENS),
    "internvl_vision": Family("vit", r"(vision_tower\.)?", "mean", _TOKENS),
    "regnet": Family("resnet", r"(regnet\.)?", "pooler", _NORMED),
    "resnet": Family("resnet", r"(resnet\.)?", "pooler", _NORMED),
    "sam_vision_model": Family("sam", r"vision_encoder\.", "mean"),
    "siglip_vision_model": Family("vit", r"(vision_model\.)?", "pooler", _TOKENS),
    "siglip2_vision_model": Family("vit", r"(vision_model\.)?", "pooler", _TOKENS),
    "vit": Family("vit", r"(vit\.)?", "cls", _HEADS),
}

WRAPPERS = {
    "align": Wrapper("vision_config", "align_vision_model", r"vision_model\."),
    "blip-2": Wrapper("vision_config", "blip_2_vision_model", r"vision_model\."),
    "clip": Wrapper("vision_config", "clip_vision_model", r"vision_model\.", projection="visual_projection"),
    # Microsoft's own repositories call the tower "davit", and copies that were fine-tuned have other words there.
    "florence2": Wrapper("vision_config", "florence_vision", r"(model\.)?vision_tower\."),
    "internvl": Wrapper("vision_config", "internvl_vision", r"(model\.)?vision_tower\."),
    "internvl_chat": Wrapper("vision_config", "intern_vit_6b", r"vision_model\."),
    "kosmos-2": Wrapper("vision_config", "clip_vision_model", r"vision_model\.model\."),
    "llava": Wrapper("vision_config", "", r"(model\.)?vision_tower\.(vision_model\.)?", "mean", layer=-2),
    "sam": Wrapper("vision_config", "sam_vision_model", r"vision_encoder\."),
    "siglip": Wrapper("vision_config", "siglip_vision_model", r"vision_model\."),
    "siglip2": Wrapper("vision_config", "siglip2_vision_model", r"vision_model\."),
    "vision-encoder-decoder": Wrapper("encoder", "", r"encoder\."),
    "vision-text-dual-encoder": Wrapper(
        "vision_config", "", r"vision_model\.(vision_model\.)?", projection="visual_projection"
    ),
}
KINDS = tuple(sorted((*FAMILIES, *WRAPPERS)))
# Some configurations name the model, not its tower.
TOWERS = {
    "siglip": "siglip_vision_model",
    "clip": "clip_vision_model",
    "kosmos_2_vision_model": "clip_vision_model",
}
