"""The fourteen encoders of arXiv 2604.07282 by their short names."""

# Where transformers has a Flax class for the published checkpoint.
RESOLVED = {
    "clip": "hf:openai/clip-vit-base-patch32",
    "dinov2": "hf:facebook/dinov2-base",
    "vit": "hf:google/vit-base-patch16-224",
}

# Elsewhere: what to give instead. docs/encoders.md has the table.
GIVE = {
    "arcface": "export the published ir101 network (WebFace4M) to ONNX and give onnx:arcface.onnx, "
    "or give insightface's own ONNX file",
    "adaface": "export the published ir101 network (MS1MV2) to ONNX and give onnx:adaface.onnx?color=bgr "
    "(its published code takes BGR)",
    "magface": "export the published ir100 network to ONNX and give onnx:magface.onnx?mean=0&std=255&color=bgr "
    "(its published code takes BGR bytes over 255)",
    "kprpe": "its ViT-B takes key points beside the picture, which onnx: does not pass on; write a "
    "python:<module>:<callable> that finds them itself",
    "align": "transformers has no Flax class for ALIGN; export the image tower of kakaobrain/align-base to ONNX and "
    "give onnx:align.onnx with mean, std and size from its preprocessor_config.json",
    "sam": "transformers has no Flax class for SAM; export the image encoder of facebook/sam-vit-base with its outputs "
    "averaged over positions to ONNX and give onnx:sam.onnx",
    "blip2": "transformers has no Flax class for BLIP-2; export its vision tower to ONNX and give onnx:blip2.onnx",
    "llava": "transformers has no Flax class for LLaVA; export its vision tower to ONNX and give onnx:llava.onnx",
    "kosmos2": "transformers has no Flax class for Kosmos-2; export its vision tower to ONNX and give "
    "onnx:kosmos2.onnx",
    "internvl3": "transformers has no Flax class for InternVL3; export its vision tower to ONNX and give "
    "onnx:internvl3.onnx",
    "florence2": "transformers has no Flax class for Florence-2; export its vision tower to ONNX and give "
    "onnx:florence2.onnx",
}

ALIASES = (*RESOLVED, *GIVE)
